"""A store's thread that moves when the test says so, for tests of what happens in between."""

from collections import deque
from collections.abc import Callable
from typing import Any

from consecutiond.acker.stores.base import Changes, Totals
from consecutiond.acker.stores.memory import MemoryStore


class SteppedCommitter:
    """Does what `Committer` does, in the same order: `work` is a step of the thread, `deliver` one of the loop."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        #: why the store refuses a commit; never, here
        self.trouble = ""
        self.todo: deque[tuple[Callable[[], Any], Callable[[Any], None]]] = deque()
        self.done: deque[tuple[Callable[[Any], None], Any]] = deque()

    def ask(self, call: Callable[[], Any], then: Callable[[Any], None]) -> None:
        self.todo.append((call, then))

    def read(self, call: Callable[[], Any], then: Callable[[Any], None]) -> None:
        self.ask(call, then)

    def now(self, call: Callable[[], Any]) -> Any:
        return call()

    def commit(self, changes: Changes, then: Callable[[Totals], None]) -> None:
        self.ask(lambda: self.store.commit(changes), lambda _result: None)
        self.ask(self.store.totals, then)

    def work(self) -> bool:
        if not self.todo:
            return False
        call, then = self.todo.popleft()
        self.done.append((then, call()))
        return True

    def deliver(self) -> bool:
        delivered = bool(self.done)
        while self.done:
            then, result = self.done.popleft()
            then(result)
        return delivered

    def settle(self) -> None:
        while self.work() or self.deliver():
            pass
