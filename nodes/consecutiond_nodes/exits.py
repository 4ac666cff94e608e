"""The ways out of a node: what `push` and `write` do, chosen once."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from consecutiond_broker.edge import ANY
from consecutiond_nodes.errors import OutputError
from consecutiond_nodes.keys import Keyed
from consecutiond_nodes.outbox import Buffer, Numbers
from consecutiond_nodes.ports import Downstream
from consecutiond_nodes.routing import Outlet, check_route

Push = Callable[[Any], None]


class Exits:
    """The buffers of a worker, and the functions that fill them.

    Args:
        node: the node's name, for errors.
        down: the outgoing edges by the name of the node they lead to; ``output`` is the one to the outputs.
        keyed: the nodes among whose workers values are shared out by key.
        outputs: names of the registered outputs; None takes every name.
        sizes: bytes aimed at for one message, and of the largest single value.
        words: the worker's cell, which knows the item in hand.
        full: sends a buffer in which enough waits.
    """

    def __init__(
        self, node: str, down: Mapping[str, Downstream], keyed: Mapping[str, Keyed], outputs: tuple[str, ...] | None,
        sizes: tuple[int, int], words: memoryview, full: Callable[[Buffer], None],
    ) -> None:  # fmt: skip
        self._node, self._down, self._keyed, self._outputs = node, down, keyed, outputs
        self._sizes, self._words, self._full = sizes, words, full
        self.buffers: list[Buffer] = []
        #: values that were pushed by a node that leads nowhere
        self.dropped = 0

    def push(self, outlets: tuple[Outlet, ...]) -> Push:
        """Choose once what a push does."""
        plain = [name for outlet in outlets if outlet.router is None for name in outlet.targets]
        broadcast = tuple(self._down[name] for name in plain if name not in self._keyed)
        pushes = [self._appender(broadcast)] if broadcast else []
        pushes += [self._way(name) for name in plain if name in self._keyed]
        pushes += [self._router(outlet) for outlet in outlets if outlet.router is not None]
        if not pushes:
            return self._drop
        if len(pushes) == 1:
            return pushes[0]

        def push_to_all(value: Any) -> None:
            for push in pushes:
                push(value)

        return push_to_all

    def _drop(self, _value: Any) -> None:
        """The last node of a line pushes into nothing: allowed, as a node may stand anywhere, and counted."""
        self.dropped += 1

    def _appender(
        self, ports: tuple[Downstream, ...], partition: int = ANY, numbers: Numbers | None = None, *,
        writes: bool = False,
    ) -> Push:  # fmt: skip
        buffer = Buffer(self._node, ports, *self._sizes, partition, numbers, writes=writes)
        self.buffers.append(buffer)
        return buffer.appender(self._words, self._full)

    def _way(self, name: str) -> Push:
        """Choose once how a value gets to one node."""
        keyed, port = self._keyed.get(name), (self._down[name],)
        if keyed is None:
            return self._appender(port)
        numbers = Numbers()
        number, pushes = keyed.number, [self._appender(port, k, numbers) for k in range(keyed.workers)]

        def push(value: Any) -> None:
            pushes[number(value)](value)

        return push

    def _router(self, outlet: Outlet) -> Push:
        route = outlet.router
        assert route is not None  # noqa: S101 - the caller has asked
        pushes = {name: self._way(name) for name in outlet.targets}

        def push(value: Any) -> None:
            name = route(value)
            try:
                to = pushes[name]
            except (KeyError, TypeError):
                check_route(outlet, name, self._node)
                raise
            to(value)

        return push

    def write(self) -> Callable[[str, Any], None]:
        """Choose once what a write does."""
        if "output" not in self._down:
            return self.no_output
        known, append = self._outputs, self._appender((self._down["output"],), writes=True)

        def write(container_name: str, value: Any) -> None:
            if known is not None and container_name not in known:
                self.no_output(container_name, value)
            append((container_name, value))

        return write

    def no_output(self, container_name: str, _value: Any) -> None:
        """Refuse a write to an output that is not registered."""
        raise unregistered(self._node, container_name, self._outputs or ())


def unregistered(node: str, container_name: str, outputs: Sequence[str]) -> OutputError:
    """Return what a write to an output raises that is not among the registered ones."""
    known = ", ".join(outputs) or "none"
    return OutputError(
        f"node {node} wrote to the output {container_name!r}, which is not registered (registered: {known}). "
        f"Register it before the start: consecutor.register_output({container_name!r}, [])"
    )
