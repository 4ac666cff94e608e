"""What a group commit does in a store that has only keys and values; pure, so that stores differ in driver only."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from consecutiond.acker.stores import rows
from consecutiond.acker.stores.base import FIRST_NUMBER, Changes, Head, Retained, Totals, numbers_after

#: tables whose keys are numbers and that are read in pages, in their order
CHUNKS: Final = "chunks"
DONE: Final = "done"
WAITING: Final = "waiting"
DEAD: Final = "dead"
AUDITS: Final = "audits"
RETAINED: Final = "retained"
#: tables that are read by key: chunk id -> body, producer -> its highest sequence
BODIES: Final = "bodies"
PRODUCERS: Final = "producers"

SORTED: Final = (CHUNKS, DONE, WAITING, DEAD, AUDITS, RETAINED)
TABLES: Final = (*SORTED, BODIES, PRODUCERS)


class Key(NamedTuple):
    """Where a value is."""

    table: str
    key: bytes


class Counters(Struct, frozen=True):
    """All that a store of keys and values counts; one row, replaced by every commit."""

    next_chunk: int = FIRST_NUMBER
    next_position: int = FIRST_NUMBER
    accepted: int = 0
    completed: int = 0
    failed: int = 0
    waiting: int = 0
    discarded: int = 0
    audits: int = 0
    retained: int = 0
    retained_bytes: int = 0
    #: the number of the batch that was retained last
    last_retained: int = 0

    def adopted(self, head: Head) -> "Counters":
        """Return them for a log that has become another one; what it holds is counted as before."""
        return replace(
            self,
            next_chunk=head.next_chunk,
            next_position=head.next_position,
            accepted=head.accepted,
            completed=head.completed,
            discarded=head.discarded,
        )

    def totals(self) -> Totals:
        """Return what the contract tells of them."""
        still_open = self.accepted - self.completed - self.failed - self.discarded
        return Totals(
            self.accepted, self.completed, self.failed, self.waiting, still_open, self.discarded, self.retained,
            self.retained_bytes,
        )  # fmt: skip


def producer_rows(head: Head) -> dict[bytes, bytes]:
    """Return the table of producers of a log that was taken over."""
    return {name: b"%d" % sequence for name, sequence in head.producers.items()}


#: what is there for the keys that `looked_up` returns: the value of a producer, of others only whether there is one
Found = Mapping[Key, bytes | None]


def looked_up(changes: Changes) -> list[Key]:
    """Return the keys about which `decide` has to know what the store holds."""
    positions = {failed.position for failed in (*changes.waiting, *changes.dead)}
    positions |= {*changes.recovered, *changes.dropped}
    keys = [Key(CHUNKS, rows.number_key(chunk)) for chunk, bitmap in changes.done.items() if bitmap is not None]
    keys += [Key(WAITING, rows.number_key(position)) for position in positions | {*changes.revived}]
    keys += [
        Key(DEAD, rows.number_key(position))
        for position in {failed.position for failed in changes.dead} | {*changes.revived}
    ]
    keys += [Key(RETAINED, rows.number_key(batch.number)) for batch in changes.purged]
    keys += [Key(PRODUCERS, name) for name in {append.origin.producer for append in changes.appends if append.origin}]
    return keys


class Decision(NamedTuple):
    """What a commit writes: key -> new value, None where it is deleted; and the counters afterwards."""

    writes: dict[Key, bytes | None]
    counters: Counters


def decide(changes: Changes, counters: Counters, found: Found) -> Decision:
    """Return what a group does to a store.

    Args:
        changes: the group.
        counters: before it.
        found: for every key of `looked_up` what the store holds.

    Returns:
        The writes, in any order, and the counters.

    Raises:
        StoreError: a number is used twice or out of range.

    """
    group = _Group(counters, found)
    group.append(changes)
    kept = changes.kept_bodies
    for chunk, bitmap in changes.done.items():
        group.mark(rows.number_key(chunk), bitmap, keeps_body=chunk in kept)
    for failed in changes.waiting:
        group.put(WAITING, failed.position, rows.failed_row(failed))
    for failed in changes.dead:
        group.put(DEAD, failed.position, rows.failed_row(failed))
        group.take(WAITING, failed.position)
    for position in (*changes.recovered, *changes.dropped):
        group.take(WAITING, position)
    for position in changes.revived:
        discarded = group.take(DEAD, position) and not group.holds(Key(WAITING, rows.number_key(position)))
        group.count(discarded=discarded)
    for batch in changes.retained:
        group.retain(batch)
    for batch in changes.purged:
        group.purge(batch)
    for audit in changes.audits:
        number = group.counters.audits + 1
        group.writes[Key(AUDITS, rows.number_key(number))] = rows.audit_row(replace(audit, number=number))
        group.count(audits=1)
    for producer in changes.forget:
        group.writes[Key(PRODUCERS, producer)] = None
    group.count(completed=changes.completed, discarded=len(changes.dropped))
    return Decision(group.writes, group.counters)


class _Group:
    """The store as it is in the middle of a group: what was found, and over it what is written so far."""

    def __init__(self, counters: Counters, found: Found) -> None:
        self.counters, self._found = counters, found
        self.writes: dict[Key, bytes | None] = {}

    def holds(self, key: Key) -> bool:
        return self._get(key) is not None

    def _get(self, key: Key) -> bytes | None:
        return self.writes[key] if key in self.writes else self._found.get(key)

    def count(self, **more: int) -> None:
        changed = {name: getattr(self.counters, name) + number for name, number in more.items()}
        self.counters = replace(self.counters, **changed)

    def append(self, changes: Changes) -> None:
        after = numbers_after(changes, self.counters.next_chunk, self.counters.next_position)
        self.counters = replace(self.counters, next_chunk=after[0], next_position=after[1])
        for append in changes.appends:
            key = rows.number_key(append.chunk.id)
            self.writes[Key(CHUNKS, key)] = rows.chunk_row(append.chunk)
            self.writes[Key(BODIES, key)] = append.chunk.body
            if append.origin is not None:
                name = Key(PRODUCERS, append.origin.producer)
                self.writes[name] = b"%d" % max(append.origin.sequence, int(self._get(name) or 0))
        self.count(accepted=sum(append.chunk.count for append in changes.appends))

    def mark(self, chunk: bytes, bitmap: bytes | None, *, keeps_body: bool) -> None:
        if bitmap is None:
            tables = (CHUNKS, DONE) if keeps_body else (CHUNKS, DONE, BODIES)
            self.writes |= dict.fromkeys(Key(table, chunk) for table in tables)
        elif self.holds(Key(CHUNKS, chunk)):
            self.writes[Key(DONE, chunk)] = bitmap

    def retain(self, batch: Retained) -> None:
        number = self.counters.last_retained + 1
        if batch.chunk.body:
            self.writes[Key(BODIES, rows.number_key(batch.chunk.id))] = batch.chunk.body
        self.writes[Key(RETAINED, rows.number_key(number))] = rows.retained_row(replace(batch, number=number))
        self.count(last_retained=1, retained=batch.count, retained_bytes=batch.size)

    def purge(self, batch: Retained) -> None:
        key = Key(RETAINED, rows.number_key(batch.number))
        if self.holds(key):
            self.writes |= dict.fromkeys((key, Key(BODIES, rows.number_key(batch.chunk.id))))
            self.count(retained=-batch.count, retained_bytes=-batch.size)

    def put(self, table: str, position: int, row: bytes) -> None:
        key = Key(table, rows.number_key(position))
        self._tally(table, 1 - self.holds(key))
        self.writes[key] = row

    def take(self, table: str, position: int) -> bool:
        key = Key(table, rows.number_key(position))
        held = self.holds(key)
        self._tally(table, -held)
        self.writes[key] = None
        return held

    def _tally(self, table: str, change: int) -> None:
        self.count(**{"waiting" if table == WAITING else "failed": change})
