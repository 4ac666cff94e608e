"""A graph run in this process, without sockets, for users' own unit tests."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from consecutiond_broker import codec
from consecutiond_broker.errors import CodecError
from consecutiond_broker.ids import mix, name_salt
from consecutiond_nodes.errors import NodeError
from consecutiond_nodes.routing import Outlet, check_route

if TYPE_CHECKING:
    from consecutiond_nodes.graph import Graph


@dataclass
class TestRun:
    """What came of a run: values in the order in which they were written and pushed."""

    # pytest takes every class of such a name for a test
    __test__ = False

    #: by the name of the output: what nodes wrote to it
    outputs: dict[str, list[Any]] = field(default_factory=dict)
    #: by the name of the node: what it pushed, `[]` for one that pushed nothing
    pushed: dict[str, list[Any]] = field(default_factory=dict)


class Bench:
    """Runs the nodes of one graph, value by value.

    Values travel as they do between processes: encoded and decoded, so each branch has a copy of its own and what
    cannot travel is an error here, too. What a node raises comes out as it is.

    Args:
        graph: a valid graph.

    """

    def __init__(self, graph: "Graph") -> None:
        self._graph = graph
        self.run = TestRun(pushed={name: [] for name in graph.nodes})
        self._queue: deque[tuple[str, Any, int]] = deque()
        #: the item in hand: its node, its key, and how many of its children went to each edge
        self._node, self._key, self._ordinals = "", 0, dict[str, int]()
        for name, node in graph.nodes.items():
            node.bind(self._push(name, graph.outlets(name)), self._write(name), self._item_key)

    def feed(self, inputs: Iterable[Any]) -> None:
        """Begin all nodes, process the inputs one after the other, and end the nodes in topological order."""
        root = self._graph.root.name
        salt = name_salt(f"input->{root}")
        for node in self._graph.nodes.values():
            self._hold("", 0)
            node.begin()
        self._drain()
        for position, value in enumerate(inputs, 1):
            key = mix(mix(position) ^ salt)
            self._queue.append((root, self._copy(value, f"input number {position}"), key))
            self._drain()
        for node in self._graph.nodes.values():
            self._hold("", 0)
            node.end()
            self._drain()

    def _drain(self) -> None:
        while self._queue:
            name, value, key = self._queue.popleft()
            self._hold(name, key)
            self._graph[name].process(value)

    def _hold(self, node: str, key: int) -> None:
        self._node, self._key, self._ordinals = node, key, {}

    def _item_key(self) -> int:
        if not self._node:
            raise NodeError("there is no item in hand: item_key works only inside process")
        return self._key

    def _push(self, name: str, outlets: tuple[Outlet, ...]) -> Callable[[Any], None]:
        pushed = self.run.pushed[name]

        def push(value: Any) -> None:
            pushed.append(self._copy(value, f"node {name} pushed"))
            for outlet in outlets:
                for target in self._targets(name, outlet, value):
                    self._queue.append((target, self._copy(value, name), self._child_key(f"{name}->{target}")))

        return push

    def _targets(self, name: str, outlet: Outlet, value: Any) -> tuple[str, ...]:
        if outlet.router is None:
            return outlet.targets
        target = outlet.router(value)
        check_route(outlet, target, name)
        return (target,)

    def _child_key(self, edge: str) -> int:
        ordinal = self._ordinals.get(edge, 0)
        self._ordinals[edge] = ordinal + 1
        return mix(self._key ^ mix(ordinal ^ name_salt(edge)))

    def _write(self, name: str) -> Callable[[str, Any], None]:
        def write(container_name: str, value: Any) -> None:
            copied = self._copy(value, f"node {name} wrote")
            self.run.outputs.setdefault(container_name, []).append(copied)

        return write

    @staticmethod
    def _copy(value: Any, what: str) -> Any:
        try:
            return codec.decode(codec.encode([value]))[0]
        except CodecError:
            raise CodecError(f"{what}: {codec.faults([value])[0][1]}") from None
