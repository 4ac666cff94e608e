"""The acker on a real socket: what it accepts, whom it answers, and what it takes up again after a kill."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from consecutiond.acker.stores.base import StoreError
from consecutiond_broker import wire
from tests.acker.bench import IN, MID, OUT, TARGETS, Bench

Make = Callable[..., Bench]


@pytest.fixture(params=["memory", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    made: list[Bench] = []

    def make(**options: Any) -> Bench:
        made.append(Bench(tmp_path, request.param, **options))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


@pytest.fixture
def bench(make: Make) -> Bench:
    return make()


class TestReceipts:
    def test_a_receipt_comes_after_the_commit_and_not_before(self, bench: Bench) -> None:
        bench.up()
        producer = bench.producer()
        bench.store.gate.clear()
        producer.append("a", "b")
        producer.fence()
        assert producer.receipted == 0
        bench.store.gate.set()
        producer.expect_receipt(1)
        assert [each.chunk.count for each in bench.chunks()] == [2]

    def test_nothing_is_emitted_before_it_is_recorded(self, bench: Bench) -> None:
        entry = bench.up()
        producer = bench.producer()
        bench.store.gate.clear()
        producer.append("a")
        producer.fence()
        entry.fence()
        assert entry.values == []
        bench.store.gate.set()
        assert entry.take()[0].values == ["a"]

    def test_batches_that_come_during_a_commit_share_the_next_one(self, bench: Bench) -> None:
        producer = bench.producer()
        bench.store.gate.clear()
        for value in range(5):
            producer.append(value)
            producer.fence()
        bench.store.gate.set()
        producer.expect_receipt(5)
        assert bench.store.commits == 2

    def test_a_receipt_names_the_positions_of_the_roots(self, bench: Bench) -> None:
        producer = bench.producer()
        producer.record("a", "b")
        producer.record("c")
        assert [receipt.positions for receipt in producer.of(wire.Receipt)] == [(1,), (3,)]


class TestDuplicates:
    def test_a_batch_that_comes_twice_is_recorded_once(self, bench: Bench) -> None:
        entry = bench.up()
        producer = bench.producer()
        producer.record("a")
        producer.append("a", seq=1)
        bench.settle()
        assert bench.stats()["accepted"] == 1
        assert entry.values == ["a"]

    def test_a_producer_that_lost_a_receipt_learns_at_its_greeting_what_is_recorded(self, bench: Bench) -> None:
        producer = bench.producer()
        producer.record("a")
        assert producer.join() == 1

    def test_a_batch_that_is_sent_again_while_its_first_copy_is_being_recorded_is_recorded_once(
        self, bench: Bench
    ) -> None:
        entry = bench.up()
        producer = bench.producer()
        bench.store.gate.clear()
        producer.append("a")
        producer.fence()
        producer.append("a", seq=1)
        producer.fence()
        bench.store.gate.set()
        producer.expect_receipt(1)
        bench.settle()
        assert bench.stats()["accepted"] == 1
        assert entry.values == ["a"]

    def test_a_producer_that_greets_anew_while_its_batch_is_being_recorded_gets_the_receipt(self, bench: Bench) -> None:
        producer = bench.producer()
        bench.store.gate.clear()
        producer.append("a")
        producer.fence()
        producer.append("b")
        producer.send(wire.ProducerJoin(wire.VERSION, producer.name, False))
        producer.fence()
        bench.store.gate.set()
        assert [joined.recorded for joined in producer.expect(wire.ProducerJoined, 2)] == [0, 1]
        producer.expect_receipt(2)

    def test_a_batch_sent_again_to_the_next_acker_is_recorded_once(self, bench: Bench) -> None:
        producer = bench.producer()
        producer.record("a")
        bench.restart()
        entry = bench.up()
        producer = bench.producer()
        assert producer.heard[0][0] == wire.ProducerJoined(2, 1)
        producer.append("a", seq=1)
        bench.settle()
        assert bench.stats()["accepted"] == 1
        assert entry.values == ["a"]

    def test_a_batch_that_the_killed_acker_had_not_recorded_is_recorded_by_the_next(self, bench: Bench) -> None:
        producer = bench.producer()
        bench.store.gate.clear()
        producer.append("a")
        producer.fence()
        bench.restart()
        entry = bench.up()
        producer = bench.producer()
        assert producer.heard[0][0].recorded == 0
        producer.append("a", seq=1)
        producer.expect_receipt(1)
        assert entry.take()[0].values == ["a"]
        assert bench.stats()["accepted"] == 1

    def test_a_batch_out_of_order_is_passed_over(self, bench: Bench) -> None:
        producer = bench.producer()
        producer.append("b", seq=2)
        bench.settle()
        assert bench.stats()["accepted"] == 0

    def test_one_that_says_goodbye_is_forgotten_in_the_store_too(self, bench: Bench) -> None:
        producer = bench.producer()
        producer.record("a")
        producer.end(wait=False)
        bench.until(lambda: bench.read(lambda store: [store.last_sequence(b"one")]) == [0])


class TestBounds:
    def test_emission_stops_at_max_pending_and_goes_on_when_trees_complete(self, make: Make) -> None:
        bench = make(max_pending=2)
        entry = bench.up()
        producer = bench.producer()
        for value in "abcde":
            producer.record(value)
        bench.settle()
        assert entry.values == ["a", "b"]
        entry.complete(*entry.take())
        bench.settle()
        assert entry.values == ["c", "d"]

    def test_receipts_are_withheld_above_max_backlog_and_come_when_it_is_emitted(self, make: Make) -> None:
        bench = make(max_pending=1, max_backlog=1024)
        entry = bench.up()
        producer = bench.producer()
        producer.record("first")
        producer.record("x" * 1000)
        producer.append("y" * 1000)
        bench.settle()
        assert bench.stats()["accepted"] == 3
        assert producer.receipted == 2
        entry.complete(*entry.take())
        producer.expect_receipt(3)

    def test_what_nobody_emits_yet_counts_as_backlog(self, make: Make) -> None:
        bench = make(max_backlog=1024)
        producer = bench.producer()
        producer.append("x" * 2000)
        bench.settle()
        assert producer.receipted == 0
        assert bench.stats()["backlog_bytes"] > 2000
        bench.up()
        producer.expect_receipt(1)
        assert bench.stats()["backlog_bytes"] == 0

    def test_roots_from_inside_the_graph_are_exempt_from_both_bounds(self, make: Make) -> None:
        bench = make(max_pending=1, max_backlog=1024)
        bench.up()
        outside, inside = bench.producer(), bench.producer(b"node", inside=True)
        outside.record("open")
        outside.append("x" * 2000)
        bench.settle()
        assert outside.receipted == 1
        inside.record("y" * 2000, entry=(MID,))
        assert bench.mid.take()[0].values == ["y" * 2000]
        bench.settle()
        assert (outside.receipted, bench.entry.values) == (1, ["open"])

    def test_a_retry_of_a_root_from_inside_passes_input_that_waits(self, make: Make) -> None:
        bench = make(max_pending=1)
        bench.up()
        outside, inside = bench.producer(), bench.producer(b"node", inside=True)
        outside.record("open")
        outside.record("waits")
        inside.record("inner", entry=(MID,))
        bench.mid.fail(*bench.mid.take())
        assert bench.mid.take()[0].values == ["inner"]
        assert bench.entry.values == ["open"]

    def test_what_the_graph_pushes_faster_than_it_works_stays_in_the_store(self, bench: Bench) -> None:
        bench.up(limit=1, hint=1)
        inside = bench.producer(b"node", inside=True)
        for value in range(20):
            inside.record(value, entry=(MID,))
        bench.settle()
        [lane] = bench.acker.log.lanes.values()
        assert len(lane.todo) >= 10
        bench.mid.send(wire.Grant(1, 20, 100, 1))
        bench.until(lambda: len(bench.mid.values) == 20)
        assert sorted(bench.mid.values) == list(range(20))

    def test_without_credit_nothing_goes_and_other_edges_are_not_held_up(self, bench: Bench) -> None:
        entry = bench.up(limit=1)
        outside, inside = bench.producer(), bench.producer(b"node", inside=True)
        for value in "abc":
            outside.record(value)
        inside.record("inner", entry=(MID,))
        bench.settle()
        assert (entry.values, bench.mid.values) == (["a"], ["inner"])
        entry.send(wire.Grant(1, 1, 3, 4096))
        bench.settle()
        assert entry.values == ["a", "b", "c"]
        assert [batch.head.seq for batch in entry.batches] == [1, 2, 3]

    def test_credit_of_another_broker_epoch_is_no_credit(self, bench: Bench) -> None:
        entry = bench.up(limit=0)
        producer = bench.producer()
        producer.record("a")
        entry.send(wire.Grant(7, 0, 10, 4096))
        bench.settle()
        assert entry.values == []

    def test_a_batch_is_cut_to_the_size_that_receivers_can_use(self, bench: Bench) -> None:
        entry = bench.up(hint=2)
        bench.producer().record(*"abcde")
        bench.settle()
        assert [batch.values for batch in entry.batches] == [["a", "b"], ["c", "d"], ["e"]]
        assert len({root for batch in entry.batches for root in batch.roots.tolist()}) == 5


class TestBarrier:
    def test_nothing_is_emitted_before_the_heart_says_ready(self, bench: Bench) -> None:
        heart = bench.heart(ready=False)
        entry = [bench.broker(edge) for edge in (MID, OUT, IN)][-1]
        bench.producer().record("a")
        bench.settle()
        assert entry.values == []
        heart.send(wire.HeartJoin(wire.VERSION, 1, True))
        assert entry.take()[0].values == ["a"]

    @pytest.mark.parametrize("last", [IN, MID, OUT])
    def test_nothing_is_emitted_before_every_broker_has_greeted(self, make: Make, last: str) -> None:
        bench = make()
        bench.heart()
        early = [bench.broker(edge) for edge in TARGETS if edge != last]
        bench.producer().record("a")
        bench.producer(b"node", inside=True).record("b", entry=(MID,))
        bench.settle()
        assert [broker.values for broker in early] == [[], []]
        brokers = {broker.edge: broker for broker in (*early, bench.broker(last))}
        bench.settle()
        assert (brokers[IN].values, brokers[MID].values) == (["a"], ["b"])
        assert bench.stats()["swept"] == 0


class TestRestart:
    def test_every_root_that_is_not_completed_is_emitted_again_and_nothing_completed_is(self, bench: Bench) -> None:
        entry = bench.up()
        producer = bench.producer()
        producer.record(*"abcd")
        producer.record(*"ef")
        producer.record(*"gh")
        first, second, _ = entry.take(3)
        entry.report(first.roots[[0, 2]], first.ids[[0, 2]])
        entry.complete(second)
        bench.until(lambda: bench.stats()["completed"] == 4)
        bench.restart()
        entry = bench.up()
        bench.settle()
        assert sorted(entry.values) == ["b", "d", "g", "h"]
        entry.complete(*entry.take())
        bench.until(lambda: bench.stats()["completed"] == 8)
        assert (bench.stats()["open"], bench.chunks()) == (0, [])

    def test_what_is_open_is_emitted_under_new_root_keys_and_the_old_ids(self, bench: Bench) -> None:
        entry = bench.up()
        bench.producer().record("a")
        [before] = entry.take()
        bench.restart()
        [after] = bench.up().take()
        assert before.roots[0] != after.roots[0]
        # An item's id is its stable key: the same on every attempt.
        assert before.ids[0] == after.ids[0]

    def test_roots_enter_again_where_they_had_entered(self, bench: Bench) -> None:
        bench.up()
        bench.producer(b"node", inside=True).record("inner", entry=(MID, OUT))
        bench.mid.take()
        bench.restart()
        entry = bench.up()
        bench.settle()
        assert (entry.values, bench.mid.values, bench.out.values) == ([], ["inner"], ["inner"])

    def test_attempts_survive(self, make: Make) -> None:
        bench = make(max_attempts=2)
        entry = bench.up()
        bench.producer().record("a")
        entry.fail(*entry.take())
        assert entry.take()[0].head.attempt == 2
        bench.restart()
        entry = bench.up()
        [batch] = entry.take()
        assert batch.head.attempt == 2
        entry.fail(batch)
        bench.until(lambda: bench.stats()["failed"] == 1)
        assert bench.stats()["open"] == 0

    def test_recovered_roots_go_before_an_input_that_never_pauses(self, make: Make) -> None:
        bench = make(max_pending=1)
        producer = bench.producer()
        for value in range(10):
            producer.record(value)
        bench.restart()
        producer = bench.producer()
        for place in range(20):
            producer.append("fresh", seq=11 + place)
        producer.expect_receipt(30)
        entry = bench.up()
        # A fresh one may slip through while the store is slow to load an old one; not all of them.
        seen: list[object] = []
        while not set(range(10)) <= set(seen):
            batches = entry.take()
            seen += [value for batch in batches for value in batch.values]
            entry.complete(*batches)
        assert seen.count("fresh") < 20

    def test_a_log_of_another_graph_is_refused_and_left_as_it_is(self, make: Make) -> None:
        bench = make()
        bench.producer().record("a")
        options = bench.options
        with pytest.raises(StoreError, match=r"enter at \*->parse, which this graph does not have"):
            bench.restart(reach={MID: (MID,)}, targets={MID: "count"}, input_edge=MID)
        bench.options = options
        bench.start()
        assert bench.up().take()[0].values == ["a"]
