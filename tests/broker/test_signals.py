"""Signals as readable bytes."""

import os
import select
import signal
from collections.abc import Iterator

import pytest

from consecutiond_broker.signals import Signals


@pytest.fixture
def signals() -> Iterator[Signals]:
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    signals = Signals(signal.SIGUSR1)
    yield signals
    signals.close()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_makes_the_descriptor_readable_and_is_taken_once(signals: Signals) -> None:
    os.kill(os.getpid(), signal.SIGUSR1)
    assert select.select([signals], [], [], 20)[0]
    assert signals.taken() == [signal.SIGUSR1]
    assert signals.taken() == []


def test_a_signal_that_only_the_user_s_code_handles_is_none_of_ours(signals: Signals) -> None:
    """An alarm that a node sets must not end its worker."""
    came: list[int] = []
    signal.signal(signal.SIGUSR2, lambda number, _frame: came.append(number))
    os.kill(os.getpid(), signal.SIGUSR2)
    assert select.select([signals], [], [], 20)[0]
    assert signals.taken() == []
    assert came == [signal.SIGUSR2]
