"""The pictures of graphs."""

from consecutiond_nodes import render
from consecutiond_nodes.node import Node


def route(value):
    return value


HERE = f"route (test_render.py:{route.__code__.co_firstlineno})"


def node(name, workers=1):
    made = Node(name)
    made.set_num_workers(workers)
    return made


def census():
    return node("read") | node("tokenise", 2) | [node("keywords"), node("names"), route] | node("count")


def test_print_shows_nodes_workers_branches_routers_and_merges():
    assert str(census()).splitlines() == [
        "●  read",
        "●  tokenise x2",
        f"├─╮  one of keywords, names by {HERE}",
        "● │  keywords",
        "│ ●  names",
        "├─╯",
        "●  count",
    ]


def test_lanes_cross_and_are_used_again():
    a, b, c, d, e, f = map(node, "abcdef")
    graph = a | [b | [d, e], c] | f
    assert str(graph).splitlines() == [
        "●  a",
        "├─╮",
        "● │  b",
        "├─┼─╮",
        "● │ │  d",
        "│ │ ●  e",
        "│ ● │  c",
        "├─┴─╯",
        "●  f",
    ]


def test_a_branch_that_ends_leaves_a_gap():
    a, b, c, d = map(node, "abcd")
    assert str(a | [b, c | d]).splitlines() == ["●  a", "├─╮", "● │  b", "  ●  c", "  ●  d"]


def test_a_router_with_one_target_is_named():
    assert str(node("a") | [node("b"), route]).splitlines() == ["●  a", f"│  one of b by {HERE}", "●  b"]


def test_the_same_graph_gives_the_same_picture():
    assert str(census()) == str(census())
    assert render.dot(census()) == render.dot(census())


def test_faulty_graphs_can_be_printed():
    a, b = node("a"), node("b")
    assert str(a | b | a).splitlines() == ["●  a", "●  b  (back to a)"]
    assert "is not a node" in str(a | None)
    assert str([node("x"), node("y")] | node("z")).splitlines() == ["●  x", "│ ●  y", "├─╯", "●  z"]
    assert str(node("same") | node("same")).count("same") >= 1
    wrong = Node()
    wrong.name = 5
    assert "5" in str(wrong | a)


def test_a_chain_of_a_thousand_nodes_does_not_recurse():
    graph = node("n0")
    for number in range(1, 1000):
        graph = graph | node(f"n{number}")
    assert len(str(graph).splitlines()) == 1000


def test_dot():
    assert render.dot(census()).splitlines() == [
        "digraph {",
        "  rankdir=LR;",
        "  node [shape=box];",
        '  "read" [label="read"];',
        '  "tokenise" [label="tokenise x2"];',
        '  "keywords" [label="keywords"];',
        '  "names" [label="names"];',
        '  "count" [label="count"];',
        '  "read" -> "tokenise";',
        f'  "tokenise" -> "keywords" [style=dashed, label="{HERE}"];',
        f'  "tokenise" -> "names" [style=dashed, label="{HERE}"];',
        '  "keywords" -> "count";',
        '  "names" -> "count";',
        "}",
    ]


def test_mermaid():
    lines = render.mermaid(census()).splitlines()
    assert lines[0] == "flowchart LR"
    assert '  n1["tokenise x2"]' in lines
    assert "  n0 --> n1" in lines
    assert f'  n1 -. "{HERE}" .-> n2' in lines


def test_mermaid_escapes_what_it_would_read_as_markup():
    text = render.mermaid(node("a") | [node("b"), lambda value: value])
    assert "&lt;lambda&gt;" in text
    assert "<lambda>" not in text
