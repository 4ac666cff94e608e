"""The wall clock, by which people read times, and by which retries wait and items age."""

import ctypes
import time
from typing import Final

from msgspec import Struct

from consecutiond.doctor.check import Check

#: the first moment of 2020, seconds since 1970: no clock that is right stands before it
_YEAR_2020: Final = 1_577_836_800.0
#: bytes; the kernel's struct timex has 208
_TIMEX: Final = 512
#: what adjtimex returns while nobody keeps the clock right
_TIME_ERROR: Final = 5
#: seconds that the newest record may seem to be in the future, from one machine to another
_SLACK_S: Final = 2.0


class ClockFacts(Struct, frozen=True):
    """What is known of the clock.

    Attributes:
        now: what it says, seconds since 1970.
        kept: somebody keeps it right; None where the kernel does not tell.

    """

    now: float
    kept: bool | None


def read() -> ClockFacts:
    """Look at the clock."""
    try:
        # No bit in the first word is set: it asks and sets nothing.
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX))
    except (OSError, AttributeError):
        state = -1
    return ClockFacts(time.time(), None if state < 0 else state != _TIME_ERROR)


def check(facts: ClockFacts, newest: float) -> list[Check]:
    """Judge the clock.

    Args:
        facts: of it.
        newest: when the newest record of the log was made, by the clock of then; 0 where there is none.

    """
    return [_time(facts, newest), _kept(facts)]


def _time(facts: ClockFacts, newest: float) -> Check:
    name, why = "clock.time", "Retries wait until a time of day, and items age by it; a wrong clock makes both wrong."
    seen = f"it is {_told(facts.now)}"
    if facts.now < _YEAR_2020:
        return Check(name, "problem", f"{seen}, which cannot be", why, "Set the clock.")
    if newest > facts.now + _SLACK_S:
        do = "Set the clock, or know that what waits for a retry waits until then."
        return Check(name, "warning", f"{seen}, and the newest record of the log is of {_told(newest)}", why, do)
    return Check(name, "ok", seen, why)


def _kept(facts: ClockFacts) -> Check:
    name, why = "clock.kept", "A clock that nobody keeps drifts, and jumps when somebody sets it."
    if facts.kept is None:
        return Check(name, "unknown", "the kernel does not tell", why, "See `timedatectl`.")
    if facts.kept:
        return Check(name, "ok", "somebody keeps it right", why)
    return Check(name, "warning", "nobody keeps it right", why, "Run an NTP client, or see why it reaches nobody.")


def _told(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
