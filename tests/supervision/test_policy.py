"""When a part is started again; time and chance are the test's."""

import pytest

from consecutiond.supervision.policy import BackOff, RestartPolicy

EVEN = BackOff(base_s=1.0, cap_s=60.0, stable_s=10.0, jitter=0.0)


def die_early(policy: RestartPolicy, now: float, name: str = "part") -> float:
    policy.on_ready(name, now)
    return policy.on_exit(name, now)


def test_a_part_that_lived_long_is_started_again_at_once() -> None:
    policy = RestartPolicy(lambda: 0.0, EVEN)
    policy.on_ready("part", 100.0)
    assert policy.on_exit("part", 110.0) == 0.0


def test_a_life_a_little_too_short_is_not_stable() -> None:
    policy = RestartPolicy(lambda: 0.0, EVEN)
    policy.on_ready("part", 100.0)
    assert policy.on_exit("part", 109.999) == 1.0


def test_short_lives_double_the_delay_up_to_the_cap() -> None:
    policy = RestartPolicy(lambda: 0.0, EVEN)
    assert [die_early(policy, t) for t in range(9)] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]


def test_a_part_that_never_lives_long_is_tried_for_ever_at_the_cap() -> None:
    """Thousands of doublings would not fit a float."""
    policy = RestartPolicy(lambda: 0.0, EVEN)
    assert {die_early(policy, float(t)) for t in range(5000)} == {1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0}


def test_a_stable_life_forgives_what_was_before() -> None:
    policy = RestartPolicy(lambda: 0.0, EVEN)
    for t in range(5):
        die_early(policy, float(t))
    assert policy.short_lives("part") == 5
    policy.on_ready("part", 50.0)
    assert policy.on_exit("part", 70.0) == 0.0
    assert policy.short_lives("part") == 0
    assert die_early(policy, 71.0) == 1.0


def test_parts_do_not_share_their_misfortune() -> None:
    policy = RestartPolicy(lambda: 0.0, EVEN)
    for t in range(5):
        die_early(policy, float(t), "bad")
    assert die_early(policy, 6.0, "good") == 1.0


@pytest.mark.parametrize(("chance", "delay"), [(0.0, 8.0), (0.5, 6.0), (0.999999, 4.000004)])
def test_chance_shortens_a_delay_by_the_jitters_share_at_most(chance: float, delay: float) -> None:
    policy = RestartPolicy(lambda: chance, BackOff(base_s=8.0, cap_s=60.0, stable_s=10.0, jitter=0.5))
    assert die_early(policy, 0.0) == pytest.approx(delay)


def test_the_cap_is_never_passed_and_chance_spreads_it_too() -> None:
    policy = RestartPolicy(lambda: 0.5, BackOff(base_s=1.0, cap_s=4.0, stable_s=10.0, jitter=0.5))
    assert [die_early(policy, float(t)) for t in range(4)] == [0.75, 1.5, 3.0, 3.0]


def test_a_death_of_a_part_that_was_never_up_counts_as_early() -> None:
    """A part that cannot even be started must back off like one that dies at once."""
    policy = RestartPolicy(lambda: 0.0, EVEN)
    assert [policy.on_exit("part", t) for t in (1000.0, 2000.0)] == [1.0, 2.0]


def test_a_forgotten_part_begins_anew() -> None:
    policy = RestartPolicy(lambda: 0.0, EVEN)
    die_early(policy, 0.0)
    policy.forget("part")
    assert die_early(policy, 1.0) == 1.0
