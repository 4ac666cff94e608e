"""Restarts on request: which parts are meant, one rolling restart at a time, and how far it is."""

from typing import Final

import msgspec

from consecutiond.heartoptions import HeartOptions
from consecutiond.logs import get_logger
from consecutiond.restart import Outcome, Progress, Request
from consecutiond.supervision.parts import Parts
from consecutiond.supervision.rolling import Rolling

log = get_logger("heart")

_OUTPUT, _INPUT = "output", "input"
#: not nodes: clients are connected to the one, the other may have containers of its own; so they have to be named
_NAMED_ONLY: Final = (_OUTPUT, _INPUT)


class Restarting:
    """Begins rolling restarts and tells how far they are.

    Args:
        options: of the heart.
        parts: what the heart knows of every part.
    """

    def __init__(self, options: HeartOptions, parts: Parts) -> None:
        self._options, self._parts = options, parts
        self._rolling: Rolling | None = None
        self._token = ""
        self._logged = True

    def ask(self, args: bytes, refused: str) -> Progress | None:
        """Answer a request; one that is heard again begins nothing again.

        Args:
            args: a `consecutiond.restart.Request`.
            refused: why nothing may be begun now, or nothing.

        Returns:
            How far it is; None when the request is to be asked again: this heart has
            yet to hear from the parts that are meant.
        """
        try:
            request = msgspec.json.decode(args, type=Request)
        except msgspec.DecodeError as fault:
            return Progress("unknown", f"the request cannot be read: {fault}")
        if self._rolling is not None and request.token == self._token:
            return _progress(self._rolling)
        if not request.begin:
            return Progress("broken off", "the heart was restarted meanwhile and does not know how far it was")
        if refused:
            return Progress("broken off", refused)
        if self._rolling is not None and not self._rolling.over:
            return Progress("busy", f"another restart is under way, at {self._rolling.at}")
        names, error = self._chosen(request.node)
        if error:
            return Progress("unknown", error)
        if not all(map(self._parts.is_known, names)):
            return None
        return _progress(self._begin(request, names))

    def _begin(self, request: Request, names: list[str]) -> Rolling:
        end_s = self._options.stop_timeout_s if request.end_s is None else request.end_s
        log.info("restart.begun", node=request.node, parts=names, end_s=end_s)
        self._rolling = Rolling(names, self._parts, end_s, self._options.start_timeout_s)
        self._token, self._logged = request.token, False
        return self._rolling

    def _chosen(self, node: str) -> tuple[list[str], str]:
        """Return the parts that are meant, or why there are none."""
        known = self._options.restartable
        if not known:
            return [], "nothing here can be restarted: its parts are threads of one process, or on other machines"
        if node in known:
            return list(known[node]), ""
        if not node:
            every = [(name, part) for name, parts in known.items() for part in parts]
            return [part for name, part in every if name not in _NAMED_ONLY or self._parts.was_given_up(part)], ""
        if self._options.door is not None and any(each["node"] == node for each in self._options.door.workers.values()):
            return [], f"the workers of node {node} are on other machines: restart them there"
        return [], f"there is no node {node!r}; there is: {', '.join(known)}"

    def step(self, now: float) -> None:
        """Go on with what is under way, `now` in monotonic seconds."""
        if self._rolling is None or self._logged:
            return
        self._rolling.step(now)
        if self._rolling.over:
            self._logged = True
            done = self._rolling
            log.info("restart.over", restarted=done.restarted, killed=done.killed, left=done.left, error=done.error)

    def break_off(self, why: str) -> None:
        """Begin with no other part."""
        if self._rolling is not None:
            self._rolling.break_off(why)


def _progress(rolling: Rolling) -> Progress:
    outcome: Outcome = "done" if rolling.over else "under way"
    if rolling.error:
        outcome = "broken off" if rolling.broken_off else "failed"
    return Progress(
        outcome, rolling.error, tuple(rolling.restarted), tuple(rolling.killed), rolling.at, tuple(rolling.left)
    )
