"""The heart's look at the whole, once a second: whether it moves, and what the service manager is told."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from consecutiond.logs import get_logger
from consecutiond.supervision.atwork import AtWork
from consecutiond.supervision.notify import Notifier
from consecutiond.supervision.stall import Stall

log = get_logger("heart")

#: seconds between looks
_LOOK_S: Final = 1.0


class Watch:
    """Notices a graph that has stalled, and tells the service manager how things are.

    The manager hears a sign of life as long as the graph moves, has nothing to do, or is busy in the user's code; so
    its watchdog ends what is alive and yet does nothing. What may take how long in the user's code is a matter of
    the nodes' time-outs.

    Args:
        at_work: what the workers are at.
        notifier: the service manager.
        stall_s: seconds without progress after which a graph with a backlog has stalled.
        ask: asks the acker for its counters.
        now: monotonic seconds.
    """

    def __init__(
        self, at_work: AtWork, notifier: Notifier, stall_s: float, ask: Callable[[], None], now: float
    ) -> None:
        self._at_work, self._notifier, self._ask = at_work, notifier, ask
        self._stall = Stall(stall_s, now)
        self._next = self._next_beat = now
        self._stats: Mapping[str, Any] = {}
        self._told, self._told_ready, self._told_stop = "", False, False
        #: when the counters came, and how many inputs were complete then
        self._counted: tuple[float, int] | None = None
        self._rate = 0.0
        #: stacks were asked for, and are written to the log at the next look
        self._dumping = False

    def hear(self, stats: Mapping[str, Any], now: float) -> None:
        """The acker has answered."""
        self._stats = stats
        completed = stats.get("completed")
        if isinstance(completed, int):
            before, self._counted = self._counted, (now, completed)
            if before is not None and now > before[0]:
                self._rate = max(0.0, (completed - before[1]) / (now - before[0]))

    def look(self, now: float, *, ready: bool, stopping: bool, parts: str) -> None:
        """Take a look, if it is time.

        Args:
            now: monotonic seconds.
            ready: the graph was up once.
            stopping: it is being stopped.
            parts: how many parts are up, for people.
        """
        if now < self._next:
            return
        self._next = now + _LOOK_S
        if ready:
            self._see_progress(now)
        if self._notifier:
            self._tell(now, ready=ready, stopping=stopping, parts=parts)
        if ready:
            self._stats = {}
            self._ask()

    def stop(self, now: float, parts: str) -> None:
        """A stop begins: say so at once, since it may be over before the next look."""
        if self._notifier:
            self._tell(now, ready=self._told_ready, stopping=True, parts=parts)

    def _see_progress(self, now: float) -> None:
        if self._dumping:
            self._dumping = False
            log.error("graph.stacks", stacks=self._at_work.stacks())
        was = self._stall.stalled
        if self._stall.observe(self._stats, self._at_work.moves, now):
            log.error(
                "graph.stalled", seconds=round(self._stall.seconds(now)), open=self._stats.get("open"),
                busy=self._at_work.busy(), store_trouble=self._stats.get("store_trouble", ""),
            )  # fmt: skip
            self._at_work.ask_all()
            self._dumping = True
        elif was and not self._stall.stalled:
            log.info("graph.moves_again")

    def _tell(self, now: float, *, ready: bool, stopping: bool, parts: str) -> None:
        fields = {}
        sentence = self._sentence(parts, ready=ready, stopping=stopping)
        if sentence != self._told:
            fields["STATUS"] = self._told = sentence
        if ready and not self._told_ready:
            fields["READY"], self._told_ready = "1", True
        if stopping and not self._told_stop:
            fields["STOPPING"], self._told_stop = "1", True
        if self._notifier.watchdog_s and now >= self._next_beat and (not self._stall.stalled or self._at_work.busy()):
            fields["WATCHDOG"], self._next_beat = "1", now + self._notifier.watchdog_s - _LOOK_S
        if fields:
            self._notifier.send(**fields)

    def _sentence(self, parts: str, *, ready: bool, stopping: bool) -> str:
        state = "running" if ready else "starting"
        if stopping:
            state = "draining"
        elif self._stall.stalled:
            state = "stalled"
        said = [state, parts]
        if self._stats.get("open") is not None:
            said.append(f"{self._rate:,.0f} inputs/s, {self._stats['open']:,} open, {self._stats['failed']:,} failed")
        return "; ".join(said)

    @property
    def stalled(self) -> bool:
        """Whether the graph has work and makes no progress."""
        return self._stall.stalled

    def show(self, now: float) -> dict[str, Any]:
        """Return it for `status`."""
        stalled_s = round(self._stall.seconds(now), 1) if self._stall.stalled else 0.0
        return {"stalled_s": stalled_s, "rate": round(self._rate, 1)}
