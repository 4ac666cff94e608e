"""The life of a node: names, workers, binding."""

import copy
import dataclasses

import pytest

from consecutiond_nodes.errors import NodeError
from consecutiond_nodes.node import BaseNode, Node


class Words(Node):
    """A node whose __init__ forgets super, and works."""

    def __init__(self, size):
        self.size = size
        self.set_num_workers(size)

    def process(self, value):
        for word in value.split():
            self.push(word)


def bound(node, key=lambda: 7):
    pushed, written = [], []
    node.bind(pushed.append, lambda name, value: written.append((name, value)), key)
    return pushed, written


def test_base_node_is_node():
    assert BaseNode is Node


def test_the_name_defaults_to_the_class_name():
    assert (Words(1).name, Node().name, Node("x").name) == ("Words", "Node", "x")


def test_a_name_may_be_assigned_or_stand_in_the_class():
    class Named(Node):
        name = "from the class"

    class Assigned(Node):
        def __init__(self):
            self.name = "assigned"

    assert (Named().name, Assigned().name, Named("own").name) == ("from the class", "assigned", "own")


def test_node_methods_work_in_an_init_without_super():
    assert Words(3).num_workers == 3
    assert Node().num_workers == 1


def test_set_num_workers_without_argument_means_one():
    node = Words(3)
    node.set_num_workers()
    assert node.num_workers == 1


@pytest.mark.parametrize("bad", [0, -1, 1.5, "2", None, True])
def test_a_bad_number_of_workers_is_refused_and_changes_nothing(bad):
    node = Words(2)
    with pytest.raises(NodeError, match=r"node 'Words'.*at least 1"):
        node.set_num_workers(bad)
    assert node.num_workers == 2


@pytest.mark.parametrize(
    ("what", "use"),
    [
        ("push", lambda node: node.push(1)),
        ("write", lambda node: node.write("out", 1)),
        ("item_key", lambda node: node.item_key),
    ],
)
def test_before_binding_everything_that_needs_a_worker_says_so(what, use):
    text = rf"node 'n': {what} works only while the node is running \(in begin, process or end\)"
    with pytest.raises(NodeError, match=text):
        use(Node("n"))


def test_push_in_an_init_fails_clearly():
    class Eager(Node):
        def __init__(self):
            self.push(1)

    with pytest.raises(NodeError, match="'Eager': push works only while"):
        Eager()


def test_the_default_process_pushes_the_value_on():
    node = Node()
    pushed, _ = bound(node)
    node.process({"a": 1})
    assert pushed == [{"a": 1}]


def test_bound_functions_are_called_without_a_method_between():
    node = Words(1)
    sink = []
    push, write = sink.append, lambda name, value: None
    node.bind(push, write, lambda: 1)
    assert node.push is push
    assert node.write is write


def test_write_and_item_key_reach_the_worker():
    node = Node()
    _, written = bound(node, key=lambda: 2**63)
    node.write("table", 5)
    assert written == [("table", 5)]
    assert node.item_key == 2**63


def test_a_class_that_overrides_push_or_write_keeps_its_own():
    class Loud(Node):
        def push(self, value):
            super().push(value.upper())

        def write(self, container_name, value):
            super().write(container_name, value * 2)

    node = Loud()
    pushed, written = bound(node)
    node.push("a")
    node.write("t", 2)
    assert (pushed, written) == (["A"], [("t", 4)])


def test_binding_one_node_does_not_touch_another_of_its_class():
    bound(Words(1))
    with pytest.raises(NodeError):
        Words(1).push(1)


def test_nodes_with_their_own_equality_and_without_a_hash_can_be_wired():
    @dataclasses.dataclass
    class Pair(Node):
        size: int

    one, two = Pair(1), Pair(1)
    one.name, two.name = "one", "two"
    graph = one | two
    graph.validate()
    assert list(graph.nodes) == ["one", "two"]
    assert graph["two"] is two


def test_a_copy_of_a_node_is_in_none_of_its_graphs():
    a = Node("a")
    graph = a | Node("b")
    other = copy.copy(a)
    assert len(other.newest_graph()) == 1
    other | Node("c")
    assert a.newest_graph() is graph


def test_the_repr_names_class_and_name():
    assert repr(Words(1)) == "Words"
    assert repr(Node("n")) == "Node('n')"
