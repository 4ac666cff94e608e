"""A worker and its brokers: credit, acceptance, and what a broker that dies takes with it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from consecutiond_broker import wire
from consecutiond_broker.errors import FencedError
from consecutiond_broker.wake import Wake
from consecutiond_nodes.node import Node
from consecutiond_nodes.outbox import MOST_VALUES
from consecutiond_nodes.worker import _MOST_UNSENT
from tests.nodes.bench import ACKER, EPOCH, WORKER, Bench, benches, node, words


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from benches(tmp_path)


def forward(self: Node, value: Any) -> None:
    self.push(value)


class TestGreetings:
    def test_a_receiver_says_who_it_is_and_what_it_takes(self, bench: Bench) -> None:
        bench.start(node(forward), "b", window=4)
        cell = bench.worker.who.cell
        assert bench.up.of(wire.Join) == [
            wire.Join(wire.VERSION, "down", "a.0", WORKER, 1, 1, cell, 0, 4, 16, (), 0)
        ]  # fmt: skip

    def test_a_sender_says_who_it_is(self, bench: Bench) -> None:
        bench.start(node(forward), "b")
        [join] = bench.edge("a->b").of(wire.Join)
        assert (join.side, join.name, join.epoch) == ("up", "a.0", WORKER)

    def test_a_reconnection_says_what_is_still_in_hand(self, bench: Bench) -> None:
        bench.edge("a->b").limit = 0
        bench.start(node(forward), "b")
        bench.up.deliver("x")
        bench.up.deliver("y")
        bench.until(lambda: len(bench.worker.up[0].jobs) == 2)
        bench.up.die()
        bench.up.return_as(EPOCH)
        bench.until(lambda: len(bench.up.of(wire.Join)) == 2)
        assert bench.up.of(wire.Join)[1].held == (1, 2)
        bench.edge("a->b").grant(limit=10)
        bench.settle(2)
        assert [head.limit for head in bench.up.of(wire.Settle)] == [4, 5]

    def test_both_sides_count_deliveries_anew_after_a_reconnection(self, bench: Bench) -> None:
        bench.start(node(forward), window=4)
        bench.up.deliver("x")
        bench.settle()
        bench.up.die()
        bench.up.return_as(EPOCH)
        bench.until(lambda: len(bench.up.of(wire.Join)) == 2)
        assert [join.limit for join in bench.up.of(wire.Join)] == [4, 4]
        bench.up.deliver("y")
        bench.settle(2)
        assert bench.up.of(wire.Settle)[-1].limit == 5

    def test_a_worker_that_ends_says_goodbye_to_every_broker(self, bench: Bench) -> None:
        bench.start(node(forward), "b")
        bench.stop()
        for broker in (bench.up, bench.edge("a->b")):
            assert broker.socket.poll(5000)
            broker.pump()
            assert broker.of(wire.Leave) == [wire.Leave(WORKER)]


class TestFencing:
    @pytest.mark.parametrize("edge", ["in->a", "a->b"])
    def test_a_fenced_worker_ends(self, bench: Bench, edge: str) -> None:
        bench.start(node(forward), "b")
        bench.edge(edge).send(wire.Fenced(WORKER))
        with pytest.raises(FencedError, match=r"a\.0 \(epoch 5\) was fenced"):
            bench.until(lambda: False)

    def test_one_that_is_fenced_in_the_middle_of_an_item_ends_whatever_its_node_catches(self, bench: Bench) -> None:
        below, caught = bench.edge("a->b"), []

        def process(self: Node, _value: Any) -> None:
            for number in range(1000):
                if number == 3:
                    below.send(wire.Fenced(WORKER))
                try:
                    self.push(number)
                except Exception as error:
                    caught.append(error)

        below.limit = 1
        bench.start(node(process), "b", batch_bytes=1)
        bench.up.deliver("x")
        with pytest.raises(FencedError):
            bench.until(lambda: False)
        assert caught == []
        bench.up.pump()
        assert bench.up.settled == []

    def test_a_fenced_worker_settles_nothing_any_more(self, bench: Bench) -> None:
        bench.start(node(forward), "b", "c")
        bench.edge("a->b").accepting = bench.edge("a->c").accepting = False
        bench.up.deliver("x")
        bench.until(lambda: bench.edge("a->b").items() and bench.edge("a->c").items())
        bench.edge("a->c").grant(1)
        bench.edge("a->b").send(wire.Fenced(WORKER))
        with pytest.raises(FencedError):
            bench.until(lambda: False)
        bench.edge("a->b").grant(1)
        while bench.worker.down["b"]._unaccepted:
            bench.worker._pump(50)
        bench.stop()
        bench.up.socket.poll(5000)
        bench.pump()
        assert bench.up.of(wire.Leave)
        assert bench.up.settled == []


class TestCredit:
    def test_no_batch_goes_out_without_credit(self, bench: Bench) -> None:
        below = bench.edge("a->b")
        below.limit, below.accepting = 1, False
        bench.start(node(forward), "b")
        bench.up.deliver("x")
        bench.up.deliver("y")
        bench.until(lambda: below.values)
        bench.idle()
        assert below.values == ["x"]
        below.grant(1, limit=2)
        bench.until(lambda: below.values == ["x", "y"])

    def test_nothing_is_processed_while_outputs_wait_for_credit(self, bench: Bench) -> None:
        seen: list[Any] = []

        def process(self: Node, value: Any) -> None:
            seen.append(value)
            self.push(value)

        bench.edge("a->b").limit = 0
        bench.start(node(process), "b", "c")
        for value in "xyz":
            bench.up.deliver(value)
        bench.until(lambda: len(bench.worker.up[0].jobs) == 3)
        bench.idle()
        assert seen == ["x"]
        bench.edge("a->b").grant(limit=10)
        bench.settle(3)
        assert seen == ["x", "y", "z"]

    def test_a_large_fan_out_waits_for_credit_in_the_middle_of_the_item(self, bench: Bench) -> None:
        """What waits is bounded by bytes and messages, however many are pushed."""
        below, most = bench.edge("a->b"), [0, 0]
        below.limit = 2

        def process(self: Node, _value: Any) -> None:
            port, [buffer] = bench.worker.down["b"], bench.worker._buffers
            for number in range(3000):
                self.push(f"{number:0100}")
                most[0] = max(most[0], len(port.unsent))
                most[1] = max(most[1], len(buffer))
                if number % 20 == 0:
                    below.pump()
                if number == 1500:
                    below.grant(limit=1000)
                elif number < 1500 and len(port.unsent) >= _MOST_UNSENT:
                    below.grant(limit=below.limit + 1)

        bench.start(node(process), "b", batch_bytes=1000)
        bench.up.deliver("x")
        bench.settle()
        assert below.values == [f"{number:0100}" for number in range(3000)]
        assert bench.up.report() == bench.expected("a->b", own={11: 101})
        assert most[0] <= _MOST_UNSENT + 1
        assert most[1] <= 10

    def test_a_batch_leaves_in_messages_of_the_size_that_its_receivers_can_use(self, bench: Bench) -> None:
        below = bench.edge("a->b")
        below.hint = 2
        bench.start(node(forward), "b")
        bench.up.deliver(1, 2, 3, 4, 5)
        bench.settle()
        assert [head.count for head in below.of(wire.Batch)] == [2, 2, 1]
        assert bench.up.report() == bench.expected("a->b", own=dict(zip(range(11, 16), range(101, 106), strict=True)))

    def test_small_values_wait_up_to_a_number_too(self, bench: Bench) -> None:
        sizes: list[int] = []

        def process(self: Node, _value: Any) -> None:
            for _ in range(2 * MOST_VALUES):
                self.push(0)
                sizes.append(len(bench.worker._buffers[0]))

        bench.edge("a->b").hint = 10_000
        bench.start(node(process), "b")
        bench.up.deliver("x")
        bench.settle()
        assert max(sizes) == MOST_VALUES - 1

    def test_a_worker_that_has_to_stop_while_an_item_waits_for_credit_settles_nothing_and_ends(
        self, bench: Bench
    ) -> None:
        wake = Wake()

        def process(self: Node, _value: Any) -> None:
            wake.call()
            for number in range(1_000_000):
                self.push(number)

        bench.edge("a->b").limit = 0
        bench.start(node(process), "b", batch_bytes=1)
        bench.worker.listen(wake)
        bench.up.deliver("x", "y")
        bench.until(lambda: bench.worker.stopping)
        assert len(bench.worker.down["b"].unsent) <= 10
        assert bench.worker.failures == 0
        bench.stop()
        wake.close()
        assert bench.up.socket.poll(5000)
        bench.pump()
        assert bench.up.settled == []


class TestBrokerBelow:
    def test_batches_without_acceptance_are_sent_again_when_the_connection_breaks(self, bench: Bench) -> None:
        below = bench.edge("a->b")
        below.accepting = False
        bench.start(node(forward), "b")
        for value in "xyz":
            bench.up.deliver(value)
        bench.until(lambda: below.values == ["x", "y", "z"])
        below.die()
        below.accepted, below.accepting = 1, True
        below.heard.clear()
        below.return_as(EPOCH)
        bench.settle(3)
        assert [head.seq for head in below.of(wire.Batch)] == [2, 3]
        assert [bench.up.fails(place) for place in range(3)] == [[], [], []]

    def test_one_that_died_before_it_accepted_fails_the_roots_uncharged(self, bench: Bench) -> None:
        below = bench.edge("a->b")
        below.accepting = False
        bench.start(node(forward), "b")
        bench.up.deliver("x", "y")
        bench.until(lambda: below.values)
        below.die()
        below.return_as(EPOCH + 1)
        bench.settle()
        [fail] = bench.up.fails()
        assert (fail.kind, fail.charged, fail.roots) == ("broker died", False, words(11, 12))
        assert "a->b died before it accepted" in fail.error
        assert bench.up.report() == {}

    def test_an_item_that_had_failed_by_itself_is_not_charged_either(self, bench: Bench) -> None:
        """Whether it would have failed again is seen at the next attempt; no root may be told to fail twice."""

        def process(self: Node, value: Any) -> None:
            self.push(1 / value)

        below = bench.edge("a->b")
        below.accepting = False
        bench.start(node(process), "b")
        bench.up.deliver(0, 1)
        bench.until(lambda: below.values)
        below.die()
        below.return_as(EPOCH + 1)
        bench.settle()
        assert [(fail.charged, fail.roots) for fail in bench.up.fails()] == [(False, words(11, 12))]

    def test_one_broker_of_two_is_enough_and_the_settlement_is_not_sent_twice(self, bench: Bench) -> None:
        b, c = bench.edge("a->b"), bench.edge("a->c")
        b.accepting = c.accepting = False
        bench.start(node(forward), "b", "c")
        bench.up.deliver("x")
        bench.until(lambda: b.items() and c.items())
        b.die()
        b.return_as(EPOCH + 1)
        bench.settle()
        c.grant(1)
        bench.idle()
        assert len(bench.up.settled) == 1
        assert [fail.kind for fail in bench.up.fails()] == ["broker died"]

    def test_what_was_lost_with_it_is_never_sent_again(self, bench: Bench) -> None:
        below = bench.edge("a->b")
        below.accepting = False
        bench.start(node(forward), "b")
        bench.up.deliver("x")
        bench.until(lambda: below.values)
        below.die()
        below.return_as(EPOCH + 1)
        bench.settle()
        below.die()
        below.heard.clear()
        below.return_as(EPOCH + 1)
        bench.until(lambda: below.of(wire.Join))
        bench.idle()
        assert below.of(wire.Batch) == []

    def test_batches_that_had_no_credit_yet_go_to_the_new_one(self, bench: Bench) -> None:
        below = bench.edge("a->b")
        below.limit = 0
        bench.start(node(forward), "b")
        bench.up.deliver("x")
        bench.until(lambda: bench.worker.down["b"].unsent)
        below.die()
        below.limit = 10
        below.return_as(EPOCH + 1)
        bench.settle()
        assert [(head.broker_epoch, head.seq) for head in below.of(wire.Batch)] == [(EPOCH + 1, 1)]
        assert bench.up.fails() == []

    def test_the_rest_of_a_batch_of_which_a_part_was_lost_is_not_sent(self, bench: Bench) -> None:
        below = bench.edge("a->b")
        below.limit, below.accepting, below.hint = 1, False, 1
        bench.start(node(forward), "b")
        bench.up.deliver("x", "y")
        bench.until(lambda: below.values == ["x"] and bench.worker.down["b"].unsent)
        below.die()
        below.limit = 10
        below.heard.clear()
        below.return_as(EPOCH + 1)
        bench.settle()
        bench.idle()
        assert below.values == []
        assert not bench.worker.down["b"].unsent
        bench.up.deliver("z")
        bench.until(lambda: below.values == ["z"])

    def test_a_batch_that_is_lost_while_it_is_processed_fails_when_it_is_over(self, bench: Bench) -> None:
        below = bench.edge("a->b")
        below.accepting = False

        def process(self: Node, value: Any) -> None:
            self.push(value)
            if value == "y":
                assert bench.up.settled == []
                below.socket.poll(5000)
                below.die()
                below.return_as(EPOCH + 1)
                while not below.of(wire.Join)[1:]:
                    bench.worker._pump(5)
                    below.pump()
                while bench.worker.down["b"].broker_epoch == EPOCH:
                    bench.worker._pump(5)

        bench.start(node(process), "b", batch_bytes=1)
        bench.up.deliver("x", "y", "z")
        bench.settle()
        assert [(fail.charged, fail.roots) for fail in bench.up.fails()] == [(False, words(11, 12, 13))]

    def test_a_grant_of_a_dead_broker_is_not_believed(self, bench: Bench) -> None:
        below = bench.edge("a->b")
        below.accepting = False
        bench.start(node(forward), "b")
        bench.up.deliver("x")
        bench.until(lambda: below.values)
        below.send(wire.Grant(EPOCH - 1, 1, 10, 16))
        bench.idle()
        assert bench.up.settled == []


class TestBrokerAbove:
    def test_what_a_dead_one_had_delivered_is_neither_processed_nor_settled(self, bench: Bench) -> None:
        seen: list[Any] = []

        def process(self: Node, value: Any) -> None:
            seen.append(value)
            self.push(value)

        below = bench.edge("a->b")
        below.limit = 0
        bench.start(node(process), "b")
        bench.up.deliver("x")
        bench.up.deliver("y")
        bench.until(lambda: len(bench.worker.up[0].jobs) == 2 and seen)
        bench.up.die()
        bench.up.return_as(EPOCH + 1)
        bench.until(lambda: bench.worker.up[0].broker_epoch == EPOCH + 1)
        below.grant(limit=10)
        bench.up.deliver("z")
        bench.settle()
        bench.idle()
        assert seen == ["x", "z"]
        assert [(head.broker_epoch, head.seq) for head in bench.up.of(wire.Settle)] == [(EPOCH + 1, 3)]
        assert below.values == ["z"], "nobody waits for the outputs of a batch that is stale"

    def test_a_delivery_of_a_dead_one_that_comes_late_is_dropped(self, bench: Bench) -> None:
        bench.start(node(forward))
        bench.up.deliver("x", broker_epoch=EPOCH - 1)
        bench.up.deliver("y")
        bench.settle()
        assert bench.up.settled == [2]
        assert bench.worker.items == 1

    def test_a_batch_whose_acker_is_dead_is_settled_like_any_other(self, bench: Bench) -> None:
        """Its broker knows what to do with the report; the worker need not know of ackers."""
        bench.start(node(forward), "b")
        bench.up.deliver("x", acker_epoch=ACKER - 1)
        bench.settle()
        assert bench.edge("a->b").of(wire.Batch)[0].acker_epoch == ACKER - 1
