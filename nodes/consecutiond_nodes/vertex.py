"""The life of a node: what a user writes in it, and what the worker that runs it binds to it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self

from msgspec.structs import replace

from consecutiond_nodes.errors import NodeError
from consecutiond_nodes.failurepolicy import Exhausted, FailurePolicy

if TYPE_CHECKING:
    from consecutiond_nodes.item import Item


class Items(Protocol):
    """What a worker gives to a node that takes items."""

    def new_item(self, value: Any, anchors: "Sequence[Item] | None") -> "Item":
        """Make an item to push."""

    def anchored(self, items: "Sequence[Item]") -> AbstractContextManager[None]:
        """Anchor all that is pushed and written meanwhile to several items."""

    def raised(self, item: "Item", error: BaseException) -> None:
        """Fail an item for what the user's code has raised."""


class Vertex:
    """A node without its wiring; `Node`, which adds `|`, is its only direct subclass.

    A user's `__init__` need not call `super().__init__()`: what every instance needs is a class default
    or is made in `__new__`.
    """

    name: str
    #: `process` gets an `Item` instead of the plain value; an annotation of its parameter says the same
    takes_items: bool = False
    #: an item stays open when `process` returns, until the node acks it, fails it or pushes it
    holds_items: bool = False
    #: seconds after which a held item fails
    hold_timeout_s: float = 60.0
    #: items in the hands of a `process` that is a coroutine
    max_in_flight: int = 100
    #: what a running node knows of its place: the names of its edges, and the consecutor's id
    upstream: tuple[str, ...] = ()
    downstream: tuple[str, ...] = ()
    consecutor: str = ""
    _num_workers: int = 1
    _worker_key: Callable[[Any], Any] | None = None
    #: what `connect_with` was given
    _upstream_uri: str | Mapping[str, str] | None = None
    _downstream_uri: str | Mapping[str, str] | None = None
    _remote: bool = False
    _failure_policy: FailurePolicy = FailurePolicy()
    _items: "Items | None" = None
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

    def initialize(self, upstream: tuple[str, ...], downstream: tuple[str, ...], consecutor: str) -> None:
        """Learn its place in the running graph: called once in every worker, before `begin`.

        Args:
            upstream: the names of the edges that lead here.
            downstream: the names of the edges that lead on.
            consecutor: the consecutor's id.

        """
        self.upstream, self.downstream, self.consecutor = upstream, downstream, consecutor

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
            value: anything the codec carries; or an `Item`, which is acked, and whose value goes on as its child.

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

    def new_item(self, value: Any = None, anchors: "Sequence[Item] | None" = None) -> "Item":
        """Make an item to push: derived from the item in hand, or from several, which then wait for it.

        Args:
            value: anything the codec carries; it may also be set later.
            anchors: what it is derived from; None means the item in hand, and outside of `process` nothing.

        Raises:
            NodeError: the node is not running, or it takes no items.

        """
        return self._item_ways("new_item").new_item(value, anchors)

    def ack(self, item: "Item") -> None:
        """Say that an item is done here.

        Args:
            item: one that this node got.

        """
        item.ack()

    def fail(self, item: "Item", reason: str = "failed by its node") -> None:
        """Say that an item has failed here: its root is tried again, and kept as failed after the last attempt.

        Args:
            item: one that this node got.
            reason: for people.

        """
        item.fail(reason)

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

    @property
    def worker_key(self) -> Callable[[Any], Any] | None:
        """What tells which values have to meet in one worker, if anything does."""
        return self._worker_key

    def set_num_workers(self, n_workers: int = 1, key: Callable[[Any], Any] | None = None) -> None:
        """Say how many workers run this node; they share its values.

        Args:
            n_workers: at least 1.
            key: takes a value and returns its key, anything the codec carries; all values of one key meet the same
                worker. Without it the least loaded worker gets the next values.

        Raises:
            NodeError: `n_workers` is not a whole number of at least 1, or `key` is no function.

        """
        if key is not None and not callable(key):
            raise NodeError(f"node {self.name!r}: the key of set_num_workers is a function of a value, not {key!r}")
        if isinstance(n_workers, bool) or not isinstance(n_workers, int) or n_workers < 1:
            raise NodeError(
                f"node {self.name!r}: set_num_workers({n_workers!r}) is not possible; "
                "give a whole number of workers, at least 1"
            )
        self._num_workers, self._worker_key = n_workers, key

    @property
    def failure_policy(self) -> FailurePolicy:
        """What becomes of items that fail here, as far as the node says it."""
        return self._failure_policy

    def set_failure_policy(
        self,
        *,
        max_attempts: int | None = None,
        backoff_s: float | None = None,
        backoff_max_s: float | None = None,
        timeout_s: float | None = None,
        max_age_s: float | None = None,
        exhausted: Exhausted | None = None,
    ) -> None:
        """Say what becomes of items that fail here; what is None stays as it is, at first the consecutor's option.

        Args:
            max_attempts: failures after which the root is given up, those in other nodes included.
            backoff_s: seconds before the second attempt, doubled each time; up to half of it is jitter.
            backoff_max_s: seconds between attempts at the utmost.
            timeout_s: seconds that one `process` may take; 0: for ever. An item that takes longer fails, and its worker
                is killed if it does not return; in a thread nothing can be killed.
            max_age_s: seconds after the acceptance of the root in which it may be tried; 0: for ever.
            exhausted: "dead-letter" keeps a root that is given up for an operator, "drop" counts and forgets it,
                "stop" keeps it and stops the consecutor.

        Raises:
            NodeError: with everything that is wrong.

        """
        given = {
            "max_attempts": max_attempts, "backoff_s": backoff_s, "backoff_max_s": backoff_max_s,
            "timeout_s": timeout_s, "max_age_s": max_age_s, "exhausted": exhausted,
        }  # fmt: skip
        policy = replace(self._failure_policy, **{name: value for name, value in given.items() if value is not None})
        policy.check(self.name)
        self._failure_policy = policy

    @property
    def is_remote(self) -> bool:
        """Whether its workers run on other machines."""
        return self._remote

    def connect_with(
        self,
        upstream_uri: str | Mapping[str, str] | None = None,
        downstream_uri: str | Mapping[str, str] | None = None,
        *,
        remote: bool | None = None,
    ) -> None:
        """Choose the uris of the edges of this node, and say whether its workers run on other machines.

        A uri is `tcp://ADDRESS:PORT` or `ipc://PATH`. It is for one edge: where a node has several on one side, give a
        mapping from the name of the node at the other end. `"input"` stands for what feeds the first node, and
        `"output"` for the outputs, to which one edge leads from all nodes that write.

        Faults are reported with all others, when the graph is validated. What is None stays as it is.

        Args:
            upstream_uri: of the edges that lead here.
            downstream_uri: of the edges that lead on.
            remote: True leaves the workers to `consecutiond worker`, which is run on other machines.

        """
        if upstream_uri is not None:
            self._upstream_uri = upstream_uri
        if downstream_uri is not None:
            self._downstream_uri = downstream_uri
        if remote is not None:
            self._remote = bool(remote)

    def bind(
        self,
        push: Callable[[Any], None],
        write: Callable[[str, Any], None],
        key: Callable[[], int],
        items: "Items | None" = None,
    ) -> None:
        """Give the node its way out; the worker calls this once, before `begin`.

        Args:
            push: takes each pushed value.
            write: takes a container name and a value.
            key: returns the key of the item in hand.
            items: what else a node that takes items can do.

        """
        self._push, self._write, self._key, self._items = push, write, key, items
        # The hot path: `self.push(x)` finds the worker's function in the instance, with no method between.
        # A class with a `push` of its own keeps it; its `super().push(x)` comes here through `_push`.
        if type(self).push is Vertex.push:
            self.__dict__["push"] = push
        if type(self).write is Vertex.write:
            self.__dict__["write"] = write

    def _taker(self) -> "Callable[[Item], None]":
        """Return what a worker calls with each item."""
        return self.process

    def _finish_items(self) -> None:
        """Do what is due before `end`."""

    def _item_ways(self, what: str) -> "Items":
        if self._items is None:
            if self._push is None:
                self._not_running(what)
            raise NodeError(
                f"node {self.name!r}: {what} works only in a node that takes items: write "
                "`def process(self, item: Item)`, or takes_items = True in its class"
            )
        return self._items

    def _not_running(self, what: str) -> NoReturn:
        raise NodeError(
            f"node {self.name!r}: {what} works only while the node is running (in begin, process or end); "
            "is it called in __init__, or on a node that no consecutor runs?"
        )
