"""The connection of a worker on another machine to the heart: its beats go out, its orders come in."""

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Final

import msgspec
import zmq

from consecutiond_broker import child, wire
from consecutiond_broker.dealer import Dealer
from consecutiond_broker.errors import WireError
from consecutiond_nodes.ports import Who

#: milliseconds between looks for a change of state
_LOOK_MS: Final = 100
_DRAIN: Final = 100


class Lifeline:
    """Beats from a thread of its own; an order to end becomes a TERM for the process, as a supervisor would send it.

    Args:
        context: the process's ZeroMQ context.
        uri: the heart's door.
        part: the name of the worker's part.
        who: the worker.
        interval_s: seconds between beats.
        patience_s: seconds for which a consecutor that is away is waited for.
        stats: gives the counters of the moment.
    """

    def __init__(
        self, context: "zmq.Context[zmq.Socket[bytes]]", uri: str, part: str, who: Who, interval_s: float,
        patience_s: float, stats: Callable[[], dict[str, object]],
    ) -> None:  # fmt: skip
        self._part, self._who, self._interval_s, self._patience_s, self._stats = (
            part,
            who,
            interval_s,
            patience_s,
            stats,
        )
        self._state, self._detail = "starting", ""
        self._changed = threading.Event()
        self._closing = False
        #: why the heart wants it to end; empty while it does not
        self.ended = ""
        #: a newer worker has its place
        self.fenced = False
        #: the consecutor was away for too long
        self.given_up = False
        self._identity = child.identity()
        self._dealer = Dealer(context, uri, f"W:{who.identity}".encode(), self._beat)
        self._thread = threading.Thread(target=self._run, name="lifeline", daemon=True)
        self._thread.start()

    def say(self, state: str, detail: str = "") -> None:
        """Change the state; the heart hears of it at once."""
        self._state, self._detail = state, detail.encode("utf-8", "backslashreplace").decode()
        self._changed.set()

    def _run(self) -> None:
        seen = next_beat = time.monotonic()
        poller = zmq.Poller()
        self._dealer.register(poller)
        while not self._closing:
            poller.poll(_LOOK_MS)
            self._hear()
            now = time.monotonic()
            if self._dealer.connected:
                seen = now
                if now >= next_beat or self._changed.is_set():
                    self._changed.clear()
                    self._dealer.send(self._beat())
                    next_beat = now + self._interval_s
            elif now - seen > self._patience_s and not self.given_up:
                self.given_up = True
                self._end()
        if self._changed.is_set() and self._dealer.connected:
            self._dealer.send(self._beat())
        if self._state != "failed":
            self._dealer.send([wire.pack(wire.Leave(self._who.epoch))])
        self._dealer.close()

    def _hear(self) -> None:
        self._dealer.check_connection()
        for frames in self._dealer.messages(_DRAIN):
            try:
                head = wire.unpack(frames)
            except WireError:
                # Nothing that we know how to obey.
                continue
            if isinstance(head, wire.End):
                self.ended = head.reason
                self._end()
            elif isinstance(head, wire.Fenced):
                self.fenced = True
                self._end()

    def _end(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def _beat(self) -> list[bytes]:
        try:
            stats = msgspec.json.encode(self._stats())
        except Exception:
            # They are read while another thread writes them. A worker without counters lives all the same.
            stats = b"{}"
        pid, started = self._identity
        return [
            wire.pack(
                wire.Alive(wire.VERSION, self._part, pid, started, self._who.epoch, self._state, self._detail, stats)
            )
        ]

    def close(self) -> None:
        """Say the last word and stop."""
        self._closing = True
        self._thread.join()
