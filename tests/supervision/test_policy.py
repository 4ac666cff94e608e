"""When a part is started again; time and chance are the test's."""

import pytest

from consecutiond.config import Settings
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


# --- giving up -----------------------------------------------------------------------------------------------

LIMITED = BackOff(base_s=1.0, cap_s=4.0, stable_s=10.0, jitter=0.0, limit=3, window_s=100.0)


def test_a_part_is_spent_after_so_many_early_deaths_within_the_window() -> None:
    policy = RestartPolicy(lambda: 0.0, LIMITED)
    spent = []
    for t in (0.0, 50.0, 100.0):
        die_early(policy, t)
        spent.append(policy.is_spent("part", t))
    assert spent == [False, False, True]
    assert not policy.is_spent("other", 100.0)


def test_early_deaths_that_are_further_apart_than_the_window_are_no_reason() -> None:
    policy = RestartPolicy(lambda: 0.0, LIMITED)
    for t in (0.0, 50.1, 100.1, 150.2, 200.2):
        die_early(policy, t)
        assert not policy.is_spent("part", t)
    die_early(policy, 201.0)
    assert policy.is_spent("part", 201.0)


def test_a_stable_life_and_a_request_begin_the_count_anew() -> None:
    policy = RestartPolicy(lambda: 0.0, LIMITED)
    for renew in (lambda: (policy.on_ready("part", 2.0), policy.on_exit("part", 12.0)), lambda: policy.forget("part")):
        die_early(policy, 0.0)
        die_early(policy, 1.0)
        renew()
        die_early(policy, 13.0)
        die_early(policy, 14.0)
        assert not policy.is_spent("part", 14.0)
        die_early(policy, 15.0)
        assert policy.is_spent("part", 15.0)
        policy.forget("part")


def test_deaths_that_are_an_items_fault_delay_and_do_not_spend() -> None:
    policy = RestartPolicy(lambda: 0.0, LIMITED)
    assert [policy.on_exit("part", t, counts=False) for t in (0.0, 1.0, 2.0, 3.0)] == [1.0, 2.0, 4.0, 4.0]
    assert not policy.is_spent("part", 3.0)


def test_without_a_limit_nobody_is_ever_spent() -> None:
    policy = RestartPolicy(lambda: 0.0, EVEN)
    for t in range(1000):
        die_early(policy, float(t))
    assert not policy.is_spent("part", 1000.0)


def test_by_default_a_part_that_cannot_start_is_started_at_most_twelve_times_in_five_minutes() -> None:
    """However chance shortens the delays; and it is given up within these minutes, if starts take ten seconds."""
    settings = Settings()
    numbers = BackOff(limit=settings.restart_limit, window_s=settings.restart_window_s)
    for chance, start_s in ((0.0, 0.0), (0.999, 0.0), (0.0, 10.0)):
        policy, now, starts = RestartPolicy(lambda chance=chance: chance, numbers), 0.0, 0
        while not policy.is_spent("part", now):
            starts += 1
            policy.on_start("part")
            now += start_s
            delay = policy.on_exit("part", now)
            if not policy.is_spent("part", now):
                now += delay
        assert starts == 12
        assert now <= 300.0
