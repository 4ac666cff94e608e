"""What operators ask of dead letters, whether an acker has the store open or nobody has: requests and answers."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec.structs import replace

from consecutiond import kept
from consecutiond.acker.stores.base import Audit, Changes, Failed, ReadableStore, Where
from consecutiond_broker.codec import split
from consecutiond_broker.errors import CodecError

#: dead letters that one request acts on at the utmost: they are one group commit
MOST: Final = 500
#: the verbs that change something
CHANGING: Final = frozenset({"replay", "discard", "edit"})
#: bytes of values in one page that is listed; a page has one dead letter at least
_MOST_BYTES: Final = 8 << 20
_BUSY: Final = "somebody else is acting on it just now"
#: why a dead letter without a value stays one
NO_VALUE: Final = (
    "its value was not kept (option input_store), so it cannot be tried again; discard it, or give it a value with "
    "`failed edit`"
)


#: positions that an entry of the audit trail names at the utmost
_MOST_NAMED: Final = 10


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is asked; ``where`` chooses, in pages of ``limit`` behind position ``after``."""

    #: the last three change something; "open" asks which of some positions are open in the log, "kept" for completed
    #: inputs, ``after`` then being the number of a batch
    verb: Literal["groups", "count", "list", "audits", "open", "kept", "replay", "discard", "edit"]
    where: Where = Where()
    after: int = 0
    limit: int = MOST
    #: "root": from the beginning; "node": from the node in which it failed
    start: Literal["root", "node"] = "root"
    #: of "edit": the new value of the root, encoded as a batch of one
    value: bytes = b""
    #: of "kept": with the values
    with_values: bool = False
    who: str = ""
    #: how the dead letters were chosen, for the audit trail
    which: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """What one request has done: to how many, up to which position, and what it had to leave."""

    count: int = 0
    #: 0: there are no more
    last: int = 0
    #: position, and why it was left as it is
    left: list[tuple[int, str]] = msgspec.field(default_factory=list)


encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(Request).decode


def begin_at(letter: Failed, start: str, edges: Collection[str] | None) -> Failed | str:
    """Return the row with which a dead letter is tried again, or why that cannot be.

    Args:
        letter: the dead letter.
        start: "root" or "node".
        edges: those of the graph; None when nobody knows them now.
    """
    if not letter.body:
        return NO_VALUE
    if start == "root":
        row = replace(letter, start_edge="", start_item=b"")
    elif not letter.edge:
        return "it is not known on which edge the item came that failed; replay it from its root"
    elif not letter.failed_item:
        return "the item that failed was too large to be kept, or its root was edited; replay it from its root"
    elif letter.edge in letter.enters:
        row = letter
    else:
        row = replace(letter, start_edge=letter.edge, start_item=letter.failed_item)
    missing = [] if edges is None else [edge for edge in row.enters if edge not in edges]
    if missing:
        return f"the graph has no edge {missing[0]} any more"
    return row


class Decision(msgspec.Struct):
    """What a request changes, and what it is answered."""

    outcome: Outcome = Outcome()
    #: why nothing at all is done; empty where something may be
    error: str = ""
    #: what the audit trail calls it
    what: str = ""
    #: rows with which dead letters are tried again
    waiting: list[Failed] = msgspec.field(default_factory=list)
    discarded: list[int] = msgspec.field(default_factory=list)
    edited: list[Failed] = msgspec.field(default_factory=list)

    @property
    def positions(self) -> list[int]:
        """The positions of the dead letters that are taken away or changed."""
        return [*(row.position for row in (*self.waiting, *self.edited)), *self.discarded]

    def changes(self, request: Request, now: float) -> Changes:
        """Return what a store has to commit, where no acker does that."""
        rows = [first_attempt(row, now) for row in self.waiting]
        revived = [*(row.position for row in rows), *self.discarded]
        return Changes(waiting=rows, dead=self.edited, revived=revived, audits=[self.audit(request, now)])

    def audit(self, request: Request, now: float) -> Audit:
        """Return what the audit trail gets."""
        return Audit(now, request.who, self.what, len(self.positions), self._which(request.which))

    def _which(self, words: str) -> str:
        """Name the items as well as how they were chosen: what was discarded cannot be looked up afterwards."""
        positions = sorted(self.positions)
        named = " ".join(map(str, positions[:_MOST_NAMED])) + (" …" if len(positions) > _MOST_NAMED else "")
        return words if words.startswith(named) else f"{named} ({words})"


def first_attempt(row: Failed, now: float) -> Failed:
    """Return a row that is due now and has all its attempts, and all its time, before it."""
    return replace(row, attempts=0, due=now, replayed_at=now)


def decide(
    request: Request, letters: Sequence[Failed], edges: Collection[str] | None, busy: Collection[int]
) -> Decision:
    """Say what a request to replay, discard or edit does to the dead letters that it has chosen.

    Args:
        request: one that changes something.
        letters: what it has chosen.
        edges: those of the graph; None when nobody knows them now.
        busy: positions on which another request is acting.
    """
    if request.verb == "edit":
        return _edit(request, letters, busy)
    left = [(letter.position, _BUSY) for letter in letters if letter.position in busy]
    free = [letter for letter in letters if letter.position not in busy]
    decision = Decision(what="discard")
    if request.verb == "discard":
        decision.discarded = [letter.position for letter in free]
    else:
        decision.what = f"replay from {request.start}"
        rows = [(letter.position, begin_at(letter, request.start, edges)) for letter in free]
        decision.waiting = [row for _, row in rows if not isinstance(row, str)]
        left += [(position, row) for position, row in rows if isinstance(row, str)]
    last = letters[-1].position if letters else 0
    decision.outcome = Outcome(len(decision.positions), last, sorted(left))
    return decision


def _edit(request: Request, letters: Sequence[Failed], busy: Collection[int]) -> Decision:
    problem = _bad_value(request.value)
    if problem or len(letters) != 1:
        return Decision(error=problem or f"exactly one dead letter can be edited at a time, not {len(letters)}")
    [letter] = letters
    if letter.position in busy:
        return Decision(error=_BUSY)
    edited = replace(letter, body=request.value, item=b"", start_edge="", start_item=b"")
    return Decision(Outcome(1, letter.position), what="edit", edited=[edited])


def _bad_value(value: bytes) -> str:
    try:
        count = len(split(value))
    except CodecError as error:
        return str(error)
    return "" if count == 1 else f"the new value of a root is one value, not {count}"


def read(request: Request, store: ReadableStore) -> Any:
    """Answer a request that changes nothing.

    Returns:
        Of "groups" the groups, of "count" a number, of "list" dead letters, of "audits" entries, of "open" positions,
        of "kept" a `KeptPage`.
    """
    limit = min(max(1, request.limit), MOST)
    if request.verb == "groups":
        return store.groups(request.where)
    if request.verb == "count":
        return store.count_dead(request.where)
    if request.verb == "audits":
        return store.audits(request.after, limit)
    if request.verb == "kept":
        return kept.page(store, request.where.since, request.where.until, request.after, values=request.with_values)
    if request.verb == "open":
        return [position for position in request.where.positions if _is_open(store, position)]
    return list(_page(store.dead_letters(request.after, limit, request.where)))


def _is_open(store: ReadableStore, position: int) -> bool:
    rows = store.waiting(position - 1, 1)
    return bool(rows) and rows[0].position == position


def _page(letters: Sequence[Failed]) -> Iterator[Failed]:
    """Cut a page that is too large for one message; who pages goes on behind its last one."""
    left = _MOST_BYTES
    for letter in letters:
        yield letter
        left -= len(letter.body) + len(letter.item) + len(letter.start_item)
        if left < 0:
            return
