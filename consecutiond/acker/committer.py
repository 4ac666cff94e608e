"""The store's own thread: work goes in, results come back to the poll loop, which therefore never waits for a disk."""

import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

from consecutiond.acker.stores.base import Changes, Store, StoreError, StoreFullError, Totals
from consecutiond.logs import get_logger

log = get_logger("acker.store")

#: seconds until the second attempt while the store refuses a commit (a full disk, say), twice as long each time, and at
#: the utmost: that is how long work waits at most when the cause is gone
_RETRY_S: Final = 0.05
_RETRY_MAX_S: Final = 1.0
#: seconds that the store has at the end for what was handed over, while it refuses
_CLOSE_S: Final = 5.0

_Work = tuple[Callable[[], Any], Callable[[Any], None]]


class _Relief:
    """A group that only ends work, on its way past one that finds no room."""

    __slots__ = ("changes", "committed", "then")

    def __init__(self, changes: Changes, then: Callable[[Totals], None]) -> None:
        self.changes, self.then = changes, then
        self.committed = False


class Committer:
    """Runs everything that touches the store on one thread, in order.

    A commit that fails is tried again until it succeeds: nothing that was handed over is dropped, and since receipts
    follow commits, intake stops by itself meanwhile. `trouble` says why. If it fails because the store is full, what
    ends work goes past what begins some, or there would never be room again.
    """

    def __init__(self, open_it: Callable[[], Store]) -> None:
        self.trouble = ""
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._todo: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._done: deque[tuple[Callable[[Any], None], Any]] = deque()
        #: what may be done out of turn, while a commit finds no room
        self._reads: deque[_Work] = deque()
        self._relief: deque[_Relief] = deque()
        #: the first of them may be applied without anybody having heard of it: nothing else may be committed now
        self._doubtful = False
        self._stop = threading.Event()
        self._opened: queue.SimpleQueue[Store | Exception] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(open_it,), name="store", daemon=True)
        self._thread.start()
        opened = self._opened.get()
        if isinstance(opened, Exception):
            os.close(self.fd)
            raise opened
        self.store = opened

    def _run(self, open_it: Callable[[], Store]) -> None:
        # The store is opened here, because SQLite ties a connection to its thread.
        try:
            store = open_it()
        except Exception as error:  # it belongs to whoever constructs us
            self._opened.put(error)
            return
        self._opened.put(store)
        while (work := self._todo.get()) is not None:
            call, then = work
            try:
                self._done.append((then, call()))
            except Exception as error:  # a bug: the loop must die of it, since nothing would ever be recorded again
                self._done.append((_raise, error))
            os.eventfd_write(self.fd, 1)
        store.close()

    def ask(self, call: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Run `call` on the store's thread and hand its result to `then` on the loop's (see `finish`)."""
        self._todo.put((lambda: self._persist(call), then))

    def now(self, call: Callable[[], Any]) -> Any:
        """Run `call` and wait for it: for the start, when there is no loop to hold up."""
        answer: Future[Any] = Future()

        def run() -> None:
            try:
                answer.set_result(self._persist(call))
            except Exception as error:  # it belongs to whoever asks
                answer.set_exception(error)

        self._todo.put((run, _nothing))
        return answer.result()

    def read(self, call: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Like `ask`, for what only reads: while a commit finds no room, it does not wait for that."""
        self._reads.append((call, then))
        self.ask(self._read_next, _nothing)

    def _read_next(self) -> None:
        """Do the next read, if it was not done already; its result is handed out by itself."""
        if self._reads:
            self._done.append((self._reads[0][1], self._reads[0][0]()))
            self._reads.popleft()

    def commit(self, changes: Changes, then: Callable[[Totals], None]) -> None:
        """Commit a group; `then` gets the totals once it is safe."""
        # Two calls: a fault in reading the totals must not have the group committed a second time.
        parts = [changes]
        self.ask(lambda: self._commit(parts), _nothing)
        self.ask(self.store.totals, then)

    def relieve(self, changes: Changes, then: Callable[[Totals], None]) -> None:
        """Commit a group that only ends work, while another one finds no room; `then` as for `commit`."""
        self._relief.append(_Relief(changes, then))
        self.ask(self._relieve, _nothing)

    def _commit(self, parts: list[Changes]) -> None:
        """Commit a group; if it finds no room, what ends in it goes first, which may make some.

        Raises:
            StoreError: of what is left in `parts`, nothing was changed, or it is not known.
        """
        if self._doubtful:
            self._relieve()
        while parts:
            try:
                self.store.commit(parts[0])
            except StoreFullError:
                apart = parts[0].apart()
                if apart is not None:
                    parts[:] = apart
                    continue
                if parts[0].appends:
                    # What had been handed over with it is committed: others may go past it.
                    self._go_past()
                raise
            parts.pop(0)

    def _go_past(self) -> None:
        """Do what needs no room: reads, and what ends work."""
        try:
            while self._reads:
                self._read_next()
            self._relieve()
        finally:
            os.eventfd_write(self.fd, 1)

    def _relieve(self) -> None:
        """Commit the groups that only end work, in order."""
        while self._relief:
            relief = self._relief[0]
            if not relief.committed:
                self._doubtful = True
                try:
                    self.store.commit(relief.changes)
                except StoreFullError:
                    self._doubtful = False
                    raise
                # A fault in reading the totals must not have it committed a second time.
                self._doubtful, relief.committed = False, True
            self._done.append((relief.then, self.store.totals()))
            self._relief.popleft()

    def _persist(self, call: Callable[[], Any]) -> Any:
        delay = _RETRY_S
        while True:
            try:
                result = call()
            except StoreError as error:
                if self.trouble != str(error):
                    log.error("store.trouble", error=str(error))
                self.trouble = str(error)
                if self._stop.wait(delay):
                    return None
                delay = min(2 * delay, _RETRY_MAX_S)
            else:
                if self.trouble:
                    log.info("store.recovered")
                self.trouble = ""
                return result

    def finish(self) -> None:
        """Hand out the results that are in; the loop calls it when `fd` is readable."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return
        while self._done:
            then, result = self._done.popleft()
            then(result)

    def close(self) -> None:
        """Finish what was handed over, and close the store."""
        self._todo.put(None)
        self._thread.join(_CLOSE_S)
        self._stop.set()
        self._thread.join()
        os.close(self.fd)


def _nothing(_result: Any) -> None:
    """The result was handed over already."""


def _raise(error: Exception) -> None:
    raise error
