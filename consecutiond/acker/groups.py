"""Failures that look alike, grouped for people."""

from typing import Any, Final

#: groups that are remembered
_GROUPS: Final = 20


class Groups:
    """The failures of this acker's life."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str, str], dict[str, Any]] = {}

    def add(self, node: str, kind: str, error: str, traceback: str, count: int = 1) -> None:
        """Count failures; the first of a group stands for all of them."""
        key = (node, kind, error.partition(":")[0])
        if key in self._groups or len(self._groups) < _GROUPS:
            first = {"node": node, "kind": kind, "error": error, "traceback": traceback, "count": 0}
            self._groups.setdefault(key, first)["count"] += count

    def show(self) -> list[dict[str, Any]]:
        """Return every group."""
        return list(self._groups.values())
