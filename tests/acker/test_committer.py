"""The store's thread: in order, again and again until it works, and never in the loop's way."""

import select
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from consecutiond.acker import committer as module
from consecutiond.acker.committer import Committer
from consecutiond.acker.stores.base import Append, Changes, Chunk, Origin, StoreError, StoreFullError, Totals
from consecutiond.acker.stores.memory import MemoryStore


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def committer(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Committer]:
    monkeypatch.setattr(module, "_RETRY_S", 0.001)
    store.open()
    committer = Committer(lambda: store)
    yield committer
    committer.close()


class Failing:
    """A call that raises so many times before it works."""

    def __init__(self, times: int, call: Callable[[], Any]) -> None:
        self.times, self.call, self.calls = times, call, 0

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        if self.calls <= self.times:
            raise StoreError("the disk is full")
        return self.call(*arguments)


def finish(committer: Committer, until: Callable[[], Any]) -> None:
    while not until():
        assert select.select([committer.fd], [], [], 20)[0]
        committer.finish()


def appended() -> Changes:
    return Changes(appends=[Append(Chunk(1, 1, 2, ("in",), b"values"), Origin(b"one", 1))])


def test_results_come_back_in_order_and_only_when_the_loop_asks(committer: Committer) -> None:
    results: list[Any] = []
    for number in range(50):
        committer.ask(lambda number=number: number, results.append)
    select.select([committer.fd], [], [], 20)
    assert results == []
    finish(committer, lambda: len(results) == 50)
    assert results == list(range(50))


def test_the_work_is_done_on_one_other_thread_and_its_result_is_taken_on_the_loops(committer: Committer) -> None:
    threads: list[Any] = []
    committer.ask(threading.get_ident, threads.append)
    committer.ask(threading.get_ident, lambda thread: threads.extend([thread, threading.get_ident()]))
    finish(committer, lambda: len(threads) == 3)
    assert threads[0] == threads[1] != threads[2] == threading.get_ident()


def test_the_loop_is_not_held_up_while_the_store_is_slow(committer: Committer) -> None:
    gate = threading.Event()
    results: list[Any] = []
    committer.ask(lambda: gate.wait(20), results.append)
    committer.finish()
    assert results == []
    gate.set()
    finish(committer, lambda: results)


def test_what_fails_is_tried_until_it_works_and_nothing_behind_it_overtakes(committer: Committer) -> None:
    results: list[Any] = []
    failing = Failing(3, lambda: "first")
    committer.ask(failing, results.append)
    committer.ask(lambda: "second", results.append)
    finish(committer, lambda: len(results) == 2)
    assert (results, failing.calls) == (["first", "second"], 4)


def test_trouble_says_why_as_long_as_it_lasts(committer: Committer) -> None:
    seen: list[str] = []
    refusing = Failing(2, lambda: None)

    def call() -> None:
        seen.append(committer.trouble)
        refusing()

    results: list[Any] = []
    committer.ask(call, results.append)
    finish(committer, lambda: results)
    assert seen == ["", "the disk is full", "the disk is full"]
    assert committer.trouble == ""


def test_a_commit_hands_out_the_totals_that_follow_from_it(committer: Committer) -> None:
    totals: list[Totals] = []
    committer.commit(appended(), totals.append)
    finish(committer, lambda: totals)
    assert totals == [Totals(accepted=2, completed=0, failed=0, waiting=0, open=2)]


def test_a_fault_in_reading_the_totals_does_not_commit_the_group_twice(
    committer: Committer, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = Failing(0, store.commit)  # type: ignore[arg-type]
    monkeypatch.setattr(store, "commit", commits)
    monkeypatch.setattr(store, "totals", Failing(2, store.totals))
    totals: list[Totals] = []
    committer.commit(appended(), totals.append)
    finish(committer, lambda: totals)
    assert (commits.calls, totals[0].accepted) == (1, 2)


def test_now_waits_for_the_result(committer: Committer) -> None:
    assert committer.now(lambda: 7) == 7


def test_an_error_that_is_no_trouble_of_the_store_reaches_whoever_waits(committer: Committer) -> None:
    with pytest.raises(ZeroDivisionError):
        committer.now(lambda: 1 / 0)


def test_an_error_that_is_no_trouble_of_the_store_ends_the_loop_and_not_only_the_thread(committer: Committer) -> None:
    results: list[Any] = []
    committer.ask(lambda: 1 / 0, results.append)
    with pytest.raises(ZeroDivisionError):
        finish(committer, lambda: results)


def test_a_store_that_cannot_be_opened_is_the_error_of_whoever_starts(store: MemoryStore) -> None:
    def opened() -> MemoryStore:
        raise StoreError("no such directory")

    with pytest.raises(StoreError, match="no such directory"):
        Committer(opened)


def test_close_finishes_what_was_handed_over_and_closes_the_store(store: MemoryStore) -> None:
    store.open()
    committer = Committer(lambda: store)
    done: list[int] = []
    for number in range(10):
        committer.ask(lambda number=number: done.append(number), lambda _result: None)
    committer.close()
    assert done == list(range(10))
    with pytest.raises(StoreError, match="not open"):
        store.totals()


def test_close_does_not_wait_for_a_store_that_will_never_work(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RETRY_S", 3600.0)
    monkeypatch.setattr(module, "_CLOSE_S", 0.01)
    store.open()
    committer = Committer(lambda: store)
    refusing = Failing(10**9, lambda: None)
    committer.ask(refusing, lambda _result: None)
    committer.close()
    assert refusing.calls >= 1


class Full(MemoryStore):
    """Has no room for another batch, while it is told so."""

    full = True

    def commit(self, changes: Changes) -> None:
        if self.full and changes.appends:
            raise StoreFullError("the memory is full")
        super().commit(changes)


class TestFull:
    """What ends work, and so may make room, goes past what begins some."""

    @pytest.fixture
    def store(self) -> Full:
        store = Full()
        store.open()
        store.full = False
        store.commit(appended())
        store.full = True
        return store

    def test_what_ends_in_a_group_is_committed_before_what_begins_in_it(
        self, committer: Committer, store: Full
    ) -> None:
        totals: list[Totals] = []
        chunk = Chunk(2, 3, 1, ("in",), b"value")
        committer.commit(Changes([Append(chunk, Origin(b"one", 2))], done={1: None}, completed=2), totals.append)
        finish(committer, lambda: committer.trouble and not store.open_chunks())
        assert (store.totals().completed, store.totals().accepted, totals) == (2, 2, [])
        store.full = False
        finish(committer, lambda: totals)
        assert [(each.accepted, each.completed, each.open) for each in totals] == [(3, 2, 1)]

    def test_what_ends_later_and_what_only_reads_go_past_it_in_order(self, committer: Committer, store: Full) -> None:
        results: list[Any] = []
        chunk = Chunk(2, 3, 1, ("in",), b"value")
        committer.commit(Changes([Append(chunk, Origin(b"one", 2))]), lambda _: results.append("begun"))
        committer.read(lambda: store.body(1), results.append)
        committer.relieve(Changes(done={1: b"\x01"}, completed=1), lambda totals: results.append(totals.completed))
        finish(committer, lambda: len(results) == 2)
        committer.relieve(Changes(done={1: None}, completed=1), lambda totals: results.append(totals.completed))
        finish(committer, lambda: len(results) == 3)
        assert results == [b"values", 1, 2]
        store.full = False
        finish(committer, lambda: len(results) == 4)
        assert results[3] == "begun"
        assert store.totals().open == 1

    def test_what_was_to_go_past_it_comes_behind_it_if_it_finds_room_first(
        self, committer: Committer, store: Full
    ) -> None:
        results: list[Any] = []
        store.full = False
        committer.commit(Changes([Append(Chunk(2, 3, 1, ("in",), b"value"), None)]), lambda _: results.append("begun"))
        committer.relieve(Changes(done={1: None}, completed=2), lambda totals: results.append(totals.completed))
        finish(committer, lambda: len(results) == 2)
        assert results == ["begun", 2]

    def test_nothing_goes_past_a_commit_that_fails_for_another_reason(self, committer: Committer, store: Full) -> None:
        """It may have been applied although nobody heard of it: what comes before it would be in its place."""
        results: list[Any] = []
        store.full = False
        refused = Failing(20, store.commit)
        store.commit = refused  # type: ignore[method-assign]
        committer.commit(Changes([Append(Chunk(2, 3, 1, ("in",), b"value"), None)]), lambda _: results.append("begun"))
        committer.relieve(Changes(done={1: None}, completed=2), lambda totals: results.append(totals.completed))
        finish(committer, lambda: len(results) == 2)
        assert results == ["begun", 2]

    def test_what_went_past_and_may_be_applied_is_told_before_anything_else_is_committed(
        self, committer: Committer, store: Full
    ) -> None:
        """A store knows a group again that it has applied unheard only if no other came in between."""
        asked: list[Changes] = []
        commit = store.commit

        def losing(changes: Changes) -> None:
            asked.append(changes)
            if changes is relief and asked.count(relief) == 1:
                commit(changes)
                raise StoreError("the connection broke before the answer")
            if changes is not relief:
                commit(changes)

        results: list[Any] = []
        begun = Changes([Append(Chunk(2, 3, 1, ("in",), b"value"), None)])
        relief = Changes(done={1: None}, completed=2)
        committer.commit(begun, lambda _: results.append("begun"))
        finish(committer, lambda: committer.trouble)
        store.commit = losing  # type: ignore[method-assign]
        committer.relieve(relief, lambda totals: results.append(totals.completed))
        finish(committer, lambda: results)
        first = asked.index(relief)
        assert asked[first + 1] is relief
        store.full = False
        finish(committer, lambda: len(results) == 2)
        assert (results, store.totals().completed) == ([2, "begun"], 2)

    def test_a_fault_in_reading_the_totals_of_what_went_past_loses_nothing(
        self, committer: Committer, store: Full
    ) -> None:
        results: list[Any] = []
        committer.commit(Changes([Append(Chunk(2, 3, 1, ("in",), b"value"), None)]), lambda _: results.append("begun"))
        finish(committer, lambda: committer.trouble)
        store.totals = Failing(3, store.totals)  # type: ignore[method-assign]
        committer.relieve(Changes(done={1: None}, completed=2), lambda totals: results.append(totals.completed))
        finish(committer, lambda: results)
        assert results == [2]
        assert committer.store.totals().completed == 2


def test_a_store_that_refuses_is_asked_ever_more_rarely(committer: Committer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY_S", 0.001)
    monkeypatch.setattr(module, "_RETRY_MAX_S", 0.004)
    waits: list[float] = []
    wait = committer._stop.wait

    def watched(seconds: float) -> bool:
        waits.append(seconds)
        return wait(seconds)

    monkeypatch.setattr(committer._stop, "wait", watched)
    results: list[Any] = []
    committer.ask(Failing(5, lambda: "done"), results.append)
    finish(committer, lambda: results)
    committer.ask(Failing(1, lambda: "done"), results.append)
    finish(committer, lambda: len(results) == 2)
    assert waits == [0.001, 0.002, 0.004, 0.004, 0.004, 0.001]
