"""A batch that is not any more what was accepted is never worked on: its roots are kept as damaged, all others flow."""

from typing import Any

import pytest
from msgspec.structs import replace

from consecutiond.acker import lanes
from consecutiond.acker.policies import Policy
from tests.acker.logbench import Log, closed, fail


@pytest.fixture
def log() -> Log:
    return Log(Policy(max_attempts=3, backoff_s=8.0, backoff_max_s=20.0))


def flip(log: Log, chunk: int) -> None:
    """Change one bit of the values of a batch in the store."""
    stored = log.store._chunks[chunk]
    changed = bytearray(stored.body)
    changed[-1] ^= 1
    log.store._chunks[chunk] = replace(stored, body=bytes(changed))


def drain(log: Log) -> list[Any]:
    seen: list[Any] = []
    while values := log.values():
        seen += values
    return seen


def test_after_a_restart_a_damaged_batch_is_kept_and_the_others_are_emitted(log: Log) -> None:
    log.append("a", "b")
    log.append("c", "d")
    log.turn()
    flip(log, 1)
    log.start()
    assert drain(log) == ["c", "d"]
    log.turn()
    letters = log.store.dead_letters()
    assert [(letter.position, letter.kind, letter.body) for letter in letters] == [
        (1, "damaged", b""),
        (2, "damaged", b""),
    ]
    assert "the checksum does not fit" in letters[0].error
    totals = log.store.totals()
    assert (totals.accepted, totals.failed, totals.open) == (4, 2, 2)
    assert log.log.clean()


def test_of_a_batch_that_is_partly_done_only_the_rest_is_kept_as_damaged(log: Log) -> None:
    log.append("a", "b", "c")
    [(emission, _)] = log.emitted()
    log.log.completed(closed(emission, 1))
    log.log.flush(everything=True)
    log.committer.settle()
    flip(log, 1)
    log.start()
    assert drain(log) == []
    log.turn()
    assert [letter.position for letter in log.store.dead_letters()] == [1, 3]
    assert (log.store.totals().completed, log.store.totals().open) == (1, 0)


def test_a_root_that_fails_and_whose_batch_was_damaged_meanwhile_is_kept_at_once_without_a_value(log: Log) -> None:
    log.append("a", "b")
    [(emission, _)] = log.emitted()
    flip(log, 1)
    log.log.failed(closed(emission, 1), fail())
    log.turn()
    [letter] = log.store.dead_letters()
    assert (letter.position, letter.kind, letter.body, letter.attempts) == (2, "raised", b"", 1)


def test_what_waits_in_the_store_and_is_damaged_there_does_not_hold_back_receipts(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "_FRESH_CHUNKS", 1)
    for value in range(5):
        log.append(value)
    log.log.flush()
    log.committer.settle()
    flip(log, 4)
    assert sorted(drain(log)) == [0, 1, 2, 4]
    assert log.log.backlog_bytes == 0
    assert [letter.kind for letter in log.store.dead_letters()] == ["damaged"]


def test_a_batch_of_an_acker_that_made_no_checksum_is_taken_as_it_is(log: Log) -> None:
    log.append("a")
    log.turn()
    log.store._chunks[1] = replace(log.store._chunks[1], checksum=-1)
    log.start()
    assert drain(log) == ["a"]
