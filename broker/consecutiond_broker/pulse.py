"""Heartbeats: a thread that tells the heart who we are, in which state, with which counters."""

import threading
from collections.abc import Callable
from typing import Final

import msgspec
import zmq

from consecutiond_broker import wire

#: milliseconds that the last word may take to reach the heart
_LINGER_MS: Final = 1000


class Pulse:
    """Beats from a thread of its own, which data cannot starve.

    Args:
        context: the process's ZeroMQ context.
        uri: the heart's PULL socket.
        name: the part's name.
        identity: ``(pid, start time)`` of the process.
        epoch: the part's incarnation.
        interval_s: seconds between beats.
        stats: gives the counters of the moment; called from the beating thread, so it only reads.
    """

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        uri: str,
        name: str,
        identity: tuple[int, int],
        epoch: int,
        interval_s: float,
        stats: Callable[[], dict[str, object]],
    ) -> None:
        self._context, self._uri, self._name, self._identity = context, uri, name, identity
        self._epoch, self._interval_s, self._stats = epoch, interval_s, stats
        self._state, self._detail = "starting", ""
        self._changed = threading.Event()
        self._stop = False
        self._thread = threading.Thread(target=self._run, name=f"pulse-{name}", daemon=True)
        self._thread.start()

    def say(self, state: str, detail: str = "") -> None:
        """Change the state; the heart hears of it at once."""
        # The text of somebody's error may hold what UTF-8 has no form for.
        self._state, self._detail = state, detail.encode("utf-8", "backslashreplace").decode()
        self._changed.set()

    def _run(self) -> None:
        socket = self._context.socket(zmq.PUSH)
        socket.setsockopt(zmq.LINGER, _LINGER_MS)
        # A heart that is away needs only the newest beats; older ones would tell it of the past.
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.RECONNECT_IVL, 10)
        socket.connect(self._uri)
        while not self._stop:
            # Waiting for a connection here, not in `send`, so that `close` is never held up.
            if socket.poll(int(1000 * self._interval_s), zmq.POLLOUT):
                self._changed.clear()
                self._beat(socket)
                self._changed.wait(self._interval_s)
        if self._changed.is_set() and socket.poll(_LINGER_MS, zmq.POLLOUT):
            self._beat(socket)
        socket.close()

    def _beat(self, socket: "zmq.Socket[bytes]") -> None:
        alive = wire.Alive(
            wire.VERSION, self._name, *self._identity, self._epoch, self._state, self._detail, self._counters()
        )
        try:
            socket.send(wire.pack(alive), zmq.NOBLOCK)
        except zmq.Again:
            # The connection went between poll and send; the next beat is as good.
            self._changed.wait(self._interval_s)

    def _counters(self) -> bytes:
        try:
            return msgspec.json.encode(self._stats())
        except Exception:
            # They are read while another thread writes them. A part without counters lives all the same.
            return b"{}"

    def close(self) -> None:
        """Say the last word and stop."""
        self._stop = True
        self._changed.set()
        self._thread.join()
