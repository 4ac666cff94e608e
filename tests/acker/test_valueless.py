"""The input log on a store that keeps no values, or has lost them: no root waits for ever or is lost silently."""

from typing import Any

import pytest
from msgspec.structs import replace

from consecutiond.acker import lanes
from consecutiond.acker.inputlog import LOST
from consecutiond.acker.policies import Policy
from consecutiond.acker.stores.base import Failed
from consecutiond.acker.stores.split import ValuesApart
from consecutiond_broker import codec
from tests.acker.logbench import IN, INSIDE, Log, anywhere, closed, fail


class Apart(Log):
    """Values in memory, or nowhere; the accounts outlive a restart."""

    def __init__(self, policy: Policy, *, keep: bool) -> None:
        self.keep = keep
        super().__init__(policy)

    def start(self) -> None:
        super().start()
        apart = ValuesApart(self.store, keep=self.keep)
        apart.salt = self.store.salt
        self.committer.store = apart  # type: ignore[assignment]

    def dead(self) -> list[Failed]:
        return self.store.dead_letters()

    def check_conserved(self, accepted: int) -> None:
        totals = self.store.totals()
        assert totals.accepted == totals.completed + totals.failed + totals.discarded + totals.open == accepted


def make(*, keep: bool, **policy: Any) -> Apart:
    return Apart(Policy(**{"max_attempts": 3, "backoff_s": 1.0} | policy), keep=keep)


def test_a_root_that_fails_is_a_dead_letter_without_a_value_at_once() -> None:
    log = make(keep=False)
    log.append("a", "b")
    [(emission, _)] = log.emitted()
    log.log.failed(closed(emission, 1), replace(fail(), item=codec.encode(["what came of it"])))
    log.turn()
    [letter] = log.dead()
    assert (letter.position, letter.attempts, letter.kind, letter.error) == (2, 1, "raised", "ValueError: no")
    assert (letter.traceback, letter.body, letter.item) == ("Traceback …", b"", b"")
    log.check_conserved(2)


def test_values_in_memory_are_tried_again_and_are_then_in_a_row_of_their_own() -> None:
    log = make(keep=True)
    log.append("a")
    [(emission, _)] = log.emitted()
    log.log.failed(closed(emission), fail())
    log.turn()
    assert log.store.waiting()[0].body
    log.start()
    log.clock.advance(60)
    assert log.values() == ["a"]


@pytest.mark.parametrize(("keep", "lost"), [(True, 0), (False, 2)])
def test_swept_roots_are_emitted_again_if_there_are_values_and_else_lost(*, keep: bool, lost: int) -> None:
    log = make(keep=keep)
    log.append("a", "b", "c")
    [(emission, _)] = log.emitted()
    log.log.completed(closed(emission, 1))
    log.log.again(closed(emission, 0, 2))
    assert len(log.values()) == 2 - lost
    log.turn()
    assert [letter.position for letter in log.dead()] == [1, 3][:lost]
    assert all(letter.kind == LOST and "a part of the graph" in letter.error for letter in log.dead())
    assert (log.log.moving(anywhere), log.log.holds()) == (False, False)
    log.check_conserved(3)


@pytest.mark.parametrize("keep", [True, False])
def test_after_a_restart_what_was_open_is_lost_and_says_why(*, keep: bool) -> None:
    log = make(keep=keep)
    log.append("a", "b", "c")
    [(emission, _)] = log.emitted()
    log.log.completed(closed(emission, 1))
    log.log.flush(everything=True)
    log.committer.settle()
    log.start()
    assert log.values() == []
    log.turn()
    assert [(letter.position, letter.body, letter.entry) for letter in log.dead()] == [
        (1, b"", ("in",)),
        (3, b"", ("in",)),
    ]
    assert all(letter.kind == LOST and "the acker that had it" in letter.error for letter in log.dead())
    assert (log.store.open_chunks(), log.log.holds(), log.log.clean()) == ([], False, True)
    log.check_conserved(3)


def test_many_that_are_lost_go_a_few_chunks_at_a_time() -> None:
    log = make(keep=True)
    for value in range(30):
        log.append(value)
        log.turn()
    log.start()
    log.log.load(anywhere)
    log.committer.settle()
    log.log.flush()
    log.committer.settle()
    assert 0 < len(log.dead()) < 30
    for _ in range(10):
        log.turn()
    assert len(log.dead()) == 30
    log.check_conserved(30)


def test_lost_roots_follow_the_policy_of_what_is_given_up() -> None:
    log = make(keep=True, exhausted="drop")
    log.append("a", "b")
    log.turn()
    log.start()
    log.turn()
    assert (log.dead(), log.store.totals().discarded) == ([], 2)
    log.check_conserved(2)


def test_values_that_are_kept_nowhere_wait_for_their_emission_and_are_gone_then() -> None:
    """However many there are: none may be left to a store that has not got them."""
    log = make(keep=False)
    for value in range(20):
        log.append(value, entry=INSIDE)
        log.append(-value)
        log.turn()
    assert log.values(INSIDE) == list(range(20))
    assert log.values() == [-value for value in range(20)]
    assert log.log.backlog_bytes == 0


def test_values_that_are_kept_nowhere_are_not_left_to_the_store_when_there_are_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lanes, "_FRESH_CHUNKS", 2)
    log = make(keep=False)
    for value in range(10):
        log.append(value)
        log.turn()
    assert log.values() == list(range(10))
    log.turn()
    assert log.dead() == []


def test_an_input_that_was_too_old_before_it_was_emitted_still_has_its_value() -> None:
    log = make(keep=False, max_age_s=5.0)
    log.append("a")
    log.turn()
    log.clock.advance(6.0)
    assert log.log.take(log.log.lanes[IN]) is None
    log.turn()
    assert [(letter.kind, bool(letter.body)) for letter in log.dead()] == [("expired", True)]
