"""The end of the graph: the node that appends what was written to the registered containers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from consecutiond_nodes.node import Node


class Container(Protocol):
    """Anything with ``append``.

    One that also has ``push_many(values)`` gets the values of a batch in one call, and may make them safe together. One
    that has ``flush`` is flushed before what it got counts as done. A list's ``extend`` is no such method: a class that
    overrides ``append`` alone would not see the values.
    """

    def append(self, value: Any, /) -> object:
        """Take one value."""


class OutputNode(Node):
    """Append each ``(name, value)`` to the container of that name.

    Args:
        containers: the registered ones.
        other: takes the pairs whose name is not registered, if unregistered names are allowed.
    """

    def __init__(self, containers: Mapping[str, Container], other: Container | None = None) -> None:
        super().__init__("output")
        #: what takes several values at once, by the name of the output
        self.takers: dict[str, Callable[[Sequence[Any]], object]] = {
            name: taker
            for name, container in containers.items()
            if callable(taker := getattr(container, "push_many", None))
        }
        self._appends = {name: container.append for name, container in containers.items()}
        self._flushes = [
            flush
            for container in (*containers.values(), other)
            if (flush := getattr(container, "flush", None)) is not None
        ]
        self._other = other

    def process(self, value: Any) -> None:
        """Append one pair."""
        name, written = value
        append = self._appends.get(name)
        if append is not None:
            append(written)
        elif self._other is not None:
            self._other.append((name, written))
        else:
            raise KeyError(name)

    def finish_batch(self) -> None:
        """Flush, before the batch is settled."""
        for flush in self._flushes:
            flush()
