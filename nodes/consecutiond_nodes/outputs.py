"""The end of the graph: the registered containers, and how each of them takes what was written."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from consecutiond_nodes.node import Node


class Container(Protocol):
    """Anything with ``append(value)``.

    What it may have besides, and what is then called instead:

    - ``flush()``: called once for all batches at hand. Only then does what came in them count as done.
    - ``push_many(values)``: gets the values of a batch in one call, and may make them safe together.
    - ``put(key, value)``: gets each value with its key, a number below 2**64 that is the same whenever this value of
      this item comes again, and another one for every other value. A container that takes each key once holds every
      value exactly once. Without tracking there are no keys, and ``append`` or ``push_many`` is called.
    - ``put_many(keys, values)``: the same for a batch, both in one order.

    What takes several values takes all or raises. If it raises, each value comes again alone, so that only what is
    refused alone fails. A list's ``extend`` is no such method: a class that overrides ``append`` alone would not see
    the values. If ``flush`` raises, everything since the last one comes again, and has to be taken again.
    """

    def append(self, value: Any, /) -> object:
        """Take one value."""


class Sink(NamedTuple):
    """How a container takes values."""

    #: key and value
    one: Callable[[int, Any], object]
    #: keys and values of a batch; None where each is taken alone
    many: Callable[[Sequence[int], Sequence[Any]], object] | None = None


def sink_of(container: Container, *, keyed: bool) -> Sink:
    """Choose once how a container takes values.

    Args:
        container: the user's.
        keyed: whether values have keys. They are then given to a container that can take them, be it one by one.
    """
    put, put_many = (_method(container, name) if keyed else None for name in ("put", "put_many"))
    append, push_many = container.append, _method(container, "push_many")
    one: Callable[[int, Any], object] = put or (lambda _key, value: append(value))
    if put_many is not None or put is not None or push_many is None:
        return Sink(one, put_many)
    return Sink(one, lambda _keys, values: push_many(values))


def _method(container: Container, name: str) -> Callable[..., object] | None:
    method = getattr(container, name, None)
    return method if callable(method) else None


class Sinks:
    """The sinks of a consecutor by the names of its outputs.

    Args:
        containers: the registered ones.
        other: takes the pairs ``(name, value)`` whose name is not registered, if those are allowed.
        keyed: whether values have keys.
    """

    def __init__(self, containers: Mapping[str, Container], other: Container | None, *, keyed: bool) -> None:
        self._known = {name: sink_of(container, keyed=keyed) for name, container in containers.items()}
        self._other = Sink(_unregistered) if other is None else sink_of(other, keyed=keyed)

    def of(self, name: str, value: Any) -> tuple[Sink, Any]:
        """Return the sink of what was written to an output, and what it is given."""
        sink = self._known.get(name)
        return (self._other, (name, value)) if sink is None else (sink, value)


def _unregistered(_key: int, pair: tuple[str, Any]) -> None:
    raise KeyError(pair[0])


class OutputNode(Node):
    """Stands for the containers in the graph.

    Args:
        containers: the registered ones.
        other: takes the pairs whose name is not registered, if unregistered names are allowed.
    """

    def __init__(self, containers: Mapping[str, Container], other: Container | None = None) -> None:
        super().__init__("output")
        #: by whether values have keys
        self.sinks = {keyed: Sinks(containers, other, keyed=keyed) for keyed in (False, True)}
        self._flushes = [
            flush
            for container in (*containers.values(), other)
            if (flush := getattr(container, "flush", None)) is not None
        ]

    def finish_batch(self) -> None:
        """Flush, before the batches are settled."""
        for flush in self._flushes:
            flush()
