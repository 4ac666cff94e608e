"""The calling process's side of the input: values in, batches out, and the receipts that make them safe."""

import os
import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import zmq

from consecutiond.submissions import Done, Submission, Submissions, Ticket
from consecutiond_broker import codec
from consecutiond_broker.errors import CodecError, ConsecutiondError
from consecutiond_broker.recorder import WINDOW, Recorder, RefusedError

#: seconds between looks at whether the consecutor is still there
_LOOK_S: Final = 0.2
_NEVER: Final = 1 << 62
#: items between calls of the progress function
_PROGRESS_ITEMS: Final = 1000
#: seconds that batches on their way may still get their receipts after the consecutor has said that it takes no more
_GRACE_S: Final = 1.0
#: bytes submitted and not recorded at which there is no room for more
_PENDING_BYTES: Final = 32 << 20
_BATCHES: Final = 1
_ANYTHING: Final = 2


class GoneError(ConsecutiondError):
    """The consecutor ended before it had answered; what has a receipt is in its log."""


class ReaderGoneError(GoneError):
    """Whoever read our output has ended, as `head` does; no item can be completed any more."""


class BadValueError(CodecError):
    """One value of several cannot be carried.

    Attributes:
        index: its place among them, from 0.
        reason: what is wrong with it.
    """

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(f"the input's value number {index + 1} {reason}")
        self.index, self.reason = index, reason


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
        #: most values in a batch
        self.batch_items = batch_items
        self._batch_bytes, self._max_message = batch_bytes, max_message
        self._alive = alive
        self._values: deque[Any] = deque()
        self._submissions = Submissions(batch_items, batch_bytes)
        self._limit = 64
        self._changed = threading.Condition()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # Not with the connection: another thread may be about to push, and finds out a moment later.
        weakref.finalize(self, os.close, self._wake)
        #: readable as soon as nothing more is taken
        self._over = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        weakref.finalize(self, os.close, self._over)
        #: how many gathered values wake the thread
        self._want = 1
        #: which submissions wake it
        self._hunger = _ANYTHING
        self._closing = False
        self._ending = self._leaving = self._left = False
        #: values handed over, and values whose batch has a receipt
        self.handed = self.recorded = 0
        self._taken = 0
        #: number of the batch, its values, and who submitted them
        self._on_way: deque[tuple[int, int, Sequence[Submission]]] = deque()
        self._next_look = self._refused_at = 0.0
        self.error: ConsecutiondError | None = None
        self._context, self._uri = context, acker_uri
        self._recorder: Recorder | None = None
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)
        self._thread.start()

    # --- the callers' side -----------------------------------------------------------------------------------

    def push_many(self, values: list[Any], given_up: Callable[[], bool] = lambda: False) -> None:
        """Hand values over and return when all of them are recorded; this is where back-pressure is felt.

        Args:
            values: what is handed over.
            given_up: tells whether the caller waits no longer, whatever becomes of the values.

        Raises:
            CodecError: a value cannot be carried; none of them was accepted.
            RefusedError: the consecutor takes no more.
            GoneError: it is not there any more, or the caller has given up.
        """
        parts = self.encode(values)
        ticket = Ticket(len(parts))
        for payload, count in parts:
            self.submit(payload, count, ticket.done)
        while not ticket.wait(_LOOK_S):
            if not self._thread.is_alive():
                raise GoneError("the connection to the consecutor was closed before it had answered")
            if given_up():
                raise GoneError("the consecutor had not answered when its answer was given up")
        if ticket.error is not None:
            raise ticket.error

    def encode(self, values: list[Any]) -> list[tuple[bytes, int]]:
        """Return the values' encodings and their number, in parts that `submit` takes.

        Raises:
            BadValueError: a value cannot be carried.
        """
        parts: list[tuple[bytes, int]] = []
        for start in range(0, len(values), self.batch_items):
            self._encode_part(values[start : start + self.batch_items], start, parts)
        return parts

    def _encode_part(self, values: list[Any], offset: int, parts: list[tuple[bytes, int]]) -> None:
        body = self._encode(values, offset)
        if len(body) > min(4 * self._batch_bytes, self._max_message) and len(values) > 1:
            half = len(values) // 2
            self._encode_part(values[:half], offset, parts)
            self._encode_part(values[half:], offset + half, parts)
        else:
            parts.append((codec.headless(body, len(values)), len(values)))

    def submit(self, payload: bytes, count: int, done: Done) -> None:
        """Hand over values that are encoded, and return at once; values of several callers share a batch.

        Args:
            payload: the msgpack encodings of the values, one behind the other. They must be well-formed: nobody looks
                into them before a worker does.
            count: how many values; no more than fit into a batch.
            done: called when they are recorded, or when they will not be.

        Raises:
            RefusedError: the consecutor takes no more.
            GoneError: it is not there any more.
        """
        with self._changed:
            self._check()
            self.handed += count
        self._submissions.add(Submission(payload, count, done))
        if self._can_send():
            self._hunger = 0
            os.eventfd_write(self._wake, 1)

    def _can_send(self) -> bool:
        queue = self._submissions
        return (self._hunger == _ANYTHING and len(queue) > 0) or (self._hunger == _BATCHES and queue.worth_a_batch)

    @property
    def full(self) -> bool:
        """Whether there is no room: the acker withholds receipts, or too much waits for them."""
        withheld = self._recorder is not None and self._recorder.withheld
        return withheld or self._submissions.pending_bytes > _PENDING_BYTES

    def feed(self, iterable: Iterable[Any], progress: Callable[[int], None] | None) -> int:
        """Hand over everything that an iterable yields; return how many values that was.

        Raises:
            CodecError: a value cannot be carried; everything before it was handed over.
            Exception: whatever the iterable raises; everything before it was handed over.
        """
        values, append, most, count = self._values, self._values.append, 4 * self.batch_items, 0
        try:
            for value in iterable:
                append(value)
                count += 1
                if len(values) >= self._want:
                    # Nobody takes what comes after an error; a slow iterable would not find out for a long time.
                    self._check()
                    self._want = _NEVER
                    os.eventfd_write(self._wake, 1)
                if len(values) >= most:
                    self._wait(lambda: len(values) < most // 2)
                if progress is not None and count % _PROGRESS_ITEMS == 0:
                    progress(count)
        finally:
            self.handed += count
        os.eventfd_write(self._wake, 1)
        self._wait(lambda: self.recorded >= self.handed)
        if progress is not None:
            progress(count)
        return count

    def wait_for(self, fd: int) -> None:
        """Wait until a descriptor can be read, for whoever reads values from one.

        Raises:
            ConsecutiondError: nothing more is taken, of which the waiting is told at once.
        """
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.register(self._over, select.POLLIN)
        poll.poll()
        self._check()

    def finish(self, progress: Callable[[int], None] | None = None) -> bytes:
        """Say that nothing more comes, and wait until the graph has ended; return the acker's summary (JSON)."""
        self._ending = True
        os.eventfd_write(self._wake, 1)

        def ended() -> bool:
            if progress is not None:
                progress(0)
            return self._recorder is not None and self._recorder.summary is not None

        self._wait(ended, check=False)
        assert self._recorder is not None  # noqa: S101 - `ended` says so
        return self._recorder.summary or b""

    def leave(self) -> None:
        """Say goodbye: nothing more comes from here, and nobody waits for the end of the graph."""
        self._leaving = True
        os.eventfd_write(self._wake, 1)
        self._wait(lambda: self._left, check=False)

    def _encode(self, values: list[Any], offset: int) -> bytes:
        try:
            body = codec.encode(values)
        except CodecError:
            bad = codec.faults(values)
            place, reason = bad[0] if bad else (0, "something that cannot be carried")
            raise BadValueError(offset + place, f"is {reason}") from None
        if len(body) > self._max_message and len(values) == 1:
            raise BadValueError(
                offset,
                f"takes {len(body):,} bytes, more than max_message = {self._max_message:,}; split it, or raise "
                "max_message",
            )
        return body

    def _check(self) -> None:
        if self.error is not None:
            raise self.error

    def _wait(self, condition: Callable[[], bool], *, check: bool = True) -> None:
        """Wait; `check` raises what is wrong with the input, which is no reason not to wait for what was accepted."""
        with self._changed:
            while not condition():
                if check or isinstance(self.error, GoneError):
                    self._check()
                if not self._changed.wait(_LOOK_S) and not self._alive():
                    raise GoneError("the consecutor ended before it had answered; what has a receipt is in its log")

    # --- the thread's side -----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._serve()
        finally:
            self._abandon(self.error or GoneError("the connection to the consecutor was closed before it had answered"))
            # The next value of an iterable is one too many.
            self._want = 0

    def _serve(self) -> None:
        recorder = self._recorder = Recorder(self._context, self._uri, inside=False)
        poller = zmq.Poller()
        poller.register(self._wake, zmq.POLLIN)
        recorder.register(poller)
        ended = False
        while not self._closing:
            self._send(recorder)
            if self._ending and not ended and not self._values and not self._submissions:
                recorder.end(wait=True)
                ended = True
            if self._leaving and not self._left and recorder.outstanding == 0:
                recorder.end(wait=False)
                self._left = True
            # Announced before the last look at the values: one that is appended now wakes us.
            self._want = self._wanted(recorder)
            self._hunger = self._hungry(recorder)
            busy = len(self._values) >= self._want or self._can_send()
            busy = busy or (self._ending and not ended and not self._values and not self._submissions)
            poller.poll(0 if busy else int(1000 * _LOOK_S))
            self._want, self._hunger = _NEVER, 0
            try:
                os.eventfd_read(self._wake)
            except BlockingIOError:
                pass
            recorder.pump()
            self._note(recorder)
            self._look(recorder)
        recorder.close()

    def _wanted(self, recorder: Recorder) -> int:
        """Return how many values are worth waking up for: one if nothing is on its way, else a batch."""
        if recorder.outstanding == 0 or self.error is not None:
            return 1
        return self._limit if recorder.outstanding < WINDOW else _NEVER

    def _hungry(self, recorder: Recorder) -> int:
        """Return which submissions are worth waking up for."""
        if recorder.outstanding == 0:
            return _ANYTHING
        return _BATCHES if recorder.outstanding < WINDOW else 0

    def _send(self, recorder: Recorder) -> None:
        """Send what may go: whole batches within the window, a part of one only when nothing is on its way."""
        if self.error is not None:
            # Whoever hands over more is told, and the values are not taken.
            self._values.clear()
        try:
            while recorder.outstanding < WINDOW and self._submissions.worth_a_batch:
                self._take_submissions(recorder)
            if recorder.outstanding == 0 and self._submissions:
                self._take_submissions(recorder)
            while recorder.outstanding < WINDOW and len(self._values) >= self._limit:
                self._take(recorder, self._limit)
            if recorder.outstanding == 0 and self._values:
                self._take(recorder, min(len(self._values), self._limit))
        except ConsecutiondError as error:
            with self._changed:
                self._fail(error)
                self._values.clear()
        if self.error is not None and self._submissions:
            # Also those that came between the error and the next look at it.
            self._submissions.finish(self._submissions.take_all(), self.error, None)

    def _take_submissions(self, recorder: Recorder) -> None:
        body, taken = self._submissions.take()
        try:
            self._append(recorder, body, sum(submission.values for submission in taken), taken)
        except RefusedError as error:
            self._submissions.finish(taken, error, None)
            raise

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
        self._limit = max(1, min(self.batch_items, self._batch_bytes * count // max(1, len(body))))
        self._append(recorder, body, count)

    def _append(self, recorder: Recorder, body: bytes, count: int, submissions: Sequence[Submission] = ()) -> None:
        self._on_way.append((recorder.append(body, count), count, submissions))

    def _note(self, recorder: Recorder) -> None:
        over = []
        with self._changed:
            while self._on_way and self._on_way[0][0] <= recorder.recorded:
                number, count, submissions = self._on_way.popleft()
                self.recorded += count
                over.append((submissions, recorder.positions.pop(number, None)))
            if recorder.refused and self.error is None:
                self._fail(RefusedError(recorder.refused))
                self._refused_at = time.monotonic()
            self._changed.notify_all()
        for submissions, first in over:
            self._submissions.finish(submissions, None, first)

    def _look(self, recorder: Recorder) -> None:
        """See now and then whether receipts can still come, and whether anything can still be taken."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_S
        waits = self._on_way or self._submissions
        if not self._alive():
            self._abandon(GoneError("the consecutor ended before it had answered; what has a receipt is in its log"))
        elif waits and recorder.refused and now > self._refused_at + _GRACE_S:
            self._abandon(RefusedError(f"{recorder.refused}; what was on its way may be recorded or not"))

    def _fail(self, error: ConsecutiondError) -> None:
        """Take nothing more; to be called with the lock."""
        self.error = error
        os.eventfd_write(self._over, 1)
        self._changed.notify_all()

    def _abandon(self, error: ConsecutiondError) -> None:
        """Tell everybody who waits for submitted values that nobody knows what became of them."""
        with self._changed:
            self._fail(self.error or error)
            left = [submissions for _, _, submissions in self._on_way]
            self._on_way = deque((number, count, ()) for number, count, _ in self._on_way)
        for submissions in (*left, self._submissions.take_all()):
            self._submissions.finish(submissions, error, None)

    def fail(self, error: ConsecutiondError) -> None:
        """Take nothing more, and raise this in whoever feeds or waits; from any thread."""
        with self._changed:
            self._fail(self.error or error)

    def close(self) -> None:
        """End the thread and close the connection."""
        self._closing = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Wait for a condition that nobody announces; return whether it came true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
