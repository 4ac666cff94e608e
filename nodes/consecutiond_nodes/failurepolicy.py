"""What becomes of items that fail in a node, as its author says it."""

import math
from typing import Final, Literal, get_args

import msgspec

from consecutiond_nodes.errors import NodeError

#: what becomes of a root whose attempts are spent: kept for an operator; counted and forgotten; kept, and the
#: consecutor stops
Exhausted = Literal["dead-letter", "drop", "stop"]
EXHAUSTED: Final[tuple[str, ...]] = get_args(Exhausted)


class FailurePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What a node's author has said; None is the consecutor's option of that name."""

    max_attempts: int | None = None
    backoff_s: float | None = None
    backoff_max_s: float | None = None
    timeout_s: float | None = None
    max_age_s: float | None = None
    exhausted: Exhausted | None = None

    def check(self, node: str) -> None:
        """Raise what is wrong with it.

        Raises:
            NodeError: with every fault.
        """
        faults = []
        attempts = self.max_attempts
        if attempts is not None and (isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1):
            faults.append(f"max_attempts={attempts!r}: give a whole number, at least 1")
        for name in ("backoff_s", "backoff_max_s", "timeout_s", "max_age_s"):
            seconds = getattr(self, name)
            if seconds is not None and not _is_seconds(seconds):
                faults.append(f"{name}={seconds!r}: give seconds, 0 or more")
        if self.exhausted is not None and self.exhausted not in EXHAUSTED:
            faults.append(f"exhausted={self.exhausted!r}: give one of {', '.join(map(repr, EXHAUSTED))}")
        if faults:
            raise NodeError(f"node {node!r}: set_failure_policy: " + "; ".join(faults))


def _is_seconds(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) and value >= 0
