"""A rolling restart: who is asked when, with time and parts that are the test's."""

import pytest

from consecutiond.supervision.rolling import Rolling

NAMES = ("a.0", "a.1", "b.0")


class Fakes:
    """Parts that live, end and come up as the test says; notes what they are told."""

    def __init__(self, *names: str) -> None:
        self.epochs = dict.fromkeys(names, 1)
        self.living, self.up = set(names), set(names)
        self.reasons = dict.fromkeys(names, "")
        self.told: list[tuple[str, str]] = []

    def epoch(self, name: str) -> int:
        return self.epochs[name]

    def lives(self, name: str) -> bool:
        return name in self.living

    def is_ready(self, name: str) -> bool:
        return name in self.up

    def reason(self, name: str) -> str:
        return self.reasons[name]

    def end(self, name: str) -> None:
        self.told.append(("end", name))

    def kill(self, name: str) -> None:
        self.told.append(("kill", name))

    def revive(self, name: str) -> None:
        self.told.append(("revive", name))

    # --- what happens to them ---

    def die(self, name: str) -> None:
        self.living.discard(name)
        self.up.discard(name)

    def start(self, name: str) -> None:
        self.epochs[name] += 1
        self.living.add(name)

    def come_up(self, name: str) -> None:
        self.start(name)
        self.up.add(name)


@pytest.fixture
def parts() -> Fakes:
    return Fakes(*NAMES)


@pytest.fixture
def rolling(parts: Fakes) -> Rolling:
    return Rolling(NAMES, parts, end_s=5.0, start_s=60.0)


def test_each_is_asked_when_the_successor_of_the_one_before_is_up(rolling: Rolling, parts: Fakes) -> None:
    for number, name in enumerate(NAMES, 1):
        rolling.step(0.0)
        assert parts.told == [("end", each) for each in NAMES[:number]]
        parts.die(name)
        rolling.step(0.0)
        parts.start(name)
        rolling.step(0.0)
        assert len(parts.told) == number
        parts.up.add(name)
    rolling.step(0.0)
    assert rolling.over
    assert (rolling.restarted, rolling.killed, rolling.left, rolling.error) == ([*NAMES], [], [], "")


def test_a_death_and_a_successor_that_are_seen_at_once_are_a_restart(rolling: Rolling, parts: Fakes) -> None:
    rolling.step(0.0)
    parts.come_up("a.0")
    rolling.step(0.0)
    assert rolling.restarted == ["a.0"]
    assert parts.told == [("end", "a.0"), ("end", "a.1")]


def test_one_that_is_still_up_was_not_restarted(rolling: Rolling, parts: Fakes) -> None:
    rolling.step(0.0)
    rolling.step(4.9)
    assert (rolling.at, rolling.restarted) == ("a.0", [])
    assert parts.told == [("end", "a.0")]


def test_one_that_does_not_end_in_time_is_killed_once_and_the_restart_goes_on(rolling: Rolling, parts: Fakes) -> None:
    rolling.step(0.0)
    rolling.step(5.0)
    rolling.step(6.0)
    assert parts.told == [("end", "a.0"), ("kill", "a.0")]
    parts.die("a.0")
    rolling.step(7.0)
    parts.come_up("a.0")
    rolling.step(8.0)
    assert (rolling.killed, rolling.restarted, rolling.at) == (["a.0"], ["a.0"], "a.1")


def test_one_that_not_even_a_kill_ends_ends_the_restart(rolling: Rolling, parts: Fakes) -> None:
    rolling.step(0.0)
    rolling.step(5.0)
    rolling.step(14.9)
    assert not rolling.over
    rolling.step(15.0)
    assert "a.0 was killed and is still there" in rolling.error


def test_a_successor_that_cannot_start_ends_it_and_spares_the_others(rolling: Rolling, parts: Fakes) -> None:
    """Most likely the code was changed, and is broken: the workers that have the old one go on."""
    rolling.step(0.0)
    parts.die("a.0")
    rolling.step(1.0)
    parts.start("a.0")
    parts.reasons["a.0"] = "LookupError: no such table\n"
    rolling.step(2.0)
    assert rolling.over
    assert not rolling.broken_off
    assert rolling.error == "a.0 could not start:\nLookupError: no such table"
    assert (rolling.at, rolling.left) == ("a.0", ["a.1", "b.0"])
    assert parts.told == [("end", "a.0")]


def test_what_the_one_before_had_said_is_not_taken_for_the_successors_word(rolling: Rolling, parts: Fakes) -> None:
    parts.die("a.0")
    parts.reasons["a.0"] = "of the last life"
    rolling.step(0.0)
    assert not rolling.over


def test_a_successor_that_is_never_up_ends_it(rolling: Rolling, parts: Fakes) -> None:
    rolling.step(0.0)
    parts.die("a.0")
    rolling.step(1.0)
    rolling.step(60.9)
    assert not rolling.over
    rolling.step(61.0)
    assert rolling.error == "a.0 did not come up within 60 s; see its log"


def test_a_dead_one_is_started_and_waited_for(rolling: Rolling, parts: Fakes) -> None:
    parts.die("a.0")
    rolling.step(0.0)
    assert parts.told == [("revive", "a.0")]
    parts.come_up("a.0")
    rolling.step(1.0)
    assert rolling.at == "a.1"


def test_broken_off_it_asks_nobody_any_more(rolling: Rolling, parts: Fakes) -> None:
    rolling.step(0.0)
    rolling.break_off("a stop")
    parts.come_up("a.0")
    rolling.step(1.0)
    assert (rolling.over, rolling.broken_off, rolling.error) == (True, True, "a stop")
    assert parts.told == [("end", "a.0")]


def test_one_that_is_over_cannot_be_broken_off(parts: Fakes) -> None:
    rolling = Rolling((), parts, end_s=5.0, start_s=60.0)
    rolling.break_off("a stop")
    assert rolling.error == ""
