"""Which chunks a store of values still needs, when their accounts are elsewhere: those that a root of theirs pins."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from consecutiond.acker.stores.base import Changes, Chunk


class _Pinned(Struct, frozen=True):
    """A chunk that the store of values holds.

    Attributes:
        first: the position of its first root.
        stop: the position behind its last one.
        left: how many of its roots that store has not counted as ended.
        over: none of them needs anything more from the chunk itself.
        rows: positions of those that have a row of their own among the accounts.
        discarded: positions of those that ended without being completed.

    """

    first: int
    stop: int
    left: int
    over: bool = False
    rows: frozenset[int] = frozenset()
    discarded: frozenset[int] = frozenset()

    @property
    def is_free(self) -> bool:
        return self.over and not self.rows


class Staged(Struct, frozen=True):
    """What a group comes to for the store of values.

    Attributes:
        changes: what that store commits.
        chunks: what `Pins.apply` has to know of it.

    """

    changes: Changes
    chunks: dict[int, _Pinned]


class Pins:
    """The chunks that a store of values holds, and what pins each; pure.

    A chunk leaves when each of its roots is completed or discarded. Its roots are counted then and not before, so that
    the store has as many open roots as it holds values of: all of them are tried again after a restart.
    """

    def __init__(self) -> None:
        self._chunks: dict[int, _Pinned] = {}
        # The ids and first positions of all chunks, in their order: both rise.
        self._ids: list[int] = []
        self._firsts: list[int] = []

    def add(self, chunk: Chunk, done: bytes = b"") -> None:
        """Take up a chunk that the store holds; roots that are marked in its bitmap are counted there."""
        ended = int.from_bytes(done[: (chunk.count + 7) // 8], "little").bit_count()
        self._put(chunk.id, _Pinned(chunk.first, chunk.first + chunk.count, chunk.count - ended))

    def stage(self, changes: Changes) -> Staged:
        """Say what a group of the accounts comes to; nothing has happened until `apply`."""
        new = [append.chunk for append in changes.appends]
        chunks = {chunk.id: _Pinned(chunk.first, chunk.first + chunk.count, chunk.count) for chunk in new}

        def change(position: int, *, row: bool, discarded: bool = False) -> None:
            id = self._chunk_of(position, new)
            pinned = chunks.get(id) or self._chunks.get(id)
            if pinned is None or position >= pinned.stop:
                return
            rows = pinned.rows | {position} if row else pinned.rows - {position}
            gone = pinned.discarded | {position} if discarded else pinned.discarded
            chunks[id] = replace(pinned, rows=rows, discarded=gone)

        for failed in (*changes.waiting, *changes.dead):
            change(failed.position, row=True)
        for position in changes.recovered:
            change(position, row=False)
        for position in (*changes.dropped, *_discarded(changes)):
            change(position, row=False, discarded=True)
        for id, bitmap in changes.done.items():
            if bitmap is None and (id in chunks or id in self._chunks):
                chunks[id] = replace(chunks.get(id) or self._chunks[id], over=True)
        free = {id: pinned for id, pinned in chunks.items() if pinned.is_free}
        ours = Changes(
            appends=changes.appends, done=dict.fromkeys(free), audits=changes.audits, forget=changes.forget,
            purged=changes.purged, dropped=sorted(position for each in free.values() for position in each.discarded),
            completed=sum(each.left - len(each.discarded) for each in free.values()),
        )  # fmt: skip
        return Staged(ours, chunks)

    def apply(self, staged: Staged) -> None:
        """Note that a group is committed."""
        for id, pinned in staged.chunks.items():
            if pinned.is_free:
                self._remove(id, pinned)
            else:
                self._put(id, pinned)

    def _put(self, id: int, pinned: _Pinned) -> None:
        if id not in self._chunks:
            self._ids.append(id)
            self._firsts.append(pinned.first)
        self._chunks[id] = pinned

    def _remove(self, id: int, pinned: _Pinned) -> None:
        if self._chunks.pop(id, None) is not None:
            place = bisect_right(self._firsts, pinned.first) - 1
            del self._firsts[place], self._ids[place]

    def _chunk_of(self, position: int, new: Sequence[Chunk]) -> int:
        """Return the id of the chunk that has a root, if any has; 0 where none begins before it."""
        if new and position >= new[0].first:
            return new[bisect_right(new, position, key=lambda chunk: chunk.first) - 1].id
        place = bisect_right(self._firsts, position)
        return self._ids[place - 1] if place else 0


def _discarded(changes: Changes) -> Iterator[int]:
    """Yield the dead letters that are thrown away."""
    again = {failed.position for failed in changes.waiting}
    return (position for position in changes.revived if position not in again)
