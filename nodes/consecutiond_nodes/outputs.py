"""The end of the graph: the node that appends what was written to the registered containers."""

from collections.abc import Mapping
from typing import Any, Protocol

from consecutiond_nodes.node import Node


class Container(Protocol):
    """Anything with ``append``; one that also has ``flush`` is flushed before what it got counts as done."""

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
