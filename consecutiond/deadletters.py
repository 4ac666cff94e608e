"""What operators ask of dead letters, whether an acker has the store open or nobody has: requests and answers."""

from collections.abc import Collection
from typing import Literal

import msgspec
from msgspec.structs import replace

from consecutiond.acker.stores.base import Audit, Failed, Where

#: dead letters that one request acts on at the utmost: they are one group commit
MOST: int = 500


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is asked; ``where`` chooses, in pages of ``limit`` behind position ``after``."""

    verb: Literal["groups", "count", "list", "audits", "replay", "discard", "edit"]
    where: Where = Where()
    after: int = 0
    limit: int = MOST
    #: "root": from the beginning; "node": from the node in which it failed
    start: Literal["root", "node"] = "root"
    #: of "edit": the new value of the root, encoded as a batch of one
    value: bytes = b""
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
    if start == "root":
        row = replace(letter, start_edge="", start_item=b"")
    elif not letter.edge:
        return "it is not known on which edge the item came that failed; replay it from its root"
    elif not letter.failed_item:
        return "the item that failed was too large to be kept; replay it from its root"
    elif letter.edge in letter.enters:
        row = letter
    else:
        row = replace(letter, start_edge=letter.edge, start_item=letter.failed_item)
    missing = [] if edges is None else [edge for edge in row.enters if edge not in edges]
    if missing:
        return f"the graph has no edge {missing[0]} any more"
    return row


def audit(request: Request, what: str, count: int, now: float) -> Audit:
    """Return what the audit trail gets."""
    return Audit(now, request.who, what, count, request.which)
