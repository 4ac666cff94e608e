"""The calling process's side of the input: values in, batches out, and the receipts that make them safe."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

import zmq

from consecutiond_broker import codec
from consecutiond_broker.errors import CodecError, ConsecutiondError
from consecutiond_broker.recorder import WINDOW, Recorder, RefusedError

#: seconds between looks at whether the consecutor is still there
_LOOK_S: Final = 0.2
_NEVER: Final = 1 << 62
#: items between calls of the progress function
_PROGRESS_ITEMS: Final = 1000


class GoneError(ConsecutiondError):
    """The consecutor ended before it had answered; what has a receipt is in its log."""


class Feeder:
    """Feeds a consecutor from any thread; a thread of its own owns the connection.

    While nothing is on its way a single value goes out at once, so that low load means low latency; while something
    is, values gather, so that high load means full batches.

    Args:
        context: the process's ZeroMQ context.
        acker_uri: the acker's socket.
        batch_items: most values in a batch.
        batch_bytes: bytes aimed at for a batch.
        max_message: bytes of the largest single value.
        alive: tells whether the consecutor is still there.
    """

    def __init__(
        self, context: "zmq.Context[zmq.Socket[bytes]]", acker_uri: str, *, batch_items: int, batch_bytes: int,
        max_message: int, alive: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._batch_items, self._batch_bytes, self._max_message = batch_items, batch_bytes, max_message
        self._alive = alive
        self._values: deque[Any] = deque()
        self._bodies: deque[tuple[bytes, int]] = deque()
        self._limit = 64
        self._changed = threading.Condition()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        #: how many gathered values wake the thread
        self._want = 1
        self._closing = False
        self._ending = self._leaving = self._left = False
        #: values handed over, and values whose batch has a receipt
        self.handed = self.recorded = 0
        self._taken = 0
        self._on_way: deque[tuple[int, int]] = deque()
        self.error: ConsecutiondError | None = None
        self._context, self._uri = context, acker_uri
        self._recorder: Recorder | None = None
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)
        self._thread.start()

    # --- the callers' side -----------------------------------------------------------------------------------

    def push_many(self, values: list[Any]) -> None:
        """Hand values over and return when all of them are recorded; this is where back-pressure is felt.

        Raises:
            CodecError: a value cannot be carried; none of them was accepted.
            RefusedError: the consecutor takes no more.
            GoneError: it is not there any more.
        """
        bodies = []
        for start in range(0, len(values), self._batch_items):
            part = values[start : start + self._batch_items]
            bodies.append((self._encode(part, start), len(part)))
        with self._changed:
            self._check()
            self._bodies.extend(bodies)
            self.handed += len(values)
            mine = self.handed
        os.eventfd_write(self._wake, 1)
        self._wait(lambda: self.recorded >= mine)

    def feed(self, iterable: Iterable[Any], progress: Callable[[int], None] | None) -> int:
        """Hand over everything that an iterable yields; return how many values that was.

        Raises:
            CodecError: a value cannot be carried; everything before it was handed over.
            Exception: whatever the iterable raises; everything before it was handed over.
        """
        values, append, most, count = self._values, self._values.append, 4 * self._batch_items, 0
        for value in iterable:
            append(value)
            count += 1
            if len(values) >= self._want:
                self._want = _NEVER
                os.eventfd_write(self._wake, 1)
            if len(values) >= most:
                self._wait(lambda: len(values) < most // 2)
            if progress is not None and count % _PROGRESS_ITEMS == 0:
                progress(count)
        self.handed += count
        os.eventfd_write(self._wake, 1)
        self._wait(lambda: self.recorded >= self.handed)
        if progress is not None:
            progress(count)
        return count

    def finish(self, progress: Callable[[int], None] | None = None) -> bytes:
        """Say that nothing more comes, and wait until the graph has ended; return the acker's summary (JSON)."""
        self._ending = True
        os.eventfd_write(self._wake, 1)

        def ended() -> bool:
            if progress is not None:
                progress(0)
            return self._recorder is not None and self._recorder.summary is not None

        self._wait(ended, refused_is_error=False)
        assert self._recorder is not None  # noqa: S101 - `ended` says so
        return self._recorder.summary or b""

    def leave(self) -> None:
        """Say goodbye: nothing more comes from here, and nobody waits for the end of the graph."""
        self._leaving = True
        os.eventfd_write(self._wake, 1)
        self._wait(lambda: self._left, refused_is_error=False)

    def _encode(self, values: list[Any], offset: int) -> bytes:
        try:
            body = codec.encode(values)
        except CodecError:
            bad = codec.faults(values)
            place, reason = bad[0] if bad else (0, "something that cannot be carried")
            raise CodecError(f"the input's value number {offset + place + 1} is {reason}") from None
        if len(body) > self._max_message and len(values) == 1:
            raise CodecError(
                f"the input's value number {offset + 1} takes {len(body):,} bytes, more than max_message = "
                f"{self._max_message:,}; split it, or raise max_message"
            )
        return body

    def _check(self) -> None:
        if self.error is not None:
            raise self.error

    def _wait(self, condition: Callable[[], bool], *, refused_is_error: bool = True) -> None:
        with self._changed:
            while not condition():
                if refused_is_error or not isinstance(self.error, RefusedError):
                    self._check()
                if not self._changed.wait(_LOOK_S) and not self._alive():
                    raise GoneError("the consecutor ended before it had answered; what has a receipt is in its log")

    # --- the thread's side -----------------------------------------------------------------------------------

    def _run(self) -> None:
        recorder = self._recorder = Recorder(self._context, self._uri, inside=False)
        poller = zmq.Poller()
        poller.register(self._wake, zmq.POLLIN)
        recorder.dealer.register(poller)
        ended = False
        while not self._closing:
            self._send(recorder)
            if self._ending and not ended and not self._values and not self._bodies:
                recorder.end(wait=True)
                ended = True
            if self._leaving and not self._left and recorder.outstanding == 0:
                recorder.end(wait=False)
                self._left = True
            # Announced before the last look at the values: one that is appended now wakes us.
            self._want = self._wanted(recorder)
            busy = len(self._values) >= self._want or (self._ending and not ended and not self._values)
            poller.poll(0 if busy else int(1000 * _LOOK_S))
            self._want = _NEVER
            try:
                os.eventfd_read(self._wake)
            except BlockingIOError:
                pass
            recorder.pump()
            self._note(recorder)
        recorder.close()

    def _wanted(self, recorder: Recorder) -> int:
        """Return how many values are worth waking up for: one if nothing is on its way, else a batch."""
        if recorder.outstanding == 0:
            return 1
        return self._limit if recorder.outstanding < WINDOW else _NEVER

    def _send(self, recorder: Recorder) -> None:
        """Send what may go: whole batches within the window, a part of one only when nothing is on its way."""
        try:
            while recorder.outstanding < WINDOW and self._bodies:
                self._append(recorder, *self._bodies.popleft())
            while recorder.outstanding < WINDOW and len(self._values) >= self._limit:
                self._take(recorder, self._limit)
            if recorder.outstanding == 0 and self._values:
                self._take(recorder, min(len(self._values), self._limit))
        except ConsecutiondError as error:
            with self._changed:
                self.error = error
                self._values.clear()
                self._bodies.clear()
                self._changed.notify_all()

    def _take(self, recorder: Recorder, count: int) -> None:
        popleft = self._values.popleft
        values = [popleft() for _ in range(count)]
        try:
            body = self._encode(values, self._taken)
        except CodecError:
            # The values before the bad one are good, and their producer was told that they were taken.
            good = values[: codec.faults(values)[0][0]] if len(values) > 1 else []
            if good:
                self._append(recorder, codec.encode(good), len(good))
            raise
        self._taken += count
        self._limit = max(1, min(self._batch_items, self._batch_bytes * count // max(1, len(body))))
        self._append(recorder, body, count)

    def _append(self, recorder: Recorder, body: bytes, count: int) -> None:
        self._on_way.append((recorder.append(body, count), count))

    def _note(self, recorder: Recorder) -> None:
        with self._changed:
            while self._on_way and self._on_way[0][0] <= recorder.recorded:
                self.recorded += self._on_way.popleft()[1]
            if recorder.refused and self.error is None:
                self.error = RefusedError(recorder.refused)
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread and close the connection."""
        self._closing = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        os.close(self._wake)


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Wait for a condition that nobody announces; return whether it came true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
