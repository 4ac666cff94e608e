"""Completed inputs that a log has kept: what is asked of them, whether an acker runs or not, and what is answered."""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from consecutiond.acker.stores.base import ReadableStore, Retained, StoreError
from consecutiond_broker import codec

#: batches that one request looks at
LOOK: Final = 1000
#: bytes of values in one answer, which has one batch at least
_MOST_BYTES: Final = 8 << 20
#: what the audit trail calls it when kept inputs are entered again
REPLAYED: Final = "log replay"


class KeptPage(msgspec.Struct, frozen=True):
    """Some batches that are kept, in the order in which they were over.

    Attributes:
        batches: those that were asked for, with their bodies if these were, too. A body that is damaged is left empty.
        last: the number of the last batch that was looked at; 0: there are no more.
    """

    batches: list[Retained]
    last: int


class Root(msgspec.Struct, frozen=True):
    """One completed input.

    Attributes:
        position: of the root in the log.
        accepted_at: wall clock, seconds since 1970.
        completed_at: when its batch was over, likewise.
        value: encoded.
    """

    position: int
    accepted_at: float
    completed_at: float
    value: msgspec.Raw


def page(store: ReadableStore, since: float, until: float, after: int, *, values: bool) -> KeptPage:
    """Read some of the batches that are kept.

    Args:
        store: the log.
        since: only what was over then or later; wall clock.
        until: only what was over before.
        after: only batches with numbers above.
        values: whether their bodies are wanted.
    """
    found: list[Retained] = []
    last, left = 0, _MOST_BYTES
    for batch in store.retained(after, LOOK):
        if left <= 0:
            break
        last = batch.number
        if since <= batch.completed_at < until:
            whole = _with_body(store, batch) if values else batch
            if whole is not None:
                found.append(whole)
                left -= len(whole.chunk.body)
    return KeptPage(found, last)


def _with_body(store: ReadableStore, batch: Retained) -> Retained | None:
    """Return a batch with its values; None if it was taken away just now."""
    try:
        body = store.body(batch.chunk.id)
    except StoreError:
        there = store.retained(batch.number - 1, 1)
        if there and there[0].number == batch.number:
            raise
        return None
    # Whoever retries what fails would ask for a damaged one for ever.
    return replace(batch, chunk=replace(batch.chunk, body=body if batch.chunk.fits(body) else b""))


def roots(batch: Retained) -> Iterator[Root]:
    """Yield the roots of a batch that completed; the others were never that, or are kept alone.

    Args:
        batch: with its body; a damaged one has none, and no roots.
    """
    if not batch.chunk.body:
        return
    bits = int.from_bytes(batch.completed, "little")
    for index, value in enumerate(codec.split(batch.chunk.body)):
        if bits >> index & 1:
            yield Root(batch.chunk.first + index, batch.chunk.accepted_at, batch.completed_at, value)


def grouped(found: Iterator[Root], most: int, most_bytes: int) -> Iterator[list[Root]]:
    """Put roots together to batches.

    Args:
        found: the roots.
        most: how many a batch has at the utmost.
        most_bytes: how many bytes of values it has, about.
    """
    group: list[Root] = []
    size = 0
    for root in found:
        group.append(root)
        size += len(memoryview(root.value))
        if len(group) >= most or size >= most_bytes:
            yield group
            group, size = [], 0
    if group:
        yield group


def body_of(group: Sequence[Root]) -> bytes:
    """Return roots as a batch that can be entered."""
    return codec.join([root.value for root in group])
