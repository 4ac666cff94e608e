"""What all verbs that choose items understand: times, rates, and Python expressions."""

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from consecutiond_broker.errors import ConsecutiondError

_AGO: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class ChoiceError(ConsecutiondError):
    """A filter cannot be understood, or names something that is not there."""


def moment_of(text: str, option: str, now: float) -> float:
    """Read a time, or how long ago it was.

    Args:
        text: as it was typed.
        option: with which, for the message.
        now: from when "2h" counts; seconds since 1970.

    Raises:
        ChoiceError: it is neither.
    """
    if match := _AGO.fullmatch(text.strip()):
        return now - timedelta(**{_UNITS[match[2]]: float(match[1])}).total_seconds()
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError):
        raise ChoiceError(
            f"{option} {text!r} is no time: write 2026-03-01, 2026-03-01T14:30 (in this time zone unless it says "
            "another one), or how long ago: 90s, 30m, 2h, 3d, 1w"
        ) from None


def rate_of(text: str) -> float:
    """Read a number of items a second, 0 if there is none.

    Raises:
        ChoiceError: it is no such number.
    """
    if not text:
        return 0.0
    try:
        rate = float(text.removesuffix("/s"))
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise ChoiceError(f"--rate {text!r} is no number of items a second: write 100 or 100/s")
    return rate


def expression(text: str, names: str) -> Callable[[int, Mapping[str, Any]], bool]:
    """Return what tells whether a Python expression holds for an item.

    Args:
        text: as it was typed.
        names: which it may use, for the message; ``value`` is the root's.

    Returns:
        A function of the item's position and the values of the names. It raises ChoiceError where the expression
        raises anything.

    Raises:
        ChoiceError: it is no expression.
    """
    try:
        code = compile(text.strip(), "--where", "eval")
    except (SyntaxError, ValueError) as error:
        raise ChoiceError(
            f"--where {text!r} is no Python expression: {getattr(error, 'msg', error)}. It is like "
            f"""`value["price"] < 0`, with the names {names}"""
        ) from None

    def holds(position: int, known: Mapping[str, Any]) -> bool:
        try:
            return bool(eval(code, dict(known)))  # noqa: S307 - the operator's own code, run with the operator's rights
        except Exception as error:  # whatever it raises is the operator's to know
            shown = repr(known["value"])
            raise ChoiceError(
                f"--where {text!r} raised {type(error).__name__}: {error}, for the value {shown[:200]} at position "
                f"{position}; nothing more was done. Guard it, as in `isinstance(value, str) and …`"
            ) from None

    return holds
