"""A producer's way past the acker, when nothing is tracked: straight to the broker of the input's edge."""

import time
from collections import deque
from typing import Final

import zmq

from consecutiond_broker import child, wire
from consecutiond_broker.dealer import Dealer

_DRAIN: Final = 100


class Direct:
    """A sender of batches that nobody tracks, so none may arrive twice.

    Args:
        context: the process's ZeroMQ context.
        uri: the broker's socket.
        producer: who sends.
    """

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", uri: str, producer: bytes) -> None:
        self._name = f"producer-{producer.hex()}"
        self._broker_epoch = 0
        self._sent = self._limit = 0
        self._unsent: deque[tuple[int, int, bytes]] = deque()
        #: number for the broker, our number, values, message
        self._unaccepted: deque[tuple[int, int, int, list[bytes]]] = deque()
        #: the newest batch of which nothing more will be heard: it was accepted, or has gone down with a broker
        self.over = 0
        #: values that went down with a broker
        self.lost = 0
        self.dealer = Dealer(context, uri, f"up:{self._name}".encode(), self._greet)

    def _greet(self) -> list[bytes]:
        return [wire.pack(wire.Join(wire.VERSION, "up", self._name, 1, *child.identity(), "", 0, 0, 0, ()))]

    @property
    def busy(self) -> bool:
        """Whether batches are on their way, or wait."""
        return bool(self._unsent or self._unaccepted)

    def stop(self) -> None:
        """Send nothing more."""
        self._unsent.clear()

    @property
    def waits(self) -> bool:
        """Whether batches wait for the broker's credit."""
        return bool(self._unsent)

    def send(self, number: int, count: int, body: bytes) -> None:
        """Send a batch, or keep it until there is credit."""
        self._unsent.append((number, count, body))
        self._flush()

    def _flush(self) -> None:
        now_ms = int(1000 * time.time())
        while self._unsent and self._sent < self._limit:
            number, count, body = self._unsent.popleft()
            self._sent += 1
            head = wire.Batch(self._broker_epoch, self._sent, wire.UNTRACKED, count, 1, now_ms)
            message = [wire.pack(head), b"", b"", body]
            self._unaccepted.append((self._sent, number, count, message))
            self.dealer.send(message)

    def pump(self) -> None:
        """Read what the broker says."""
        self.dealer.check_connection()
        for frames in self.dealer.messages(_DRAIN):
            head = wire.unpack(frames)
            if isinstance(head, wire.Joined):
                self._joined(head)
            elif not isinstance(head, wire.Grant) or head.broker_epoch != self._broker_epoch:
                continue
            self._limit = head.limit
            self._accept(head.accepted)
            self._flush()

    def _joined(self, head: wire.Joined) -> None:
        if head.broker_epoch == self._broker_epoch:
            # Only the connection broke; what arrived already is not taken twice.
            for seq, _, _, message in self._unaccepted:
                if seq > head.accepted:
                    self.dealer.send(message)
            return
        # Nobody can say which of them the old one has passed on, and none may be processed twice.
        self._broker_epoch, self._sent = head.broker_epoch, 0
        for _, number, count, _ in self._unaccepted:
            self.over, self.lost = number, self.lost + count
        self._unaccepted.clear()

    def _accept(self, accepted: int) -> None:
        while self._unaccepted and self._unaccepted[0][0] <= accepted:
            self.over = self._unaccepted.popleft()[1]

    def close(self) -> None:
        """Say goodbye and close the connection; what was sent is still handed over."""
        self.dealer.send([wire.pack(wire.Leave(1))])
        self.dealer.close()
