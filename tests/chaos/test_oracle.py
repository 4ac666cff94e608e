"""The oracle finds what it is there to find."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consecutiond.acker.stores import open_store
from consecutiond.acker.stores.base import Append, Changes, Chunk, Failed
from consecutiond_broker import codec
from tests.chaos.oracle import Oracle, lines
from tests.graphs import dag


def failed(position: int, number: int) -> Failed:
    return Failed(position, 3, ("in",), codec.encode([{"id": number}]), 0.0, "node", "raised", "no", "", 1.0)


def story(tmp_path: Path, edit: Callable[[Changes], None] = lambda changes: None) -> str:
    """A log of five: 0 and 1 are completed, 2 is a dead letter, 3 waits, 4 is not done."""
    url = f"sqlite:///{tmp_path / 'log.sqlite'}"
    store = open_store(url, "fast")
    body = codec.encode([{"id": number} for number in range(5)])
    changes = Changes(
        [Append(Chunk(1, 1, 5, ("in",), body), None)], {1: b"\x0f"}, [failed(4, 3)], [failed(3, 2)], completed=2
    )
    edit(changes)
    store.commit(changes)
    store.close()
    return url


def oracle(receipted: int = 5) -> Oracle:
    oracle = Oracle(dag.outputs)
    oracle.receipt(oracle.draw(5)[:receipted])
    return oracle


def sink(*numbers: int) -> list[Any]:
    return [list(item) for number in numbers for item in sorted(dag.outputs(number))]


@pytest.mark.parametrize("receipted", [0, 5], ids=["nobody got the receipt", "with receipts"])
def test_a_whole_story(tmp_path: Path, receipted: int) -> None:
    verdict = oracle(receipted).judge(story(tmp_path), [*sink(0, 1, 1), *sink(2)[:1], *sink(4)])
    assert (verdict.completed, verdict.failed, verdict.open) == ({0, 1}, {2}, {3, 4})
    assert (verdict.accepted, verdict.repeated) == (5, 3)


def also_dead(changes: Changes) -> None:
    changes.dead.append(failed(1, 0))


def twice_open(changes: Changes) -> None:
    changes.waiting.append(failed(5, 4))


def miscounted(changes: Changes) -> None:
    changes.completed = 3


def over(changes: Changes) -> None:
    changes.done, changes.completed = {1: None}, 3


@pytest.mark.parametrize("edit", [also_dead, twice_open, miscounted])
def test_a_log_that_contradicts_itself(tmp_path: Path, edit: Callable[[Changes], None]) -> None:
    with pytest.raises(AssertionError):
        oracle().judge(story(tmp_path, edit), sink(0, 1))


@pytest.mark.parametrize(
    ("edit", "found", "message"),
    [
        (None, sink(0), "1 of 5 receipted inputs are lost"),
        (None, [*sink(0), *sink(1)[:2]], "1 of 5 receipted inputs are lost"),
        (over, sink(0, 1), "1 of 5 receipted inputs are lost"),
        (None, sink(0, 1, 5), "the sink has what was never sent"),
        (None, [*sink(0, 1), [1, 0, 77]], "1 items of the sink come from no root"),
    ],
    ids=["nothing written", "a part missing", "completed in the log only", "never sent", "of no root"],
)
def test_a_sink_that_contradicts_the_log(
    tmp_path: Path, edit: Callable[[Changes], None] | None, found: list[Any], message: str
) -> None:
    url = story(tmp_path, edit) if edit else story(tmp_path)
    with pytest.raises(AssertionError, match=message):
        oracle().judge(url, found)


def test_more_receipts_than_inputs() -> None:
    twice = oracle(1)
    with pytest.raises(AssertionError, match="two receipts"):
        twice.receipt([0])
    with pytest.raises(AssertionError, match="never sent"):
        twice.receipt([5])


def test_a_log_that_lacks_what_has_a_receipt(tmp_path: Path) -> None:
    longer = oracle()
    longer.receipt(longer.draw(1))
    with pytest.raises(AssertionError, match="1 of 6 receipted inputs are lost"):
        longer.judge(story(tmp_path), sink(0, 1))


def test_half_a_line_counts_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ids.jsonl"
    assert lines(path) == []
    path.write_bytes(b"[1,0,5]\n[2,0")
    assert lines(path) == [[1, 0, 5]]
