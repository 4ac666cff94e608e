"""The kill socket: whoever may write to it can have a consecutor stopped in order.

It is a ROUTER at ``socket_files/kill.sock`` (mode 0600), and understands one message, in ASCII:

    "CONSECUTIOND/1" | "STOP" | seconds

*seconds* is a decimal number: how long the stop may take before the processes are killed. Empty, it is what the
consecutor itself was started with. A REQ client sends these three frames; a DEALER client sends an empty one first.
The answer is ``"CONSECUTIOND/1" | "STOPPING" | seconds``, with the seconds of the first request, which alone counts.
Everything else is counted and gets no answer.
"""

import math
import os
import re
import threading
import time
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
#: seconds after which a request is sent again: whoever had the first may have died with it
_AGAIN_S: Final = 1.0
_LOOK_MS: Final = 100


class NoAnswerError(ConsecutiondError):
    """Nobody answered at a kill socket."""


class KillRouter:
    """The socket itself, for whoever has a poll loop of its own. Not thread-safe.

    Args:
        context: of ZeroMQ.
        uri: of the socket, ``RunDir.socket_uri("kill")``.
        own_s: seconds of a stop whose request names none.

    Raises:
        InputError: the socket cannot be made.
    """

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", uri: str, own_s: float) -> None:
        self._own = f"{own_s:.3f}".encode()
        self.socket = context.socket(zmq.ROUTER)
        for option, value in ((zmq.MAXMSGSIZE, _MAX_FRAME), (zmq.RCVHWM, 100), (zmq.LINGER, _LINGER_MS)):
            self.socket.setsockopt(option, value)
        path = Path(uri.removeprefix("ipc://"))
        try:
            self.socket.bind(uri)
            path.chmod(0o600)
        except (OSError, zmq.ZMQError) as error:
            self.socket.close()
            raise InputError(f"cannot make the kill socket {path}: {os.strerror(error.errno or 0)}") from None
        #: seconds that the first request gave, as it wrote them
        self._seconds: bytes | None = None
        #: messages that were none
        self.ignored = 0

    @property
    def asked(self) -> bool:
        """Whether somebody asked for a stop."""
        return self._seconds is not None

    def receive(self) -> float | None:
        """Read and answer what has come; return the seconds of the first request, once, and else None."""
        found = None
        for _ in range(_DRAIN):
            try:
                peer, *frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            if not _is_stop(frames):
                self._ignore()
                continue
            if self._seconds is None:
                self._seconds = frames[3] or self._own
                found = float(self._seconds)
                log.info("stop.asked", seconds=found)
            try:
                self.socket.send_multipart([peer, b"", PROTOCOL, STOPPING, self._seconds], zmq.NOBLOCK)
            except zmq.ZMQError:
                # The client is gone; what it asked for is done all the same.
                pass
        return found

    def _ignore(self) -> None:
        self.ignored += 1
        if self.ignored & (self.ignored - 1) == 0:
            log.warning("stop.not_understood", count=self.ignored)

    def close(self) -> None:
        """Listen no more."""
        self.socket.close()


class KillSocket:
    """Listens in a thread of its own until it is closed.

    Args:
        uri: of the socket.
        own_s: seconds of a stop whose request names none.
        on_stop: called once, with the seconds that the stop may take, in the socket's thread; it must not wait for
            `close`.

    Raises:
        InputError: the socket cannot be made.
    """

    def __init__(self, uri: str, own_s: float, on_stop: Callable[[float], None]) -> None:
        self._on_stop = on_stop
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            self._router = KillRouter(self._context, uri, own_s)
        except InputError:
            self._context.term()
            raise
        self._wake = Wake()
        self._closing = threading.Lock()
        self._over = False
        self._thread = threading.Thread(target=self._run, name="kill-socket", daemon=True)
        self._thread.start()

    @property
    def asked(self) -> bool:
        """Whether somebody asked for a stop."""
        return self._router.asked

    @property
    def ignored(self) -> int:
        """How many messages were none."""
        return self._router.ignored

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
        poller.register(self._router.socket, zmq.POLLIN)
        poller.register(self._wake.fileno(), zmq.POLLIN)
        while not self._over:
            poller.poll()
            self._wake.taken()
            seconds = self._router.receive()
            if seconds is not None:
                self._call(seconds)
        self._router.close()
        self._context.term()
        with self._closing:
            self._wake.close()

    def _call(self, seconds: float) -> None:
        try:
            self._on_stop(seconds)
        except Exception:
            log.exception("stop.callback_failed")


def _is_stop(frames: list[bytes]) -> bool:
    return (
        len(frames) == 4
        and frames[:3] == [b"", PROTOCOL, STOP]
        and (not frames[3] or _SECONDS.fullmatch(frames[3]) is not None)
    )


def request_stop(
    uri: str, stop_s: float | None, answer_s: float = 5.0, alive: Callable[[], bool] = lambda: True
) -> float:
    """Ask for a stop; return the seconds that it may take, which are those of whoever asked first.

    Args:
        uri: of the kill socket.
        stop_s: seconds that the stop may take; None leaves it to the consecutor.
        answer_s: seconds to wait for the answer, which comes at once.
        alive: tells whether waiting still makes sense.

    Raises:
        NoAnswerError: nobody answered.
        ValueError: the seconds are none.
    """
    if stop_s is not None and not (math.isfinite(stop_s) and 0 <= stop_s < 10_000_000):
        raise ValueError(f"{stop_s} is no number of seconds from 0 to 9,999,999")
    seconds = b"" if stop_s is None else f"{stop_s:.3f}".encode()
    deadline = time.monotonic() + answer_s
    with zmq.Context() as context:
        while (left := deadline - time.monotonic()) > 0 and alive():
            answer = _ask(context, uri, seconds, min(left, _AGAIN_S), alive)
            if answer is not None:
                return answer
    raise NoAnswerError(f"nobody answered at the kill socket {uri.removeprefix('ipc://')} within {answer_s:g} s")


def _ask(
    context: "zmq.Context[zmq.Socket[bytes]]", uri: str, seconds: bytes, patience_s: float, alive: Callable[[], bool]
) -> float | None:
    """Send one request; return what was answered, or None."""
    with context.socket(zmq.REQ) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
        socket.connect(uri)
        socket.send_multipart([PROTOCOL, STOP, seconds])
        deadline = time.monotonic() + patience_s
        while (left := deadline - time.monotonic()) > 0 and alive():
            if socket.poll(min(_LOOK_MS, int(1000 * left) + 1)):
                frames = socket.recv_multipart()
                good = len(frames) == 3 and frames[:2] == [PROTOCOL, STOPPING] and _SECONDS.fullmatch(frames[2])
                return float(frames[2]) if good else None
    return None
