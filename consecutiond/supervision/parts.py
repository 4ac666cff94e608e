"""The parts as the heart knows them: their beats, their deaths, and when each is started again."""

import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import zmq

from consecutiond.heartoptions import HeartOptions
from consecutiond.logs import get_logger
from consecutiond.supervision.atwork import AtWork
from consecutiond.supervision.policy import BackOff, RestartPolicy
from consecutiond.supervision.supervisord import ProgramInfo, SupervisorError
from consecutiond_broker import wire
from consecutiond_broker.clock import Clock
from consecutiond_broker.deaths import DeathWatch, kill_if_ours
from consecutiond_broker.errors import WireError

log = get_logger("heart")

#: seconds between looks at the root's own list, for parts that died before they could say a word
_LOOK_S: Final = 1.0
#: seconds that are added to the delay when the root refuses a restart
_REFUSED_S: Final = 0.05
#: states in which the root has no process of a part
_GONE: Final = frozenset({"EXITED", "FATAL", "STOPPED", "BACKOFF"})
#: what a part can say of itself
_STATES: Final = frozenset({"starting", "ready", "failed"})
#: a pid beyond this is nobody's, and the kernel's calls do not even take it
_MOST_PID: Final = 1 << 22


class Supervisor(Protocol):
    """What the heart needs of whoever has the parts; all methods may raise `SupervisorError`."""

    def start(self, name: str) -> None:
        """Start a part that has died."""

    def stop(self, name: str) -> None:
        """Begin to stop one part, and nobody else."""

    def info(self) -> list[ProgramInfo]:
        """Return what became of every part."""

    def shutdown(self) -> None:
        """Begin to stop every part, the heart last."""

    def stopping(self) -> bool:
        """Return whether every part is being stopped already."""


class Part:
    """What the heart knows of one part."""

    __slots__ = (
        "detail", "due", "ending", "epoch", "given_up", "gone", "name", "pid", "restarts", "retired", "seen", "started",
        "state", "stats",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.pid = self.started = self.epoch = self.restarts = 0
        #: the newest epoch that is known to be dead
        self.gone = -1
        self.state, self.detail = "starting", ""
        self.seen = 0.0
        #: it has done what it was there for, and is not started again
        self.retired = False
        #: it died too often, and is not started again before somebody asks for it
        self.given_up = False
        #: it was asked to end, and its successor is wanted at once
        self.ending = False
        #: when it is to be started again, monotonic seconds
        self.due: float | None = None
        self.stats: dict[str, Any] = {}

    def show(self, now: float) -> dict[str, Any]:
        """Return it for `status`."""
        return {
            "pid": self.pid, "state": self.state, "epoch": self.epoch, "restarts": self.restarts,
            "silent_s": round(now - self.seen, 3) if self.seen else None, "detail": self.detail, "stats": self.stats,
        }  # fmt: skip


class Parts:
    """Every part: hears its beats, proves its death by a pid descriptor, and has the root start it again.

    Args:
        options: of the heart.
        supervisor: the root.
        clock: the time.
        poller: of the heart's loop, which death then wakes.
    """

    def __init__(self, options: HeartOptions, supervisor: Supervisor, clock: Clock, poller: zmq.Poller) -> None:
        self._supervisor, self._clock, self._poller = supervisor, clock, poller
        self._pid_dir, self._local = Path(options.pid_dir), frozenset(options.local_parts)
        self._by_name = {name: Part(name) for name in options.parts}
        #: workers on other machines: neither watched nor started by anybody here
        self._far = frozenset(options.door.workers) if options.door is not None else frozenset[str]()
        self._silence_s = options.door.listen.silence_s if options.door is not None else 0.0
        self._policy = RestartPolicy(
            random.random, BackOff(limit=options.restart_limit, window_s=options.restart_window_s)
        )
        self._too_often = f"{options.restart_limit} times within {options.restart_window_s:g} s"
        #: those that may be given up
        self._mortal = frozenset(name for names in options.restartable.values() for name in names)
        self._deaths = DeathWatch()
        self._next_look = clock.now() + _LOOK_S
        #: who had ended at the last look at the root's list, without a word
        self._ended: set[str] = set()
        self._workers = frozenset(options.worker_parts)
        self.at_work = AtWork(self._pid_dir, options.stall_s)
        #: nothing is started again any more
        self.frozen = False
        #: why a part could not come up, the newest; a graph that starts is given up for it
        self.fault = ""

    def __iter__(self) -> Iterator[Part]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def missing(self) -> list[str]:
        """Return the names of the parts that are not up."""
        return [part.name for part in self if part.state != "ready"]

    def count(self) -> str:
        """Return how many are up, for people."""
        given_up = ", ".join(part.name for part in self if part.given_up)
        told = f"{sum(part.state == 'ready' for part in self)} of {len(self)} parts up"
        return f"{told}, given up: {given_up}" if given_up else told

    def told_given_up(self) -> str:
        """Return who was given up, why, and what to do about it; nothing if nobody was."""
        return "\n".join(
            f"{part.name} died {self._too_often} soon after its start, and was given up; once the cause is gone, "
            f"`consecutiond restart` starts it again. What it said last:\n{part.detail.rstrip()}"
            for part in self
            if part.given_up
        )

    def show(self) -> dict[str, Any]:
        """Return all of them for `status`."""
        now = self._clock.now()
        return {part.name: part.show(now) | self.at_work.show(part.name, now) for part in self}

    # --- beats -----------------------------------------------------------------------------------------------

    def beat(self, head: wire.Alive) -> None:
        """Take note of a heartbeat.

        Raises:
            WireError: no part of ours can have sent it.
        """
        part, stats = self._check(head)
        if head.epoch < part.epoch:
            return
        now = self._clock.now()
        if head.epoch > part.epoch:
            self._meet(part, head, now)
        if part.epoch == part.gone:
            # Its death was proven before its last words were read: they still say why, but not that it lives.
            if head.state == "failed":
                self._failed(part, head.detail)
            return
        part.seen, part.stats = now, stats
        if head.state != part.state:
            part.state, part.detail = head.state, head.detail
            log.info(f"part.{head.state}", part=part.name, part_pid=part.pid, part_epoch=part.epoch)
            if head.state == "failed":
                self._failed(part, head.detail)
            elif head.state == "ready":
                self._policy.on_ready(part.name, now)

    def _check(self, head: wire.Alive) -> tuple[Part, dict[str, Any]]:
        part = self._by_name.get(head.name)
        if part is None:
            raise WireError(f"there is no part {head.name!r}")
        if head.version != wire.VERSION or head.state not in _STATES:
            raise WireError(f"a heartbeat of version {head.version} and state {head.state!r} is not understood")
        if not 0 < head.pid <= _MOST_PID:
            raise WireError(f"{head.pid} is no pid")
        try:
            return part, msgspec.json.decode(head.stats, type=dict[str, Any])
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise WireError(f"the counters of {head.name} cannot be read: {error}") from None

    def _meet(self, part: Part, head: wire.Alive, now: float) -> None:
        """A new incarnation has said its first word."""
        part.epoch, part.pid, part.started, part.due, part.given_up = head.epoch, head.pid, head.started, None, False
        part.state, part.detail = "starting", ""
        self._policy.on_start(part.name)
        if part.name in self._local or part.name in self._far:
            # It lives in the calling process, which nobody here may kill, or elsewhere: neither watched nor recorded.
            return
        write_pid(self._pid_dir, part.name, part.pid, part.started)
        self._forget(part.name)
        if part.name in self._workers:
            self.at_work.meet(part.name, part.pid, part.started, part.epoch)
        if self._deaths.watch(part.name, part.pid, part.started):
            self._poller.register(self._deaths.fd(part.name), zmq.POLLIN)
        else:
            self._died(part, now)

    def _failed(self, part: Part, why: str) -> None:
        part.detail = why
        self.fault = f"{part.name} could not start:\n{why.rstrip()}"

    # --- deaths ----------------------------------------------------------------------------------------------

    def see_deaths(self) -> None:
        """Find who has died, and start again who is due."""
        now = self._clock.now()
        for name in [str(key) for key in self._deaths.fds().values() if self._deaths.is_dead(key)]:
            self._forget(name)
            self._died(self._by_name[name], now)
        self._miss_silent(now)
        self._look_at_root(now)
        self.at_work.look(now)
        self._restart_due(now)

    def _miss_silent(self, now: float) -> None:
        for name in self._far:
            part = self._by_name[name]
            if part.state in ("starting", "ready") and part.seen and now - part.seen > self._silence_s:
                part.state = "lost"
                log.warning("part.lost", part=name, part_epoch=part.epoch, silent_s=round(now - part.seen, 3))

    def epoch(self, name: str) -> int:
        """Return the newest epoch that a part has beaten with, 0 before the first beat."""
        return self._by_name[name].epoch

    def is_free(self, name: str) -> bool:
        """Return whether the place of a worker on another machine is free."""
        part = self._by_name[name]
        return part.state not in ("starting", "ready") or not part.seen

    def left(self, name: str, epoch: int) -> None:
        """A worker on another machine has ended in order."""
        part = self._by_name[name]
        if part.epoch == epoch:
            part.state = "lost"
            log.info("part.left", part=name, part_epoch=epoch)

    def _forget(self, name: str) -> None:
        fd = self._deaths.fd(name)
        if fd is not None:
            self._poller.unregister(fd)
            self._deaths.forget(name)

    def _died(self, part: Part, now: float) -> None:
        said_why = part.state == "failed"
        at_item = self.at_work.was_at_item(part.name)
        asked, part.ending = part.ending, False
        self.at_work.forget(part.name)
        part.state, part.gone, part.due = "dead", part.epoch, None
        if self.frozen or part.retired:
            return
        if asked:
            part.due = now
            log.info("part.ended", part=part.name, part_pid=part.pid)
            return
        delay = self._policy.on_exit(part.name, now, counts=not at_item)
        if part.name in self._mortal and self._policy.is_spent(part.name, now):
            self._give_up(part)
            return
        part.due = now + delay
        log.warning("part.died", part=part.name, part_pid=part.pid, said_why=said_why, restart_in_s=round(delay, 3))

    def _give_up(self, part: Part) -> None:
        part.state, part.given_up = "failed", True
        part.detail = part.detail or "it ended before it could say why; see its log"
        log.error("part.given_up", part=part.name, restarts=part.restarts, reason=part.detail)

    # --- restarts on request ---------------------------------------------------------------------------------

    def is_known(self, name: str) -> bool:
        """Return whether this heart knows how a part is: it has beaten, or is known to be dead."""
        part = self._by_name[name]
        return part.epoch > 0 or part.given_up or part.state == "dead"

    def is_ready(self, name: str) -> bool:
        """Return whether a part is up."""
        return self._by_name[name].state == "ready"

    def was_given_up(self, name: str) -> bool:
        """Return whether a part died too often."""
        return self._by_name[name].given_up

    def reason(self, name: str) -> str:
        """Return what the newest incarnation of a part said when it could not start, or nothing."""
        part = self._by_name[name]
        return part.detail if part.state in ("failed", "dead") else ""

    def end(self, name: str) -> None:
        """Ask a part to end in order; its successor is started when it is dead."""
        part = self._by_name[name]
        if self.lives(name):
            # As the root does it in a stop: what the part has started may have to end, too.
            part.ending = kill_if_ours(part.pid, part.started, signal.SIGTERM, group=True)

    def revive(self, name: str) -> None:
        """Start a part that is dead, now, even if it was given up."""
        part = self._by_name[name]
        if part.given_up or part.state == "dead":
            part.given_up, part.state, part.due = False, "dead", self._clock.now()
            self._policy.forget(name)

    # --- ends ------------------------------------------------------------------------------------------------

    def retire(self, name: str) -> bool:
        """Have a part stopped for good; return whether its end is worth waiting for, which `is_gone` then tells."""
        part = self._by_name[name]
        part.retired, part.due = True, None
        try:
            self._supervisor.stop(name)
        except SupervisorError as error:
            self._refused(error)
            return False
        return True

    def kill(self, name: str) -> None:
        """Kill a part and what it has started, if its process is known and lives."""
        part = self._by_name[name]
        if self.lives(name):
            kill_if_ours(part.pid, part.started, signal.SIGKILL, group=True)

    def lives(self, name: str) -> bool:
        """Return whether a part has a process of its own that is not proven dead."""
        return self._deaths.fd(name) is not None

    def is_gone(self, name: str) -> bool:
        """Return whether a part has died, and no other of its name has come."""
        part = self._by_name[name]
        return part.state == "dead" or part.given_up

    def _look_at_root(self, now: float) -> None:
        """Find parts that died without a word: in C code at import, or while the heart itself was away."""
        if now < self._next_look or self.frozen:
            return
        self._next_look = now + _LOOK_S
        silent = [p for p in self if p.state == "starting" and p.due is None and self._deaths.fd(p.name) is None]
        if not silent:
            return
        try:
            states = {info.name: info for info in self._supervisor.info()}
        except SupervisorError as error:
            self._refused(error)
            return
        before, self._ended = self._ended, set()
        for part in silent:
            info = states.get(part.name)
            if info is None or info.state not in _GONE:
                continue
            # Its last words may still be on their way, and say much more; so not before the next look.
            self._ended.add(part.name)
            if part.name in before:
                self.fault = f"{part.name} ended before it was up (exit status {info.exit_status}); see its log"
                self._died(part, now)

    # --- restarts --------------------------------------------------------------------------------------------

    def wait_ms(self, most_ms: int) -> int:
        """Return how long the loop may sleep until somebody is to be started again."""
        due = [part.due for part in self if part.due is not None]
        if not due or self.frozen:
            return most_ms
        return max(0, min(most_ms, int(1000 * (min(due) - self._clock.now())) + 1))

    def _restart_due(self, now: float) -> None:
        for part in self:
            if part.due is None or part.due > now or self.frozen:
                continue
            try:
                self._supervisor.start(part.name)
            except SupervisorError as error:
                self._refused(error)
                delay = self._policy.on_exit(part.name, now, counts=False)
                part.due = self._clock.now() + delay + _REFUSED_S
                continue
            part.due, part.state = None, "starting"
            part.restarts += 1
            log.info("part.restarted", part=part.name, restarts=part.restarts)

    def _refused(self, error: SupervisorError) -> None:
        # A root that stops stops everybody; to start one again would only hold it up.
        self.frozen = self.frozen or error.stopping
        log.warning("root.refused", error=str(error))

    def close(self) -> None:
        """Watch nobody any more."""
        self._deaths.close()


def write_pid(pid_dir: Path, name: str, pid: int, started: int) -> None:
    """Record pid and start time, which `clean` and the next start need when everybody is gone."""
    draft = pid_dir / f"{name}.pid.{pid}"
    try:
        draft.write_text(f"{pid} {started}\n")
        draft.replace(pid_dir / f"{name}.pid")
    except OSError as error:
        # A full disk must not end the one who would start again what it kills.
        log.warning("pid_file.not_written", part=name, error=str(error))
