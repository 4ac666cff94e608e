"""`connect_with`: which edge a uri is for, and every fault of uris, found together with all others."""

import copy
import pickle

import pytest

from consecutiond_nodes.endpoints import fault_of, is_loopback
from consecutiond_nodes.errors import GraphError
from consecutiond_nodes.graph import Graph
from consecutiond_nodes.node import Node


class Far(Node):
    """A user's node that says where it is, in an `__init__` that never calls ours."""

    def __init__(self, number):
        self.number = number
        self.connect_with("tcp://10.0.0.1:7101", "tcp://10.0.0.1:7102", remote=True)


def nodes(names):
    return [Node(name) for name in names]


def only_fault(graph):
    with pytest.raises(GraphError) as caught:
        graph.validate()
    assert len(caught.value.faults) == 1, caught.value.faults
    return caught.value.faults[0]


def test_it_works_in_an_init_that_never_calls_super():
    far = Far(3)
    graph = Node("a") | far | Node("z")
    graph.validate()
    assert graph.uris == {"a->Far": "tcp://10.0.0.1:7101", "Far->z": "tcp://10.0.0.1:7102"}
    assert far.is_remote


def test_what_is_none_stays_as_it_is():
    far = Far(3)
    far.connect_with(downstream_uri="tcp://10.0.0.1:9000")
    assert (Node("a") | far | Node("z")).uris == {"a->Far": "tcp://10.0.0.1:7101", "Far->z": "tcp://10.0.0.1:9000"}
    far.connect_with(remote=False)
    assert not far.is_remote


def test_it_counts_after_the_wiring_too():
    a, b = nodes("ab")
    graph = a | b
    assert graph.uris == {}
    a.connect_with(downstream_uri="ipc:///run/ab.sock")
    assert graph.uris == {"a->b": "ipc:///run/ab.sock"}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda graph: pickle.loads(pickle.dumps(graph))])
def test_copies_of_a_graph_keep_the_uris(copied):
    graph: Graph = copied(Node("a") | Far(1))
    assert graph.uris == {"a->Far": "tcp://10.0.0.1:7101", "*->output": "tcp://10.0.0.1:7102"}
    assert graph["Far"].is_remote


def test_at_the_ends_of_a_graph_a_uri_is_for_the_input_and_for_the_outputs():
    (a,) = nodes("a")
    a.connect_with("tcp://127.0.0.1:7000", {"output": "tcp://127.0.0.1:7001"})
    assert (a | Node("b")).uris == {"input->a": "tcp://127.0.0.1:7000", "*->output": "tcp://127.0.0.1:7001"}


def test_one_uri_for_several_edges_asks_for_a_mapping():
    a, b, c, d = nodes("abcd")
    d.connect_with("tcp://10.0.0.1:7000")
    a.connect_with(downstream_uri={"b": "ipc:///b", "c": "ipc:///c"})
    graph = a | [b, c] | d
    fault = only_fault(graph)
    assert "one uri for 2 edges" in fault
    assert 'right: connect_with(upstream_uri={"b": …, "c": …})' in fault
    d.connect_with({"b": "tcp://10.0.0.1:7000", "c": "tcp://10.0.0.1:7001"})
    graph.validate()
    assert graph.uris == {
        "a->b": "ipc:///b", "a->c": "ipc:///c", "b->d": "tcp://10.0.0.1:7000", "c->d": "tcp://10.0.0.1:7001",
    }  # fmt: skip


def test_a_mapping_names_nodes_that_there_are():
    a, b = nodes("ab")
    b.connect_with({"x": "ipc:///x"})
    assert "'x'; known: a" in only_fault(a | b)


def test_the_two_ends_of_an_edge_may_say_the_same_and_nothing_else():
    a, b = nodes("ab")
    a.connect_with(downstream_uri="tcp://localhost:7000")
    b.connect_with("tcp://127.0.0.1:7000")
    (a | b).validate()
    b.connect_with("tcp://127.0.0.1:7001")
    fault = only_fault(a | b)
    assert "a says tcp://127.0.0.1:7000, b says tcp://127.0.0.1:7001" in fault


def test_no_two_edges_have_one_uri():
    a, b, c = nodes("abc")
    b.connect_with("tcp://10.0.0.1:7000", "tcp://10.0.0.1:7000")
    assert "given to 2 edges, a->b, b->c" in only_fault(a | b | c)


def test_no_other_machine_reaches_a_unix_socket():
    a, b = nodes("ab")
    a.connect_with(downstream_uri="ipc:///run/ab.sock")
    b.connect_with(remote=True)
    assert only_fault(a | b).startswith("node 'b' is remote")


def test_all_faults_of_uris_come_together_with_those_of_the_wiring():
    a, b, c = nodes("abc")
    a.connect_with("here", 7)
    with pytest.raises(GraphError) as caught:
        ([a, b] | c).validate()
    roots, here, seven = caught.value.faults
    assert roots.startswith("several roots")
    assert "'here' is no uri" in here
    assert "7 is of type int" in seven


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("", "is no uri"),
        ("http://10.0.0.1:80", "is no uri"),
        ("tcp://10.0.0.1", "is no uri"),
        ("tcp://10.0.0.1:7000/path", "is no uri"),
        ("ipc://", "is no uri"),
        ("ipc:///" + 107 * "x", "108 bytes, 107 at most"),
        ("tcp://10.0.0.1:0", "from 1 to 65535"),
        ("tcp://10.0.0.1:65536", "from 1 to 65535"),
        ("tcp://*:7000", "not the IPv4 address"),
        ("tcp://0.0.0.0:7000", "not the IPv4 address"),
        ("tcp://example.org:7000", "not the IPv4 address"),
        ("tcp://10.0.0.256:7000", "not the IPv4 address"),
        (None, "of type NoneType"),
    ],
)
def test_a_malformed_uri_says_what_is_wrong_with_it(uri, says):
    assert says in fault_of(uri)


def test_legal_uris_and_who_reaches_them():
    loopback = {
        "tcp://127.0.0.1:1": True, "tcp://localhost:65535": True, "tcp://127.9.9.9:80": True, "ipc://x.sock": True,
        "ipc:///" + 106 * "x": True, "tcp://10.0.0.1:7000": False,
    }  # fmt: skip
    for uri, expected in loopback.items():
        assert fault_of(uri) == ""
        assert is_loopback(uri) is expected, uri
