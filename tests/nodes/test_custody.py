"""Workers on a real broker: what one that ends, in order or not, leaves to the others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from consecutiond_broker import child, codec, wire
from consecutiond_broker import router as broker_router
from consecutiond_broker.options import BrokerOptions
from consecutiond_nodes.node import Node
from consecutiond_nodes.ports import Who
from consecutiond_nodes.routing import Outlet
from consecutiond_nodes.worker import Worker
from tests.nodes.bench import ACKER, EPOCH, Bench, benches, node, numbers, words


class Custody:
    """A real broker between the test's acker and workers ``a.1``, ``a.2`` …, which lead to an edge of the test."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.workers: list[Worker] = []
        self.started = 0
        bench.up.socket.close()
        bench.brokers.pop("in->a")
        options = BrokerOptions(
            part="broker", edge="in->a", uri=bench.up.uri, acker_uri=bench.acker.uri, heart_uri="", pid_dir="",
        )  # fmt: skip
        self.broker = broker_router.Broker(options, EPOCH, bench.context)
        self.below = bench.edge("a->b")
        self.sent = 0
        self.until(lambda: bench.acker.of(wire.EdgeJoin))
        self.tell(wire.EdgeJoined(ACKER, 0, bench.acker.of(wire.EdgeJoin)[-1].greeting))

    def tell(self, head: wire.Head, *frames: bytes) -> None:
        self.bench.acker.socket.send_multipart([b"E:in->a", wire.pack(head), *frames])

    def emit(self, *roots: int) -> None:
        self.sent += 1
        column = words(*roots)
        self.tell(wire.Batch(EPOCH, self.sent, ACKER, len(roots)), column, column, codec.encode(roots))

    def start(self, process: Any, *, window: int = 3) -> Worker:
        self.started += 1
        name = f"a.{self.started}"
        self.bench.brokers["in->a"] = self.bench.up
        options = self.bench.options(("b",), window=window)
        del self.bench.brokers["in->a"]
        who = Who(name, 1, *child.identity(), str(self.bench.directory / f"{name}.cell"))
        worker = Worker(options, node(process), (Outlet(("b",)),), who, self.bench.context)
        self.workers.append(worker)
        self.until(lambda: worker.up[0].broker_epoch and worker.down["b"].broker_epoch)
        return worker

    def until(self, condition: Any) -> None:
        for _ in range(2000):
            self.bench.pump()
            self.broker._turn(2)
            for worker in self.workers:
                worker._turn(2)
            if condition():
                return
        raise AssertionError("it never came to that")

    def end(self, worker: Worker) -> None:
        self.workers.remove(worker)
        worker.close()

    def reports(self) -> list[list[bytes]]:
        return [raw[place : place + 3] for raw in self.bench.acker.raw(wire.Reports) for place in range(0, len(raw), 3)]

    def completed(self) -> set[int]:
        return {root for roots, _, _ in self.reports() for root in numbers(roots)}

    def fails(self) -> list[wire.Fail]:
        return [fail for report in self.reports() for fail in wire.unpack_fails(report[2])]

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        self.broker.close()


@pytest.fixture
def custody(tmp_path: Path) -> Iterator[Custody]:
    for bench in benches(tmp_path):
        custody = Custody(bench)
        yield custody
        custody.close()


def forward(self: Node, value: Any) -> None:
    self.push(value)


def swallow(_self: Node, _value: Any) -> None:
    pass


def test_a_batch_goes_through_and_its_report_reaches_the_acker(custody: Custody) -> None:
    custody.start(forward)
    custody.emit(11, 12)
    custody.until(lambda: custody.completed() == {11, 12})
    assert custody.below.values == [11, 12]
    assert custody.fails() == []


def test_workers_of_one_node_share_its_batches(custody: Custody) -> None:
    one, other = custody.start(swallow), custody.start(swallow)
    for root in range(8):
        custody.emit(root)
    custody.until(lambda: custody.completed() == set(range(8)))
    assert one.items == other.items == 4


def test_what_a_worker_that_ends_had_not_begun_goes_to_another_in_the_same_trees(custody: Custody) -> None:
    custody.below.limit = 0
    first = custody.start(forward)
    for root in (11, 12, 13):
        custody.emit(root)
    custody.until(lambda: len(first.up[0].jobs) == 3 and first.down["b"].unsent)
    custody.end(first)
    custody.below.limit = 100
    custody.start(forward)
    custody.until(lambda: custody.completed() == {12, 13} and custody.fails())
    [fail] = custody.fails()
    assert (fail.charged, fail.roots) == (False, words(11)), "its output may have left"
    assert custody.below.values == [12, 13]


def test_a_slow_worker_below_holds_up_the_broker_above_and_nothing_is_lost(custody: Custody) -> None:
    custody.below.limit = 1
    worker = custody.start(forward, window=2)
    for root in range(8):
        custody.emit(root)
    custody.until(lambda: worker.down["b"].unsent)
    assert worker.items == 2
    while custody.completed() != set(range(8)):
        custody.below.grant(limit=custody.below.limit + 1)
        known = len(custody.below.items())
        custody.until(lambda known=known: len(custody.below.items()) > known or len(custody.completed()) == 8)
    assert custody.below.values == list(range(8))


def test_an_item_that_raises_and_its_neighbours_are_told_apart_by_the_acker(custody: Custody) -> None:
    def process(self: Node, value: int) -> None:
        self.push(1 / (value - 12))

    custody.start(process)
    custody.emit(11, 12, 13)
    custody.until(lambda: custody.completed() == {11, 13} and custody.fails())
    assert [(fail.charged, fail.roots) for fail in custody.fails()] == [(True, words(12))]
