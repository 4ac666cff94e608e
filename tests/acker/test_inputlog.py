"""The input log: what goes into which group commit, when a retry is due, and what is loaded from where."""

from typing import Any

import pytest

from consecutiond.acker import lanes
from consecutiond.acker.ledger import Emission
from consecutiond.acker.policies import Policy
from consecutiond_broker import codec
from tests.acker.logbench import IN, INSIDE, Log, anywhere, closed, fail, nowhere


@pytest.fixture
def log() -> Log:
    return Log(Policy(max_attempts=3, backoff_s=8.0, backoff_max_s=20.0))


class TestDelays:
    def test_they_double_up_to_the_longest_and_half_is_jitter(self) -> None:
        policy = Policy(10, 1.0, 6.0)
        assert [policy.delay(attempts, 0.0) for attempts in (1, 2, 3, 4, 5)] == [1.0, 2.0, 4.0, 6.0, 6.0]
        assert policy.delay(3, 1.0) == 2.0

    def test_any_number_of_attempts_has_one(self) -> None:
        assert Policy(10**9, 1.0, 6.0).delay(10**9, 0.0) == 6.0

    def test_a_failed_root_is_not_loaded_before_it_is_due(self, log: Log) -> None:
        log.append("a")
        [(emission, _)] = log.emitted()
        log.log.failed(closed(emission), fail())
        assert log.emitted() == []
        assert log.log.waiting == 1
        log.clock.advance(3.9)
        assert log.emitted() == []
        assert 0 < log.log.wait_s(anywhere) <= 4.1
        log.clock.advance(4.1)
        assert log.values() == ["a"]

    @pytest.mark.parametrize("jump", [-86400.0, 86400.0])
    def test_a_jump_of_the_wall_clock_moves_no_retry(self, log: Log, jump: float) -> None:
        log.append("a")
        [(emission, _)] = log.emitted()
        log.log.failed(closed(emission), fail())
        log.turn()
        log.clock.jump = jump
        assert log.emitted() == []
        log.clock.advance(8.0)
        assert log.values() == ["a"]

    def test_after_a_restart_no_retry_waits_longer_than_the_longest_whatever_the_wall_clock_did(self, log: Log) -> None:
        log.append("a")
        [(emission, _)] = log.emitted()
        log.log.failed(closed(emission), fail())
        log.turn()
        log.clock.jump = -86400.0
        log.start()
        assert log.emitted() == []
        log.clock.advance(20.0)
        assert log.values() == ["a"]

    def test_after_a_restart_a_retry_waits_for_the_rest_of_its_time(self, log: Log) -> None:
        log.append("a")
        [(emission, _)] = log.emitted()
        log.log.failed(closed(emission), fail())
        log.turn()
        log.clock.advance(3.0)
        log.start()
        assert log.emitted() == []
        log.clock.advance(5.0)
        assert log.values() == ["a"]

    def test_a_retry_that_may_not_enter_does_not_wake_the_loop(self, log: Log) -> None:
        log.append("a")
        [(emission, _)] = log.emitted()
        log.log.failed(closed(emission), fail())
        log.turn()
        log.clock.advance(30.0)
        assert (log.log.wait_s(anywhere), log.log.wait_s(nowhere)) == (0.0, 60.0)


class TestCommits:
    def test_completions_wait_a_little_for_a_group_to_travel_with(self, log: Log) -> None:
        log.append("a", "b")
        [(emission, _)] = log.emitted()
        log.log.completed(closed(emission, 0))
        log.turn()
        assert log.store.totals().completed == 0
        log.append("c")
        log.turn()
        assert log.store.totals().completed == 1

    def test_completions_are_committed_alone_when_nothing_else_comes(self, log: Log) -> None:
        log.append("a")
        [(emission, _)] = log.emitted()
        log.log.completed(closed(emission))
        assert 0 < log.log.wait_s(anywhere) < 1
        log.clock.advance(1.0)
        assert log.log.wait_s(anywhere) == 0
        log.turn()
        assert (log.store.totals().completed, log.log.clean()) == (1, True)

    def test_one_group_gathers_while_another_is_being_written(self, log: Log) -> None:
        for value in range(5):
            log.append(value)
            log.log.flush()
        assert len(log.committer.todo) == 2
        log.committer.settle()
        assert log.store.totals().accepted == 1
        log.turn()
        assert log.store.totals().accepted == 5

    def test_a_partly_completed_chunk_has_a_bitmap_and_a_complete_one_is_gone(self, log: Log) -> None:
        log.append(*range(10))
        [(emission, _)] = log.emitted()
        log.log.completed(closed(emission, 0, 3, 9))
        log.log.flush(everything=True)
        log.committer.settle()
        [row] = log.store.open_chunks()
        assert row.done == bytes([0b0000_1001, 0b0000_0010])
        log.log.completed(closed(emission, 1, 2, 4, 5, 6, 7, 8))
        log.log.flush(everything=True)
        log.committer.settle()
        assert log.store.open_chunks() == []

    def test_the_row_of_a_failed_root_and_its_mark_in_the_chunk_are_one_group(self, log: Log) -> None:
        log.append("a", "b")
        [(emission, _)] = log.emitted()
        log.log.failed(closed(emission, 1), fail())
        log.committer.settle()
        log.log.flush()
        log.committer.work()
        [row] = log.store.open_chunks()
        assert (row.done, [row.position for row in log.store.waiting()]) == (bytes([0b10]), [2])

    def test_a_failed_root_waits_for_its_next_attempt_only_once_that_is_recorded(self, log: Log) -> None:
        """Else a crash that comes first would leave it as it was, and so for ever."""
        log.append("a")
        [(emission, _)] = log.emitted()
        log.log.failed(closed(emission), fail())
        log.committer.settle()
        log.log.flush()
        assert (log.log.waiting, log.store.totals().waiting) == (0, 0)
        log.committer.settle()
        assert (log.log.waiting, log.store.totals().waiting) == (1, 1)

    def test_a_root_whose_retry_completes_leaves_its_row(self, log: Log) -> None:
        log.append("a")
        [(emission, _)] = log.emitted()
        log.log.failed(closed(emission), fail())
        log.turn()
        log.clock.advance(8.0)
        [(again, ready)] = log.emitted()
        assert ready.attempt == 2
        log.log.completed(closed(again))
        log.clock.advance(1.0)
        log.turn()
        totals = log.store.totals()
        assert (totals.completed, totals.waiting, totals.open) == (1, 0, 0)

    def test_it_is_not_clean_while_a_failure_is_being_recorded(self, log: Log) -> None:
        log.append("a")
        [(emission, _)] = log.emitted()
        assert log.log.clean()
        log.log.failed(closed(emission), fail())
        assert not log.log.clean()
        log.turn()
        assert log.log.clean()


class TestPlaces:
    def test_what_may_not_enter_is_not_loaded_and_does_not_count_as_moving(self, log: Log) -> None:
        log.append("a")
        log.turn()
        log.start()
        log.log.load(nowhere)
        assert not log.committer.todo
        assert (log.log.moving(anywhere), log.log.moving(nowhere), log.log.holds()) == (True, False, True)

    def test_recovered_chunks_are_loaded_a_few_at_a_time(self, log: Log) -> None:
        for value in range(20):
            log.append(value)
            log.turn()
        log.start()
        log.turn()
        [lane] = log.log.lanes.values()
        assert 12 <= len(lane.todo) < 20
        seen = [value for _ in range(10) for value in log.values()]
        assert seen == list(range(20))

    def test_swept_roots_alone_are_emitted_again_and_before_fresh_ones(self, log: Log) -> None:
        log.append("a", "b", "c")
        [(emission, _)] = log.emitted()
        log.append("fresh")
        log.turn()
        log.log.again(closed(emission, 0, 2))
        assert log.values() == ["a", "c", "fresh"]

    def test_a_row_that_is_gone_from_the_store_makes_room_for_others(self, log: Log) -> None:
        log.append(*range(40))
        [(emission, _)] = log.emitted()
        log.log.failed(closed(emission), fail())
        log.turn()
        for position in range(1, 21):
            log.store._waiting.pop(position)
        log.clock.advance(8.0)
        seen = [value for _ in range(10) for value in log.values()]
        assert sorted(seen) == list(range(20, 40))  # type: ignore[type-var]

    def test_the_backlog_counts_what_the_input_recorded_until_it_is_emitted(self, log: Log) -> None:
        log.append("x" * 100)
        log.append("y" * 100, entry=INSIDE)
        assert 100 < log.log.backlog_bytes < 120
        log.turn()
        assert log.log.backlog_bytes > 100
        log.values()
        assert log.log.backlog_bytes == 0
        log.values(INSIDE)
        assert log.log.backlog_bytes == 0


class TestFailures:
    def test_dead_letters_are_grouped_for_people_by_node_kind_and_type(self) -> None:
        log = Log(Policy(max_attempts=1))
        for error in ("ValueError: 1", "ValueError: 2", "KeyError: 3"):
            log.append("a")
            [(emission, _)] = log.emitted()
            log.log.failed(closed(emission), fail(error=error))
            log.turn()
        groups = [(group["error"], group["count"]) for group in log.log.failures.show()]
        assert groups == [("ValueError: 1", 2), ("KeyError: 3", 1)]
        assert log.store.totals().failed == 3

    def test_the_groups_are_bounded_and_the_letters_are_not(self) -> None:
        log = Log(Policy(max_attempts=1))
        for number in range(30):
            log.append("a")
            [(emission, _)] = log.emitted()
            log.log.failed(closed(emission), fail(node=f"node{number}"))
            log.turn()
        assert (len(log.log.failures.show()), log.store.totals().failed) == (20, 30)


class TestUnread:
    """What is far ahead of the graph, or was left by an earlier acker, is not in memory."""

    def drain(self, log: Log) -> list[object]:
        """Take everything; the last few that were in memory may be overtaken by the first that were not."""
        seen: list[Any] = []
        while values := log.values():
            seen += values
        return sorted(seen, key=lambda value: (isinstance(value, str), value))

    def test_what_is_accepted_beyond_the_limit_of_memory_stays_in_the_store_and_is_lost_by_nobody(
        self, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lanes, "_FRESH_CHUNKS", 10)
        for value in range(2500):
            log.append(value)
        log.turn()
        assert len(log.log._open) < 1100
        assert log.log.holds()
        assert log.log.moving(anywhere)
        assert self.drain(log) == list(range(2500))
        assert not log.log.holds()

    def test_the_limit_counts_bytes_as_well(self, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lanes, "_FRESH_BYTES", 1000)
        values = [str(number) * 400 for number in range(9)]
        for value in values:
            log.append(value)
        for _ in range(3):
            log.log.flush()
            log.committer.settle()
        assert log.log.lanes[IN].fresh_bytes < 2000
        assert self.drain(log) == values

    def test_the_backlog_counts_what_is_not_in_memory_until_it_is_emitted(
        self, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lanes, "_FRESH_CHUNKS", 10)
        for value in range(100):
            log.append(value)
        log.turn()
        whole = log.log.backlog_bytes
        assert whole == 100 * len(codec.encode([1]))
        log.values()
        assert 0 < log.log.backlog_bytes < whole
        self.drain(log)
        assert log.log.backlog_bytes == 0

    def test_what_enters_inside_the_graph_meanwhile_is_taken_up_once(
        self, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lanes, "_FRESH_CHUNKS", 1)
        for value in range(3):
            log.append(value)
            log.append(value, entry=INSIDE)
        log.log.flush()
        log.committer.settle()
        assert log.values(INSIDE) == [0, 1, 2]
        assert self.drain(log) == [0, 1, 2]
        assert log.values(INSIDE) == []

    def test_what_is_recorded_while_a_page_is_read_is_not_passed_over(
        self, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lanes, "_FRESH_CHUNKS", 1)
        for value in range(3):
            log.append(value)
        log.log.flush()
        log.committer.settle()
        log.log.load(anywhere)
        log.append(3)
        log.log.flush()
        assert self.drain(log) == [0, 1, 2, 3]

    def test_a_chunk_that_ends_while_its_page_is_read_is_not_tried_again(
        self, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lanes, "_FRESH_CHUNKS", 1)
        for value in range(3):
            log.append(value)
            log.append(value, entry=INSIDE)
        log.log.flush()
        log.committer.settle()
        inside = log.log.lanes[INSIDE].take()
        log.log.load(anywhere)
        log.committer.work()
        log.log.completed(closed(Emission(0, inside.positions, INSIDE, inside.chunk, inside.positions)))
        log.log.flush(everything=True)
        assert self.drain(log) == [0, 1, 2]
        assert log.values(INSIDE) == [1, 2]

    def test_a_new_acker_reads_what_is_open_page_by_page(self, log: Log) -> None:
        for value in range(2500):
            log.append(value)
        log.turn()
        log.start()
        assert len(log.log._open) == 1000
        assert log.log.backlog_bytes == 0
        log.append("later")
        assert self.drain(log) == [*range(2500), "later"]
        assert log.log.backlog_bytes == 0
