"""The time that one call may take: what is interrupted, and what is not."""

import signal
import time
from array import array
from collections.abc import Iterator
from typing import Any

import pytest

from consecutiond_broker.cell import OUTPUTS, SINCE, TIMEOUT
from consecutiond_nodes import alarm
from consecutiond_nodes.alarm import Alarm, ProcessTimeout
from consecutiond_nodes.errors import NodeError
from consecutiond_nodes.failurepolicy import FailurePolicy
from consecutiond_nodes.node import Node


@pytest.fixture
def words() -> memoryview:
    return memoryview(array("Q", [0] * (OUTPUTS + 1)))


@pytest.fixture(autouse=True)
def _quiet_afterwards() -> Iterator[None]:
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def busy(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def test_a_call_that_takes_too_long_is_interrupted_where_it_is(words: memoryview) -> None:
    with pytest.raises(ProcessTimeout, match=r"longer than timeout_s = 0.05") as caught:
        Alarm(0.05, words).guarded(lambda value: busy(value))(60.0)
    assert "busy" in [entry.name for entry in caught.traceback]
    assert words[TIMEOUT] == 50_000_000


def test_one_that_is_quick_is_not_and_leaves_no_alarm(words: memoryview) -> None:
    seen: list[int] = []
    run = Alarm(5.0, words).guarded(lambda _value: seen.append(words[SINCE]))
    run(1)
    assert seen[0] > 0
    assert words[SINCE] == 0
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_one_that_raises_leaves_no_alarm(words: memoryview) -> None:
    with pytest.raises(ZeroDivisionError):
        Alarm(5.0, words).guarded(lambda value: 1 / value)(0)
    assert (words[SINCE], signal.getitimer(signal.ITIMER_REAL)[0]) == (0, 0)


def test_one_that_catches_everything_has_taken_too_long_all_the_same(words: memoryview) -> None:
    def stubborn(_value: object) -> None:
        try:
            busy(60.0)
        except BaseException:
            pass

    with pytest.raises(ProcessTimeout):
        Alarm(0.05, words).guarded(stubborn)(1)


def test_code_of_ours_that_the_call_uses_is_not_interrupted(words: memoryview, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if `busy` were ours: it ends before the call is interrupted."""
    done: list[str] = []

    def ours(_value: object) -> None:
        exec(compile("busy(0.3); done.append('ours')", "/ours/push.py", "exec"), {"busy": busy, "done": done})
        busy(60.0)

    monkeypatch.setattr(alarm, "_OURS", ("/ours/",))
    with pytest.raises(ProcessTimeout):
        Alarm(0.05, words).guarded(ours)(1)
    assert done == ["ours"]


def test_time_spent_waiting_for_others_does_not_count(words: memoryview) -> None:
    alarm = Alarm(0.2, words)

    def waits(_value: object) -> None:
        left = alarm.pause()
        assert words[SINCE] == 0
        busy(0.4)
        alarm.resume(left)
        assert words[SINCE] > 0

    alarm.guarded(waits)(1)


@pytest.mark.parametrize(
    ("policy", "text"),
    [({"max_attempts": 0}, "max_attempts=0"), ({"max_attempts": True}, "max_attempts=True"),
     ({"max_attempts": 1.5}, "max_attempts=1.5"), ({"timeout_s": -1}, "timeout_s=-1"),
     ({"backoff_s": float("inf")}, "backoff_s=inf"), ({"max_age_s": "long"}, "max_age_s='long'"),
     ({"exhausted": "burn"}, "give one of 'dead-letter', 'drop', 'stop'"),
     ({"exhausted": "burn", "max_attempts": 0}, "max_attempts=0")],
)  # fmt: skip
def test_a_wrong_policy_is_refused_with_every_fault(policy: dict[str, Any], text: str) -> None:
    node = Node("mine")
    with pytest.raises(NodeError, match=r"node 'mine': set_failure_policy") as caught:
        node.set_failure_policy(**policy)
    assert text in str(caught.value)
    assert node.failure_policy == FailurePolicy()


def test_what_is_not_said_stays_as_it_is() -> None:
    node = Node("mine")
    node.set_failure_policy(max_attempts=5, timeout_s=2)
    node.set_failure_policy(exhausted="drop")
    assert node.failure_policy == FailurePolicy(max_attempts=5, timeout_s=2, exhausted="drop")
