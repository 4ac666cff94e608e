"""What the log holds, and when its newest record was made, as any reader sees it."""

from msgspec import Struct

from consecutiond.acker.stores.base import ReadableStore, StoreError, Totals
from consecutiond.doctor.check import Check

#: the newest records that are looked at: numbers only rise, so the others are older
_CHUNKS, _ROWS = 1000, 50


class LogFacts(Struct, frozen=True):
    """What is known of a log.

    Attributes:
        totals: its counts; None where there is no log, or it was not read.
        newest: when the newest record was made, wall clock of then, seconds since 1970; 0 where there is none.
        error: why it cannot be read, else "".

    """

    totals: Totals | None = None
    newest: float = 0.0
    error: str = ""


def read(store: ReadableStore) -> LogFacts:
    """Read a log that is open."""
    try:
        chunk, position = store.next_chunk(), store.next_position()
        times = [each.chunk.accepted_at for each in store.open_chunks(max(0, chunk - 1 - _CHUNKS), _CHUNKS)]
        for page in (store.waiting, store.dead_letters):
            times += [row.failed_at for row in page(max(0, position - 1 - _ROWS), _ROWS)]
        return LogFacts(store.totals(), max(times, default=0.0))
    except StoreError as error:
        return LogFacts(error=str(error))


def check(facts: LogFacts) -> list[Check]:
    """Judge a log."""
    name, why = "log.counts", "Every accepted item is completed, failed, discarded or open: nothing else may be."
    if facts.error:
        do = "See what is said of the store, and keep a copy of its files."
        return [Check(name, "problem", facts.error.rstrip("."), why, do, "the log cannot be read")]
    if facts.totals is None:
        return []
    counts = facts.totals
    seen = (
        f"{counts.accepted:,} accepted: {counts.completed:,} completed, {counts.failed:,} failed, "
        f"{counts.discarded:,} discarded, {counts.open:,} open"
    )
    if counts.open < 0 or counts.waiting > counts.open:
        do = "Keep a copy of the store and look into the log of the acker: this must not be."
        return [Check(name, "problem", seen, why, do, "the log contradicts itself")]
    return [Check(name, "ok", seen, why)]
