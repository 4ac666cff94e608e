"""The acker on a real socket: reports, retries, dead letters, brokers that greet anew, and the backstop."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from consecutiond.acker.backstop import QUIET_S
from consecutiond_broker import codec, wire
from consecutiond_broker.clock import FakeClock
from tests.acker.bench import IN, MID, OUT, Bench, Edge


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


@pytest.fixture
def entry(bench: Bench) -> Edge:
    return bench.up()


class TestReports:
    def test_a_root_is_complete_when_its_tree_is_and_leaves_the_log(self, bench: Bench, entry: Edge) -> None:
        bench.producer().record("a")
        [batch] = entry.take()
        child = np.array([0x1234_5678_9ABC], dtype="<u8")
        entry.report(batch.roots, batch.ids ^ child)
        bench.settle()
        assert bench.acker.ledger.open == 1
        bench.mid.report(batch.roots, child)
        bench.until(lambda: bench.stats()["completed"] == 1)
        assert bench.chunks() == []

    def test_a_root_that_enters_at_two_edges_needs_the_reports_of_both(self, bench: Bench, entry: Edge) -> None:
        bench.producer(b"node", inside=True).record("a", entry=(MID, OUT))
        bench.mid.complete(*bench.mid.take())
        bench.settle()
        assert bench.acker.ledger.open == 1
        bench.out.complete(*bench.out.take())
        bench.until(lambda: bench.stats()["completed"] == 1)

    def test_a_report_that_comes_twice_is_applied_once(self, bench: Bench, entry: Edge) -> None:
        bench.producer().record("a")
        [batch] = entry.take()
        half = np.array([0x77], dtype="<u8")
        frames = batch.roots.tobytes(), (batch.ids ^ half).tobytes(), b""
        entry.report_as(1, *frames)
        entry.report_as(1, *frames)
        entry.report_as(2, batch.roots.tobytes(), half.tobytes(), b"")
        bench.until(lambda: bench.stats()["completed"] == 1)

    def test_the_numbers_of_a_new_broker_epoch_begin_anew(self, bench: Bench, entry: Edge) -> None:
        bench.producer().record("a")
        entry.complete(*entry.take())
        entry.report()
        entry = bench.broker(IN, epoch=2)
        assert entry.of(wire.EdgeJoined) == [wire.EdgeJoined(1, 0)]
        bench.producer(b"two").record("b")
        entry.complete(*entry.take())
        bench.until(lambda: bench.stats()["completed"] == 2)

    def test_a_broker_that_comes_back_hears_which_of_its_reports_were_applied(self, bench: Bench, entry: Edge) -> None:
        for _ in range(3):
            entry.report()
        bench.settle()
        assert bench.broker(IN, epoch=1).of(wire.EdgeJoined) == [wire.EdgeJoined(1, 3)]

    def test_what_was_applied_is_confirmed_so_that_the_broker_can_forget_it(self, bench: Bench, entry: Edge) -> None:
        entry.report()
        entry.report()
        bench.settle()
        assert entry.of(wire.Applied)[-1] == wire.Applied(1, 2)

    @pytest.mark.parametrize("stale", [{"epoch": 7}, {"broker_epoch": 2}])
    def test_reports_of_another_acker_or_broker_epoch_change_nothing(
        self, bench: Bench, entry: Edge, stale: dict[str, int]
    ) -> None:
        bench.producer().record("a")
        [batch] = entry.take()
        entry.report_as(1, batch.roots.tobytes(), batch.ids.tobytes(), b"", **stale)
        bench.settle()
        assert bench.acker.ledger.open == 1

    def test_reports_about_the_roots_of_a_killed_acker_change_nothing(self, bench: Bench, entry: Edge) -> None:
        bench.producer().record("a")
        [old] = entry.take()
        bench.restart()
        entry = bench.up()
        [new] = entry.take()
        entry.complete(old)
        bench.settle()
        assert bench.acker.ledger.open == 1
        entry.complete(new)
        bench.until(lambda: bench.stats()["completed"] == 1)


class TestFailures:
    def test_a_failed_root_is_retried_as_a_new_tree(self, bench: Bench, entry: Edge) -> None:
        bench.producer().record("a", "b")
        [first] = entry.take()
        entry.fail(first, 1)
        [second] = entry.take()
        assert second.values == ["b"]
        assert second.roots[0] not in first.roots
        assert (first.head.attempt, second.head.attempt) == (1, 2)

    def test_what_is_reported_late_about_a_failed_tree_changes_nothing(self, bench: Bench, entry: Edge) -> None:
        bench.producer().record("a")
        [first] = entry.take()
        entry.fail(first)
        [second] = entry.take()
        entry.complete(first)
        entry.fail(first)
        bench.settle()
        assert (bench.acker.ledger.open, entry.values) == (1, [])
        entry.complete(second)
        bench.until(lambda: bench.stats()["completed"] == 1)
        assert bench.stats()["retried"] == 1

    def test_the_attempt_is_on_the_disk_before_the_item_goes_out_again(self, bench: Bench, entry: Edge) -> None:
        bench.producer().record("a")
        [batch] = entry.take()
        bench.store.gate.clear()
        entry.fail(batch)
        for _ in range(3):
            entry.fence()
        assert entry.values == []
        bench.store.gate.set()
        entry.take()
        assert [row.attempts for row in bench.waiting()] == [1]

    def test_the_third_failure_makes_a_dead_letter_with_all_that_is_known(self, bench: Bench, entry: Edge) -> None:
        bench.producer().record("good", {"bad": 1})
        [batch] = entry.take()
        entry.complete_one(batch, 0)
        entry.fail(batch, 1)
        for attempt in (2, 3):
            [batch] = entry.take()
            assert batch.head.attempt == attempt
            entry.fail(batch, kind="crashed", error="ValueError: no")
        bench.until(lambda: bench.stats()["failed"] == 1)
        [letter] = bench.dead()
        assert codec.decode(letter.body) == [{"bad": 1}]
        assert (letter.position, letter.attempts, letter.entry) == (2, 3, (IN,))
        assert (letter.node, letter.kind, letter.error) == ("parse", "crashed", "ValueError: no")
        assert letter.traceback == "Traceback of the user"
        bench.settle()
        assert (entry.values, bench.waiting(), bench.stats()["open"]) == ([], [], 0)

    def test_an_uncharged_failure_costs_no_attempt(self, bench: Bench, entry: Edge) -> None:
        bench.producer().record("a")
        for _ in range(5):
            [batch] = entry.take()
            assert batch.head.attempt == 1
            entry.fail(batch, charged=False)
        entry.complete(*entry.take())
        bench.until(lambda: bench.stats()["completed"] == 1)
        assert (bench.stats()["swept"], bench.stats()["retried"]) == (5, 0)

    def test_a_failed_root_moves_to_its_own_row_and_does_not_pin_its_chunk(self, tmp_path: Path) -> None:
        bench = Bench(tmp_path, retry_backoff_s=60.0)
        try:
            entry = bench.up()
            bench.producer().record("a", "b", "c")
            [batch] = entry.take()
            entry.fail(batch, 1)
            entry.complete_one(batch, 0)
            entry.complete_one(batch, 2)
            bench.until(lambda: bench.chunks() == [])
            assert [codec.decode(row.body) for row in bench.waiting()] == [["b"]]
            assert (bench.stats()["open"], bench.stats()["waiting"]) == (1, 1)
        finally:
            bench.close()

    @pytest.mark.parametrize("kind", ["crashed", wire.TIMED_OUT, wire.BETWEEN])
    def test_suspects_are_retried_alone(self, bench: Bench, entry: Edge, kind: str) -> None:
        bench.producer().record(*"abc")
        entry.fail(*entry.take(), kind=kind)
        bench.settle()
        assert [batch.values for batch in entry.batches] == [["a"], ["b"], ["c"]]

    def test_those_that_raised_together_are_retried_together_as_the_attempt_that_it_is(
        self, bench: Bench, entry: Edge
    ) -> None:
        """A batch costs much more than an item; and no neighbour of one that raised is harmed by it."""
        bench.producer().record(*"abc")
        entry.fail(*entry.take())
        bench.settle()
        [batch] = entry.take()
        assert (batch.values, batch.head.attempt) == (["a", "b", "c"], 2)
        entry.complete_one(batch, 0)
        entry.fail(batch, 1)
        entry.fail(batch, 2)
        bench.until(lambda: [each.head.attempt for each in entry.batches][-1:] == [3])
        bench.settle()
        for batch in entry.take(len(entry.batches)):
            entry.complete(batch)
        bench.until(lambda: bench.stats()["completed"] == 3)
        assert bench.waiting() == []

    def test_waiting_retries_are_not_held_in_memory(self, bench: Bench, entry: Edge) -> None:
        entry = bench.broker(IN, 2, limit=1)
        bench.producer().record(*range(200))
        entry.fail(*entry.take())
        bench.settle()
        [lane] = bench.acker.log.lanes.values()
        assert len(lane.waiting) > 100
        entry.send(wire.Grant(2, 1, 1000, 4096))
        bench.until(lambda: len(entry.values) == 200)


class TestBrokers:
    @pytest.mark.parametrize(
        ("edge", "again"), [(IN, ["outer"]), (MID, ["outer", "middle"]), (OUT, ["outer", "middle", "inner"])]
    )
    def test_a_new_broker_has_exactly_the_roots_tried_anew_that_can_reach_it(
        self, bench: Bench, entry: Edge, edge: str, again: list[str]
    ) -> None:
        bench.producer().record("outer")
        node = bench.producer(b"node", inside=True)
        node.record("middle", entry=(MID,))
        node.record("inner", entry=(OUT,))
        brokers = {IN: entry, MID: bench.mid, OUT: bench.out}
        for broker in brokers.values():
            broker.take()
        brokers[edge] = bench.broker(edge, epoch=2)
        bench.settle()
        assert [value for broker in brokers.values() for value in broker.values] == again
        assert bench.stats()["swept"] == len(again)

    def test_what_a_broker_took_with_it_is_charged_to_nobody(self, bench: Bench, entry: Edge) -> None:
        bench.producer().record("a")
        for epoch in range(2, 8):
            [batch] = entry.take()
            assert batch.head.attempt == 1
            entry = bench.broker(IN, epoch=epoch)
        entry.complete(*entry.take())
        bench.until(lambda: bench.stats()["completed"] == 1)

    def test_a_broker_whose_connection_broke_gets_everything_anew_from_number_one(
        self, bench: Bench, entry: Edge
    ) -> None:
        bench.producer().record("a")
        [before] = entry.take()
        entry.greet()
        [after] = entry.take()
        assert (after.values, after.head.seq) == (["a"], 1)
        assert before.roots[0] != after.roots[0]

    def test_a_retried_root_that_a_broker_took_with_it_keeps_its_attempts(self, bench: Bench, entry: Edge) -> None:
        bench.producer().record("a")
        entry.fail(*entry.take())
        entry.take()
        entry = bench.broker(IN, epoch=2)
        [batch] = entry.take()
        assert (batch.values, batch.head.attempt) == (["a"], 2)
        entry.complete(batch)
        bench.until(lambda: bench.stats()["completed"] == 1)
        assert bench.waiting() == []

    def test_what_waited_for_credit_at_a_dead_broker_is_sent_once_to_its_successor(
        self, bench: Bench, entry: Edge
    ) -> None:
        entry = bench.broker(IN, epoch=2, limit=0)
        bench.producer().record("a")
        bench.settle()
        entry = bench.broker(IN, epoch=3)
        bench.settle()
        assert entry.values == ["a"]

    def test_an_older_broker_is_fenced(self, bench: Bench, entry: Edge) -> None:
        entry = bench.broker(IN, epoch=5)
        old = Edge(bench, IN + "old", 1)
        old.send(wire.EdgeJoin(wire.VERSION, IN, 4, 10, 10))
        assert old.fence()["malformed"] == 1
        bench.producer().record("a")
        entry.complete(*entry.take())
        bench.until(lambda: bench.stats()["completed"] == 1)
        assert old.of(wire.EdgeJoined) == []


class TestBackstop:
    @pytest.fixture
    def clock(self, bench: Bench) -> FakeClock:
        clock = bench.acker.clock = FakeClock()  # type: ignore[assignment]
        return clock  # type: ignore[return-value]

    def look(self, bench: Bench, clock: FakeClock, **held: int) -> None:
        """Let the acker ask everybody, and answer for all; what `held` names is held at the middle edge."""
        clock.advance(QUIET_S + 1)
        bench.settle()
        for broker in (bench.mid, bench.out, bench.entry):
            [*_, probe] = broker.expect(wire.Probe)
            counts = {"queued": 0, "held": 0, "reports": 0} | (held if broker is bench.mid else {})
            broker.send(wire.Idle(probe.number, **counts, activity=1))
            broker.fence()

    def test_a_root_that_is_open_while_nobody_has_a_part_of_it_is_retried_uncharged(
        self, bench: Bench, entry: Edge, clock: FakeClock
    ) -> None:
        bench.producer().record("a")
        entry.take()
        self.look(bench, clock)
        assert entry.values == []
        self.look(bench, clock)
        [batch] = entry.take()
        assert (batch.values, batch.head.attempt, bench.stats()["lost"]) == (["a"], 1, 1)

    @pytest.mark.parametrize("what", ["queued", "held", "reports"])
    def test_a_root_that_somebody_has_is_left_alone(
        self, bench: Bench, entry: Edge, clock: FakeClock, what: str
    ) -> None:
        bench.producer().record("a")
        entry.take()
        for _ in range(4):
            self.look(bench, clock, **{what: 1})
        assert (entry.values, bench.stats()["lost"]) == ([], 0)

    def test_a_root_that_a_node_holds_is_left_alone(self, bench: Bench, entry: Edge, clock: FakeClock) -> None:
        bench.producer().record("a")
        entry.take()
        for _ in range(4):
            self.look(bench, clock, parked=1)
        assert (entry.values, bench.stats()["lost"]) == ([], 0)

    def test_an_answer_from_before_something_left_that_had_waited_for_credit_does_not_count(
        self, bench: Bench, entry: Edge, clock: FakeClock
    ) -> None:
        entry = bench.broker(IN, epoch=2, limit=1)
        bench.entry = entry
        producer = bench.producer()
        producer.record("a")
        entry.take()
        self.look(bench, clock)
        clock.advance(QUIET_S + 1)
        bench.settle()
        [*_, probe] = entry.of(wire.Probe)
        for broker in (bench.mid, bench.out):
            broker.send(wire.Idle(probe.number, 0, 0, 0, activity=1))
            broker.fence()
        producer.record("b")
        bench.settle()
        # One turn reads both, and the answer is from before the batch that the grant lets go.
        entry.send(wire.Grant(2, 1, 2, 4096))
        entry.send(wire.Idle(probe.number, 0, 0, 0, activity=1))
        bench.settle()
        assert (entry.values, bench.stats()["lost"]) == (["b"], 0)

    def test_nobody_is_asked_while_something_waits_for_credit(
        self, bench: Bench, entry: Edge, clock: FakeClock
    ) -> None:
        bench.broker(IN, epoch=2, limit=0)
        bench.producer().record("a")
        bench.settle()
        clock.advance(QUIET_S + 1)
        bench.settle()
        clock.advance(QUIET_S + 1)
        bench.settle()
        assert bench.mid.of(wire.Probe) == []


def test_a_root_whose_workers_die_between_items_again_and_again_is_charged_in_the_end(tmp_path: Path) -> None:
    """Nobody is to blame for one such death; but what does it each time must not do it for ever."""
    bench = Bench(tmp_path, max_attempts=2)
    entry = bench.up()
    bench.producer().record("good", "bad")
    deaths = 0
    while not bench.stats()["failed"]:
        for batch in entry.take():
            if "bad" in batch.values:
                place = batch.values.index("bad")
                entry.fail(batch, place, charged=False, kind=wire.BETWEEN)
                deaths += 1
            if "good" in batch.values:
                entry.complete_one(batch, batch.values.index("good"))
        bench.settle()
    [letter] = bench.dead()
    assert (codec.decode(letter.body), letter.kind, letter.attempts) == (["bad"], wire.BETWEEN, 2)
    assert deaths == 6
    assert bench.stats()["completed"] == 1
    bench.close()
