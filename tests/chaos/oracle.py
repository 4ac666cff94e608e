"""The oracle of every chaos row: it keeps what has a receipt itself, and then reads store and sink themselves.

**accepted = completed + failed and kept + open, disjoint.** Nothing else is asked: neither `status` nor a summary.

    oracle = Oracle(dag.outputs)
    ids = oracle.draw(500)                       # new ones, noted as sent
    push([dag.item(number) for number in ids])
    oracle.receipt(ids)                          # once the push has returned
    …                                            # faults; heal; drain
    verdict = oracle.judge(store_url, lines("ids.jsonl"))
    assert verdict.open == set()                 # after the drain; the rest was checked by `judge`

While nobody writes to store and sink, `judge` holds whatever is open. While the consecutor runs only `Log` is of use.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from consecutiond.acker.stores import ReadableStore, Totals, read_only
from consecutiond.acker.stores.base import Failed, OpenChunk
from consecutiond_broker import codec

_PAGE = 1000


@dataclass(frozen=True)
class Log:
    """What a store holds, each root by its position: those that are open, and those that have failed."""

    totals: Totals
    #: values of roots of chunks that need them still
    unfinished: dict[int, Any]
    #: values of roots that wait for another attempt
    waiting: dict[int, Any]
    #: values of dead letters
    dead: dict[int, Any]
    letters: list[Failed]

    @classmethod
    def read(cls, url: str | Path) -> "Log":
        """Read all of it; a path is one of an SQLite file."""
        store = read_only(url)
        try:
            waiting, letters = list(_paged(store.waiting)), list(_paged(store.dead_letters))
            unfinished = dict(root for row in _chunks(store) for root in _unfinished(store, row))
            totals = store.totals()
        finally:
            store.close()
        return cls(totals, unfinished, _values(waiting), _values(letters), letters)

    @property
    def open(self) -> dict[int, Any]:
        """Values of everything that is to be done still."""
        return self.unfinished | self.waiting

    def check(self) -> None:
        """Make sure that each root is in one place only, and that the totals say what the rows say."""
        assert self.unfinished.keys().isdisjoint(self.waiting)
        assert self.dead.keys().isdisjoint(self.open)
        totals = self.totals
        assert (totals.open, totals.waiting, totals.failed) == (len(self.open), len(self.waiting), len(self.dead))
        assert totals.accepted == totals.completed + totals.failed + totals.discarded + totals.open


@dataclass(frozen=True)
class Verdict:
    """Where each root is; all that must hold was checked."""

    #: everything that has a receipt, and what was recorded although its receipt never came
    accepted: int
    completed: set[int]
    failed: set[int]
    open: set[int]
    #: lines of the sink beyond the first of each
    repeated: int
    log: Log

    def __str__(self) -> str:
        return (
            f"accepted {self.accepted}: completed {len(self.completed)}, failed {len(self.failed)}, "
            f"open {len(self.open)}; repeated lines {self.repeated}"
        )


class Oracle:
    """Draws ids, keeps receipts, judges.

    Args:
        outputs: returns all that the sink has of an item when its root is completed, each as in the sink, with tuples
            for arrays. What begins with the id, or is it, can be traced.
        id_of: returns the id in an item's value.
    """

    def __init__(
        self,
        outputs: Callable[[int], Collection[Any]] = lambda number: (number,),
        id_of: Callable[[Any], int] = lambda value: value["id"],
    ) -> None:
        self.outputs, self._id_of = outputs, id_of
        #: how many ids were drawn: 0, 1, 2 …, each of them sent once
        self.sent = 0
        self.receipted: set[int] = set()

    def draw(self, count: int) -> range:
        """Return ids that nobody has had, and note them as sent."""
        ids = range(self.sent, self.sent + count)
        self.sent += count
        return ids

    def receipt(self, ids: Iterable[int]) -> None:
        """Note that these have a receipt."""
        new = set(ids)
        assert self.receipted.isdisjoint(new), "an id has two receipts"
        assert all(0 <= number < self.sent for number in new), "a receipt for what was never sent"
        self.receipted |= new

    def judge(self, store: str | Path, sink: Iterable[Any]) -> Verdict:
        """Read store and sink, and check that they and the receipts are one story.

        Args:
            store: URL of the log, or path of an SQLite file.
            sink: everything that was written, in any order.
        """
        log = Log.read(store)
        log.check()
        found = Counter(map(_frozen, sink))
        whole = self._whole(found)
        failed, unfinished = self._ids(log.dead), self._ids(log.open)
        assert failed.isdisjoint(unfinished), "an id is kept as failed and open"
        completed = whole - failed - unfinished
        lost = self.receipted - completed - failed - unfinished
        totals = log.totals
        if not totals.discarded:
            assert not lost, f"{len(lost)} of {len(self.receipted)} receipted inputs are lost: {sorted(lost)[:20]}"
        assert len(lost) <= totals.discarded, f"{len(lost)} are nowhere, {totals.discarded} were discarded"
        assert totals.completed <= len(completed) <= totals.completed + totals.discarded, (
            f"the log says that {totals.completed} are completed, and the sink has all of {len(completed)}"
        )
        assert len(self.receipted) <= totals.accepted <= self.sent
        return Verdict(totals.accepted, completed, failed, unfinished, found.total() - len(found), log)

    def _ids(self, values: dict[int, Any]) -> set[int]:
        """Return the ids of roots of the log."""
        ids = [self._id_of(value) for value in values.values()]
        assert len(set(ids)) == len(ids), "the log has an input twice"
        assert all(0 <= number < self.sent for number in ids), "the log has what was never sent"
        return set(ids)

    def _whole(self, found: Collection[Any]) -> set[int]:
        """Return the ids of which the sink has everything; trace each of its items."""
        parts = Counter(item[0] if isinstance(item, tuple) else item for item in found)
        strange = [number for number in parts if not (isinstance(number, int) and 0 <= number < self.sent)]
        assert not strange, f"the sink has what was never sent: {strange[:20]}"
        whole, traced = set(), 0
        for number in parts:
            expected = set(self.outputs(number))
            there = sum(item in found for item in expected)
            traced += there
            if there == len(expected):
                whole.add(number)
        assert traced == len(found), f"{len(found) - traced} items of the sink come from no root"
        return whole


def lines(path: Path) -> list[Any]:
    """Return the values of a file of JSON lines; a line that a kill has cut off was never settled."""
    return [json.loads(text) for text in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


def _frozen(item: Any) -> Any:
    return tuple(map(_frozen, item)) if isinstance(item, list) else item


def _paged(read: Callable[[int, int], list[Failed]]) -> Iterator[Failed]:
    after = 0
    while page := read(after, _PAGE):
        yield from page
        after = page[-1].position


def _chunks(store: ReadableStore) -> Iterator[OpenChunk]:
    after = 0
    while page := store.open_chunks(after, _PAGE):
        yield from page
        after = page[-1].chunk.id


def _unfinished(store: ReadableStore, row: OpenChunk) -> Iterator[tuple[int, Any]]:
    values = codec.decode(store.body(row.chunk.id))
    assert len(values) == row.chunk.count
    done = np.unpackbits(np.frombuffer(row.done, np.uint8), bitorder="little")[: len(values)]
    for index, value in enumerate(values):
        if index >= len(done) or not done[index]:
            yield row.chunk.first + index, value


def _values(rows: list[Failed]) -> dict[int, Any]:
    return {row.position: codec.decode(row.body)[0] for row in rows}
