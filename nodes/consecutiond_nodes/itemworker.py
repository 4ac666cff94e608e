"""The worker of a node that takes items: it may hold them, join them, and ack or fail them one by one."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from consecutiond_broker.cell import INDEX
from consecutiond_broker.edge import ANY
from consecutiond_nodes.anchored import Lane
from consecutiond_nodes.errors import NodeError
from consecutiond_nodes.holding import Holding
from consecutiond_nodes.item import DONE, OPEN, Item
from consecutiond_nodes.job import Job
from consecutiond_nodes.outbox import Buffer
from consecutiond_nodes.ports import Downstream
from consecutiond_nodes.raised import describe, user_traceback
from consecutiond_nodes.routing import Outlet, check_route
from consecutiond_nodes.worker import Interrupted, Worker
from consecutiond_nodes.workers import takes_items

#: anchored outputs that wait before they are sent in the middle of a batch
_MOST_WAITING = 256

_Anchors = tuple[Item, ...]


class ItemWorker(Worker):
    """Wraps each value in an `Item`; outputs that are anchored by name take their own way out."""

    def _bind(self, outlets: tuple[Outlet, ...]) -> None:
        #: whether the user's code sees items; else the worker alone needs them
        self.takes_items = takes_items(self.node)
        self._lanes: list[Lane] = []
        self._current: Item | None = None
        #: what every output is anchored to, when it is not the item in execution
        self._anchors: _Anchors | None = None
        node = self.node
        self._holding = Holding(node.name, node.hold_timeout_s, time.monotonic, self._drop_outputs)
        self._plain_push, self._plain_write = self.exits.push(outlets), self.exits.write()
        self._ways = self._bind_ways(outlets)
        self._written = self._lane((self.down["output"],)) if "output" in self.down else None
        node.bind(self._push, self._write, self._key, self)

    def _lane(self, ports: tuple[Downstream, ...], partition: int = ANY) -> Lane:
        lane = Lane(ports, self.options.max_message, self._unserialisable, partition)
        self._lanes.append(lane)
        return lane

    def _bind_ways(self, outlets: tuple[Outlet, ...]) -> list[Callable[[Any, _Anchors], None]]:
        """Choose once where an anchored output goes."""
        plain = [name for outlet in outlets if outlet.router is None for name in outlet.targets]
        broadcast = tuple(self.down[name] for name in plain if name not in self._keyed)
        ways: list[Callable[[Any, _Anchors], None]] = [self._lane(broadcast).add] if broadcast else []
        ways += [self._anchored_way(name) for name in plain if name in self._keyed]
        return ways + [self._routed(outlet) for outlet in outlets if outlet.router is not None]

    def _routed(self, outlet: Outlet) -> Callable[[Any, _Anchors], None]:
        route = outlet.router
        assert route is not None  # noqa: S101 - the caller has asked
        ways = {name: self._anchored_way(name) for name in outlet.targets}

        def add(value: Any, anchors: _Anchors) -> None:
            name = route(value)
            if name not in ways:
                check_route(outlet, name, self.node.name)
            ways[name](value, anchors)

        return add

    def _anchored_way(self, name: str) -> Callable[[Any, _Anchors], None]:
        keyed, port = self._keyed.get(name), (self.down[name],)
        if keyed is None:
            return self._lane(port).add
        number, lanes = keyed.number, [self._lane(port, k) for k in range(keyed.workers)]

        def add(value: Any, anchors: _Anchors) -> None:
            lanes[number(value)].add(value, anchors)

        return add

    # --- what the node calls ---------------------------------------------------------------------------------

    def _push(self, value: Any) -> None:
        if type(value) is Item:
            self._push_item(value)
        elif self._anchors is not None:
            self._push_anchored(value, self._anchors)
        else:
            self._plain_push(value)

    def _push_item(self, item: Item) -> None:
        if item.job is not None:
            self._push_anchored(item.value, (item,))
            self.ack(item)
        elif item.anchors:
            self._push_anchored(item.value, item.anchors)
        else:
            self._plain_push(item.value)

    def _push_anchored(self, value: Any, anchors: _Anchors) -> None:
        for item in anchors:
            if item.state == DONE:
                raise NodeError(
                    f"node {self.node.name} pushed a value that is derived from {item!r}, which is acked or failed "
                    "already; ack an item after everything that is derived from it was pushed"
                )
        if not self._ways:
            self.exits.dropped += 1
        for way in self._ways:
            way(value, anchors)
        if any(len(lane.outputs) >= _MOST_WAITING for lane in self._lanes):
            self._send_lanes()

    def _write(self, container_name: str, value: Any) -> None:
        if self._anchors is None or self._written is None:
            self._plain_write(container_name, value)
            return
        if self.options.outputs is not None and container_name not in self.options.outputs:
            self.exits.no_output(container_name, value)
        self._written.add((container_name, value), self._anchors)

    def new_item(self, value: Any, anchors: Sequence[Item] | None) -> Item:
        """Make an item to push."""
        item = Item(value, self)
        if anchors is not None:
            item.anchors = tuple(dict.fromkeys(anchor for each in anchors for anchor in each.anchors))
        elif self._anchors is not None:
            item.anchors = self._anchors
        else:
            item.anchors = (self._current,) if self._current is not None else ()
        return item

    def ack(self, item: Item) -> None:
        """An item is done."""
        self._holding.ack(item)

    def fail(self, item: Item, reason: str) -> None:
        """An item has failed."""
        if item.state != DONE:
            self.failures += 1
        self._holding.fail(item, reason)

    def raised(self, item: Item, error: BaseException) -> None:
        """Fail an item for what the user's code has raised."""
        self.failures += 1
        self._holding.fail(item, describe(error), "raised", user_traceback(error))

    @contextmanager
    def anchored(self, items: Sequence[Item]) -> Iterator[None]:
        """Anchor all that is pushed and written meanwhile to several items."""
        before, self._anchors = self._anchors, tuple(items)
        try:
            yield
        finally:
            self._anchors = before

    def _key(self) -> int:
        return self._anchors[0].id if self._anchors and self._anchors[0].id else super()._key()

    # --- the batch -------------------------------------------------------------------------------------------

    def _process(self, job: Job, values: list[Any]) -> None:
        take, words, holds = self._timed(self.node._taker()), self.cell.words, self.node.holds_items
        for position, value in enumerate(values):
            if position in job.skip:
                continue
            words[INDEX] = position + 1
            item = self._current = Item(value, self, job, position)
            try:
                take(item)
            except Interrupted:
                raise
            except BaseException as error:  # whatever the user's code raises fails this item alone
                self._item_raised(item, error)
            self._leave_process(item, holds=holds)
        self._current = None
        words[INDEX] = 0

    def _leave_process(self, item: Item, *, holds: bool) -> None:
        if item.state == OPEN:
            if holds:
                self._holding.hold(item)
            else:
                item.state = DONE

    def _item_raised(self, item: Item, error: BaseException) -> None:
        job = item.job
        if job is None or item.position in job.failed:
            return
        item.state = DONE
        for lane in self._lanes:
            lane.drop(item)
        self._raised(job, item.position, error)

    def _drop_outputs(self, item: Item) -> None:
        """Forget what has not left of an item that failed; what its own `process` pushed is in the buffers."""
        for lane in self._lanes:
            lane.drop(item)
        if item is self._current:
            for buffer in self._buffers:
                buffer.drop_from(item.position)

    def _unserialisable(self, item: Item, reason: str) -> None:
        self.failures += 1
        job = item.job
        if job is None or item.position in job.failed:
            return
        self._holding.fail(item, f"node {self.node.name} {reason}", "unserialisable")
        if item.position not in job.failed:
            # It was acked in the same batch, by the push of what cannot be carried.
            job.fail(item.position, "unserialisable", self.node.name, f"node {self.node.name} {reason}", "")

    def _send_outputs(self, job: Job) -> None:
        super()._send_outputs(job)
        self._send_lanes()

    def _send_slice(self, buffer: Buffer) -> None:
        # Reading the brokers' answers, as the rest of this does, may settle the jobs of held items: what is derived
        # from these has to be in the reports by then.
        self._send_lanes()
        super()._send_slice(buffer)

    def _send_lanes(self) -> None:
        for lane in self._lanes:
            if lane.outputs:
                for item in {item for _, anchors in lane.outputs for item in anchors}:
                    if item.job is not None:
                        self._outputs_leave(item.job)
                lane.send(self._job)

    def _finished_batch(self) -> None:
        for job in self._holding.touched():
            if job.settled:
                self._settle(job)

    def _turn(self, timeout_ms: int) -> None:
        left_s = self._holding.expire()
        self._finished_batch()
        super()._turn(timeout_ms if left_s is None else int(min(timeout_ms, 1000 * left_s + 1)))

    # --- the end ---------------------------------------------------------------------------------------------

    def _run_end(self) -> None:
        try:
            self.node._finish_items()
            self._run_node_end()
        finally:
            self._leave()

    def _run_node_end(self) -> None:
        self.node.end()

    def _leave(self) -> None:
        """Send what `end` pushed of held items, and fail those that it has left."""
        self._send_lanes()
        self._holding.leave()
        touched = self._holding.touched()
        for job in touched:
            if job.settled:
                self._settle(job)
        # The acker goes on when it hears that we have ended, so everything has to be in a broker's custody by then.
        while not self.stopping and any(job.waiting and not job.dead for job in touched):
            self._pump(1000)

    def stats(self) -> dict[str, object]:
        """Return the counters of the moment."""
        return {**super().stats(), "held": len(self._holding)}
