"""The worker of a node whose `process` is a coroutine: many items of a batch are in flight at once."""

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any, Final, cast

from consecutiond_broker.cell import ALL, INDEX
from consecutiond_nodes.alarm import ProcessTimeout
from consecutiond_nodes.errors import NodeError
from consecutiond_nodes.item import Item
from consecutiond_nodes.itemworker import ItemWorker
from consecutiond_nodes.job import Job
from consecutiond_nodes.routing import Outlet
from consecutiond_nodes.worker import Interrupted


class Calls:
    """What one `process` pushed and wrote, kept until it has returned: the outputs of each item stay together."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.made: list[tuple[Callable[..., None], tuple[Any, ...]]] | None = []

    def add(self, call: Callable[..., None], *arguments: Any) -> None:
        """Keep one call."""
        if self.made is None:
            raise NodeError(
                f"something was pushed or written for {self.item!r} after its process had returned: "
                "await everything that it starts"
            )
        self.made.append((call, arguments))


_calls: Final[ContextVar[Calls | None]] = ContextVar("consecutiond_calls", default=None)


class AsyncWorker(ItemWorker):
    """Runs the coroutines of a batch together, as many as `max_in_flight` at a time; the next batch follows them."""

    def _bind(self, outlets: tuple[Outlet, ...]) -> None:
        self._loop = asyncio.new_event_loop()
        self._coroutine = cast("Callable[[Any], Coroutine[Any, Any, None]]", self.node.process)
        super()._bind(outlets)

    def _push(self, value: Any) -> None:
        calls = _calls.get()
        if calls is None:
            super()._push(value)
        else:
            calls.add(super()._push, value)

    def _write(self, container_name: str, value: Any) -> None:
        calls = _calls.get()
        if calls is None:
            super()._write(container_name, value)
        else:
            calls.add(super()._write, container_name, value)

    def new_item(self, value: Any, anchors: Any) -> Item:
        """Make an item to push."""
        calls = _calls.get()
        return super().new_item(value, [calls.item] if calls is not None and anchors is None else anchors)

    def _key(self) -> int:
        calls = _calls.get()
        return calls.item.id if calls is not None else super()._key()

    def _process(self, job: Job, values: list[Any]) -> None:
        items = [Item(value, self, job, position) for position, value in enumerate(values) if position not in job.skip]
        # Any of them may be the one that kills us.
        self.cell.words[INDEX] = ALL + 1
        self._loop.run_until_complete(self._all(items))
        self.cell.words[INDEX] = 0

    async def _all(self, items: list[Item]) -> None:
        gate = asyncio.Semaphore(self.node.max_in_flight)
        await asyncio.gather(*(self._one(item, gate) for item in items))

    async def _one(self, item: Item, gate: asyncio.Semaphore) -> None:
        async with gate:
            calls = Calls(item)
            _calls.set(calls)
            try:
                async with asyncio.timeout(self.options.timeout_s or None) as timeout:
                    await self._coroutine(item if self.takes_items else item.value)
            except BaseException as error:  # whatever the user's code raises fails this item alone
                calls.made = None
                self._item_raised(item, _told(error, timeout, self.options.timeout_s))
            else:
                self._make(calls)
            self._leave_process(item, holds=self.node.holds_items)

    def _make(self, calls: Calls) -> None:
        """Push and write what `process` wanted to, as if it ran now."""
        made, calls.made = calls.made or [], None
        item, words = calls.item, self.cell.words
        self._current, words[INDEX] = item, item.position + 1
        try:
            for call, arguments in made:
                call(*arguments)
        except Interrupted:
            raise
        except BaseException as error:  # a router, or an output that is not registered
            self._item_raised(item, error)
        self._current, words[INDEX] = None, ALL + 1

    def _measure(self, seconds: float, count: int) -> None:
        super()._measure(seconds, count)
        # However slow they are, that many at once are wanted.
        self._hint = max(self._hint, min(self.node.max_in_flight, self.options.batch_items))

    def _run_begin(self) -> None:
        self._complete(self.node.begin)

    def _run_node_end(self) -> None:
        self._complete(self.node.end)

    def _complete(self, method: Callable[[], Any]) -> None:
        returned = method()
        if inspect.iscoroutine(returned):
            self._loop.run_until_complete(returned)

    def close(self) -> None:
        """Leave every broker, close the connections and the event loop."""
        super().close()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


def _told(error: BaseException, timeout: asyncio.Timeout, timeout_s: float) -> BaseException:
    """Return what is told of an item: that it has taken too long, if that is why it was cancelled."""
    if not (timeout.expired() and isinstance(error, TimeoutError)):
        return error
    told = ProcessTimeout(f"process has taken longer than timeout_s = {timeout_s:g}")
    return told.with_traceback(error.__traceback__)
