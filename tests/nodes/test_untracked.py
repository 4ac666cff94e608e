"""A worker whose batches nobody tracks: what it sends, what it says of failures, and that nothing begins twice."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from consecutiond_broker import codec, wire
from consecutiond_broker.cell import read_remains
from consecutiond_nodes.node import Node
from tests.nodes.bench import EPOCH, WORKER, Bench, benches, node


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from benches(tmp_path)


def deliver(bench: Bench, *values: Any) -> None:
    up = bench.up
    up._deliveries += 1
    head = wire.Deliver(up.epoch, up._deliveries, wire.UNTRACKED, len(values), ())
    up.send(head, b"", b"", codec.encode(values))


def test_what_was_begun_cannot_be_given_to_another(bench: Bench) -> None:
    """A sink has no outputs that could leave, and yet it has done something."""
    seen: list[Any] = []
    bench.start(node(lambda _self, _value: seen.append(read_remains(Path(bench.worker.who.cell), WORKER, 0))))
    deliver(bench, "x")
    bench.settle()
    deliver(bench, "y")
    bench.settle(2)
    assert [remains.outputs for remains in seen] == [1, 2]


def test_outputs_and_settlements_carry_no_ids(bench: Bench) -> None:
    bench.start(node(lambda self, value: self.push(2 * value)), "b")
    deliver(bench, 1, 2)
    bench.settle()
    below = bench.edge("a->b")
    [head] = below.of(wire.Batch)
    [(roots, ids, body)] = below.raw(wire.Batch)
    assert (head.acker_epoch, head.path, roots, ids, codec.decode(body)) == (
        wire.UNTRACKED, ("a",), b"", b"", [2, 4],
    )  # fmt: skip
    assert bench.up.raw(wire.Settle) == [[b"", b"", b""]]


def test_an_item_that_raises_is_told_and_its_outputs_are_dropped(bench: Bench) -> None:
    def process(self: Node, value: int) -> None:
        self.push(value)
        if value == 2:
            raise ValueError("two")

    bench.start(node(process), "b")
    deliver(bench, 1, 2, 3)
    bench.settle()
    assert codec.decode(bench.edge("a->b").raw(wire.Batch)[0][2]) == [1, 3]
    [fail] = bench.up.fails()
    assert (fail.charged, len(fail.roots), codec.decode(fail.item)) == (True, 8, [2])


def test_what_a_dead_broker_had_not_accepted_is_counted_and_not_sent_again(bench: Bench) -> None:
    below = bench.edge("a->b")
    below.accepting = False
    bench.start(node(lambda self, value: self.push(value)), "b")
    deliver(bench, 1, 2)
    bench.until(lambda: below.of(wire.Batch))
    below.die()
    below.heard.clear()
    below.accepting = True
    below.return_as(EPOCH + 1)
    bench.settle()
    [fail] = bench.up.fails()
    assert (fail.kind, fail.charged, len(fail.roots)) == ("broker died", False, 2 * 8)
    deliver(bench, 3)
    bench.settle(2)
    assert [codec.decode(raw[2]) for raw in below.raw(wire.Batch)] == [[3]]


def test_what_a_dead_broker_had_delivered_is_done_and_settled_with_nobody(bench: Bench) -> None:
    """The next broker numbers its deliveries from 1 again, and must not take one for the other."""
    below = bench.edge("a->b")
    below.limit = 0

    def process(self: Node, value: str) -> None:
        self.push(value)
        if value == "bad":
            raise ValueError(value)

    bench.start(node(process), "b")
    deliver(bench, "held up")
    deliver(bench, "bad")
    bench.until(lambda: len(bench.worker.up[0].jobs) == 2)
    bench.up.die()
    bench.up.return_as(EPOCH + 1)
    bench.until(lambda: bench.worker.up[0].broker_epoch == EPOCH + 1)
    bench.up._deliveries = 0
    deliver(bench, "new")
    deliver(bench, "newer")
    bench.until(lambda: len(bench.worker.up[0].jobs) == 2)
    below.grant(limit=100)
    bench.settle(2)
    bench.idle()
    assert [codec.decode(raw[2])[0] for raw in below.raw(wire.Batch)] == ["held up", "new", "newer"]
    assert bench.up.settled == [1, 2]
    assert [raw[2] for raw in bench.up.raw(wire.Settle)] == [b"", b""], "that another one failed is nothing to them"


def test_what_end_pushes_goes_straight_on_and_the_acker_hears_when_it_has_arrived(bench: Bench) -> None:
    class Ends(Node):
        name = "a"

        def end(self) -> None:
            self.push("from end")

    bench.start(Ends(), "b", tracking=False)
    wait = bench.worker.wait

    def waiting() -> None:
        assert not bench.acker.of(wire.TurnDone)
        bench.pump()
        wait()

    bench.worker.wait = waiting  # type: ignore[method-assign]
    bench.acker.turn("end")
    bench.until(lambda: bench.acker.of(wire.TurnDone))
    assert codec.decode(bench.edge("a->b").raw(wire.Batch)[0][2]) == ["from end"]
    assert bench.acker.of(wire.Append) == []
    assert bench.acker.of(wire.TurnDone)[0].lost == 0
