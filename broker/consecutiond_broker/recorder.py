"""The sending half of every producer: hands batches to the acker and keeps each until its receipt is in.

When nothing is tracked the acker names the broker of the input's edge instead, and the batches go straight there.
"""

import os
from collections import deque
from typing import Final

import zmq

from consecutiond_broker import child, wire
from consecutiond_broker.dealer import Dealer
from consecutiond_broker.direct import Direct
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
        self._context, self._inside = context, inside
        self._poller: zmq.Poller | None = None
        #: the way past the acker
        self._direct: Direct | None = None
        self._joined = False
        self._seq = 0
        self._unreceipted: deque[tuple[int, list[bytes]]] = deque()
        self._waits: bool | None = None
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

    def register(self, poller: zmq.Poller) -> None:
        """Let a poller wake for every connection that there is, or will be."""
        self._poller = poller
        self.dealer.register(poller)

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
        if self._direct is not None:
            self._direct.send(self._seq, count, body)
        elif self._joined:
            self.dealer.send(frames)
        return self._seq

    def end(self, *, wait: bool) -> None:
        """Say that nothing more comes; with ``wait``, `summary` is set when the graph has ended."""
        self._waits = wait
        if self._joined:
            self._send_end()

    def _send_end(self) -> None:
        if self._waits is None or (self._direct is not None and self._direct.busy):
            # What goes past the acker has to be in the broker's hands before the acker hears of the end.
            return
        lost = self._direct.lost if self._direct is not None else 0
        self.dealer.send([wire.pack(wire.EndOfInput(self.producer, self._waits, lost))])

    def pump(self) -> None:
        """Read what the acker says, and the broker; call it when the poller wakes."""
        self._pump_direct()
        self.dealer.check_connection()
        for frames in self.dealer.messages(_DRAIN):
            try:
                self._receive(wire.unpack(frames))
            except WireError:
                # The acker is ours: foreign frames can only come from a bug there, and the receipt comes again.
                continue

    def _pump_direct(self) -> None:
        if self._direct is None:
            return
        self._direct.pump()
        if self._direct.over > self.recorded:
            self._receipted(self._direct.over)
            self._send_end()
        self.withheld = self._direct.waits

    def _go_direct(self, uri: str) -> None:
        """Send to the broker of the input's edge from now on."""
        if self._direct is not None:
            return
        self._direct = Direct(self._context, uri, self.producer)
        if self._poller is not None:
            self._direct.dealer.register(self._poller)
        for seq, frames in self._unreceipted:
            head = wire.unpack(frames)
            assert isinstance(head, wire.Append)  # noqa: S101 - nothing else is kept
            self._direct.send(seq, head.count, frames[1])

    def _stop_direct(self) -> None:
        """The acker takes no more: send nothing more past it, and tell it when what was sent has arrived."""
        if self._direct is not None:
            self._direct.stop()
            self._waits = True
            self._send_end()

    def _receive(self, head: wire.Head) -> None:
        if isinstance(head, wire.Receipt):
            self._receipted(head.seq)
            self.withheld = head.withheld
            first = head.seq - len(head.positions) + 1
            self.positions.update(zip(range(first, head.seq + 1), head.positions, strict=True))
        elif isinstance(head, wire.ProducerJoined):
            self._receipted(head.recorded)
            self._joined, self.withheld = True, False
            if head.uri:
                self._go_direct(head.uri)
            else:
                for _, frames in self._unreceipted:
                    self.dealer.send(frames)
            self._send_end()
        elif isinstance(head, wire.Refused):
            self.refused = head.reason
            self._stop_direct()
        elif isinstance(head, wire.Finished):
            self.summary = head.summary

    def _receipted(self, seq: int) -> None:
        self.recorded = max(self.recorded, seq)
        while self._unreceipted and self._unreceipted[0][0] <= seq:
            self._unreceipted.popleft()

    def close(self) -> None:
        """Close the connections."""
        if self._direct is not None:
            self._direct.close()
        self.dealer.close()
