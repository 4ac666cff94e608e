"""An acker for tests of inputs: it keeps what it is sent, and gives receipts when the test wants it to."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from consecutiond.feeder import Feeder
from consecutiond_broker import codec, wire
from consecutiond_broker.wake import Wake


class FakeAcker:
    """Speaks the producers' part of the protocol, in a thread."""

    def __init__(self, directory: Path) -> None:
        self.context = zmq.Context()
        self.uri = f"ipc://{directory}/acker-{os.urandom(3).hex()}.sock"
        self.router = self.context.socket(zmq.ROUTER)
        self.router.bind(self.uri)
        self.batches: list[list[Any]] = []
        #: receipts are withheld, and producers are told so
        self.withholding = False
        #: receipts are late, and nobody is told why
        self.silent = False
        self.position = 1
        self._due: list[tuple[bytes, int, int]] = []
        self._calls: list[Callable[[], None]] = []
        self._peers: dict[bytes, int] = {}
        self._wake, self._over = Wake(), False
        self.alive = True
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    @property
    def values(self) -> list[Any]:
        return [value for batch in self.batches for value in batch]

    def feeder(self, **options: Any) -> Feeder:
        defaults: dict[str, Any] = {"batch_items": 1024, "batch_bytes": 1 << 20, "max_message": 4 << 20}
        return Feeder(self.context, self.uri, **{**defaults, **options}, alive=lambda: self.alive)

    def do(self, call: Callable[[], None]) -> None:
        """Have something done in the thread."""
        self._calls.append(call)
        self._wake.call()

    def release(self) -> None:
        """Give all receipts that are due, and those to come."""
        self.withholding = self.silent = False
        self.do(lambda: None)

    def refuse(self, reason: str) -> None:
        self.do(lambda: [self._send(peer, wire.Refused(reason)) for peer in self._peers])

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self.router, zmq.POLLIN)
        poller.register(self._wake.fileno(), zmq.POLLIN)
        while not self._over:
            poller.poll()
            self._wake.taken()
            while self._calls:
                self._calls.pop(0)()
            self._receive()
            self._give_receipts()
        self.router.close(linger=0)

    def _receive(self) -> None:
        while True:
            try:
                peer, *frames = self.router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            head = wire.unpack(frames)
            if isinstance(head, wire.ProducerJoin):
                self._peers[peer] = 0
                self._send(peer, wire.ProducerJoined(1, 0))
            elif isinstance(head, wire.Append):
                values = codec.decode(frames[1])
                assert len(values) == head.count
                self.batches.append(values)
                self._due.append((peer, head.seq, self.position))
                self.position += head.count

    def _give_receipts(self) -> None:
        if self._due and self.withholding:
            for peer in {peer for peer, _, _ in self._due}:
                self._send(peer, wire.Receipt(self._peers[peer], (), True))
        elif not self.silent:
            for peer, seq, position in self._due:
                self._peers[peer] = seq
                self._send(peer, wire.Receipt(seq, (position,)))
            self._due.clear()

    def _send(self, peer: bytes, head: wire.Head) -> None:
        self.router.send_multipart([peer, wire.pack(head)])

    def close(self) -> None:
        self._over = True
        self._wake.call()
        self.thread.join()
        self._wake.close()
        self.context.destroy(linger=0)


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.002)
