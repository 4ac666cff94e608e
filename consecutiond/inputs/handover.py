"""Brings the feeder's receipts from its thread to the requests that wait for them in an event loop."""

import asyncio
from collections import deque
from functools import partial
from typing import Final

from consecutiond.feeder import Feeder
from consecutiond.inputs.values import Part
from consecutiond_broker.errors import ConsecutiondError

#: bytes of one request on their way at which it is not read on
_ROOM_BYTES: Final = 2 << 20
#: ranges of positions that an answer lists at the utmost
_RANGES: Final = 10_000

_Letter = tuple["Handover", int, int, ConsecutiondError | None, int | None]


class Mailbox:
    """Receipts on their way to the event loop, which is woken once for many of them.

    Args:
        feeder: takes the values.
        loop: where the requests wait.
    """

    def __init__(self, feeder: Feeder, loop: asyncio.AbstractEventLoop) -> None:
        self.feeder, self.loop = feeder, loop
        self._letters: deque[_Letter] = deque()
        self._called = False

    def put(
        self, handover: "Handover", count: int, size: int, error: ConsecutiondError | None, first: int | None
    ) -> None:
        """Note a receipt; from the feeder's thread."""
        self._letters.append((handover, count, size, error, first))
        if not self._called:
            self._called = True
            try:
                self.loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                # The loop is closed: nobody waits any more.
                self._letters.clear()

    def _deliver(self) -> None:
        # Cleared first: a letter that comes from here on calls again.
        self._called = False
        while self._letters:
            handover, *letter = self._letters.popleft()
            handover.note(*letter)  # type: ignore[arg-type]


class Handover:
    """The values of one request: what is on its way, what is recorded, and where."""

    __slots__ = ("_ahead", "_ahead_bytes", "_mail", "_waiter", "accepted", "error", "more", "ranges", "unknown")

    def __init__(self, mail: Mailbox) -> None:
        self._mail = mail
        self._ahead = self._ahead_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self.accepted = 0
        #: values of which nobody can say whether they are recorded
        self.unknown = 0
        #: first and last position of values that are recorded
        self.ranges: list[tuple[int, int]] = []
        #: there are more ranges than are listed
        self.more = False
        self.error: ConsecutiondError | None = None

    def submit(self, parts: list[Part]) -> None:
        """Hand values over.

        Raises:
            ConsecutiondError: nothing more is taken.
        """
        mail = self._mail
        for payload, count in parts:
            size = len(payload)
            self._ahead += count
            self._ahead_bytes += size
            try:
                mail.feeder.submit(payload, count, partial(mail.put, self, count, size))
            except ConsecutiondError as error:
                self._ahead -= count
                self._ahead_bytes -= size
                self.error = self.error or error
                raise

    def note(self, count: int, size: int, error: ConsecutiondError | None, first: int | None) -> None:
        """A part is over."""
        self._ahead -= count
        self._ahead_bytes -= size
        if error is not None:
            self.unknown += count
            self.error = self.error or error
        else:
            self.accepted += count
            if first is not None:
                self._note_range(first, first + count - 1)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _note_range(self, first: int, last: int) -> None:
        if self.ranges and self.ranges[-1][1] == first - 1:
            self.ranges[-1] = (self.ranges[-1][0], last)
        elif len(self.ranges) < _RANGES:
            self.ranges.append((first, last))
        else:
            self.more = True

    async def room(self) -> None:
        """Wait until more of the request may be read."""
        while self._ahead_bytes > _ROOM_BYTES and self.error is None:
            await self._wait()

    async def over(self) -> None:
        """Wait until nothing is on its way."""
        while self._ahead:
            await self._wait()

    async def _wait(self) -> None:
        self._waiter = self._mail.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
