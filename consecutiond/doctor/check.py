"""What one check says, and what all of them come to."""

from collections.abc import Iterable
from typing import Final, Literal

from msgspec import Struct

Status = Literal["ok", "warning", "problem", "unknown"]

OK: Final = "ok"
#: it works, and something may go wrong or be lost that need not
WARNING: Final = "warning"
#: it does not work, or what was asked for is not so
PROBLEM: Final = "problem"
#: it cannot be seen from here
UNKNOWN: Final = "unknown"

#: the worst first
_RANKS: Final[tuple[Status, ...]] = ("problem", "warning", "unknown", "ok")


class Check(Struct, frozen=True, omit_defaults=False):
    """One thing that was looked at.

    Attributes:
        name: ``area.thing``.
        status: how it is.
        seen: what was seen, as a clause.
        why: why it matters, as a sentence.
        do: what to do, as a sentence; "" where nothing is to be done.
        takes: what it takes away from the guarantee of the store, as a clause; "" where it takes nothing.

    """

    name: str
    status: Status
    seen: str
    why: str
    do: str = ""
    takes: str = ""


def worst(checks: Iterable[Check]) -> Status:
    """Return the worst status there is; of none, "ok"."""
    found = {check.status for check in checks}
    return next((status for status in _RANKS if status in found), "ok")


def in_one_sentence(promise: str, checks: Iterable[Check]) -> str:
    """Return the guarantee that results.

    Args:
        promise: what the store promises as it is set, as one sentence; "" where it could not be asked.
        checks: what else was seen.

    """
    taken = list(dict.fromkeys(check.takes for check in checks if check.takes))
    if not promise:
        return f"Nothing is guaranteed: {'; '.join(taken) or 'the store could not be asked'}."
    if not taken:
        return promise
    return f"{promise.rstrip('.')}; but {'; and '.join(taken)}."
