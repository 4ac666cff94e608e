"""The sending half of every producer: hands batches to the acker and keeps each until its receipt is in.

When nothing is tracked the acker names the broker of the input's edge instead, and the batches go straight there.
"""

import os
from collections import deque
from typing import Final, NamedTuple

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


class _Batch(NamedTuple):
    seq: int
    values: int
    entry: tuple[str, ...]
    body: bytes
    audit: tuple[str, str, str] | None


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
        self._unreceipted: deque[_Batch] = deque()
        #: how many batches the acker's count is behind ours, since its log has lost them
        self._behind = 0
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

    def append(
        self, body: bytes, count: int, entry: tuple[str, ...] = (), audit: tuple[str, str, str] | None = None
    ) -> int:
        """Hand a batch over; return its number, which `recorded` reaches when it is safe.

        Args:
            body: the batch.
            count: how many values.
            entry: names of the edges at which they enter; none: the input's.
            audit: who, what and which, for the audit trail, if it is an operator who feeds.

        Raises:
            RefusedError: the acker has said that it takes no more.
        """
        if self.refused:
            raise RefusedError(self.refused)
        self._seq += 1
        batch = _Batch(self._seq, count, entry, body, audit)
        self._unreceipted.append(batch)
        if self._direct is not None:
            self._direct.send(self._seq, count, body)
        elif self._joined:
            self._send(batch)
        return self._seq

    def _send(self, batch: "_Batch") -> None:
        head = wire.Append(self.producer, batch.seq - self._behind, batch.values, batch.entry, batch.audit)
        self.dealer.send([wire.pack(head), batch.body])

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
        for batch in self._unreceipted:
            self._direct.send(batch.seq, batch.values, batch.body)

    def _stop_direct(self) -> None:
        """The acker takes no more: send nothing more past it, and tell it when what was sent has arrived."""
        if self._direct is not None:
            self._direct.stop()
            self._waits = True
            self._send_end()

    def _receive(self, head: wire.Head) -> None:
        if isinstance(head, wire.Receipt):
            newest = head.seq + self._behind
            self._receipted(newest)
            self.withheld = head.withheld
            first = newest - len(head.positions) + 1
            self.positions.update(zip(range(first, newest + 1), head.positions, strict=True))
        elif isinstance(head, wire.ProducerJoined):
            self._joined, self.withheld = True, False
            if head.uri:
                self._receipted(head.recorded)
                self._go_direct(head.uri)
            else:
                # A log that lost batches with a receipt counts on from what it has, or it would wait for them.
                self._behind = max(self._behind, self.recorded - head.recorded)
                self._receipted(head.recorded + self._behind)
                for batch in self._unreceipted:
                    self._send(batch)
            self._send_end()
        elif isinstance(head, wire.Refused):
            self.refused = head.reason
            self._stop_direct()
        elif isinstance(head, wire.Finished):
            self.summary = head.summary

    def _receipted(self, seq: int) -> None:
        self.recorded = max(self.recorded, seq)
        while self._unreceipted and self._unreceipted[0].seq <= seq:
            self._unreceipted.popleft()

    def close(self) -> None:
        """Close the connections."""
        if self._direct is not None:
            self._direct.close()
        self.dealer.close()
