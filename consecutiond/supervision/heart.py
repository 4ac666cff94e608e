"""The heart: ready barrier, deaths, restarts, control; ``python -m consecutiond.supervision.heart PLAN PART``."""

from consecutiond_broker import child

if __name__ == "__main__":
    child.adopt()

import random
import signal
import sys
from collections import deque
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
import zmq

from consecutiond.heartoptions import HeartOptions
from consecutiond.logs import log_events
from consecutiond.supervision.policy import RestartPolicy
from consecutiond.supervision.supervisord import SupervisorClient, SupervisorError
from consecutiond_broker import wire
from consecutiond_broker.clock import Clock, SystemClock
from consecutiond_broker.dealer import Dealer
from consecutiond_broker.deaths import DeathWatch
from consecutiond_broker.epochs import next_epoch
from consecutiond_broker.errors import WireError
from consecutiond_broker.options import load_options
from consecutiond_broker.signals import Signals

log = structlog.get_logger("heart")

#: seconds between looks at the root's own list, for parts that died before they could say a word
_LOOK_S: Final = 1.0
#: messages read per turn and socket
_DRAIN: Final = 200
#: seconds for which a status waits for an acker that is not there; less than the clients' patience
_STATUS_PATIENCE_S: Final = 2.0
#: what is known of the log before the acker has said a word
_UNKNOWN: Final = dict.fromkeys(("accepted", "completed", "failed", "open", "waiting"))
#: states in which the root has no process of a part
_GONE: Final = frozenset({"EXITED", "FATAL", "STOPPED", "BACKOFF"})


class Part:
    """What the heart knows of one part."""

    __slots__ = ("detail", "due", "epoch", "name", "pid", "restarts", "seen", "started", "state", "stats")

    def __init__(self, name: str) -> None:
        self.name = name
        self.pid = self.started = self.epoch = self.restarts = 0
        self.state, self.detail = "starting", ""
        self.seen = 0.0
        #: when it is to be started again, monotonic seconds
        self.due: float | None = None
        self.stats: dict[str, Any] = {}

    def show(self, now: float) -> dict[str, Any]:
        """Return it for `status`."""
        return {
            "pid": self.pid, "state": self.state, "epoch": self.epoch, "restarts": self.restarts,
            "silent_s": round(now - self.seen, 3) if self.seen else None, "detail": self.detail, "stats": self.stats,
        }  # fmt: skip


class Heart:
    """Knows every part by its beats, notices deaths by pid descriptors, and restarts what died.

    Nothing that flows depends on it: a heart that is killed comes back, hears the beats, and knows everything again.
    """

    def __init__(
        self, options: HeartOptions, epoch: int, context: "zmq.Context[zmq.Socket[bytes]]",
        supervisor: SupervisorClient, clock: Clock,
    ) -> None:  # fmt: skip
        self.options, self.epoch, self.supervisor, self.clock = options, epoch, supervisor, clock
        self.stopping = False
        self.ready = False
        self.failed = ""
        self.parts = {name: Part(name) for name in options.parts}
        self._policy = RestartPolicy(random.random)
        self._deaths = DeathWatch()
        self._began = clock.now()
        self._next_look = clock.now() + _LOOK_S
        self._waiting: list[tuple[bytes, int]] = []
        self._stop_waiting: list[tuple[bytes, int]] = []
        self._draining: float | None = None
        self._shut_down = False
        self._finished = False
        self._acker_stats: dict[str, Any] = dict(_UNKNOWN)
        #: who asked for the status, until when the acker's answer is waited for
        self._status_asked: deque[tuple[float, bytes, int]] = deque()
        self._number = 0
        self._signals: Signals | None = None
        self.alive = context.socket(zmq.PULL)
        self.alive.bind(options.alive_uri)
        self.control = context.socket(zmq.ROUTER)
        self.control.setsockopt(zmq.LINGER, 500)
        self.control.bind(options.control_uri)
        self.acker = Dealer(context, options.acker_uri, b"H:heart", self._greet_acker)
        self.poller = zmq.Poller()
        for socket in (self.alive, self.control):
            self.poller.register(socket, zmq.POLLIN)
        self.acker.register(self.poller)

    def listen(self, signals: Signals) -> None:
        """Drain and shut down when one of these signals comes."""
        self._signals = signals
        self.poller.register(signals.fileno(), zmq.POLLIN)

    def run(self) -> None:
        """Serve until `stopping` is set."""
        while not self.stopping:
            self._turn(200)

    def _turn(self, timeout_ms: int) -> None:
        self.poller.poll(timeout_ms)
        if self._signals is not None and self._signals.taken():
            self.stopping = self._shut_down
            self._drain("the consecutor was told to stop")
        self._hear_beats()
        self._hear_control()
        self.acker.check_connection()
        for frames in self.acker.messages(_DRAIN):
            self._from_acker(wire.unpack(frames))
        now = self.clock.now()
        self._see_deaths(now)
        self._look_at_root(now)
        self._restart_due(now)
        self._judge_start(now)
        self._judge_stop(now)
        self._answer_status(now)

    # --- parts -----------------------------------------------------------------------------------------------

    def _hear_beats(self) -> None:
        for _ in range(_DRAIN):
            try:
                frames = self.alive.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                head = wire.unpack(frames)
                if not isinstance(head, wire.Alive) or head.version != wire.VERSION:
                    raise WireError(f"{type(head).__name__} is no heartbeat of this version")
                self._beat(head)
            except WireError as error:
                log.warning("wire.malformed", error=str(error))

    def _beat(self, head: wire.Alive) -> None:
        part = self.parts.get(head.name)
        if part is None or head.epoch < part.epoch:
            return
        now = self.clock.now()
        if head.epoch > part.epoch:
            part.epoch, part.pid, part.started, part.due = head.epoch, head.pid, head.started, None
            part.detail = ""
            self._policy.on_start(part.name, now)
            self._write_pid(part)
            self._watch(part)
        part.seen = now
        part.stats = msgspec.json.decode(head.stats)
        if head.state != part.state:
            part.state, part.detail = head.state, head.detail
            log.info(f"part.{head.state}", part=part.name, part_pid=part.pid, part_epoch=part.epoch)
            if head.state == "failed" and not self.ready:
                self._start_failed(f"{part.name} could not start:\n{head.detail.rstrip()}")

    def _write_pid(self, part: Part) -> None:
        """Record pid and start time, which `clean` and the next start need when everybody is gone."""
        path = Path(self.options.pid_dir) / f"{part.name}.pid"
        draft = path.with_name(f"{path.name}.{part.pid}")
        draft.write_text(f"{part.pid} {part.started}\n")
        draft.replace(path)

    def _watch(self, part: Part) -> None:
        old = self._deaths.fd(part.name)
        if old is not None:
            self.poller.unregister(old)
        if part.name in self.options.local_parts:
            return
        if self._deaths.watch(part.name, part.pid, part.started):
            self.poller.register(self._deaths.fd(part.name), zmq.POLLIN)
        else:
            self._died(part, self.clock.now())

    def _see_deaths(self, now: float) -> None:
        for name in [key for key in self._deaths.fds().values() if self._deaths.is_dead(key)]:
            part = self.parts[str(name)]
            self.poller.unregister(self._deaths.fd(name))
            self._deaths.forget(name)
            self._died(part, now)

    def _died(self, part: Part, now: float) -> None:
        if self._shut_down or part.state == "dead":
            return
        failed = part.state == "failed"
        part.state = "dead"
        if self.failed and not self.ready:
            return
        delay = self._policy.on_exit(part.name, now)
        part.due = now + delay
        log.warning("part.died", part=part.name, part_pid=part.pid, said_why=failed, restart_in_s=round(delay, 3))

    def _restart_due(self, now: float) -> None:
        for part in self.parts.values():
            if part.due is None or part.due > now or self._shut_down:
                continue
            try:
                self.supervisor.start(part.name)
            except SupervisorError as error:
                log.warning("part.restart_failed", part=part.name, error=str(error))
                part.due = now + self._policy.on_exit(part.name, now) + 0.05
                continue
            part.due = None
            part.restarts += 1
            part.state = "starting"
            part.seen = now
            self._policy.on_start(part.name, now)
            log.info("part.restarted", part=part.name, restarts=part.restarts)

    def _look_at_root(self, now: float) -> None:
        """Find parts that died without a word: in C code at import, or while the heart itself was away."""
        if now < self._next_look or self._shut_down:
            return
        self._next_look = now + _LOOK_S
        silent = [p for p in self.parts.values() if p.state == "starting" and p.due is None]
        if not silent:
            return
        try:
            states = {info.name: info for info in self.supervisor.info()}
        except SupervisorError as error:
            log.warning("root.unreachable", error=str(error))
            return
        for part in silent:
            info = states.get(part.name)
            if info is None or info.state not in _GONE:
                continue
            if not self.ready and not self.failed:
                self._start_failed(f"{part.name} ended before it was up (exit status {info.exit_status}); see its log")
            self._died(part, now)

    # --- start -----------------------------------------------------------------------------------------------

    def _judge_start(self, now: float) -> None:
        if self.ready or self.failed:
            return
        missing = [part.name for part in self.parts.values() if part.state != "ready"]
        if not missing and self.acker.connected:
            self.ready = True
            log.info("graph.ready", parts=len(self.parts), seconds=round(now - self._began, 3))
            self.acker.send(self._greet_acker())
            self._answer_waiting()
        elif now - self._began > self.options.start_timeout_s:
            late = ", ".join(missing) or "the acker's socket"
            self._start_failed(f"{late} did not come up within start_timeout_s = {self.options.start_timeout_s:g} s")

    def _start_failed(self, why: str) -> None:
        if self.failed:
            return
        self.failed = why
        log.error("graph.start_failed", error=why)
        self._answer_waiting()

    def _answer_waiting(self) -> None:
        for peer, number in self._waiting:
            self._answer(peer, number, {"ready": self.ready}, self.failed)
        self._waiting.clear()

    # --- stop ------------------------------------------------------------------------------------------------

    def _drain(self, why: str) -> None:
        if self._draining is not None:
            return
        self._draining = self.clock.now() + self.options.stop_timeout_s
        log.info("graph.draining", why=why)
        if self.failed or self._finished:
            self._shutdown()
        else:
            self.acker.send([wire.pack(wire.Drain(why))])

    def _judge_stop(self, now: float) -> None:
        if self._draining is not None and now > self._draining and not self._shut_down:
            log.warning("graph.stop_timed_out", timeout_s=self.options.stop_timeout_s, action="killing; the log stays")
            self._shutdown()

    def _shutdown(self) -> None:
        """Have the root stop everything: workers first, then brokers, the acker, and the heart itself."""
        if self._shut_down:
            return
        self._shut_down = True
        for peer, number in self._stop_waiting:
            self._answer(peer, number, {"finished": self._finished})
        self._stop_waiting.clear()
        try:
            self.supervisor.shutdown()
        except SupervisorError as error:
            # The root is going down already, or gone; it takes us with it either way.
            log.warning("root.unreachable", error=str(error))

    # --- acker -----------------------------------------------------------------------------------------------

    def _greet_acker(self) -> list[bytes]:
        if self._draining is not None:
            # A new acker does not know that the graph is to stop; this follows the greeting.
            self._number += 1
            self.acker.socket.send(wire.pack(wire.Drain("the consecutor was told to stop")))
        if self._status_asked:
            self._ask_stats()
        return [wire.pack(wire.HeartJoin(wire.VERSION, self.epoch, self.ready))]

    def _from_acker(self, head: wire.Head) -> None:
        if isinstance(head, wire.Stats):
            self._acker_stats = msgspec.json.decode(head.body)
            self._answer_status(float("inf"))
        elif isinstance(head, wire.Finished):
            self._finished = True
            self._acker_stats = msgspec.json.decode(head.summary)
            if self._draining is not None:
                self._shutdown()

    # --- control ---------------------------------------------------------------------------------------------

    def _hear_control(self) -> None:
        for _ in range(_DRAIN):
            try:
                peer, *frames = self.control.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                head = wire.unpack(frames)
                if not isinstance(head, wire.Ask):
                    raise WireError(f"{type(head).__name__} is no request")
            except WireError as error:
                log.warning("wire.malformed", error=str(error))
                continue
            self._obey(peer, head)

    def _obey(self, peer: bytes, head: wire.Ask) -> None:
        if head.verb == "wait":
            self._waiting.append((peer, head.number))
            if self.ready or self.failed:
                self._answer_waiting()
        elif head.verb == "status":
            self._ask_acker(peer, head.number)
        elif head.verb == "stop":
            self._stop_waiting.append((peer, head.number))
            self._drain("`consecutiond stop`")
        elif head.verb == "shutdown":
            self._stop_waiting.append((peer, head.number))
            self._shutdown()
        else:
            self._answer(peer, head.number, {}, f"unknown request {head.verb!r}: wait, status, stop, shutdown")

    def _ask_acker(self, peer: bytes, number: int) -> None:
        self._status_asked.append((self.clock.now() + _STATUS_PATIENCE_S, peer, number))
        if self.acker.connected:
            self._ask_stats()

    def _ask_stats(self) -> None:
        self._number += 1
        self.acker.send([wire.pack(wire.StatsAsk(self._number))])

    def _answer_status(self, now: float) -> None:
        """Answer whoever has waited long enough, with the newest that is known of the log."""
        while self._status_asked and self._status_asked[0][0] <= now:
            _, peer, number = self._status_asked.popleft()
            self._answer(peer, number, self.status())

    def _answer(self, peer: bytes, number: int, body: dict[str, Any], error: str = "") -> None:
        self.control.send_multipart([peer, wire.pack(wire.Answer(number, error, msgspec.json.encode(body)))])

    def status(self) -> dict[str, Any]:
        """Return everything that `consecutiond status` shows."""
        now = self.clock.now()
        state = "failed" if self.failed else "starting"
        if self.ready:
            state = "running" if self._draining is None else "draining"
        return {
            "state": state, "error": self.failed, "uptime_s": round(now - self._began, 1), "epoch": self.epoch,
            **self._acker_stats, "acker_connected": self.acker.connected,
            "parts": {name: part.show(now) for name, part in self.parts.items()},
        }  # fmt: skip

    def close(self) -> None:
        """Close every socket."""
        self._deaths.close()
        self.acker.close()
        self.alive.close(linger=0)
        self.control.close()


def main() -> None:
    """Run the heart until TERM, which the root sends last."""
    options = load_options(Path(sys.argv[1]), sys.argv[2], HeartOptions)
    log_events(role="heart")
    epoch = next_epoch(Path(options.pid_dir), options.part)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    supervisor = SupervisorClient(Path(options.supervisor_socket))
    heart = Heart(options, epoch, context, supervisor, SystemClock())
    signals = Signals(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    heart.listen(signals)
    try:
        heart.run()
    finally:
        heart.close()
        context.term()


if __name__ == "__main__":
    main()
