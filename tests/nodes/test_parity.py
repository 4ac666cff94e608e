"""The wiring means what it meant in `consecution` 0.2.0, the package from which its users come."""

import consecution
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consecutiond_nodes.graph import Graph, Node, as_graph

#: what a drawn graph is made of: a name, a chain of elements, or a list (of elements, with a router or not)
Element = str | tuple


def route(value):
    return value


@st.composite
def expressions(draw):
    """Draw a chain that begins with one node, the root, and goes on with nodes, chains and lists."""
    count = iter(range(1000))

    def node():
        return f"n{next(count)}"

    def chain(depth):
        length = draw(st.integers(1, 3))
        return ("chain", [node(), *(element(depth) for _ in range(length - 1))])

    def element(depth):
        kinds = ["node"] if depth == 0 else ["node", "list", "list", "routed"]
        kind = draw(st.sampled_from(kinds))
        if kind == "node":
            return node()
        members = [branch(depth - 1) for _ in range(draw(st.integers(1, 3)))]
        place = draw(st.integers(0, len(members))) if kind == "routed" else None
        return ("list", members, place)

    def branch(depth):
        kind = draw(st.sampled_from(["node", "chain", "list"] if depth else ["node"]))
        if kind == "list":
            # a list in a list; one with a router of its own would have lost it in the older package
            return ("list", [branch(depth - 1) for _ in range(draw(st.integers(1, 2)))], None)
        return node() if kind == "node" else chain(depth)

    head, rest = node(), [element(2) for _ in range(draw(st.integers(1, 3)))]
    return ("chain", [head, *rest])


def build(expression, make):
    if isinstance(expression, str):
        return make(expression)
    if expression[0] == "list":
        _, members, place = expression
        built = [build(member, make) for member in members]
        if place is not None:
            built.insert(place, route)
        return built
    parts = [build(part, make) for part in expression[1]]
    joined = parts[0]
    for part in parts[1:]:
        joined = joined | part
    return joined


def their_edges(top):
    """Give (upstream, downstream, routed) for every arrow; a router is a node of its own there."""
    edges = set()
    for node in top.all_nodes:
        for below in node._downstream_nodes:
            if isinstance(node, consecution.nodes._RouterNode):
                continue
            if isinstance(below, consecution.nodes._RouterNode):
                edges |= {(node.name, target.name, True) for target in below._downstream_nodes}
            else:
                edges.add((node.name, below.name, False))
    return edges


def our_edges(graph):
    return {
        (name, target, outlet.router is not None)
        for name in graph
        for outlet in graph.outlets(name)
        for target in outlet.targets
    }


@given(expressions())
def test_every_expression_means_the_same_arrows(expression):
    theirs = build(expression, lambda name: consecution.Node(name))
    ours = as_graph(build(expression, lambda name: Node(name)))
    ours.validate()
    assert our_edges(ours) == their_edges(theirs)
    assert ours.root.name == theirs.top_node.name


def test_the_example_of_the_older_documentation():
    text = "a | [b, c | [d, e | [f, g, r]] | k] | l | [m, n]"
    ours = eval(text, {name: Node(name) for name in "abcdefgklmn"} | {"r": route})
    theirs = eval(text, {name: consecution.Node(name) for name in "abcdefgklmn"} | {"r": route})
    assert isinstance(ours, Graph)
    assert our_edges(ours) == their_edges(theirs)


def test_a_node_is_found_by_its_name_and_an_unknown_name_is_a_key_error():
    graph = Node("a") | Node("b")
    pipeline = consecution.Pipeline(consecution.Node("a") | consecution.Node("b"))
    assert graph["b"].name == pipeline["b"].name
    for lookup in (graph, pipeline):
        with pytest.raises(KeyError, match="c"):
            lookup["c"]


def test_values_take_the_same_ways():
    def flow(kind):
        class Words(kind):
            def process(self, line):
                for word in line.split():
                    self.push(word)

        class Seen(kind):
            def process(self, word):
                seen.append((self.name, word))
                self.push(word)

        seen = []
        top = (
            Words("words")
            | [Seen("short"), Seen("long"), lambda word: "short" if len(word) < 4 else "long"]
            | Seen("all")
        )
        return top, seen

    top, theirs = flow(consecution.Node)
    consecution.Pipeline(top).consume(["the quick fox", "jumps"])
    graph, ours = flow(Node)
    graph.test(["the quick fox", "jumps"])
    assert sorted(ours) == sorted(theirs)
