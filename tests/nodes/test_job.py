"""Reports: a tree's ids XOR to zero exactly when all of it is consumed, in whatever order the reports come."""

import random
import sys
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consecutiond_broker import codec, wire
from consecutiond_broker.cell import INDEX
from consecutiond_broker.ids import as_u64, name_salt, root_ids
from consecutiond_nodes.job import Job
from consecutiond_nodes.outbox import Buffer
from tests.nodes.bench import numbers, words


def job(roots: list[int], ids: list[int], skip: tuple[int, ...] = ()) -> Job:
    head = wire.Deliver(1, 1, 1, len(roots), skip)
    return Job(0, head, [wire.pack(head), words(*roots), words(*ids), b""])


def report(job: Job) -> tuple[dict[int, int], list[wire.Fail]]:
    roots, xors, fails = job.report()
    by_root: dict[int, int] = defaultdict(int)
    for root, xor in zip(numbers(roots), numbers(xors), strict=True):
        by_root[root] ^= xor
    return dict(by_root), wire.unpack_fails(fails)


class TestReport:
    def test_it_begins_with_the_ids_that_are_consumed(self) -> None:
        assert report(job([11, 12], [1, 2])) == ({11: 1, 12: 2}, [])

    def test_neighbours_of_one_root_are_one_entry(self) -> None:
        roots, xors, _ = job([11, 11, 12, 11], [1, 2, 4, 8]).report()
        assert (numbers(roots), numbers(xors)) == ([11, 12, 11], [1 ^ 2, 4, 8])

    def test_it_leaves_out_what_has_failed_and_what_was_skipped(self) -> None:
        mine = job([11, 12, 13], [1, 2, 4], skip=(0,))
        mine.fail(2, "raised", "a", "ValueError", "traceback")
        assert report(mine) == ({12: 2}, [wire.Fail("raised", True, words(13), "a", "ValueError", "traceback")])

    def test_several_that_fail_for_one_reason_are_one_failure(self) -> None:
        mine = job([11, 12, 13], [1, 2, 4])
        mine.fail_all([0, 2], "raised", "a", "disk full", "traceback")
        assert report(mine) == ({12: 2}, [wire.Fail("raised", True, words(11, 13), "a", "disk full", "traceback")])

    def test_a_failure_is_told_with_its_item_where_that_came_from_and_what_it_came_through(self) -> None:
        head = wire.Deliver(1, 1, 1, 2, (), path=("in", "parse"))
        mine = Job(0, head, [wire.pack(head), words(11, 12), words(1, 2), codec.encode(["good", "bad"])], "p->a", "a")
        mine.fail(1, "raised", "a", "ValueError", "")
        [fail] = report(mine)[1]
        assert (fail.edge, codec.decode(fail.item), fail.path) == ("p->a", ["bad"], ("in", "parse", "a"))

    def test_items_that_are_large_together_are_not_all_told(self) -> None:
        head = wire.Deliver(1, 1, 1, 3, ())
        values = ["x" * 600_000, "y" * 600_000, "small"]
        mine = Job(0, head, [wire.pack(head), words(11, 12, 13), words(1, 2, 3), codec.encode(values)])
        for position in range(3):
            mine.fail(position, "raised", "a", "ValueError", "")
        told = [codec.decode(fail.item) if fail.item else [] for fail in report(mine)[1]]
        assert told == [values[:1], [], ["small"]]

    def test_a_lost_one_fails_every_root_uncharged_and_reports_nothing(self) -> None:
        mine = job([11, 12], [1, 2])
        mine.fail(0, "raised", "a", "ValueError", "")
        mine.lost = "the broker died"
        assert report(mine) == ({}, [wire.Fail("broker died", False, words(11, 12), "", "the broker died", "")])

    @pytest.mark.parametrize(
        ("finished", "waiting", "lost", "settled"),
        [
            (True, 0, "", True),
            (False, 0, "", False),
            (True, 1, "", False),
            (True, 1, "lost", True),
            (False, 1, "lost", False),
        ],
    )
    def test_it_goes_out_when_all_is_over_and_accepted_or_lost(
        self, finished: bool, waiting: int, lost: str, settled: bool
    ) -> None:
        mine = job([11], [1])
        mine.finished, mine.waiting, mine.lost = finished, waiting, lost
        assert mine.settled is settled


class Port:
    """What a buffer sees of an edge: it keeps the batches for the worker on the other side."""

    hint = 3

    def __init__(self, edge: str) -> None:
        self.edge, self.salt = edge, name_salt(edge)
        self.batches: list[tuple[list[int], list[int]]] = []

    def send(self, _job: Any, _count: int, frames: list[bytes], spans: bytes = b"", partition: int = -1) -> None:
        roots, ids, body = frames
        assert len(codec.decode(body)) == len(numbers(roots)) == len(numbers(ids))
        self.batches.append((numbers(roots), numbers(ids)))


class Graph:
    """Layers of nodes; each broadcasts to all of the next layer, and the workers are this very test."""

    def __init__(self, widths: list[int], fan_out: random.Random) -> None:
        self.random = fan_out
        self.widths = widths
        self.ids: list[int] = []

    def ports(self, layer: int, node: int) -> list[Port]:
        if layer + 1 == len(self.widths):
            return []
        return [Port(f"{layer}.{node}->{layer + 1}.{below}") for below in range(self.widths[layer + 1])]

    def work(self, layer: int, node: int, roots: list[int], ids: list[int]) -> tuple[dict[int, int], list[Any]]:
        """Do what a worker does with a batch; return its report and the batches that it has sent."""
        mine, ports, cell = job(roots, ids), self.ports(layer, node), memoryview(bytearray(64)).cast("Q")
        self.ids += ids
        if ports:
            buffer = Buffer("a", tuple(ports), 30, 10_000)  # type: ignore[arg-type]
            push = buffer.appender(cell, lambda full: full.send(mine))
            for position in range(len(roots)):
                cell[INDEX] = position + 1
                for _ in range(self.random.randint(0, 4)):
                    push("value")
            if len(buffer):
                buffer.send(mine)
        sent = [(layer + 1, below, *batch) for below, port in enumerate(ports) for batch in port.batches]
        return report(mine)[0], sent


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(1, 6), st.randoms(use_true_random=False)
)  # fmt: skip
def test_a_tree_is_zero_exactly_when_all_of_it_is_consumed_in_whatever_order_the_reports_come(
    widths: list[int], roots: int, chance: random.Random
) -> None:
    graph = Graph(widths, chance)
    keys = list(range(11, 11 + roots))
    ids = root_ids(99, np.arange(roots, dtype=np.uint64), name_salt("input->0.0"))
    ledger = dict(zip(keys, ids.tolist(), strict=True))
    waiting: list[Any] = [(0, 0, keys, ids.tolist())]
    unreported: list[dict[int, int]] = []
    while waiting or unreported:
        if waiting and (not unreported or chance.random() < 0.6):
            layer, node, mine, own = waiting.pop(chance.randrange(len(waiting)))
            node_report, sent = graph.work(layer, node, mine, own)
            unreported.append(node_report)
            waiting += sent
        else:
            for root, xor in unreported.pop(chance.randrange(len(unreported))).items():
                ledger[root] ^= xor
        open_roots = {root for _, _, mine, _ in waiting for root in mine}
        open_roots |= {root for each in unreported for root in each}
        for root in keys:
            assert (ledger[root] == 0) is (root not in open_roots)
    assert len(set(graph.ids)) == len(graph.ids), "every (item, edge) copy has an id of its own"


@pytest.mark.parametrize("count", [2, 4, 8, 64, 1024])
def test_aligned_runs_of_siblings_and_of_roots_do_not_cancel(count: int) -> None:
    """Contiguous ids would: 4 ^ 5 ^ 6 ^ 7 is zero."""
    assert int(np.bitwise_xor.reduce(np.arange(4, 8))) == 0
    port = Port("a->b")
    port.hint = count
    mine = job([11], [4])
    buffer = Buffer("a", (port,), 1 << 20, 1 << 20)  # type: ignore[arg-type]
    cell = memoryview(bytearray(64)).cast("Q")
    cell[INDEX] = 1
    push = buffer.appender(cell, lambda _buffer: None)
    for _ in range(count):
        push(1)
    buffer.send(mine)
    [(_, ids)] = port.batches
    assert int(np.bitwise_xor.reduce(as_u64(words(*ids)))) != 0
    roots = root_ids(0, np.arange(count, dtype=np.uint64), name_salt("input->a"))
    assert int(np.bitwise_xor.reduce(roots)) != 0


def test_a_broadcast_does_not_cancel_itself() -> None:
    left, right = Port("a->b"), Port("a->c")
    mine = job([11], [4])
    buffer = Buffer("a", (left, right), 1 << 20, 1 << 20)  # type: ignore[arg-type]
    cell = memoryview(bytearray(64)).cast("Q")
    cell[INDEX] = 1
    buffer.appender(cell, lambda _buffer: None)(1)
    buffer.send(mine)
    [(_, [one])], [(_, [other])] = left.batches, right.batches
    assert one != other
    assert report(mine)[0] == {11: 4 ^ one ^ other}


def test_a_job_is_freed_with_its_last_reference() -> None:
    """Without a cycle, which only the garbage collector finds: in a large fan-out that is far too late."""
    one = job([11], [1])
    assert sys.getrefcount(one) == 2
