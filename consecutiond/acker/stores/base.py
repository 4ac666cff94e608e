"""The contract of every store: what one group commit carries, what is read back, and what may go wrong."""

from collections.abc import Iterable
from typing import Literal, Protocol
from zlib import crc32

from msgspec import Struct, field
from msgspec.structs import replace

from consecutiond.acker.stores.shapes import shape
from consecutiond_broker.errors import ConsecutiondError

Durability = Literal["durable", "fast"]

#: The first chunk and the first root of a new store have number 1, so that 0 means "before the first".
FIRST_NUMBER = 1
#: Numbers are u64 on the wire; SQLite's integers are signed. 2**63 is 292,000 years at
#: a million roots a second.
NUMBER_LIMIT = 2**63


class StoreError(ConsecutiondError):
    """The store cannot be opened, read or written; a commit that raised it has changed nothing."""


class StoreFullError(StoreError):
    """There is no room for what a commit adds, and nothing was changed; what takes room away may still be possible."""


class NoStoreError(StoreError):
    """There is nothing to read: no store was ever made there."""


class Chunk(Struct, frozen=True):
    """One batch of roots as it was accepted.

    Attributes:
        id: 1, 2, 3 … in the order of acceptance; the acker gives it.
        first: position in the log of the first root; the roots are ``first … first + count - 1``.
        count: how many roots, at least 1.
        entry: names of the edges at which the roots enter.
        body: the encoded batch of values, opaque; empty where a chunk is read without its body.
        accepted_at: when, wall clock, seconds since 1970.
        checksum: CRC-32 of the body as it was accepted; -1 where nobody made one.

    """

    id: int
    first: int
    count: int
    entry: tuple[str, ...]
    body: bytes
    accepted_at: float = 0.0
    checksum: int = -1

    def fits(self, body: bytes) -> bool:
        """Tell whether a body that was read back is the one that was accepted, as far as anybody knows."""
        return self.checksum in (-1, crc32(body))


class Origin(Struct, frozen=True):
    """Says "this batch is number `sequence` of that producer"; sequences start at 1 and rise."""

    producer: bytes
    sequence: int


class Append(Struct, frozen=True):
    """A chunk to record and where it came from (None: nobody will ever send it again)."""

    chunk: Chunk
    origin: Origin | None


class Failed(Struct, frozen=True):
    """A root that failed at least once; it has a row of its own, so that it pins no chunk.

    Attributes:
        position: of the root in the log.
        attempts: how many failed by the item's own fault, so far.
        entry: names of the edges at which the root entered.
        body: the one value, encoded as a batch of one; b"" where it was not kept.
        due: when the next attempt may start, wall clock, seconds since 1970.
        node: the node in which it failed.
        kind: "raised", "crashed", "unserialisable" …
        error: the message, for people.
        traceback: the user's traceback, "" where there is none.
        failed_at: when, wall clock, seconds since 1970.
        accepted_at: when it was accepted, likewise.
        handed_out: how many attempts were begun, those included that came to nothing without a fault of the item's.
        edge: the edge on which the item came that failed, "" where that is not known.
        item: that item, encoded as a batch of one; b"" where it is the root's own value, or not known.
        path: the nodes that it came through, the one in which it failed last.
        start_edge: where the next attempt enters instead of `entry`: it was replayed from a node; "" otherwise.
        start_item: what enters there, encoded as a batch of one.
        replayed_at: when an operator had it tried again, wall clock, 0 if nobody has.

    """

    position: int
    attempts: int
    entry: tuple[str, ...]
    body: bytes
    due: float
    node: str
    kind: str
    error: str
    traceback: str
    failed_at: float
    accepted_at: float = 0.0
    handed_out: int = 0
    edge: str = ""
    item: bytes = b""
    path: tuple[str, ...] = ()
    start_edge: str = ""
    start_item: bytes = b""
    replayed_at: float = 0.0

    @property
    def tried_since(self) -> float:
        """When its age begins to count: at its acceptance, or when an operator gave it all its time again."""
        return max(self.accepted_at, self.replayed_at)

    @property
    def enters(self) -> tuple[str, ...]:
        """The names of the edges at which the next attempt enters."""
        return (self.start_edge,) if self.start_edge else self.entry

    @property
    def value(self) -> bytes:
        """What enters there, encoded as a batch of one."""
        return self.start_item if self.start_edge else self.body

    @property
    def failed_item(self) -> bytes:
        """The item that failed, encoded as a batch of one; b"" where it is not known."""
        if self.item:
            return self.item
        return self.value if self.edge in self.enters else b""


class Audit(Struct, frozen=True):
    """What an operator has done to dead letters; never deleted.

    Attributes:
        at: when, wall clock, seconds since 1970.
        who: the user, and the machine.
        what: "replay", "discard" or "edit".
        count: how many dead letters that was.
        which: how they were chosen, for people.
        number: 1, 2, 3 …; the store gives it.

    """

    at: float
    who: str
    what: str
    count: int
    which: str
    number: int = 0


class Where(Struct, frozen=True):
    """Chooses dead letters: all conditions hold; an empty one always does.

    Attributes:
        node: in which it failed.
        kind: how.
        error: what its message contains.
        shape: what its message has in common with those of its group (`Group.shape`).
        since: it failed then or later, wall clock.
        until: it failed before.
        positions: it is one of these roots.

    """

    node: str = ""
    kind: str = ""
    error: str = ""
    shape: str = ""
    since: float = 0.0
    until: float = float("inf")
    positions: tuple[int, ...] = ()

    def fits(self, letter: Failed) -> bool:
        """Tell whether a dead letter is meant; for stores that cannot ask this of their engine."""
        return (
            (not self.node or letter.node == self.node)
            and (not self.kind or letter.kind == self.kind)
            and self.error in letter.error
            and (not self.shape or shape(letter.error) == self.shape)
            and self.since <= letter.failed_at < self.until
            and (not self.positions or letter.position in self.positions)
        )


#: no condition
EVERY = Where()


class Group(Struct, frozen=True):
    """Dead letters that look alike.

    Attributes:
        node: in which they failed.
        kind: how.
        shape: what their messages have in common.
        count: how many there are.
        newest: when the last of them failed, wall clock.
        example: the position of the oldest root among them.

    """

    node: str
    kind: str
    shape: str
    count: int
    newest: float
    example: int


class Retained(Struct, frozen=True):
    """A batch of inputs that is over, and of which the completed ones are kept for a while.

    A root that completed from a row of its own is a batch of one.

    Attributes:
        chunk: the batch; its body is empty where it is read, and where the store has it as that of an open chunk.
        completed: bitmap of the roots that completed in it, as in `Changes.done`. The others failed: they are dead
            letters or were discarded, or they completed later, as a batch of one.
        completed_at: when the last of its roots was done, wall clock, seconds since 1970.
        size: bytes of the body.
        number: 1, 2, 3 … in the order in which batches were over, never one that was used; the store gives it.

    """

    chunk: Chunk
    completed: bytes
    completed_at: float
    size: int
    number: int = 0

    @property
    def count(self) -> int:
        """How many of its roots completed."""
        return int.from_bytes(self.completed, "little").bit_count()


class Changes(Struct):
    """Everything that one group commit does: all of it or nothing, in the order of the fields.

    Numbers of chunks and roots that the store does not hold (any more) are ignored in `done` and
    `recovered`: a report may come after the end of its chunk.

    Attributes:
        appends: chunks to record; ids and positions rise and are never used twice.
        done: chunk id -> its whole bitmap, which replaces the former one (little-endian bit order, as
            ``numpy.packbits(bitorder="little")``; bit i set: root i needs nothing more from this chunk, it is
            completed or has a row of its own). Where completed inputs are kept, a second bitmap of the same length
            follows it, of those that completed. None: the chunk is over, delete it, and its body unless it is in
            `retained`.
        waiting: roots that will be tried again, inserted or replaced by position.
        dead: roots that go to the dead letters (inserted or replaced by position) and wait no longer.
        recovered: positions whose retry completed: they wait no longer.
        revived: positions whose dead letters are taken away; those that are not in `waiting` as well are discarded.
            Only what was a dead letter may be named.
        dropped: positions of roots that ended without a dead letter because that is their node's policy: they wait
            no longer, and like the discarded ones they are `Totals.discarded`.
        audits: what operators have done.
        forget: producers that said goodbye.
        completed: how many roots completed in this group; added to the total.
        retained: batches that are over and kept: with their body, under an id that rises like that of an append, or
            without it if they are over with this group.
        purged: batches that are kept no longer, as they were read; those that are not there any more are ignored.

    """

    appends: list[Append] = field(default_factory=list)
    done: dict[int, bytes | None] = field(default_factory=dict)
    waiting: list[Failed] = field(default_factory=list)
    dead: list[Failed] = field(default_factory=list)
    recovered: list[int] = field(default_factory=list)
    revived: list[int] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    audits: list[Audit] = field(default_factory=list)
    forget: list[bytes] = field(default_factory=list)
    completed: int = 0
    retained: list[Retained] = field(default_factory=list)
    purged: list[Retained] = field(default_factory=list)

    @property
    def kept_bodies(self) -> set[int]:
        """The ids of chunks that are over and whose bodies stay."""
        return {batch.chunk.id for batch in self.retained if not batch.chunk.body}

    def apart(self) -> "tuple[Changes, Changes] | None":
        """Part what ends, which may make room, from what begins; both in order come to the same as the whole.

        Returns:
            The two, or None where that cannot be done: one of them is nothing, or what ends is kept under a number
            that comes after those of what begins.

        """
        if not self.appends or self.retained:
            return None
        ends = replace(self, appends=[], forget=[])
        return (ends, Changes(appends=self.appends, forget=self.forget)) if ends else None

    def __bool__(self) -> bool:
        """Tell whether there is anything to do."""
        return any(getattr(self, field) for field in self.__struct_fields__)


class Totals(Struct, frozen=True):
    """How many roots there are of each kind; ``accepted == completed + failed + discarded + open`` always.

    Attributes:
        accepted: recorded since the store was created.
        completed: of these, done for good.
        failed: rows in the dead letters now.
        waiting: of the open ones, how many wait for another attempt.
        open: neither of the others, the waiting ones included.
        discarded: dead letters that an operator has discarded, and roots that were dropped by policy.
        retained: of the completed ones, how many are kept.
        retained_bytes: bytes of the batches that they were accepted in.

    """

    accepted: int
    completed: int
    failed: int
    waiting: int
    open: int
    discarded: int = 0
    retained: int = 0
    retained_bytes: int = 0


class Head(Struct, frozen=True):
    """What a log is beside its rows: with it a copy goes on where the original stopped.

    Attributes:
        salt: from which the keys of items are made.
        next_chunk: the id at which chunks go on.
        next_position: the position at which roots go on.
        accepted: as in `Totals`.
        completed: likewise.
        discarded: likewise.
        producers: of each producer the highest sequence.

    """

    salt: int
    next_chunk: int
    next_position: int
    accepted: int
    completed: int
    discarded: int
    producers: dict[bytes, int]


class OpenChunk(Struct, frozen=True):
    """A chunk that is not over (its body left empty) and its bitmap, b"" when nothing of it is done."""

    chunk: Chunk
    done: bytes


class ReadableStore(Protocol):
    """What can be asked of an open store; pages are in rising order and start behind `after`."""

    #: random u64, drawn when the store was created and the same for ever
    salt: int
    #: True when a commit that returned survives a power cut
    durable: bool
    #: False when the body of a chunk that is appended is not kept
    keeps_values: bool

    def open(self) -> None:
        """Make the store ready, created if need be; does nothing when it is open. Raises StoreError."""

    def close(self) -> None:
        """Let go of the store; does nothing when it is closed."""

    def describe(self) -> str:
        """Say in one sentence what the store guarantees as it is configured."""
        ...

    def next_chunk(self) -> int:
        """Return the id at which chunks go on; never one that was used, deleted or not."""
        ...

    def next_position(self) -> int:
        """Return the position at which roots go on; never one that was used, deleted or not."""
        ...

    def last_sequence(self, producer: bytes) -> int:
        """Return the highest sequence recorded for a producer, 0 when it is unknown."""
        ...

    def open_chunks(self, after: int = 0, limit: int = 1000) -> list[OpenChunk]:
        """Return up to `limit` chunks with an id above `after`, without their bodies."""
        ...

    def body(self, chunk: int) -> bytes:
        """Return the body of a chunk, open or retained, b"" if not kept. Raises StoreError when it is neither."""
        ...

    def waiting(self, after: int = 0, limit: int = 1000) -> list[Failed]:
        """Return up to `limit` roots that wait for another attempt, at positions above `after`."""
        ...

    def retained(self, after: int = 0, limit: int = 1000) -> list[Retained]:
        """Return up to `limit` batches that are kept, with numbers above `after`, without their bodies."""
        ...

    def dead_letters(self, after: int = 0, limit: int = 1000, where: Where = EVERY) -> list[Failed]:
        """Return up to `limit` dead letters at positions above `after`."""
        ...

    def count_dead(self, where: Where = EVERY) -> int:
        """Return how many dead letters there are."""
        ...

    def groups(self, where: Where = EVERY) -> list[Group]:
        """Return the groups of dead letters that look alike, the largest first."""
        ...

    def audits(self, after: int = 0, limit: int = 1000) -> list[Audit]:
        """Return up to `limit` actions of operators with numbers above `after`."""
        ...

    def totals(self) -> Totals:
        """Return the totals as of the last commit."""
        ...

    def head(self) -> Head:
        """Return what a copy needs beside the rows."""
        ...


class Store(ReadableStore, Protocol):
    """A store that the acker writes to: one thread at a time, every call blocks until it is done."""

    def commit(self, changes: Changes) -> None:
        """Apply one group, all of it or nothing.

        Raises:
            StoreError: nothing was changed; the same `changes` may be committed again later.

        """

    def adopt(self, head: Head) -> None:
        """Become the log whose rows were committed here: take over its salt, numbers, counts and producers.

        Raises:
            StoreError: nothing was changed.

        """


def numbers_after(changes: Changes, next_chunk: int, next_position: int) -> tuple[int, int]:
    """Check that a group uses no number twice.

    Args:
        changes: the group.
        next_chunk: the lowest id that is free.
        next_position: the lowest position that is free.

    Returns:
        The lowest free id and the lowest free position after the group.

    Raises:
        StoreError: an id or a position was used before, or is out of range.

    """
    for append in changes.appends:
        chunk = append.chunk
        if chunk.id < next_chunk or chunk.first < next_position or chunk.count < 1:
            raise StoreError(
                f"chunk {chunk.id} with {chunk.count} roots from position {chunk.first} was not recorded: "
                f"the store goes on at chunk {next_chunk}, position {next_position}; numbers are used once. "
                "Probably two ackers write to this store, or one missed a commit: stop both, start one."
            )
        next_chunk, next_position = chunk.id + 1, chunk.first + chunk.count
    next_chunk = max([next_chunk, *(batch.chunk.id + 1 for batch in changes.retained)])
    if max(next_chunk, next_position) > NUMBER_LIMIT:
        raise StoreError("the numbers of this store are used up (2**63): start a new one.")
    return next_chunk, next_position


def printable(failed: Failed) -> Failed:
    """Return the row with lone surrogates escaped in its texts, so that every store and printer takes it."""
    texts = (failed.node, failed.kind, failed.error, failed.traceback)
    if all(text.isascii() for text in texts):
        return failed
    node, kind, error, traceback = (text.encode(errors="backslashreplace").decode() for text in texts)
    return replace(failed, node=node, kind=kind, error=error, traceback=traceback)


def grouped(letters: Iterable[Failed]) -> list[Group]:
    """Group dead letters, for stores that cannot ask this of their engine; the largest group first."""
    found: dict[tuple[str, str, str], Group] = {}
    for letter in letters:
        key = letter.node, letter.kind, shape(letter.error)
        known = found.get(key, Group(*key, 0, letter.failed_at, letter.position))
        newest, example = max(known.newest, letter.failed_at), min(known.example, letter.position)
        found[key] = replace(known, count=known.count + 1, newest=newest, example=example)
    return sorted(found.values(), key=lambda group: (-group.count, group.example))
