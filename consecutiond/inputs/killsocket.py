"""The kill socket: whoever may write to it can have a consecutor stopped in order.

It is a ROUTER at ``socket_files/kill.sock`` (mode 0600), and understands one message, in ASCII:

    "CONSECUTIOND/1" | "STOP" | seconds

*seconds* is a decimal number: how long the stop may take before the processes are killed. A REQ client sends these
three frames; a DEALER client sends an empty one before them. The answer is ``"CONSECUTIOND/1" | "STOPPING" | seconds``,
with the seconds of the first request, which alone counts. Everything else is counted and gets no answer.
"""

import math
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import zmq

from consecutiond.inputs.errors import InputError
from consecutiond.logs import get_logger
from consecutiond_broker.errors import ConsecutiondError
from consecutiond_broker.wake import Wake

log = get_logger("killsocket")

PROTOCOL: Final = b"CONSECUTIOND/1"
STOP: Final = b"STOP"
STOPPING: Final = b"STOPPING"

_SECONDS: Final = re.compile(rb"[0-9]{1,7}(\.[0-9]{1,3})?")
#: bytes of a frame; more is none of ours
_MAX_FRAME: Final = 64
#: messages read in one go
_DRAIN: Final = 100
_LINGER_MS: Final = 500
#: milliseconds between attempts to connect
_RECONNECT_MS: Final = 20


class NoAnswerError(ConsecutiondError):
    """Nobody answered at a kill socket."""


class KillSocket:
    """Listens until it is closed.

    Args:
        uri: of the socket, ``RunDir.socket_uri("kill")``.
        on_stop: called once, with the seconds that the stop may take, in the socket's thread; it must not wait for
            `close`.

    Raises:
        InputError: the socket cannot be made.
    """

    def __init__(self, uri: str, on_stop: Callable[[float], None]) -> None:
        self._on_stop = on_stop
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        for option, value in ((zmq.MAXMSGSIZE, _MAX_FRAME), (zmq.RCVHWM, 100), (zmq.LINGER, _LINGER_MS)):
            self._socket.setsockopt(option, value)
        path = Path(uri.removeprefix("ipc://"))
        try:
            self._socket.bind(uri)
            path.chmod(0o600)
        except (OSError, zmq.ZMQError) as error:
            self._socket.close()
            self._context.term()
            raise InputError(f"cannot make the kill socket {path}: {os.strerror(error.errno or 0)}") from None
        #: seconds that the first request gave, as it wrote them
        self._seconds: bytes | None = None
        #: messages that were none
        self.ignored = 0
        self._wake = Wake()
        self._closing = threading.Lock()
        self._over = False
        self._thread = threading.Thread(target=self._run, name="kill-socket", daemon=True)
        self._thread.start()

    @property
    def asked(self) -> bool:
        """Whether somebody asked for a stop."""
        return self._seconds is not None

    def close(self) -> None:
        """Listen no more; from any thread, the callback's too."""
        with self._closing:
            if not self._over:
                self._over = True
                self._wake.call()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wake.fileno(), zmq.POLLIN)
        while not self._over:
            poller.poll()
            self._wake.taken()
            self._receive()
        self._socket.close()
        self._context.term()
        with self._closing:
            self._wake.close()

    def _receive(self) -> None:
        for _ in range(_DRAIN):
            try:
                peer, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if not _is_stop(frames):
                self._ignore()
                continue
            first = self._seconds is None
            self._seconds = self._seconds or frames[3]
            try:
                self._socket.send_multipart([peer, b"", PROTOCOL, STOPPING, self._seconds], zmq.NOBLOCK)
            except zmq.ZMQError:
                # The client is gone; what it asked for is done all the same.
                pass
            if first:
                log.info("stop.asked", seconds=float(self._seconds))
                self._call(float(self._seconds))

    def _call(self, seconds: float) -> None:
        try:
            self._on_stop(seconds)
        except Exception:
            log.exception("stop.callback_failed")

    def _ignore(self) -> None:
        self.ignored += 1
        if self.ignored & (self.ignored - 1) == 0:
            log.warning("stop.not_understood", count=self.ignored)


def _is_stop(frames: list[bytes]) -> bool:
    return len(frames) == 4 and frames[:3] == [b"", PROTOCOL, STOP] and _SECONDS.fullmatch(frames[3]) is not None


def request_stop(uri: str, stop_s: float, answer_s: float = 5.0) -> float:
    """Ask for a stop; return the seconds that it may take, which are those of whoever asked first.

    Args:
        uri: of the kill socket.
        stop_s: seconds that the stop may take.
        answer_s: seconds to wait for the answer, which comes at once.

    Raises:
        NoAnswerError: nobody answered.
        ValueError: the seconds are none.
    """
    if not (math.isfinite(stop_s) and 0 <= stop_s < 10_000_000):
        raise ValueError(f"{stop_s} is no number of seconds from 0 to 9,999,999")
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
        socket.connect(uri)
        socket.send_multipart([PROTOCOL, STOP, f"{stop_s:.3f}".encode()])
        if socket.poll(int(1000 * answer_s)):
            frames = socket.recv_multipart()
            if len(frames) == 3 and frames[:2] == [PROTOCOL, STOPPING] and _SECONDS.fullmatch(frames[2]):
                return float(frames[2])
    raise NoAnswerError(f"nobody answered at the kill socket {uri.removeprefix('ipc://')} within {answer_s:g} s")
