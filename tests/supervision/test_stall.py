"""When a graph has stalled: work to do, and nothing moves."""

from typing import Any

import pytest

from consecutiond.supervision.stall import Stall

STALL_S = 10.0
IDLE = {"accepted": 5, "completed": 5, "failed": 0, "discarded": 0, "emitted": 5, "reports": 5, "open": 0, "waiting": 0}


def stats(**changed: int) -> dict[str, Any]:
    return {**IDLE, "accepted": 9, "open": 4, **changed}


@pytest.fixture
def stall() -> Stall:
    return Stall(STALL_S, 0.0)


def test_a_backlog_without_progress_stalls_once_the_time_is_over(stall: Stall) -> None:
    assert [stall.observe(stats(), 0, now) for now in (1.0, 5.0, 10.9, 11.0, 12.0)] == [
        False,
        False,
        False,
        True,
        False,
    ]
    assert stall.stalled
    assert stall.seconds(12.0) == 11.0


@pytest.mark.parametrize("counter", ["accepted", "completed", "failed", "discarded", "emitted", "reports"])
def test_any_counter_that_moves_is_progress(stall: Stall, counter: str) -> None:
    stall.observe(stats(), 0, 1.0)
    stall.observe(stats(**{counter: 100}), 0, 10.0)
    assert not stall.observe(stats(**{counter: 100}), 0, 19.9)
    assert stall.observe(stats(**{counter: 100}), 0, 20.0)


def test_a_worker_that_goes_from_item_to_item_is_progress(stall: Stall) -> None:
    for now in range(1, 100):
        assert not stall.observe(stats(), now, float(now))


@pytest.mark.parametrize("nothing", [IDLE, stats(waiting=4), {**stats(), "only_held": True}])
def test_nothing_that_could_be_done_now_is_no_stall(stall: Stall, nothing: dict[str, Any]) -> None:
    for now in range(1, 100):
        assert not stall.observe(nothing, 0, float(now))


def test_an_acker_that_does_not_answer_is_no_progress(stall: Stall) -> None:
    stall.observe(IDLE, 0, 1.0)
    assert [stall.observe({}, 0, now) for now in (5.0, 11.0)] == [False, True]
    assert stall.observe(IDLE, 0, 12.0) is False
    assert not stall.stalled


def test_it_moves_again(stall: Stall) -> None:
    for now in (1.0, 11.0):
        stall.observe(stats(), 0, now)
    assert stall.stalled
    stall.observe(stats(completed=6), 0, 12.0)
    assert not stall.stalled
    assert [stall.observe(stats(completed=6), 0, now) for now in (21.0, 22.0)] == [False, True]
