"""Completed inputs that are kept: which, with what, for how long, and how they are taken away."""

from math import inf
from pathlib import Path
from typing import Any

import pytest

from consecutiond.acker import retention
from consecutiond.acker.policies import Policy
from consecutiond.acker.stores.base import Retained
from consecutiond_broker import codec, wire
from tests.acker.bench import IN, Bench
from tests.acker.logbench import INSIDE, Log, anywhere, closed, fail

POLICY = Policy(max_attempts=2, backoff_s=8.0, backoff_max_s=20.0)


@pytest.fixture
def log() -> Log:
    return Log(POLICY, retain_s=100.0)


def complete(log: Log, *values: object) -> None:
    """Let one batch come in and complete."""
    log.append(*values)
    for emission, _ in log.emitted():
        log.log.completed(closed(emission))
    commit(log)


def commit(log: Log) -> None:
    log.log.flush(everything=True)
    log.committer.settle()


def listed(log: Log) -> list[Any]:
    """Return the values that a reader of the store finds as completed, in the order in which they were over."""
    found = []
    for batch in log.store.retained(limit=10**6):
        values = codec.decode(log.store.body(batch.chunk.id))
        bits = int.from_bytes(batch.completed, "little")
        found += [value for index, value in enumerate(values) if bits >> index & 1]
    return found


def conserved(log: Log) -> tuple[int, int]:
    totals = log.store.totals()
    assert totals.accepted == totals.completed + totals.failed + totals.discarded + totals.open
    return totals.completed, totals.retained


def due(log: Log, seconds: float) -> None:
    """Let time go by, and the log do what is due then."""
    log.clock.advance(seconds)
    while log.log.wait_s(anywhere) < 1.0:
        log.turn()
        log.clock.advance(0.1)


class TestKeeping:
    def test_a_batch_that_is_over_is_kept_with_its_values_and_the_times(self, log: Log) -> None:
        began = log.clock.wall()
        log.append("a", "b")
        [(emission, _)] = log.emitted()
        log.clock.advance(3.0)
        log.log.completed(closed(emission))
        commit(log)
        [batch] = log.store.retained()
        assert (batch.chunk.accepted_at, batch.completed_at) == (began, began + 3.0)
        assert batch.size == len(log.store.body(batch.chunk.id))
        assert (listed(log), conserved(log), log.store.open_chunks()) == (["a", "b"], (2, 2), [])

    def test_without_the_option_nothing_is_kept_and_marks_are_as_short_as_ever(self) -> None:
        log = Log(POLICY)
        log.append(*range(10))
        [(emission, _)] = log.emitted()
        log.log.completed(closed(emission, 0, 9))
        commit(log)
        assert [len(row.done) for row in log.store.open_chunks()] == [2]
        log.log.completed(closed(emission, *range(1, 9)))
        commit(log)
        assert (log.store.retained(), conserved(log)) == ([], (10, 0))

    def test_a_root_that_failed_for_good_is_not_among_those_that_completed(self, log: Log) -> None:
        log.append("good", "bad", "fine")
        [(emission, _)] = log.emitted()
        for attempt in range(2):
            log.log.failed(closed(emission, 0 if attempt else 1), fail())
            log.turn()
            log.clock.advance(20.0)
            if attempt == 0:
                log.log.completed(closed(emission, 0, 2))
                commit(log)
                [(emission, _)] = log.emitted()
        assert (log.store.totals().failed, listed(log), conserved(log)) == (1, ["good", "fine"], (2, 2))

    def test_a_root_that_completes_at_its_second_attempt_is_kept_alone_and_once(self, log: Log) -> None:
        log.append("again", "fine")
        [(emission, _)] = log.emitted()
        log.log.failed(closed(emission, 0), fail())
        log.turn()
        log.log.completed(closed(emission, 1))
        commit(log)
        assert listed(log) == ["fine"]
        log.clock.advance(8.0)
        [(again, _)] = log.emitted()
        log.log.completed(closed(again))
        commit(log)
        assert (listed(log), conserved(log)) == (["fine", "again"], (2, 2))
        assert [batch.chunk.first for batch in log.store.retained()] == [1, 1]
        # Its number is nobody else's.
        complete(log, "next")
        assert len({batch.chunk.id for batch in log.store.retained()}) == 3

    def test_a_batch_of_which_nothing_completed_is_not_kept(self, log: Log) -> None:
        log.append("bad")
        [(emission, _)] = log.emitted()
        log.log.failed(closed(emission), fail())
        log.turn()
        assert (log.store.open_chunks(), log.store.retained()) == ([], [])

    def test_what_the_graph_itself_pushed_is_no_input_and_is_not_kept(self, log: Log) -> None:
        log.append("pushed", entry=INSIDE)
        [(emission, _)] = log.emitted(INSIDE)
        log.log.completed(closed(emission))
        commit(log)
        assert conserved(log) == (1, 0)

    def test_which_completed_is_known_after_a_death_of_the_acker(self, log: Log) -> None:
        log.append(*range(10))
        [(emission, _)] = log.emitted()
        log.log.completed(closed(emission, 0, 9))
        log.log.failed(closed(emission, 1), fail())
        log.turn()
        commit(log)
        log.start()
        [(rest, ready)] = log.emitted()
        assert codec.decode(ready.body) == list(range(2, 9))
        log.log.completed(closed(rest))
        commit(log)
        assert listed(log) == [0, *range(2, 9), 9]
        [batch] = log.store.retained()
        assert batch.size == len(log.store.body(batch.chunk.id))

    def test_what_completed_before_inputs_were_kept_is_forgotten_as_it_was_to_be(self) -> None:
        log = Log(POLICY)
        log.append("a", "b")
        [(emission, _)] = log.emitted()
        log.log.completed(closed(emission, 0))
        commit(log)
        log.retain_s = 100.0
        log.start()
        [(rest, _)] = log.emitted()
        log.log.completed(closed(rest))
        commit(log)
        assert (listed(log), conserved(log)) == (["b"], (2, 1))


class TestAudit:
    def test_an_operators_batch_is_recorded_once_and_its_entry_in_the_audit_trail_with_it(self, tmp_path: Path) -> None:
        bench = Bench(tmp_path, "memory", retain_s=None)
        try:
            source = bench.producer()
            batch = wire.Append(source.name, 1, 2, (), ("ann@host", "log replay", "--since 2h"))
            for _ in range(2):
                source.send(batch, codec.encode(["a", "b"]))
            source.expect_receipt(1)
            # A new acker hears of it again.
            bench.restart()
            again = bench.producer()
            again.send(batch, codec.encode(["a", "b"]))
            again.fence()
            found = bench.read(lambda store: store.audits())
            assert [(each.who, each.what, each.count, each.which) for each in found] == [
                ("ann@host", "log replay", 2, "--since 2h")
            ]
            assert [(row.chunk.count, row.chunk.entry) for row in bench.chunks()] == [(2, (IN,))]
        finally:
            bench.close()


class TestPurging:
    def test_what_is_too_old_goes_and_what_is_not_stays(self, log: Log) -> None:
        complete(log, "old")
        due(log, 60.0)
        complete(log, "young")
        due(log, 30.0)
        assert listed(log) == ["old", "young"]
        due(log, 11.0)
        assert (listed(log), conserved(log)) == (["young"], (2, 1))
        due(log, 60.0)
        assert (listed(log), conserved(log)) == ([], (2, 0))

    def test_an_acker_that_has_nothing_else_to_do_wakes_for_it(self, log: Log) -> None:
        complete(log, "a")
        assert log.log.wait_s(anywhere) == 0.0
        log.turn()
        assert 50.0 < log.log.wait_s(anywhere) <= 60.0
        log.clock.advance(log.log.wait_s(anywhere))
        log.turn()
        assert 30.0 < log.log.wait_s(anywhere) <= 40.0

    @pytest.mark.parametrize("retain_s", [0.0, 1.0])
    def test_a_log_that_is_to_keep_less_from_now_on_gets_rid_of_the_rest_in_slices(
        self, log: Log, monkeypatch: pytest.MonkeyPatch, retain_s: float
    ) -> None:
        monkeypatch.setattr(retention, "SLICE", 4)
        for number in range(10):
            complete(log, number)
        log.clock.advance(50.0)
        log.retain_s = retain_s
        log.start()
        slices = watch(log)
        due(log, 0.0)
        assert (slices, listed(log)) == ([4, 4, 2], [])

    def test_a_slice_is_no_more_bytes_than_one_commit_should_take(
        self, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retention, "SLICE_BYTES", 250)
        for number in range(3):
            complete(log, "x" * 100, number)
        complete(log, "y" * 1000)
        slices = watch(log)
        due(log, 101.0)
        # One that is larger than that goes alone.
        assert (slices, listed(log)) == ([2, 1, 1], [])

    def test_for_ever_is_for_ever(self) -> None:
        log = Log(POLICY, retain_s=inf)
        complete(log, "a")
        due(log, 1e9)
        assert (listed(log), log.log.wait_s(anywhere)) == (["a"], 60.0)

    def test_a_clock_that_was_wrong_holds_nothing_up_for_longer_than_is_kept(self, log: Log) -> None:
        """One that completed in the future, as the clock then said, is in front of all that comes after."""
        log.clock.jump = 1e6
        complete(log, "future")
        log.clock.jump = 0.0
        complete(log, "now")
        due(log, 1.0)
        assert listed(log) == ["now"]

    def test_while_the_store_is_asked_nothing_is_asked_twice_and_the_log_is_clean(self, log: Log) -> None:
        complete(log, "a")
        log.clock.advance(200.0)
        log.log.flush()
        log.log.flush()
        assert len(log.committer.todo) == 1
        assert log.log.clean()
        assert not log.log.moving(anywhere)


def watch(log: Log) -> list[int]:
    """Note how many batches each group takes away from now on."""
    slices: list[int] = []
    commit = log.store.commit

    def noting(changes: Any) -> None:
        assert all(isinstance(batch, Retained) for batch in changes.purged)
        if changes.purged:
            slices.append(len(changes.purged))
        commit(changes)

    log.store.commit = noting  # type: ignore[method-assign]
    return slices
