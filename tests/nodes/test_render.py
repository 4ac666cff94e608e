"""The pictures of graphs."""

import shutil
import xml.etree.ElementTree as ET

import pytest

from consecutiond_nodes import render
from consecutiond_nodes.errors import PictureError
from consecutiond_nodes.node import Node

HAS_DOT = shutil.which("dot") is not None


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
    assert census().dot() == census().dot()


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
    assert census().dot().splitlines() == [
        "digraph {",
        "  rankdir=LR;",
        "  node [shape=box];",
        '  "input" [shape=plaintext];',
        '  "read" [label="read"];',
        '  "tokenise" [label="tokenise x2"];',
        '  "keywords" [label="keywords"];',
        '  "names" [label="names"];',
        '  "count" [label="count"];',
        '  "input" -> "read";',
        '  "read" -> "tokenise";',
        f'  "tokenise" -> "keywords" [style=dashed, label="{HERE}"];',
        f'  "tokenise" -> "names" [style=dashed, label="{HERE}"];',
        '  "keywords" -> "count";',
        '  "names" -> "count";',
        "}",
    ]


def test_mermaid():
    lines = census().mermaid().splitlines()
    assert lines[0] == "flowchart LR"
    assert '  n1["tokenise x2"]' in lines
    assert "  input --> n0" in lines
    assert "  n0 --> n1" in lines
    assert f'  n1 -. "{HERE}" .-> n2' in lines


def test_mermaid_escapes_what_it_would_read_as_markup():
    text = (node("a") | [node("b"), lambda value: value]).mermaid()
    assert "&lt;lambda&gt;" in text
    assert "<lambda>" not in text


def test_labels_stand_at_the_arrows_of_their_edges_beside_the_router():
    labels = {"input->read": "12/s", "tokenise->names": "3 queued", "no->where": "x"}
    assert '  "input" -> "read" [label="12/s"];' in census().dot(labels).splitlines()
    assert f'  "tokenise" -> "names" [style=dashed, label="{HERE}, 3 queued"];' in census().dot(labels).splitlines()
    assert '  input -- "12/s" --> n0' in census().mermaid(labels).splitlines()
    assert "x" not in census().dot({"no->where": "xyz"}).replace("x2", "").replace("plaintext", "").replace("box", "")


def test_a_picture_has_exactly_one_arrow_for_each_edge_and_one_for_the_input():
    graph = census()
    names = [arrow.edge for arrow in render.picture_of(graph).arrows]
    assert names == ["input->read", *(edge.name for edge in graph.edges)]


@pytest.mark.skipif(not HAS_DOT, reason="graphviz is not installed")
def test_plot_draws_a_file_of_the_kind_that_its_name_or_the_argument_says(tmp_path):
    svg = census().plot(tmp_path / "one")
    assert svg == tmp_path / "one.svg"
    titles = [title.text for title in ET.parse(svg).iter("{http://www.w3.org/2000/svg}title")]
    assert {"tokenise->names", "input->read"} <= set(titles)
    assert census().plot(tmp_path / "two.png").read_bytes().startswith(b"\x89PNG")
    assert census().plot(str(tmp_path / "v1.0"), kind="pdf") == tmp_path / "v1.0.pdf"


@pytest.mark.parametrize("name", ["x.gif", "x.v2"])
def test_an_unknown_kind_of_picture_is_refused(tmp_path, name):
    with pytest.raises(PictureError, match="svg, png, pdf"):
        census().plot(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_without_graphviz_plot_says_what_to_install_and_a_notebook_still_gets_text_and_mermaid(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PictureError, match="apt-get install graphviz"):
        census().plot(tmp_path / "x")
    bundle = census()._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/vnd.mermaid"}
    assert bundle["text/plain"] == str(census())


@pytest.mark.skipif(not HAS_DOT, reason="graphviz is not installed")
def test_a_notebook_gets_a_picture():
    bundle = census()._repr_mimebundle_(include=None, exclude=None)
    assert ET.fromstring(bundle["image/svg+xml"]).tag.endswith("svg")


def picture():
    """A picture of a running graph: with outputs, and with the URI of each edge."""
    arrows = render.Arrow("input", "a", uri="ipc://1"), render.Arrow("a", "b", uri="ipc://2", label="5/s")
    return render.Picture({"a": "a", "b": "b x2"}, (*arrows, render.Arrow("*", "output", uri="inproc://3")))


def test_the_outputs_are_one_arrow_from_any_node_as_they_are_one_edge():
    assert '  "*" [shape=plaintext, label="any node"];' in render.dot(picture()).splitlines()
    assert '  "*" -> "output" [tooltip="inproc://3"];' in render.dot(picture()).splitlines()
    assert "  any --> output" in render.mermaid(picture()).splitlines()
    assert render.text(picture()) == "●  a\n●  b x2"


def test_uris_are_tooltips_in_dot_and_comments_in_mermaid():
    assert '  "a" -> "b" [label="5/s", tooltip="ipc://2"];' in render.dot(picture()).splitlines()
    lines = render.mermaid(picture()).splitlines()
    assert lines[lines.index("  %% a->b is ipc://2") + 1] == '  n0 -- "5/s" --> n1'


@pytest.mark.skipif(not HAS_DOT, reason="graphviz is not installed")
def test_the_uri_of_an_arrow_is_in_its_drawing():
    from consecutiond_nodes.picture import draw

    svg = ET.fromstring(draw(render.dot(picture()), "svg"))
    assert {"ipc://1", "ipc://2", "inproc://3"} <= {
        link.get("{http://www.w3.org/1999/xlink}title") for link in svg.iter("{http://www.w3.org/2000/svg}a")
    }
