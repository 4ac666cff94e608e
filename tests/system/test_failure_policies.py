"""What becomes of items that fail: how often they are tried, how long they may take, and what happens in the end."""

from pathlib import Path
from typing import Any

import pytest

from consecutiond import Consecutor, Summary
from consecutiond.acker.stores import read_only
from consecutiond_broker.recorder import RefusedError
from tests.graphs import policies
from tests.system.shell import both_architectures, process_only, wait_for

pytestmark = both_architectures
GRAPHS = Path(policies.__file__)


@pytest.fixture
def make(tmp_path: Path) -> Any:
    def make(name: str, **options: Any) -> tuple[Consecutor, list[Any]]:
        out: list[Any] = []
        consecutor = Consecutor(
            getattr(policies, name), target=f"{GRAPHS}:{name}", id=name, dir=tmp_path,
            **{"retry_backoff_s": 0.01} | options,
        )  # fmt: skip
        return consecutor.register_output("out", out), out

    return make


def check(summary: Summary) -> None:
    discarded = summary.stats["discarded"]
    assert summary.accepted == (summary.completed or 0) + summary.failed + discarded + summary.open
    assert summary.stats["lost"] == 0, "the backstop had to help"


def letters(directory: Path, id: str) -> list[Any]:
    store = read_only(directory / id / "acker_db.sqlite")
    try:
        return store.dead_letters()
    finally:
        store.close()


# --- in the end ---------------------------------------------------------------------------------------------------


def test_a_node_that_drops_keeps_nothing_and_counts(make: Any, tmp_path: Path) -> None:
    consecutor, out = make("drop")
    summary = consecutor.produce_from_iterable([1, "a", 2, "b", 3])
    check(summary)
    assert sorted(out) == [1, 2, 3]
    assert (summary.completed, summary.failed, summary.stats["discarded"], summary.open) == (3, 0, 2, 0)
    assert summary.stats["retried"] == 4
    assert letters(tmp_path, "drop") == []


def test_a_node_that_stops_ends_the_input_finishes_what_is_open_and_keeps_the_item(make: Any, tmp_path: Path) -> None:
    def values() -> Any:
        number = 0
        while True:
            yield number
            number += 1
            if number == 50:
                yield "the bad one"

    consecutor, out = make("stop")
    with pytest.raises(RefusedError, match=r"failed for good in node stop.*no text"):
        consecutor.produce_from_iterable(values())
    summary = consecutor.last
    assert summary is not None
    check(summary)
    assert (summary.failed, summary.open) == (1, 0)
    assert sorted(out) == list(range(len(out)))
    assert len(out) >= 50
    [letter] = letters(tmp_path, "stop")
    assert letter.node == "stop"


def test_each_node_has_its_own_number_of_attempts(make: Any, tmp_path: Path) -> None:
    consecutor, out = make("own")
    summary = consecutor.produce_from_iterable([1, "a"])
    check(summary)
    assert out == [1, 1]
    # The first of the two that fails decides, and the node with one attempt has failed by then.
    [letter] = letters(tmp_path, "own")
    assert letter.attempts in (1, 2, 3, 4)
    assert letter.node == "one" or letter.attempts == 4


def test_a_root_is_given_up_when_its_next_attempt_would_come_too_late(make: Any, tmp_path: Path) -> None:
    consecutor, out = make("aged")
    summary = consecutor.produce_from_iterable([1, "a"])
    check(summary)
    assert (out, summary.failed) == ([1], 1)
    [letter] = letters(tmp_path, "aged")
    assert (letter.kind, letter.node) == ("expired", "aged")
    assert "max_age_s = 0.5" in letter.error
    assert "no text: a" in letter.error
    assert 1 <= letter.attempts < 1000


def test_a_root_that_was_not_tried_in_time_is_given_up_untried(make: Any, tmp_path: Path) -> None:
    consecutor, _ = make("fans", max_age_s=0.05, max_pending=1, batch_items=1)
    summary = consecutor.produce_from_iterable(range(5))
    check(summary)
    assert summary.failed >= 1
    found = letters(tmp_path, "fans")
    assert {letter.kind for letter in found} == {"expired"}
    assert any(letter.attempts == 0 and "not tried within" in letter.error for letter in found)


# --- time-outs ----------------------------------------------------------------------------------------------------


@process_only
@pytest.mark.parametrize("name", ["sleeps", "catches"])
def test_an_item_that_takes_too_long_fails_and_its_worker_goes_on(make: Any, tmp_path: Path, name: str) -> None:
    consecutor, out = make(name)
    summary = consecutor.produce_from_iterable(range(100))
    check(summary)
    assert sorted(out) == [value for value in range(100) if value not in policies.STUCK]
    assert (summary.completed, summary.failed) == (98, 2)
    for letter in letters(tmp_path, name):
        assert letter.kind == "timed out"
        assert "timeout_s = 0.2" in letter.error
        assert name == "catches" or "time.sleep(3600)" in letter.traceback
    assert summary.stats["swept"] == 0, "no worker died of it"


@process_only
def test_a_worker_that_does_not_come_back_is_killed_and_the_item_alone_has_failed(make: Any, tmp_path: Path) -> None:
    consecutor, out = make("holds")
    summary = consecutor.produce_from_iterable(range(100))
    check(summary)
    assert set(out) == set(range(100)) - set(policies.STUCK)
    assert (summary.completed, summary.failed) == (98, 2)
    for letter in letters(tmp_path, "holds"):
        assert (letter.kind, letter.node, letter.attempts) == ("timed out", "Holds", 1)
        assert "did not return" in letter.error
        assert "policies.py" in letter.traceback, "the stacks say what it was at, though it held the interpreter"


def test_a_coroutine_that_takes_too_long_is_cancelled_in_both_architectures(make: Any, tmp_path: Path) -> None:
    consecutor, out = make("awaits")
    summary = consecutor.produce_from_iterable(range(100))
    check(summary)
    assert sorted(out) == [value for value in range(100) if value not in policies.STUCK]
    assert {(letter.kind, letter.attempts) for letter in letters(tmp_path, "awaits")} == {("timed out", 2)}


def test_waiting_for_slower_nodes_is_not_taking_too_long(make: Any) -> None:
    consecutor, out = make("fans", batch_bytes=20_000, worker_window=1, edge_window=1)
    summary = consecutor.produce_from_iterable([1])
    check(summary)
    assert (summary.completed, len(out)) == (1, 300)


@process_only
def test_after_the_wait_the_clock_goes_on(make: Any, tmp_path: Path) -> None:
    consecutor, _ = make("fans_and_sleeps", batch_bytes=20_000, worker_window=1, edge_window=1)
    summary = consecutor.produce_from_iterable([1])
    check(summary)
    assert summary.failed == 1
    [letter] = letters(tmp_path, "fans_and_sleeps")
    assert letter.kind == "timed out"
    assert "time.sleep(3600)" in letter.traceback


# --- over a restart -----------------------------------------------------------------------------------------------


def test_a_retry_that_is_due_in_an_hour_survives_a_restart(make: Any) -> None:
    consecutor, _ = make("drop", retry_backoff_s=3600.0, retry_backoff_max_s=7200.0)
    consecutor.up()
    consecutor.push("a")
    wait_for(lambda: (consecutor.status()["waiting"] or 0) == 1, "the retry to wait")
    assert consecutor.stop().open == 1
    again, out = make("drop", retry_backoff_s=3600.0, retry_backoff_max_s=7200.0)
    again.up()
    again.push(1)
    wait_for(lambda: out == [1], "the good one")
    status = again.status()
    assert (status["waiting"], status["retried"]) == (1, 0)
    assert again.stop().open == 1
