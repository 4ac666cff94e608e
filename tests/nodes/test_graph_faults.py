"""Every fault of a graph is found, all together, and building never raises."""

import pytest

from consecutiond_nodes.errors import GraphError
from consecutiond_nodes.graph import Graph
from consecutiond_nodes.node import Node


def route(value):
    return value


def nodes(names):
    return [Node(name) for name in names]


def faults(graph):
    with pytest.raises(GraphError) as caught:
        graph.validate()
    assert caught.value.faults
    return caught.value.faults


def only_fault(graph):
    found = faults(graph)
    assert len(found) == 1, found
    return found[0]


def test_several_roots():
    a, b, c = nodes("abc")
    graph = [a, b] | c
    fault = only_fault(graph)
    assert fault.startswith("several roots: 'a', 'b'")
    assert "wrong: [a, b] | next" in fault
    assert "right: source | [a, b] | next" in fault
    with pytest.raises(GraphError, match="several roots"):
        _ = graph.root


def test_a_list_on_the_left_is_fine_once_a_node_stands_before_it():
    a, b, c, d = nodes("abcd")
    (a | ([b, c] | d)).validate()


def test_no_root_comes_with_the_cycle_that_is_its_cause():
    a, b = nodes("ab")
    found = faults(a | b | a)
    assert found[0].startswith("no root")
    assert found[1].startswith("cycle: a -> b -> a;")
    assert len(found) == 2


def test_a_cycle_below_a_root_shows_its_path_and_nothing_else():
    a, b, c, d = nodes("abcd")
    graph = (a | b | c | d).nodes["d"].add_downstream(b)
    assert only_fault(graph).startswith("cycle: b -> c -> d -> b;")


def test_a_node_before_itself_is_a_cycle():
    a, b = nodes("ab")
    b.add_downstream(b)
    assert only_fault(a.add_downstream(b)).startswith("cycle: b -> b;")


def test_separate_cycles_are_all_reported():
    a, b, c, d, e = nodes("abcde")
    for up, down in [(a, b), (b, c), (c, b), (a, d), (d, e), (e, d)]:
        graph = up.add_downstream(down)
    assert {fault.partition(";")[0] for fault in faults(graph)} == {
        "cycle: b -> c -> b", "cycle: d -> e -> d",
    }  # fmt: skip


def test_an_empty_graph_has_no_root():
    assert only_fault(Graph()).startswith("no root: the graph is empty")


def test_duplicate_names():
    fault = only_fault(Node("a") | [Node("x"), Node("x")] | Node("x"))
    assert fault.startswith("duplicate names: 3 nodes (Node, Node, Node) have the name 'x'")
    assert 'right: Node("first") | Node("second")' in fault


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "not legal"),
        ("a b", "not legal"),
        ("a/b", "not legal"),
        ("a:b", "not legal"),
        ("a->b", "not legal"),
        (".a", "not legal"),
        ("-a", "not legal"),
        ("a\n", "not legal"),
        ("ü", "not legal"),
        ("a" * 65, "65 characters"),
        ("input", "reserved"),
        ("output", "reserved"),
        (5, "of type int"),
        (["l"], "of type list"),
    ],
)
def test_illegal_names(name, reason):
    node = Node()
    node.name = name
    fault = only_fault(node.newest_graph())
    assert repr(name) in fault
    assert reason in fault


@pytest.mark.parametrize("name", ["a", "0", "_", "a.b-c_d", "A" * 64, "inputs", "end"])
def test_legal_names(name):
    Node(name).newest_graph().validate()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (Node, "Node is a class, not a node; did you forget the parentheses?"),
        ("count", "the string 'count' is not a node"),
        (None, "None is not a node"),
        (7, "7 (of type int) is not a node"),
        ({"a"}, "a set is not a node; branches stand in a list"),
        ((n for n in ()), "a generator is not a node; branches stand in a list"),
        (route, "is a function, not a node; a router stands in the list"),
    ],
)
def test_what_is_not_a_node_is_said_on_either_side(wrong, said):
    for graph in (Node("a") | wrong | Node("b"), wrong | Node("b")):
        fault = only_fault(graph)
        assert said in fault
        assert fault.startswith("test_graph_faults.py:")
        assert "\nwrong: " in fault
        assert "\nright: " in fault


@pytest.mark.parametrize("wrong", [Node, "count", None, 7, {"a"}])
def test_what_is_not_a_node_is_said_in_a_list(wrong):
    only_fault(Node("a") | [Node("b"), wrong, route])


def test_a_plain_class_in_a_list_is_no_router():
    class Forgot:
        pass

    assert "Forgot is a class, not a node" in only_fault(Node("a") | [Node("b"), Forgot])


def test_str_is_a_router():
    graph = Node("a") | [Node("b"), Node("c"), str]
    graph.validate()
    assert graph.outlets("a")[0].router is str


@pytest.mark.parametrize("empty", [[], (), [[]]])
def test_an_empty_list(empty):
    assert "an empty list leads nowhere" in only_fault(Node("a") | empty)


def test_a_route_to_nowhere():
    fault = only_fault(Node("a") | [route])
    assert "a route to nowhere: the list of the router route (test_graph_faults.py:" in fault
    assert "wrong: a | [route]\nright: a | [b, c, route]" in fault


def test_several_routers_in_one_list():
    assert "one list has several routers" in only_fault(Node("a") | [Node("b"), route, route])


def test_a_router_in_a_list_with_a_router():
    b, c, d = nodes("bcd")
    assert "a list with a router of its own" in only_fault(Node("a") | [b, [c, d, route], route])


def test_a_router_without_a_node_before_it():
    a, b, c = nodes("abc")
    graph = Node("s") | ([a, b, route] | c)
    assert "has no node before its list" in only_fault(graph)


def test_two_arrows_between_two_nodes():
    a, b, c = nodes("abc")
    assert only_fault(a | [b, [b, c, route]]).startswith("two arrows lead from 'a' to 'b'")


def test_all_faults_come_together_and_the_text_lists_them():
    a, b = Node("a b"), Node("x")
    graph = [a, b] | (Node("x") | [Node("z"), None, "s", []]) | [Node("y"), route, route]
    found = faults(graph)
    starts = ["None is not", "string 's'", "empty list", "several routers"]
    starts += ["several roots", "'a b'", "duplicate"]
    assert len(found) == len(starts)
    for start, fault in zip(starts, found, strict=True):
        assert start in fault
    with pytest.raises(GraphError) as caught:
        graph.validate()
    assert str(caught.value).startswith("the graph has 7 faults:\n  1. ")
    assert "\n  7. duplicate" in str(caught.value)


def test_a_corrected_line_clears_the_fault():
    a, b = nodes("ab")
    a | b | None
    faults(a.newest_graph())
    a | b
    a.newest_graph().validate()
