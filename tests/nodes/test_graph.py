"""What `|` builds, and which graph a node stands for."""

import itertools
import subprocess
import sys
import time
from pathlib import Path

import pytest

from consecutiond_nodes.errors import GraphError, RouteError, UnknownNodeError
from consecutiond_nodes.graph import Edge, Graph, Outlet, as_graph
from consecutiond_nodes.node import Node
from consecutiond_nodes.routing import check_route, describe


def route(value):
    return value


def other_route(value):
    return value


def nodes(names):
    return [Node(name) for name in names]


def drawn(graph):
    graph.validate()
    return {edge.name for edge in graph.edges}


def test_a_line():
    a, b, c = nodes("abc")
    graph = a | b | c
    assert drawn(graph) == {"a->b", "b->c"}
    assert list(graph.nodes) == ["a", "b", "c"]
    assert (graph.root, graph.leaves) == (a, (c,))
    assert graph.outlets("a") == (Outlet(("b",), None),)
    assert graph.outlets("c") == ()


def test_a_list_broadcasts_and_merges_into_the_next():
    a, b, c, d = nodes("abcd")
    graph = a | [b, c] | d
    assert drawn(graph) == {"a->b", "a->c", "b->d", "c->d"}
    assert graph.outlets("a") == (Outlet(("b", "c"), None),)


@pytest.mark.parametrize("place", range(3))
def test_a_router_may_stand_anywhere_in_its_list(place):
    a, b, c, d = nodes("abcd")
    branches = [b, c]
    branches.insert(place, route)
    graph = a | branches | d
    assert graph.outlets("a") == (Outlet(("b", "c"), route),)
    assert drawn(graph) == {"a->b", "a->c", "b->d", "c->d"}


def test_nested_lists_are_flattened_into_branches():
    a, b, c, d, e, f, g, h = nodes("abcdefgh")
    graph = a | [b, c | [d, e], [f, g]] | h
    into = {f"a->{x}" for x in "bcfg"} | {f"{x}->h" for x in "bdefg"}
    assert drawn(graph) == into | {"c->d", "c->e"}


def test_a_routed_branch_is_named_by_its_root():
    a, b, c, d = nodes("abcd")
    graph = a | [b | c, d, route]
    assert graph.outlets("a") == (Outlet(("b", "d"), route),)


def test_a_nested_list_with_a_router_is_an_outlet_of_its_own():
    a, b, c, d, e, f = nodes("abcdef")
    graph = a | [b, [c, d, route], [e, f, other_route]]
    graph.validate()
    assert graph.outlets("a") == (
        Outlet(("b",), None),
        Outlet(("c", "d"), route),
        Outlet(("e", "f"), other_route),
    )


def test_every_end_of_the_left_gets_the_router():
    a, b, c, d, e = nodes("abcde")
    graph = a | [b, c] | [d, e, route]
    assert graph.outlets("b") == graph.outlets("c") == (Outlet(("d", "e"), route),)


def test_graphs_join_graphs_and_lists_join_from_the_left():
    a, b, c, d, e = nodes("abcde")
    assert drawn((a | [b, c]) | (d | e)) == {"a->b", "a->c", "b->d", "c->d", "d->e"}
    a, b, c, d, e = nodes("abcde")
    assert drawn(a | ([b, c] | (d | e))) == {"a->b", "a->c", "b->d", "c->d", "d->e"}


def test_branches_that_share_a_node_merge_in_it():
    a, b, c, d = nodes("abcd")
    assert drawn(a | [b | d, c | d]) == {"a->b", "a->c", "b->d", "c->d"}


def test_a_node_that_stands_twice_in_a_list_gets_each_value_once():
    a, b = nodes("ab")
    assert (a | [b, b]).outlets("a") == (Outlet(("b",), None),)
    assert (Node("x") | [b, b, route]).outlets("x") == (Outlet(("b",), route),)


def test_a_node_that_can_be_called_is_a_node_and_no_router():
    class Callable(Node):
        def __call__(self, value):
            raise AssertionError("never called")

    a, b = Node("a"), Callable("b")
    assert (a | [b, Node("c")]).outlets("a") == (Outlet(("b", "c"), None),)
    assert drawn(Node("x") | b) == {"x->b"}


def test_building_is_by_value():
    """`a | b` never changes what `a | c` means, nor any graph that exists."""
    a, b, c, d = nodes("abcd")
    one = a | b
    two = a | c
    three = one | d
    assert (drawn(one), drawn(two), drawn(three)) == ({"a->b"}, {"a->c"}, {"a->b", "b->d"})


def test_topological_order_is_stable_and_keeps_the_written_order():
    a, b, c, d, e = nodes("abcde")
    graph = a | [b | [e, c], d]
    assert list(graph.nodes) == ["a", "b", "e", "c", "d"]
    x, y, z = nodes("xyz")
    late = y.add_downstream(z)
    assert list((x | [late, z]).nodes) == ["x", "y", "z"]


def test_edges_have_names():
    a, b = nodes("ab")
    assert (a | b).edges == (Edge("a", "b"),)
    assert (a | b).edges[0].name == "a->b"


def test_lookup_by_name():
    a, b = nodes(["alpha", "beta"])
    graph = a | b
    assert graph["beta"] is b
    assert ("alpha" in graph, a in graph, "gamma" in graph, Node("alpha") in graph, 3 in graph) == (
        True, True, False, False, False,
    )  # fmt: skip
    assert (len(graph), list(graph)) == (2, ["alpha", "beta"])
    with pytest.raises(UnknownNodeError, match=r"^the graph has no node 'betta'; did you mean 'beta'"):
        graph["betta"]
    with pytest.raises(KeyError):
        graph.outlets("q")


def test_a_missing_bar_is_explained():
    a, b, c = nodes("abc")
    with pytest.raises(GraphError, match=r"You probably meant `a \| \[b, c\]`"):
        a[b, c]
    with pytest.raises(GraphError, match=r"You probably meant `a \| \[b\]`"):
        a[b]
    with pytest.raises(GraphError, match=r"You probably meant"):
        (a | b)[c]


# --- which graph a node stands for


def test_each_node_of_two_unrelated_graphs():
    a, b, c = nodes("abc")
    one, two = a | b, a | c
    assert b.newest_graph() is one
    assert c.newest_graph() is two
    with pytest.raises(GraphError, match=r"'a' is in two unrelated graphs.*a->b.*a->c"):
        a.newest_graph()


def test_a_later_graph_that_contains_both_settles_the_matter():
    a, b, c = nodes("abc")
    one, two = a | b, a | c
    with pytest.raises(GraphError):
        a.newest_graph()
    both = a | [b, c]
    assert a.newest_graph() is b.newest_graph() is c.newest_graph() is both
    assert (drawn(one), drawn(two)) == ({"a->b"}, {"a->c"})


def test_every_node_of_a_chain_stands_for_the_whole():
    made = nodes("abcdef")
    a, b, c, d, e, f = made
    graph = a | [b, c | d, route] | e | f
    assert all(node.newest_graph() is graph for node in made)


def test_a_dropped_result_is_still_found():
    a, b = nodes("ab")
    a | b
    assert drawn(a.newest_graph()) == {"a->b"}
    assert b.newest_graph() is a.newest_graph()


def test_a_part_that_is_wired_again_does_not_replace_the_whole():
    a, b, c = nodes("abc")
    whole = a | b | c
    part = a | b
    assert a.newest_graph() is b.newest_graph() is whole
    assert drawn(part) == {"a->b"}


def test_the_newer_of_two_equal_graphs_counts():
    a, b = nodes("ab")
    a | b
    newer = a | b
    assert a.newest_graph() is newer


@pytest.mark.parametrize("others", [[], [other_route]])
def test_another_router_makes_another_graph(others):
    a, b, c = nodes("abc")
    a | [b, c, route]
    a | [b, c, *others]
    with pytest.raises(GraphError, match="unrelated"):
        b.newest_graph()


def test_a_lone_node_is_a_graph_of_one():
    a = Node("a")
    graph = as_graph(a)
    graph.validate()
    assert (graph.root, graph.leaves, graph.edges, len(graph)) == (a, (a,), (), 1)


def test_as_graph():
    a, b = nodes("ab")
    graph = a | b
    assert as_graph(graph) is as_graph(a) is as_graph(b) is graph
    with pytest.raises(GraphError, match="Node is a class, not a node; did you forget the parentheses"):
        as_graph(Node)
    with pytest.raises(GraphError, match="parentheses"):
        as_graph(Node | Graph)
    with pytest.raises(GraphError, match=r"3 \(of type int\) is not a node"):
        as_graph(3)


# --- add_downstream


@pytest.mark.parametrize("order", list(itertools.permutations([(0, 1), (0, 2), (1, 3), (2, 3)])))
def test_add_downstream_in_any_order_draws_the_diamond(order):
    made = nodes("abcd")
    for up, down in order:
        made[up].add_downstream(made[down])
    assert drawn(made[0].newest_graph()) == {"a->b", "a->c", "b->d", "c->d"}
    assert all(node.newest_graph() is made[0].newest_graph() for node in made)


def test_add_downstream_leads_to_the_node_and_not_to_the_root_of_its_graph():
    a, b, c = nodes("abc")
    bottom = b | c
    graph = a.add_downstream(c)
    assert {edge.name for edge in graph.edges} == {"a->c", "b->c"}
    assert drawn(bottom) == {"b->c"}


def test_add_downstream_takes_what_may_stand_on_the_right():
    a, b, c = nodes("abc")
    assert a.add_downstream([b, c, route]).outlets("a") == (Outlet(("b", "c"), route),)


def test_four_hundred_nodes_are_wired_quickly():
    """Wiring does not walk the graph again for every pair: generous bound, for busy machines."""
    made = [Node(f"n{number}") for number in range(400)]
    start = time.process_time()
    graph = made[0]
    for node in made[1:]:
        graph = graph | node
    graph.validate()
    assert len(graph.edges) == 399
    assert time.process_time() - start < 1.0
    assert all(node._graphs == (graph,) for node in made)


# --- routes


def test_a_bad_answer_of_a_router_is_explained():
    outlet = Outlet(("short", "long"), route)
    where = rf"router route \(test_graph.py:{route.__code__.co_firstlineno}\) after node 'words'"
    with pytest.raises(RouteError, match=rf"{where} returned 'sort'.*'short', 'long'; did you mean 'short'"):
        check_route(outlet, "sort", "words")
    with pytest.raises(RouteError, match=r"returned None.*is a return missing"):
        check_route(outlet, None, "words")
    with pytest.raises(RouteError, match="return the name of the node, 'long', not the node"):
        check_route(outlet, Node("long"), "words")
    with pytest.raises(RouteError) as caught:
        check_route(outlet, ["x" * 10_000], "words")
    assert len(str(caught.value)) < 400
    check_route(outlet, "long", "words")


def test_describe_sees_through_partials_methods_and_objects():
    import functools

    class Chooser:
        def __call__(self, value):
            return value

    assert describe(functools.partial(route, 1)) == describe(route)
    assert describe(Chooser()).startswith("Chooser (test_graph.py:")
    assert describe(Chooser().__call__).startswith("__call__ (test_graph.py:")
    assert describe(str) == "str"


def test_the_dsl_type_checks(tmp_path):
    """`a | [b, c, lambda v: "b"] | d` passes mypy --strict, and yields a Graph of Nodes."""
    root = Path(__file__).parents[2]
    script = tmp_path / "user.py"
    script.write_text(
        "from typing import assert_type\n"
        "from consecutiond_nodes.graph import Graph\n"
        "from consecutiond_nodes.node import Node\n"
        "class Words(Node):\n"
        "    def process(self, text: str) -> None:\n"
        "        self.push(text)\n"
        "a, b, c, d = Words('a'), Node('b'), Node('c'), Node('d')\n"
        "graph = a | [b, c, lambda v: 'b'] | d\n"
        "assert_type(graph, Graph)\n"
        "assert_type(graph['a'], Node)\n"
        "assert_type([a, b] | c, Graph)\n"
        "assert_type(a | [b, c | [d, a], [b, c]] | (a | b), Graph)\n"
        "many = [Node(str(number)) for number in range(3)]\n"
        "assert_type(a | many | d, Graph)\n"
        "a | 3  # type: ignore[operator]\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--config-file=", str(script)],
        cwd=tmp_path, env={"MYPYPATH": f"{root}/broker:{root}/nodes", "PATH": ""},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
