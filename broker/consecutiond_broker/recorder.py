"""The sending half of every producer: hands batches to the acker and keeps each until its receipt is in."""

import os
from collections import deque
from typing import Final

import zmq

from consecutiond_broker import child, wire
from consecutiond_broker.dealer import Dealer
from consecutiond_broker.errors import ConsecutiondError, WireError

#: batches on their way without a receipt, at the utmost
WINDOW: Final = 8
_DRAIN: Final = 100


class RefusedError(ConsecutiondError):
    """The acker takes no more input; what has a receipt stays recorded."""


class Recorder:
    """One producer: an identity, a sequence, and the batches that have no receipt yet.

    A batch is sent again, under its old number, when the acker was replaced or a connection broke; the acker knows
    the number and records each batch once. Not thread-safe: one thread owns it.

    Args:
        context: the process's ZeroMQ context.
        uri: the acker's socket.
        inside: a node that pushes without an anchor; exempt from the bounds on input.
    """

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", uri: str, *, inside: bool) -> None:
        self.producer = os.urandom(8)
        self._inside = inside
        self._joined = False
        self._seq = 0
        self._unreceipted: deque[tuple[int, list[bytes]]] = deque()
        self._end: list[bytes] | None = None
        self.recorded = 0
        #: batch number -> place in the input log of its first root; whoever wants to know takes them out
        self.positions: dict[int, int] = {}
        #: the acker withholds receipts, since its backlog is full
        self.withheld = False
        self.refused = ""
        self.summary: bytes | None = None
        self.dealer = Dealer(context, uri, b"P:" + self.producer.hex().encode(), self._greet)

    def _greet(self) -> list[bytes]:
        self._joined = False
        return [wire.pack(wire.ProducerJoin(wire.VERSION, self.producer, self._inside, *child.identity()))]

    @property
    def outstanding(self) -> int:
        """Batches without a receipt."""
        return len(self._unreceipted)

    @property
    def sent(self) -> int:
        """The number of the newest batch."""
        return self._seq

    def append(self, body: bytes, count: int, entry: tuple[str, ...] = ()) -> int:
        """Hand a batch over; return its number, which `recorded` reaches when it is safe.

        Raises:
            RefusedError: the acker has said that it takes no more.
        """
        if self.refused:
            raise RefusedError(self.refused)
        self._seq += 1
        frames = [wire.pack(wire.Append(self.producer, self._seq, count, entry)), body]
        self._unreceipted.append((self._seq, frames))
        if self._joined:
            self.dealer.send(frames)
        return self._seq

    def end(self, *, wait: bool) -> None:
        """Say that nothing more comes; with ``wait``, `summary` is set when the graph has ended."""
        self._end = [wire.pack(wire.EndOfInput(self.producer, wait))]
        if self._joined:
            self.dealer.send(self._end)

    def pump(self) -> None:
        """Read what the acker says; call it when the poller wakes for the dealer."""
        self.dealer.check_connection()
        for frames in self.dealer.messages(_DRAIN):
            try:
                self._receive(wire.unpack(frames))
            except WireError:
                # The acker is ours: foreign frames can only come from a bug there, and the receipt comes again.
                continue

    def _receive(self, head: wire.Head) -> None:
        if isinstance(head, wire.Receipt):
            self._receipted(head.seq)
            self.withheld = head.withheld
            first = head.seq - len(head.positions) + 1
            self.positions.update(zip(range(first, head.seq + 1), head.positions, strict=True))
        elif isinstance(head, wire.ProducerJoined):
            self._receipted(head.recorded)
            self._joined, self.withheld = True, False
            for _, frames in self._unreceipted:
                self.dealer.send(frames)
            if self._end is not None:
                self.dealer.send(self._end)
        elif isinstance(head, wire.Refused):
            self.refused = head.reason
        elif isinstance(head, wire.Finished):
            self.summary = head.summary

    def _receipted(self, seq: int) -> None:
        self.recorded = max(self.recorded, seq)
        while self._unreceipted and self._unreceipted[0][0] <= seq:
            self._unreceipted.popleft()

    def close(self) -> None:
        """Close the connection."""
        self.dealer.close()
