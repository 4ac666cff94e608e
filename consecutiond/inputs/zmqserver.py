"""A ZeroMQ server that any client can feed: PULL for fire and forget, ROUTER for clients that want receipts."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec
import zmq

from consecutiond.feeder import Feeder
from consecutiond.inputs import values
from consecutiond.inputs.curve import DOMAIN, Gate
from consecutiond.inputs.errors import InputError
from consecutiond.inputs.uris import ZmqUri
from consecutiond.logs import get_logger
from consecutiond_broker.errors import ConsecutiondError
from consecutiond_broker.wake import Wake

log = get_logger("input")

#: messages read in one go
_DRAIN: Final = 1000
#: bytes read in one go
_DRAIN_BYTES: Final = 1 << 20
#: values read and not recorded at which reading stops; what comes then stays with the clients
_ROOM: Final = 16_384
_ROOM_BYTES: Final = 8 << 20
#: bytes that all unread messages of one client may take; ZeroMQ counts messages only
_UNREAD_BYTES: Final = 256 << 20
#: milliseconds between looks at whether there is room again
_LOOK_MS: Final = 100
#: seconds without a message after which nothing more is thought to be on its way from clients
_QUIET_S: Final = 0.2
#: seconds of reading after which clients that never pause are cut off all the same
_REST_S: Final = 2.0
#: milliseconds that last answers may take to leave
_LINGER_MS: Final = 1000
#: frames before the empty one that ends an envelope
_ENVELOPE: Final = 8

Done = Callable[[ConsecutiondError | None, int | None], None]


@dataclass(frozen=True)
class Counts:
    """What a server has seen."""

    #: values read and handed on
    taken: int = 0
    #: frames, or whole messages of clients that get answers, that were no values
    malformed: int = 0
    #: answers that could not be sent, since their client was gone or did not read
    unsent: int = 0


class ZmqServer:
    """Reads values from ZeroMQ clients and feeds a consecutor.

    A PULL socket drops a bad frame and takes the others, since nobody can be told. A ROUTER socket takes all values of
    a message or none, and answers: with the positions once they are recorded, or with what is wrong.

    Args:
        uri: where and how; the port may be 0, and `endpoint` has the true one.
        feeder: takes the values.

    Raises:
        InputError: the place cannot be used.
    """

    def __init__(self, uri: ZmqUri, feeder: Feeder) -> None:
        self._uri, self._feeder = uri, feeder
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._wake = Wake()
        #: the thread sleeps, or is about to look once more before it does; whoever clears it wakes the thread
        self._asleep = False
        self._closing = threading.Lock()
        self._closed = False
        self._stopping = threading.Event()
        self._deadline = 0.0
        #: nothing more is read, whatever room there is
        self._full = False
        self._answers: deque[tuple[list[bytes], bytes]] = deque()
        # Each of these has one writer: this server's thread, or the feeder's.
        self._taken = self._taken_bytes = self._over = self._over_bytes = 0
        self.counts = Counts()
        #: why nothing more is taken
        self.error: ConsecutiondError | None = None
        self._gate: Gate | None = None
        try:
            self._socket = self._open()
        except BaseException:
            self._close()
            raise
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._poller = zmq.Poller()
        self._poller.register(self._wake.fileno(), zmq.POLLIN)
        self._reading = False
        self._thread = threading.Thread(target=self._run, name="zmq-input", daemon=True)

    def _open(self) -> "zmq.Socket[bytes]":
        uri = self._uri
        self._socket = socket = self._context.socket(zmq.ROUTER if uri.type == "router" else zmq.PULL)
        for option, value in (
            (zmq.MAXMSGSIZE, uri.max_frame), (zmq.RCVHWM, max(16, min(1000, _UNREAD_BYTES // uri.max_frame))),
            (zmq.LINGER, _LINGER_MS), (zmq.IPV6, int("[" in uri.endpoint)), (zmq.TCP_KEEPALIVE, 1),
            (zmq.HANDSHAKE_IVL, 5000),
        ):  # fmt: skip
            socket.setsockopt(option, value)
        # With a domain, peers older than ZMTP 3 are refused. They have no greeting, so that whatever stray bytes a port
        # scanner sends could pass for their messages.
        socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN.encode())
        if uri.type == "router":
            socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        if uri.curve is not None and uri.clients is not None:
            self._gate = Gate(self._context, uri.curve, uri.clients)
            self._gate.guard(socket)
        path = Path(uri.endpoint.removeprefix("ipc://")) if uri.endpoint.startswith("ipc://") else None
        try:
            if path is not None:
                _check_free(path)
            socket.bind(uri.endpoint)
            if path is not None:
                path.chmod(0o600)
        except (OSError, zmq.ZMQError) as error:
            raise InputError(
                f"cannot listen at {uri.endpoint}: {os.strerror(error.errno or 0)}; probably another program, or an "
                "earlier run of this one, listens there: choose another place, or end it"
            ) from None
        return socket

    # --- the callers' side -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until nothing more is taken, because of `stop` or an `error`; return whether that is so."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Take what has arrived, wait until it is recorded, send the last answers, and close; from any thread.

        Args:
            timeout_s: seconds after which what is not recorded is given up; its clients got no receipt.
        """
        self._deadline = time.monotonic() + timeout_s
        self._stopping.set()
        if self._thread.ident is None:
            self._close()
            return
        self._rouse()
        self._thread.join()

    @property
    def refused(self) -> int:
        """How many frames, or whole messages of clients that get answers, were no values."""
        return self.counts.malformed

    def _rouse(self) -> None:
        """Wake the thread; from any thread."""
        with self._closing:
            if not self._closed:
                self._wake.call()

    # --- the thread's side -----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping.is_set() and self.error is None:
                self._turn(_LOOK_MS)
            self._finish()
        finally:
            self._close()

    def _turn(self, timeout_ms: int) -> None:
        events = self._poll(timeout_ms)
        self._answer()
        if self._socket in events and self._has_room():
            try:
                self._receive()
            except ConsecutiondError as error:
                self.error = error
        elif self.error is None:
            self.error = self._feeder.error

    def _poll(self, timeout_ms: int) -> dict[object, int]:
        self._asleep = True
        self._mind_room()
        events: dict[object, int] = dict(self._poller.poll(0 if self._answers else timeout_ms))
        self._asleep = False
        self._wake.taken()
        return events

    def _mind_room(self) -> None:
        """Read only while there is room: what is not read fills the clients' queues, and makes them wait."""
        room = self._has_room()
        if room != self._reading:
            self._reading = room
            if room:
                self._poller.register(self._socket, zmq.POLLIN)
            else:
                self._poller.unregister(self._socket)

    def _has_room(self) -> bool:
        return (
            not self._full and not self._feeder.full and self._taken - self._over < _ROOM
            and self._taken_bytes - self._over_bytes < _ROOM_BYTES
        )  # fmt: skip

    def _receive(self) -> None:
        """Read some messages."""
        if self._uri.type == "router":
            self._receive_messages()
        else:
            self._receive_frames()

    def _receive_messages(self) -> None:
        count = size = 0
        try:
            while count < _DRAIN and size < _DRAIN_BYTES:
                message = self._socket.recv_multipart(zmq.NOBLOCK)
                count += 1
                size += sum(map(len, message))
                self._take_message(message)
        except zmq.Again:
            pass

    def _receive_frames(self) -> None:
        """Read frame by frame, whatever message each is part of: that is several times faster."""
        frames: list[bytes] = []
        size, receive = 0, self._socket.recv
        try:
            while len(frames) < _DRAIN and size < _DRAIN_BYTES:
                frame = receive(zmq.NOBLOCK)
                frames.append(frame)
                size += len(frame)
        except zmq.Again:
            pass
        if frames:
            self._take_frames(frames)

    def _take_frames(self, frames: list[bytes]) -> None:
        parsed = values.frames(frames, self._uri.format, self._feeder.encode)
        if parsed.bad is None:
            self._submit(parsed.parts, None)
            return
        for frame in frames:
            parsed = values.frames([frame], self._uri.format, self._feeder.encode)
            if parsed.bad is not None:
                self._note_malformed(parsed.bad.reason)
            self._submit(parsed.parts, None)

    def _take_message(self, message: list[bytes]) -> None:
        peer, *rest = message
        length = rest.index(b"") + 1 if b"" in rest[: _ENVELOPE + 1] else 0
        envelope, frames = [peer, *rest[:length]], rest[length:]
        parsed = values.frames(frames, self._uri.format, self._feeder.encode)
        bad = parsed.bad or (None if frames else values.Bad(1, "the message has no value"))
        if bad is not None:
            self._note_malformed(bad.reason)
            self._queue_answer(envelope, frames, {"error": bad.reason, "frame": bad.number, "recorded": 0})
        else:
            self._submit(parsed.parts, _Receipt(self, envelope, frames, len(parsed.parts)))

    def _submit(self, parts: list[values.Part], receipt: "_Receipt | None") -> None:
        for payload, count in parts:
            size = len(payload)

            def done(error: ConsecutiondError | None, first: int | None, count: int = count, size: int = size) -> None:
                self._over += count
                self._over_bytes += size
                if receipt is not None:
                    receipt.part_done(error, first, count)
                elif self._asleep and not self._reading:
                    self._asleep = False
                    self._rouse()

            try:
                self._feeder.submit(payload, count, done)
            except ConsecutiondError as error:
                if receipt is not None:
                    receipt.part_done(error, None, 0)
                raise
            self._taken += count
            self._taken_bytes += size
        self.counts = replace(self.counts, taken=self._taken)

    def _note_malformed(self, reason: str) -> None:
        number = self.counts.malformed + 1
        self.counts = replace(self.counts, malformed=number)
        if number & (number - 1) == 0:
            # At 1, 2, 4, 8 …, so that nobody can fill a disk; never with the value itself.
            log.warning("input.malformed", endpoint=self.endpoint, count=number, reason=reason)

    # --- answers ---------------------------------------------------------------------------------------------

    def _queue_answer(self, envelope: list[bytes], frames: list[bytes], answer: dict[str, object]) -> None:
        """Have an answer sent by the server's thread; from any thread."""
        json = self._uri.format == "json" or (
            self._uri.format == "auto" and bool(frames) and values.looks_like_json(frames[0])
        )
        text = msgspec.json.encode(answer) if json else msgspec.msgpack.encode(answer)
        self._answers.append((envelope, text))
        if self._asleep:
            self._asleep = False
            self._rouse()

    def _answer(self) -> None:
        while self._answers:
            envelope, text = self._answers.popleft()
            try:
                self._socket.send_multipart([*envelope, text], zmq.NOBLOCK)
            except zmq.ZMQError:
                # Gone, or it sends and never reads: it must not hold up the others.
                self.counts = replace(self.counts, unsent=self.counts.unsent + 1)

    # --- the end ---------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Take what clients were told is sent; wait for its receipts."""
        if self._stopping.is_set() and self.error is None:
            # Without an unbind, which would cut connections with what is on its way on them.
            self._take_the_rest()
        self._full = True
        deadline = self._deadline or time.monotonic() + 5.0
        while self._taken > self._over and time.monotonic() < deadline:
            self._poll(_LOOK_MS)
            self._answer()

    def _take_the_rest(self) -> None:
        try:
            read_from = quiet_from = time.monotonic()
            while (now := time.monotonic()) < self._deadline:
                events = self._poll(_LOOK_MS)
                if not self._reading:
                    read_from = quiet_from = now
                elif self._socket in events:
                    quiet_from = now
                    self._receive()
                if now - quiet_from > _QUIET_S or now - read_from > _REST_S:
                    return
                self._answer()
        except ConsecutiondError as error:
            self.error = error

    def _close(self) -> None:
        if self._gate is not None:
            self._gate.close()
        if hasattr(self, "_socket"):
            self._socket.close()
        self._context.term()
        with self._closing:
            # The feeder may still call `done`.
            self._closed = True
            self._wake.close()


class _Receipt:
    """Answers one client's message when all parts of it are over."""

    def __init__(self, server: ZmqServer, envelope: list[bytes], frames: list[bytes], parts: int) -> None:
        self._server, self._envelope, self._frames, self._left = server, envelope, frames[:1], parts
        self._first: int | None = None
        self._values = 0
        self._error: ConsecutiondError | None = None

    def part_done(self, error: ConsecutiondError | None, first: int | None, count: int) -> None:
        """Note the end of one part; the parts end in order."""
        if error is not None:
            self._error = self._error or error
        else:
            self._first = first if self._values == 0 else self._first
            self._values += count
        self._left -= 1
        if self._left and error is None:
            return
        if self._left >= 0 and self._envelope:
            answer: dict[str, object] = {"recorded": self._values, "first": self._first}
            if self._error is not None:
                answer = {"error": str(self._error), "recorded": self._values}
            self._server._queue_answer(self._envelope, self._frames, answer)
            self._envelope = []


def _check_free(path: Path) -> None:
    """Refuse a socket that somebody listens on: binding would take it away from them without a word."""
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return
    raise OSError(98, "address in use")
