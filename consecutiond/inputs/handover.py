"""Between the requests of an event loop and the feeder's thread: values there, receipts back."""

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

#: seconds for which values of a crowd gather, so that they share what a batch costs on its way
_GATHER_S: Final = 0.005
#: waiting requests that make a crowd; fewer are not worth a timer
_CROWD: Final = 8
#: bytes that gather at the utmost
_GATHER_BYTES: Final = 256 << 10

#: whose values, how many, and their bytes
_Letter = tuple["Handover", int, int]


class Mailbox:
    """Gathers the values of many requests, and brings their receipts back.

    A lone request goes on at once. Of a crowd, the values gather until as many are there as waited together lately,
    for a few milliseconds at the utmost: a batch costs every process on its way about as much as fifty values do.

    Args:
        feeder: takes the values.
        loop: where the requests wait.
    """

    def __init__(self, feeder: Feeder, loop: asyncio.AbstractEventLoop) -> None:
        self.feeder, self.loop = feeder, loop
        self._payloads: list[bytes] = []
        self._letters: list[_Letter] = []
        self._values = self._bytes = 0
        self._timer: asyncio.Handle | None = None
        #: requests whose values are on their way, and how many waited together lately
        self._ahead = self._crowd = 0
        self._receipts: deque[tuple[list[_Letter], ConsecutiondError | None, int | None]] = deque()
        self._called = False

    # --- out: in the loop ------------------------------------------------------------------------------------

    def submit(self, handover: "Handover", payload: bytes, count: int) -> None:
        """Take values of a request; it hears of them in `Handover.note`."""
        if self._letters and self._values + count > self.feeder.batch_items:
            self._flush()
        self._payloads.append(payload)
        self._letters.append((handover, count, len(payload)))
        self._values += count
        self._bytes += len(payload)
        if len(self._letters) >= self._crowd or self._bytes >= _GATHER_BYTES:
            self._flush()
        elif self._timer is None:
            crowded = self._crowd >= _CROWD
            self._timer = self.loop.call_later(_GATHER_S, self._flush) if crowded else self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        letters, payload, values = self._letters, b"".join(self._payloads), self._values
        self._letters, self._payloads, self._values, self._bytes = [], [], 0, 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._ahead += len(letters)
        self._crowd = max(self._ahead, self._crowd // 2)
        try:
            self.feeder.submit(payload, values, partial(self._put, letters))
        except ConsecutiondError as error:
            self._note(letters, error, None)

    # --- back: from the feeder's thread into the loop ----------------------------------------------------------

    def _put(self, letters: list[_Letter], error: ConsecutiondError | None, first: int | None) -> None:
        self._receipts.append((letters, error, first))
        if not self._called:
            self._called = True
            try:
                self.loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                # The loop is closed: nobody waits any more.
                self._receipts.clear()

    def _deliver(self) -> None:
        # Cleared first: a receipt that comes from here on calls again.
        self._called = False
        while self._receipts:
            self._note(*self._receipts.popleft())

    def _note(self, letters: list[_Letter], error: ConsecutiondError | None, first: int | None) -> None:
        self._ahead -= len(letters)
        for handover, count, size in letters:
            handover.note(count, size, error, first)
            if first is not None:
                first += count


class Handover:
    """The values of one request: what is on its way, what is recorded, and where."""

    __slots__ = (
        "_abandoned",
        "_ahead",
        "_ahead_bytes",
        "_mail",
        "_waiter",
        "accepted",
        "error",
        "more",
        "ranges",
        "unknown",
    )

    def __init__(self, mail: Mailbox) -> None:
        self._mail = mail
        self._ahead = self._ahead_bytes = 0
        self._abandoned = False
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
        """Hand values over."""
        for payload, count in parts:
            self._ahead += count
            self._ahead_bytes += len(payload)
            self._mail.submit(self, payload, count)

    def note(self, count: int, size: int, error: ConsecutiondError | None, first: int | None) -> None:
        """A part is over."""
        if self._abandoned:
            return
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

    def abandon(self, error: ConsecutiondError) -> None:
        """Wait no longer for what is on its way."""
        self._abandoned = True
        self.unknown += self._ahead
        self._ahead = self._ahead_bytes = 0
        self.error = self.error or error
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
