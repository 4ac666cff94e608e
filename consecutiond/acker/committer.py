"""The store's own thread: work goes in, results come back to the poll loop, which therefore never waits for a disk."""

import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

from consecutiond.acker.stores.base import Changes, Store, StoreError, Totals
from consecutiond.logs import get_logger

log = get_logger("acker.store")

#: seconds between attempts while the store refuses a commit (a full disk, say)
_RETRY_S: Final = 0.5
#: seconds that the store has at the end for what was handed over, while it refuses
_CLOSE_S: Final = 5.0

_Work = tuple[Callable[[], Any], Callable[[Any], None]]


class Committer:
    """Runs everything that touches the store on one thread, in order.

    A commit that fails is tried again until it succeeds: nothing that was handed over is dropped, and since receipts
    follow commits, intake stops by itself meanwhile. `trouble` says why.
    """

    def __init__(self, open_it: Callable[[], Store]) -> None:
        self.trouble = ""
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._todo: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._done: deque[tuple[Callable[[Any], None], Any]] = deque()
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

    def commit(self, changes: Changes, then: Callable[[Totals], None]) -> None:
        """Commit a group; `then` gets the totals once it is safe."""
        # Two calls: a fault in reading the totals must not have the group committed a second time.
        self.ask(lambda: self.store.commit(changes), _nothing)
        self.ask(self.store.totals, then)

    def _persist(self, call: Callable[[], Any]) -> Any:
        while True:
            try:
                result = call()
            except StoreError as error:
                if self.trouble != str(error):
                    log.error("store.trouble", error=str(error))
                self.trouble = str(error)
                if self._stop.wait(_RETRY_S):
                    return None
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
