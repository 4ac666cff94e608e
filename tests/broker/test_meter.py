"""The rate of a counter."""

import pytest

from consecutiond_broker.clock import FakeClock
from consecutiond_broker.meter import Meter


def read(meter: Meter, clock: FakeClock, seconds: float, count: int) -> float:
    clock.advance(seconds)
    return meter.rate(count)


def test_a_rate_looks_back_a_few_seconds_and_forgets_what_was_before() -> None:
    clock = FakeClock()
    meter = Meter(clock, span_s=4)
    assert read(meter, clock, 1, 10) == 10
    assert read(meter, clock, 1, 10) == 5
    assert [read(meter, clock, 1, 10) for _ in range(5)] == pytest.approx([10 / 3, 10 / 4, 0, 0, 0])


def test_readings_that_are_far_apart_still_give_a_rate() -> None:
    clock = FakeClock()
    meter = Meter(clock, span_s=4)
    assert read(meter, clock, 60, 600) == 10
    assert read(meter, clock, 60, 1800) == 20


def test_two_readings_at_one_moment_divide_nothing_by_nothing() -> None:
    assert Meter(FakeClock()).rate(7) == 0


def test_readings_are_not_kept_for_ever() -> None:
    clock = FakeClock()
    meter = Meter(clock, span_s=4)
    for count in range(1000):
        read(meter, clock, 1, count)
    assert len(meter._readings) <= 6
