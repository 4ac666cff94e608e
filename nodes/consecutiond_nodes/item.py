"""The item: a value with an identity on its way through the graph, for nodes that ask for more than the value."""

import time
from typing import TYPE_CHECKING, Any, Protocol

from consecutiond_nodes.errors import NodeError

if TYPE_CHECKING:
    from consecutiond_nodes.job import Job

#: in execution; kept by its node for later; acked or failed
OPEN, HELD, DONE = range(3)


class Keeper(Protocol):
    """What an item needs of the worker that has it."""

    def ack(self, item: "Item") -> None:
        """The item is done here."""

    def fail(self, item: "Item", reason: str) -> None:
        """The item has failed here: its root is tried again."""


class Item:
    """A value and where it comes from.

    A node gets items instead of plain values when it says so: by ``takes_items = True`` in its class, or by an
    annotation, ``def process(self, item: Item)``. An item is acked when `process` returns, unless the node's class says
    ``holds_items = True``: then it stays open until the node acks it, fails it, or pushes it.

    Attributes:
        value: what the node before pushed, or what came in.
        id: 64-bit key of this item, the same on every retry; 0 for one that has not been pushed yet, and
            for all when nothing is tracked.
        root_id: 64-bit key of the attempt to complete the input from which it is derived; another one on every retry.
        attempt: which attempt that is, 1 for the first.
        accepted_ms: when that input was accepted, milliseconds since 1970.

    """

    __slots__ = ("accepted_ms", "anchors", "attempt", "id", "job", "keeper", "position", "root_id", "state", "value")

    def __init__(self, value: Any, keeper: Keeper, job: "Job | None" = None, position: int = -1) -> None:
        self.value = value
        self.keeper, self.job, self.position = keeper, job, position
        self.id = self.root_id = self.accepted_ms = 0
        self.attempt = 1
        #: what a new item is derived from; an item that came in stands for itself
        self.anchors: tuple[Item, ...] = (self,)
        self.state = OPEN
        if job is not None:
            entry = job.entry(position)
            self.id, self.root_id = int(job.ids[entry]), int(job.roots[entry])
            self.attempt, self.accepted_ms = job.attempt, job.accepted_ms

    @property
    def created_at(self) -> float:
        """When the input from which it is derived was accepted, seconds since 1970."""
        return self.accepted_ms / 1000

    @property
    def age_s(self) -> float:
        """Seconds since then, by the wall clock."""
        return time.time() - self.created_at

    @property
    def waits(self) -> bool:
        """Whether somebody still waits for it: False once it is acked or failed, or its root is being tried anew."""
        return self.state != DONE and self.job is not None and not self.job.dead

    def ack(self) -> None:
        """Say that the item is done; once is enough, and the end of `process` does it for nodes that hold nothing."""
        self._mine("ack")
        self.keeper.ack(self)

    def fail(self, reason: str = "failed by its node") -> None:
        """Say that the item has failed: its root is tried again, and kept as failed after the last attempt."""
        self._mine("fail")
        self.keeper.fail(self, reason)

    def _mine(self, what: str) -> None:
        if self.job is None:
            raise NodeError(f"an item that new_item has made cannot {what}: push it, or {what} what it is derived from")

    def __repr__(self) -> str:
        return f"Item({self.value!r}, id={self.id:#x}, attempt={self.attempt})"
