"""The items that a node has taken and not yet acked, failed or pushed."""

from collections.abc import Callable

from consecutiond_broker import codec
from consecutiond_broker.errors import CodecError
from consecutiond_nodes.item import DONE, HELD, Item
from consecutiond_nodes.job import Job


class Holding:
    """Held items, the oldest first, and the jobs that have something new to report.

    Args:
        node: its name, for errors.
        timeout_s: seconds after which a held item fails.
        now: gives monotonic seconds.
        drop: forgets the outputs of an item that have not left.

    """

    def __init__(self, node: str, timeout_s: float, now: Callable[[], float], drop: Callable[[Item], None]) -> None:
        self._node, self._timeout_s, self._now, self._drop = node, timeout_s, now, drop
        self._since: dict[Item, float] = {}
        self._touched: dict[Job, None] = {}

    def __len__(self) -> int:
        return len(self._since)

    def hold(self, item: Item) -> None:
        """Keep an item that `process` has neither acked nor failed."""
        if item.state != DONE and item.job is not None:
            item.state = HELD
            item.job.held.add(item.position)
            self._since[item] = self._now()

    def ack(self, item: Item) -> None:
        """An item is done."""
        if self._close(item) and item.job is not None:
            item.job.held.discard(item.position)

    def fail(self, item: Item, reason: str, kind: str = "failed", traceback: str = "") -> None:
        """An item has failed."""
        if self._close(item) and item.job is not None:
            self._drop(item)
            item.job.fail(item.position, kind, self._node, reason, traceback, _encoded(item))

    def _close(self, item: Item) -> bool:
        """Mark an item as done; False when it was, or when its trees are being tried anew and nobody waits for it."""
        if item.state == DONE or item.job is None:
            return False
        was_held, item.state = item.state == HELD, DONE
        if was_held:
            del self._since[item]
            self._touched[item.job] = None
        return not item.job.dead

    def expire(self) -> float | None:
        """Fail what was held for too long; return the seconds until the next could be, None when nothing is held."""
        now = self._now()
        while self._since:
            item, since = next(iter(self._since.items()))
            if (left := since + self._timeout_s - now) > 0:
                return left
            self.fail(item, f"held for more than hold_timeout_s = {self._timeout_s:g} s", "held too long")
        return None

    def leave(self) -> None:
        """The node has ended: fail what it still holds."""
        for item in list(self._since):
            self.fail(item, "the node ended and neither acked nor failed it", "held to the end")

    def touched(self) -> list[Job]:
        """Return the jobs that have something new to report, once each."""
        jobs = list(self._touched)
        self._touched.clear()
        return jobs


def _encoded(item: Item) -> bytes | None:
    """Return the item as a batch of one, once the batch in which it has come is gone; None while that is there."""
    if item.job is not None and item.job.body:
        return None
    try:
        return codec.encode([item.value])
    except CodecError:
        # Its node has put something into it.
        return b""
