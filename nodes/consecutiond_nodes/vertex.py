"""The life of a node: what a user writes in it, and what the worker that runs it binds to it."""

from collections.abc import Callable
from typing import Any, NoReturn, Self

from consecutiond_nodes.errors import NodeError


class Vertex:
    """A node without its wiring; `Node`, which adds `|`, is its only direct subclass.

    A user's `__init__` need not call `super().__init__()`: what every instance needs is a class default
    or is made in `__new__`.
    """

    name: str
    _num_workers: int = 1
    _push: Callable[[Any], None] | None = None
    _write: Callable[[str, Any], None] | None = None
    _key: Callable[[], int] | None = None

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self:
        """Name the instance, whether or not a user's `__init__` calls ours."""
        self = super().__new__(cls)
        # a class may carry its own name: `name = "words"` in its body, or a property
        if not hasattr(cls, "name"):
            self.name = cls.__name__
        return self

    def __init__(self, name: str | None = None) -> None:
        if name is not None:
            self.name = name

    def __repr__(self) -> str:
        kind = type(self).__name__
        return kind if self.name == kind else f"{kind}({self.name!r})"

    def begin(self) -> None:
        """Prepare: runs once in every worker, before its first value."""

    def process(self, value: Any, /) -> None:
        """Work on one value; by default it is pushed on as it is.

        Args:
            value: what the node before pushed, or what came in from the input.

        """
        self.push(value)

    def end(self) -> None:
        """Finish: runs once in every worker, when no more values will come; may push and write."""

    def push(self, value: Any, /) -> None:
        """Emit a child of the item in hand to the next nodes.

        Args:
            value: anything the codec carries.

        Raises:
            NodeError: the node is not running.

        """
        if self._push is None:
            self._not_running("push")
        self._push(value)

    def write(self, container_name: str, value: Any, /) -> None:
        """Append a value to a registered output.

        Args:
            container_name: the name under which the output is registered.
            value: anything the codec carries.

        Raises:
            NodeError: the node is not running.

        """
        if self._write is None:
            self._not_running("write")
        self._write(container_name, value)

    @property
    def item_key(self) -> int:
        """The 64-bit key of the item in hand, the same on every retry of it.

        Raises:
            NodeError: the node is not running.

        """
        if self._key is None:
            self._not_running("item_key")
        return self._key()

    @property
    def num_workers(self) -> int:
        """How many workers run this node."""
        return self._num_workers

    def set_num_workers(self, n_workers: int = 1) -> None:
        """Say how many workers run this node; they share its values.

        Args:
            n_workers: at least 1.

        Raises:
            NodeError: `n_workers` is not a whole number of at least 1.

        """
        if isinstance(n_workers, bool) or not isinstance(n_workers, int) or n_workers < 1:
            raise NodeError(
                f"node {self.name!r}: set_num_workers({n_workers!r}) is not possible; "
                "give a whole number of workers, at least 1"
            )
        self._num_workers = n_workers

    def bind(self, push: Callable[[Any], None], write: Callable[[str, Any], None], key: Callable[[], int]) -> None:
        """Give the node its way out; the worker calls this once, before `begin`.

        Args:
            push: takes each pushed value.
            write: takes a container name and a value.
            key: returns the key of the item in hand.

        """
        self._push, self._write, self._key = push, write, key
        # The hot path: `self.push(x)` finds the worker's function in the instance, with no method between.
        # A class with a `push` of its own keeps it; its `super().push(x)` comes here through `_push`.
        if type(self).push is Vertex.push:
            self.__dict__["push"] = push
        if type(self).write is Vertex.write:
            self.__dict__["write"] = write

    def _not_running(self, what: str) -> NoReturn:
        raise NodeError(
            f"node {self.name!r}: {what} works only while the node is running (in begin, process or end); "
            "is it called in __init__, or on a node that no consecutor runs?"
        )
