"""Talking to a heart: one request, one answer."""

import os
import time
from collections.abc import Callable
from typing import Any

import msgspec
import zmq

from consecutiond_broker import wire
from consecutiond_broker.errors import ConsecutiondError, WireError


class ControlError(ConsecutiondError):
    """The heart did not answer, or answered with an error."""


def ask(
    uri: str, verb: str, timeout_s: float, alive: Callable[[], bool] = lambda: True, args: bytes = b""
) -> dict[str, Any]:
    """Send a request to the heart and wait for the answer.

    It is sent again every second, since a heart may be killed and come back while we wait; all requests can be
    repeated without harm.

    Args:
        uri: the control socket.
        verb: "wait", "status", "restart", "stop" or "shutdown".
        timeout_s: seconds to wait at the utmost.
        alive: tells whether waiting still makes sense.
        args: of "stop": the seconds that it may take, in decimal digits; of "restart": what is to be restarted, a
            `consecutiond.restart.Request`.

    Raises:
        ControlError: no answer came in time, or the answer is an error, whose text it then carries.
    """
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, 10)
        socket.setsockopt(zmq.IDENTITY, b"C:" + os.urandom(6).hex().encode())
        socket.connect(uri)
        deadline = time.monotonic() + timeout_s
        next_ask = 0.0
        while (now := time.monotonic()) < deadline:
            if now >= next_ask:
                socket.send(wire.pack(wire.Ask(1, verb, args)))
                next_ask = now + 1.0
            if socket.poll(100):
                return _answer(socket.recv_multipart())
            if not alive():
                raise ControlError(f"the consecutor ended before it had answered to {verb!r}")
    raise ControlError(f"the consecutor did not answer to {verb!r} within {timeout_s:g} s (control socket {uri})")


def _answer(frames: list[bytes]) -> dict[str, Any]:
    try:
        head = wire.unpack(frames)
    except WireError as error:
        raise ControlError(f"the consecutor answered something else: {error}") from None
    if not isinstance(head, wire.Answer):
        raise ControlError(f"the consecutor answered with {type(head).__name__}")
    if head.error:
        raise ControlError(head.error)
    try:
        return msgspec.json.decode(head.body, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ControlError(f"the consecutor's answer cannot be read: {error}") from None
