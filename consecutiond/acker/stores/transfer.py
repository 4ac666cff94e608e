"""Copies a log from one store into another, and proves that both hold the same."""

from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import Any, Final, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from consecutiond.acker.stores.base import (
    FIRST_NUMBER,
    Append,
    Audit,
    Changes,
    Failed,
    OpenChunk,
    ReadableStore,
    Retained,
    Store,
    StoreError,
)

#: rows read at a time
_PAGE: Final = 200
#: bytes of bodies in one commit, about
_GROUP_BYTES: Final = 4 << 20

Row = TypeVar("Row")


class Copied(Struct, frozen=True):
    """How much a log holds that was copied.

    Attributes:
        chunks: batches that are not over.
        waiting: roots that wait for another attempt.
        failed: dead letters.
        audits: actions of operators.
        retained: completed roots that are kept.
        accepted: roots that the log has accepted since it was made.
        open: of these, neither completed nor failed nor discarded.

    """

    chunks: int
    waiting: int
    failed: int
    audits: int
    retained: int
    accepted: int
    open: int


def copy(source: ReadableStore, target: Store, step: Callable[[int], None]) -> Copied:
    """Copy a log that nobody writes to, and compare the two row by row.

    Args:
        source: open; only read.
        target: open and empty.
        step: called with the number of rows that were copied or compared since.

    Returns:
        What was copied.

    Raises:
        StoreError: the target is not empty, one of the two failed, or they differ. The target is of no use then.

    """
    if not is_empty(target):
        raise StoreError("the target holds a log already, with which a copy would mix: give an empty place.")
    head = source.head()
    for group in _groups(source):
        target.commit(group)
        step(_size(group))
    target.adopt(head)
    _compare(source, target, step)
    if (source.head(), target.head()) != (head, head):
        raise StoreError(f"the log was written to meanwhile, and the copy lacks that. {_STOP}")
    totals = target.totals()
    return Copied(
        chunks=sum(1 for _ in _chunks(target)), waiting=totals.waiting, failed=totals.failed,
        audits=sum(1 for _ in _audits(target)), retained=totals.retained, accepted=totals.accepted, open=totals.open,
    )  # fmt: skip


_STOP: Final = "Stop its consecutor, remove the copy, and copy again."


def is_empty(store: ReadableStore) -> bool:
    """Tell whether nothing was ever put into a store."""
    return store.next_chunk() == FIRST_NUMBER and not store.dead_letters(limit=1) and not store.audits(limit=1)


def size(store: ReadableStore) -> int:
    """Return how many rows a log has, about: what `copy` counts in `step`, which it does twice."""
    totals = store.totals()
    counted = (_chunks(store), _audits(store), _retained(store))
    return totals.waiting + totals.failed + sum(1 for rows in counted for _ in rows)


def _groups(source: ReadableStore) -> Iterator[Changes]:
    """Yield everything in commits of bearable size."""
    for group in _sliced(_loaded(source), lambda append: len(append[0].chunk.body)):
        yield Changes(
            appends=[append for append, _ in group],
            done={append.chunk.id: done for append, done in group if done},
        )
    for rows in _sliced(_waiting(source), _weight):
        yield Changes(waiting=rows)
    for rows in _sliced(_dead(source), _weight):
        yield Changes(dead=rows)
    for audits in _sliced(_audits(source), lambda _audit: 0):
        yield Changes(audits=audits)
    for batches in _sliced(_kept(source), lambda batch: batch.size):
        yield Changes(retained=batches)


def _size(group: Changes) -> int:
    return len(group.appends) + len(group.waiting) + len(group.dead) + len(group.audits) + len(group.retained)


def _loaded(source: ReadableStore) -> Iterator[tuple[Append, bytes]]:
    for row in _chunks(source):
        yield Append(replace(row.chunk, body=source.body(row.chunk.id)), None), row.done


def _kept(source: ReadableStore) -> Iterator[Retained]:
    for batch in _retained(source):
        yield replace(batch, chunk=replace(batch.chunk, body=source.body(batch.chunk.id)))


def _sliced(rows: Iterator[Row], weight: Callable[[Row], int]) -> Iterator[list[Row]]:
    group: list[Row] = []
    bytes_ = 0
    for row in rows:
        group.append(row)
        bytes_ += weight(row)
        if len(group) == _PAGE or bytes_ >= _GROUP_BYTES:
            yield group
            group, bytes_ = [], 0
    if group:
        yield group


def _weight(row: Failed) -> int:
    return len(row.body) + len(row.item) + len(row.traceback)


def _compare(source: ReadableStore, target: ReadableStore, step: Callable[[int], None]) -> None:
    if source.totals() != target.totals():
        raise StoreError(f"the copy counts {target.totals()}, and the original {source.totals()}. {_STOP}")
    kinds: tuple[tuple[str, Callable[[ReadableStore], Iterator[Any]]], ...] = (
        ("chunk", _chunks), ("waiting root", _waiting), ("failed item", _dead), ("audit", _audits),
        ("retained batch", _unnumbered),
    )  # fmt: skip
    for what, rows in kinds:
        for one, other in zip_longest(rows(source), rows(target)):
            held = isinstance(one, OpenChunk | Retained)
            if one != other or (held and _bodies_differ(source, target, one.chunk.id)):
                raise StoreError(f"the copy differs from the original in a {what}. {_STOP}")
            step(1)


def _bodies_differ(source: ReadableStore, target: ReadableStore, chunk: int) -> bool:
    return source.body(chunk) != target.body(chunk)


def _chunks(store: ReadableStore) -> Iterator[OpenChunk]:
    return _paged(store.open_chunks, lambda row: row.chunk.id)


def _waiting(store: ReadableStore) -> Iterator[Failed]:
    return _paged(store.waiting, lambda row: row.position)


def _dead(store: ReadableStore) -> Iterator[Failed]:
    return _paged(store.dead_letters, lambda row: row.position)


def _audits(store: ReadableStore) -> Iterator[Audit]:
    return _paged(store.audits, lambda row: row.number)


def _retained(store: ReadableStore) -> Iterator[Retained]:
    return _paged(store.retained, lambda row: row.number)


def _unnumbered(store: ReadableStore) -> Iterator[Retained]:
    # Those of a copy begin with 1 again.
    return (replace(batch, number=0) for batch in _retained(store))


def _paged(read: Callable[[int, int], list[Row]], number: Callable[[Row], int]) -> Iterator[Row]:
    after = 0
    while page := read(after, _PAGE):
        yield from page
        after = number(page[-1])
