"""Graphs that run in one process, for unit tests of users."""

import pytest

from consecutiond_broker.errors import CodecError
from consecutiond_nodes.errors import GraphError, NodeError, RouteError, UnknownNodeError
from consecutiond_nodes.node import Node


class Words(Node):
    def process(self, line):
        for word in line.split():
            self.push(word)


class Count(Node):
    def begin(self):
        self.seen = {}

    def process(self, word):
        self.seen[word] = self.seen.get(word, 0) + 1

    def end(self):
        self.write("counts", [self.name, self.seen])


class Shout(Node):
    def process(self, value):
        self.push(value.upper())


class Keys(Node):
    def process(self, value):
        self.write(self.name, self.item_key)
        self.push(value)


def by_length(word):
    return "short" if len(word) < 5 else "long"


def test_it_returns_what_was_written_and_what_each_node_pushed():
    graph = Words("words") | [Count("short"), Count("long"), by_length]
    run = graph.test(["the quick fox", "the end"])
    assert run.outputs == {"counts": [["short", {"the": 2, "fox": 1, "end": 1}], ["long", {"quick": 1}]]}
    assert run.pushed == {"words": ["the", "quick", "fox", "the", "end"], "short": [], "long": []}


def test_a_broadcast_gives_each_branch_a_copy_and_a_merge_gets_both():
    class Change(Node):
        def process(self, value):
            value.append(self.name)
            self.push(value)

    run = (Node("a") | [Change("b"), Change("c")] | Node("d")).test([["x"]])
    assert run.pushed["d"] == [["x", "b"], ["x", "c"]]


def test_nodes_end_from_the_top_and_what_end_pushes_is_processed_before_the_next_ends():
    events = []

    class Ends(Node):
        def begin(self):
            events.append(f"begin {self.name}")

        def process(self, value):
            events.append(f"{self.name} {value}")
            self.push(value)

        def end(self):
            events.append(f"end {self.name}")
            self.push(f"last of {self.name}")

    (Ends("a") | Ends("b")).test([1])
    assert events == ["begin a", "begin b", "a 1", "b 1", "end a", "b last of a", "end b"]


def test_what_a_node_raises_comes_out_as_it_is():
    class Bad(Node):
        def process(self, value):
            raise ZeroDivisionError(value)

    with pytest.raises(ZeroDivisionError, match="7") as caught:
        (Node("a") | Bad("b")).test([7])
    assert caught.traceback[-1].name == "process"


def test_a_route_to_nowhere_is_explained():
    with pytest.raises(RouteError, match=r"'lon'.*did you mean 'long'"):
        (Words("w") | [Node("short"), Node("long"), lambda word: "lon"]).test(["x"])


@pytest.mark.parametrize(
    ("where", "names"), [("push", "node a pushed"), ("write", "node a wrote"), ("input", "input number 1")]
)
def test_what_cannot_travel_between_processes_is_an_error_here_too(where, names):
    class Odd(Node):
        def process(self, value):
            if where == "push":
                self.push(object())
            elif where == "write":
                self.write("out", object())

    with pytest.raises(CodecError, match=rf"{names}.*object, which msgpack cannot carry"):
        (Odd("a") | Node("b")).test([object() if where == "input" else 1])


def test_values_travel_as_between_processes():
    assert (Node("a") | Node("b")).test([(1, 2)]).pushed["b"] == [[1, 2]]


def test_nodes_can_be_replaced_by_name_and_the_graph_stays_as_it_is():
    graph = Words("words") | [Count("short"), Count("long"), by_length]
    run = graph.test(["the quick"], replace={"long": Shout(), "words": Node("other")})
    assert run.pushed == {"words": ["the quick"], "short": [], "long": ["THE QUICK"]}
    assert graph.test(["x"]).pushed["words"] == ["x"]
    assert graph.replace({"short": Shout()}).edges == graph.edges
    with pytest.raises(UnknownNodeError, match="did you mean 'short'"):
        graph.test([], replace={"shor": Shout()})


def test_a_faulty_graph_is_refused():
    with pytest.raises(GraphError, match="duplicate names"):
        (Node("a") | Node("a")).test([])


def test_item_keys_are_all_different_and_the_same_in_every_run():
    graph = Words("words") | [Keys("b"), Keys("c")] | Keys("d")
    first, second = graph.test(["x x", "x"]).outputs, graph.test(["x x", "x"]).outputs
    assert first == second
    keys = [key for values in first.values() for key in values]
    assert len(set(keys)) == len(keys) == 3 + 3 + 6


def test_there_is_no_item_key_outside_process():
    class Early(Node):
        def begin(self):
            self.write("x", self.item_key)

    with pytest.raises(NodeError, match="no item in hand"):
        Early("a").newest_graph().test([])


def test_a_graph_of_a_thousand_nodes_does_not_recurse():
    graph = Node("n0")
    for number in range(1, 1000):
        graph = graph | Node(f"n{number}")
    assert graph.test([1]).pushed["n999"] == [1]
