"""Encoded values from many callers, gathered into few batches; whoever handed some over is told of their end."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from consecutiond.logs import get_logger
from consecutiond_broker import codec
from consecutiond_broker.errors import ConsecutiondError

log = get_logger("feeder")

#: bytes that a submission takes beside its values
_OVERHEAD: Final = 256

#: called once, from the feeder's thread: with the error, or with the position in the input log of the first value,
#: which is None when the acker was replaced before it could tell. It must not block.
Done = Callable[[ConsecutiondError | None, int | None], None]


class Submission(NamedTuple):
    """Some values that one caller handed over together: their msgpack encodings, one behind the other."""

    payload: bytes
    values: int
    done: Done


class Submissions:
    """The queue of what was submitted and not sent yet; any thread adds, one takes.

    Args:
        batch_items: most values in a batch.
        batch_bytes: bytes aimed at for a batch.
    """

    def __init__(self, batch_items: int, batch_bytes: int) -> None:
        self._batch_items, self._batch_bytes = batch_items, batch_bytes
        self._queue: deque[Submission] = deque()
        self._lock = threading.Lock()
        #: values and bytes in the queue
        self.values = self._bytes = 0
        #: bytes in the queue and on their way
        self.pending_bytes = 0

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def worth_a_batch(self) -> bool:
        """Whether there is enough for a batch that need not wait for more."""
        return 2 * self.values >= self._batch_items or 2 * self._bytes >= self._batch_bytes

    def add(self, submission: Submission) -> None:
        """Queue some values."""
        size = len(submission.payload)
        with self._lock:
            self._queue.append(submission)
            self.values += submission.values
            self._bytes += size
            self.pending_bytes += size + _OVERHEAD

    def take(self) -> tuple[bytes, list[Submission]]:
        """Take what fits into one batch, the first submission in any case; return its body too."""
        taken: list[Submission] = []
        count = size = 0
        with self._lock:
            while self._queue:
                head = self._queue[0]
                fits = count + head.values <= self._batch_items and size + len(head.payload) <= self._batch_bytes
                if taken and not fits:
                    break
                taken.append(self._queue.popleft())
                count += head.values
                size += len(head.payload)
            self.values -= count
            self._bytes -= size
        return b"".join((codec.head(count), *(submission.payload for submission in taken))), taken

    def take_all(self) -> list[Submission]:
        """Empty the queue."""
        with self._lock:
            taken = list(self._queue)
            self._queue.clear()
            self.values = self._bytes = 0
        return taken

    def finish(self, submissions: Sequence[Submission], error: ConsecutiondError | None, first: int | None) -> None:
        """Tell those who submitted a batch, or what was to be one."""
        with self._lock:
            self.pending_bytes -= sum(len(submission.payload) + _OVERHEAD for submission in submissions)
        for submission in submissions:
            try:
                submission.done(error, first)
            except Exception:
                # Another caller's values are on the same batch; a fault in one's callback is not the others'.
                log.exception("submission.callback_failed")
            if first is not None:
                first += submission.values


class Ticket:
    """Waits for several submissions of one caller.

    Args:
        parts: how many there are.
    """

    def __init__(self, parts: int) -> None:
        self._left = parts
        self._over = threading.Event()
        self.error: ConsecutiondError | None = None
        if parts == 0:
            self._over.set()

    def done(self, error: ConsecutiondError | None, _first: int | None) -> None:
        """Note the end of one."""
        self.error = self.error or error
        self._left -= 1
        if self._left == 0:
            self._over.set()

    def wait(self, timeout_s: float) -> bool:
        """Return whether all are over."""
        return self._over.wait(timeout_s)
