"""The heart: ready barrier, deaths, restarts, control; ``python -m consecutiond.supervision.heart PLAN PART``."""

from consecutiond_broker import child

if __name__ == "__main__":
    child.adopt()
    import signal

    # A request to end that comes while we import is kept for the loop; unhandled, it would end us undrained.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})

import os
import signal
import sys
from collections import deque
from pathlib import Path
from typing import Any, Final

import msgspec
import zmq

from consecutiond.heartoptions import HeartOptions
from consecutiond.inputs.killsocket import KillRouter
from consecutiond.logs import get_logger, log_events
from consecutiond.supervision.barrier import Start, read_start, write_start
from consecutiond.supervision.door import Door
from consecutiond.supervision.killing import Killing
from consecutiond.supervision.notify import Notifier
from consecutiond.supervision.parts import Parts, Supervisor, write_pid
from consecutiond.supervision.restarting import Restarting
from consecutiond.supervision.supervisord import SupervisorClient, SupervisorError
from consecutiond.supervision.watch import Watch
from consecutiond_broker import wire
from consecutiond_broker.clock import Clock, SystemClock
from consecutiond_broker.dealer import Dealer
from consecutiond_broker.epochs import next_epoch
from consecutiond_broker.errors import WireError
from consecutiond_broker.options import load_options
from consecutiond_broker.signals import Signals
from consecutiond_broker.wake import Wake

log = get_logger("heart")

#: what makes the heart drain the graph
_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
#: messages read per turn and socket
_DRAIN: Final = 200
#: seconds for which a status waits for an acker that is not there; less than the clients' patience
_STATUS_PATIENCE_S: Final = 2.0
#: seconds for which a start that failed can still be asked about before everything is stopped
_FAILED_S: Final = 5.0
#: seconds until a root that did not answer is asked again to stop everything
_ASK_AGAIN_S: Final = 1.0
_NEVER: Final = float("inf")
#: what the acker, and whoever is refused, hears of a stop
_TOLD: Final = "the consecutor was told to stop"
#: what is known of the log before the acker has said a word
_UNKNOWN: Final = dict.fromkeys(("accepted", "completed", "failed", "open", "waiting"))


class Heart:
    """Knows every part by its beats, notices deaths by pid descriptors, and restarts what died.

    Nothing that flows depends on it: a heart that is killed comes back, hears the beats, and knows everything again.

    Args:
        options: what the plan says.
        epoch: this incarnation.
        context: the process's ZeroMQ context.
        supervisor: the root.
        clock: the time.
        root: pid and start time of the root, under which later hearts may follow; None when none will.
        notifier: the service manager, if one is to be told.
    """

    def __init__(
        self, options: HeartOptions, epoch: int, context: "zmq.Context[zmq.Socket[bytes]]", supervisor: Supervisor,
        clock: Clock, root: tuple[int, int] | None = None, notifier: Notifier | None = None,
    ) -> None:  # fmt: skip
        self.options, self.epoch, self.supervisor, self.clock = options, epoch, supervisor, clock
        self.stopping = False
        self._root, self._pid_dir = root, Path(options.pid_dir)
        start = read_start(self._pid_dir, root) if root is not None else None
        #: the graph was up once: what is missing now is restarted, and holds up nothing
        self.ready = start is not None and start.ready
        self.failed = start.failed if start is not None else ""
        self._began = clock.now()
        self._waiting: list[tuple[bytes, int]] = []
        self._stop_waiting: list[tuple[bytes, int]] = []
        self._draining: float | None = None
        #: the acker is to be told to drain, once the input program has ended
        self._drain_next = False
        #: when the root is (again) asked to stop everything
        self._ask_root = clock.now() + _FAILED_S if self.failed else _NEVER
        self._shut_down = False
        self._killing: Killing | None = None
        self._finished = False
        self._acker_stats: dict[str, Any] = dict(_UNKNOWN)
        #: who asked for the status, until when the acker's answer is waited for
        self._status_asked: deque[tuple[float, bytes, int]] = deque()
        self._number = self._malformed = 0
        self._signals: Signals | Wake | None = None
        self.alive = context.socket(zmq.PULL)
        self.alive.bind(options.alive_uri)
        self.control = context.socket(zmq.ROUTER)
        self.control.setsockopt(zmq.LINGER, 500)
        self.control.bind(options.control_uri)
        self.kill = KillRouter(context, options.kill_uri, options.stop_timeout_s) if options.kill_uri else None
        self.acker = Dealer(context, options.acker_uri, b"H:heart", self._greet_acker)
        self.poller = zmq.Poller()
        for socket in (self.alive, self.control):
            self.poller.register(socket, zmq.POLLIN)
        if self.kill is not None:
            self.poller.register(self.kill.socket, zmq.POLLIN)
        self.acker.register(self.poller)
        self.parts = Parts(options, supervisor, clock, self.poller)
        self.restarting = Restarting(options, self.parts)
        self._notifier = notifier or Notifier({})
        self.watch = Watch(self.parts.at_work, self._notifier, options.stall_s, self._ask_stats, clock.now())
        self.door: Door | None = None
        if options.door is not None:
            self.door = Door(
                options.door, self._pid_dir, context, self.poller, self.parts, clock, recovering=self.ready
            )  # fmt: skip
        self.parts.frozen = bool(self.failed)
        if start is not None and start.drain_until is not None:
            self._drain("an earlier heart was told to", start.drain_until)

    def listen(self, signals: Signals | Wake) -> None:
        """Drain and shut down when one of these signals comes."""
        self._signals = signals
        self.poller.register(signals.fileno(), zmq.POLLIN)

    def run(self) -> None:
        """Serve until `stopping` is set."""
        while not self.stopping:
            self._turn(200)

    def _turn(self, timeout_ms: int) -> None:
        self.poller.poll(self.parts.wait_ms(timeout_ms))
        if self._signals is not None and self._signals.taken():
            self._told_to_end()
        self._hear_beats()
        if self.door is not None:
            self.door.hear()
        self._hear_control()
        self._hear_kill()
        self._hear_acker()
        self.parts.see_deaths()
        now = self.clock.now()
        self.restarting.step(now)
        self._judge_start(now)
        self._judge_stop(now)
        self._answer_status(now)
        self.watch.look(
            now, ready=self.ready, stopping=self._draining is not None or bool(self.failed), parts=self.parts.count()
        )

    def _dropped(self, error: WireError) -> None:
        """Count a message that nobody should have sent; say so ever more rarely."""
        self._malformed += 1
        if self._malformed & (self._malformed - 1) == 0:
            log.warning("wire.malformed", error=str(error), count=self._malformed)

    def _hear_beats(self) -> None:
        for _ in range(_DRAIN):
            try:
                frames = self.alive.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                head = wire.unpack(frames)
                if not isinstance(head, wire.Alive):
                    raise WireError(f"{type(head).__name__} is no heartbeat")
                self.parts.beat(head)
            except WireError as error:
                self._dropped(error)

    # --- start -----------------------------------------------------------------------------------------------

    def _judge_start(self, now: float) -> None:
        if self.ready or self.failed:
            return
        missing = self.parts.missing()
        if self.parts.fault:
            self._start_failed(self.parts.fault)
        elif not missing and self.acker.connected:
            self.ready = True
            log.info("graph.ready", parts=len(self.parts), seconds=round(now - self._began, 3))
            self._remember_start()
            self.acker.send(self._greet_acker())
            self._answer_waiting()
        elif now - self._began > self.options.start_timeout_s:
            late = ", ".join(missing) or "the acker's socket"
            how = self.door.how_to_start(missing) if self.door is not None else ""
            limit = f"start_timeout_s = {self.options.start_timeout_s:g} s"
            self._start_failed(f"{late} did not come up within {limit}{how}")

    def _start_failed(self, why: str) -> None:
        """Give the start up: say why to whoever asks, for a while, and have everything stopped."""
        self.failed = why
        self.parts.frozen = True
        log.error("graph.start_failed", error=why)
        self._remember_start()
        self._answer_waiting()
        self._ask_root = self.clock.now() + _FAILED_S
        if self._draining is not None:
            self._shutdown()

    def _remember_start(self) -> None:
        if self._root is None:
            return
        try:
            write_start(self._pid_dir, Start(self._root, self.ready, self.failed, self._draining))
        except OSError as error:
            log.warning("start.not_written", error=str(error))

    def _answer_waiting(self) -> None:
        for peer, number in self._waiting:
            self._answer(peer, number, {"ready": self.ready}, self.failed)
        self._waiting.clear()

    # --- stop ------------------------------------------------------------------------------------------------

    def _told_to_end(self) -> None:
        """Drain, unless it is the root that ends us, the last of all."""
        if self._shut_down or self._root_stops():
            self.stopping = True
        else:
            self._drain("a signal", self.clock.now() + self.options.stop_timeout_s)

    def _root_stops(self) -> bool:
        try:
            return self.supervisor.stopping()
        except SupervisorError as error:
            log.warning("root.unreachable", error=str(error))
            return False

    def _hear_kill(self) -> None:
        seconds = self.kill.receive() if self.kill is not None else None
        if seconds is not None:
            self._drain("the kill socket", self.clock.now() + seconds)

    def _drain(self, why: str, until: float) -> None:
        """Begin to stop; who asks first says how long it may take."""
        if self._draining is not None:
            return
        self._draining = until
        self.restarting.break_off(_TOLD)
        self.watch.stop(self.clock.now(), self.parts.count())
        log.info("graph.draining", why=why, seconds=round(until - self.clock.now(), 3))
        if not self.ready and not self.failed:
            # Nothing is in work yet; what is in the log stays there. This is no failure, so nobody is to remember it.
            self.failed = f"{_TOLD} before every part was up"
            self._answer_waiting()
        else:
            self._remember_start()
        if self.failed or self._finished:
            self._shutdown()
        elif self.options.input_part and self.parts.retire(self.options.input_part):
            # It still needs the acker: for the receipts of what its clients have sent.
            self._drain_next = True
        else:
            self.acker.send([wire.pack(wire.Drain(_TOLD))])

    def _drain_once_input_ended(self) -> None:
        if self._drain_next and self.parts.is_gone(self.options.input_part):
            self.acker.send([wire.pack(wire.Drain(_TOLD))])
            self._drain_next = False

    def _judge_stop(self, now: float) -> None:
        self._drain_once_input_ended()
        if self._draining is not None and now > self._draining and not self._shut_down:
            self._kill(now)
        elif now > self._ask_root:
            self._shutdown()

    def _kill(self, now: float) -> None:
        """The time is over: kill the workers, the upper ones first; what is open stays in the log."""
        if self._killing is None:
            log.warning("graph.stop_timed_out", action="killing; what is open stays in the log")
            self.parts.frozen = True
            self._killing = Killing(self.options.kill_tiers, self.parts.kill, self.parts.lives, now)
            self.acker.send([wire.pack(wire.Drain(_TOLD, cut=True))])
            self._ask_stats()
        if self._killing.step(now):
            self._shutdown()

    def _shutdown(self) -> None:
        """Have the root stop everything: workers first, then brokers, the acker, and the heart itself."""
        self._shut_down = self.parts.frozen = True
        for peer, number in self._stop_waiting:
            self._answer(peer, number, {**self._acker_stats, "finished": self._finished})
        self._stop_waiting.clear()
        if self.door is not None:
            self.door.dismiss("the consecutor ends")
        self._ask_root = _NEVER
        try:
            self.supervisor.shutdown()
        except SupervisorError as error:
            # A root that is gone takes us with it; one that is merely busy is asked again.
            log.warning("root.refused", error=str(error))
            if not error.stopping:
                self._ask_root = self.clock.now() + _ASK_AGAIN_S

    # --- acker -----------------------------------------------------------------------------------------------

    def _greet_acker(self) -> list[bytes]:
        if self._draining is not None and not self._drain_next:
            # A new acker does not know that the graph is to stop.
            self.acker.send([wire.pack(wire.Drain(_TOLD))])
        if self._status_asked:
            self._ask_stats()
        return [wire.pack(wire.HeartJoin(wire.VERSION, self.epoch, self.ready))]

    def _hear_acker(self) -> None:
        self.acker.check_connection()
        for frames in self.acker.messages(_DRAIN):
            try:
                self._from_acker(wire.unpack(frames))
            except (WireError, msgspec.DecodeError) as error:
                self._dropped(WireError(str(error)))

    def _from_acker(self, head: wire.Head) -> None:
        if isinstance(head, wire.Stats):
            self._acker_stats = msgspec.json.decode(head.body)
            self.watch.hear(self._acker_stats, self.clock.now())
            self._answer_status(_NEVER)
            if self._killing is not None and self._acker_stats.get("cut"):
                self._killing.announced = True
        elif isinstance(head, wire.Drain):
            # An item has failed for good in a node whose policy is to stop then.
            self._drain(head.reason, self.clock.now() + self.options.stop_timeout_s)
        elif isinstance(head, wire.Finished):
            self._acker_stats = msgspec.json.decode(head.summary)
            self._finished = True
            if self._draining is not None and not self._shut_down:
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
                self._dropped(error)
            else:
                self._obey(peer, head)

    def _obey(self, peer: bytes, head: wire.Ask) -> None:
        if head.verb == "wait":
            self._waiting.append((peer, head.number))
            if self.ready or self.failed:
                self._answer_waiting()
        elif head.verb == "status":
            self._ask_acker(peer, head.number)
        elif head.verb == "restart":
            self._restart(peer, head)
        elif head.verb in ("stop", "shutdown"):
            self._stop_waiting.append((peer, head.number))
            if head.verb == "shutdown" or self._shut_down:
                # Said again, it is answered again: the first answer may have been for a client that is gone.
                self._shutdown()
            else:
                self._drain("the control socket", self.clock.now() + _seconds(head.args, self.options.stop_timeout_s))
        else:
            self._answer(peer, head.number, {}, f"unknown request {head.verb!r}: wait, status, restart, stop, shutdown")

    def _restart(self, peer: bytes, head: wire.Ask) -> None:
        refused = "" if self.ready else self.failed or "the consecutor is being started: not every part was up yet"
        progress = self.restarting.ask(head.args, _TOLD if self._draining is not None else refused)
        if progress is not None:
            self._answer(peer, head.number, msgspec.to_builtins(progress))

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
        degraded = self.parts.told_given_up()
        state = "failed" if self.failed else "starting"
        if self.ready:
            state = "running" if self._draining is None else "draining"
            if self.watch.stalled:
                state = "stalled"
            if degraded and self._draining is None:
                state = "degraded"
        return {
            "state": state, "error": self.failed or degraded, "uptime_s": round(now - self._began, 1),
            "epoch": self.epoch,
            **self._acker_stats, **self.watch.show(now), "acker_connected": self.acker.connected,
            "parts": self.parts.show(),
        }  # fmt: skip

    def close(self) -> None:
        """Close every socket."""
        self.parts.close()
        if self.door is not None:
            self.door.close()
        self.acker.close()
        self._notifier.close()
        self.alive.close(linger=0)
        self.control.close()
        if self.kill is not None:
            self.kill.close()


def _seconds(args: bytes, own: float) -> float:
    """Return the seconds that a request names, or our own if it names none."""
    try:
        seconds = float(args or own)
    except ValueError:
        return own
    return seconds if seconds >= 0 else own


def main() -> None:
    """Run the heart until TERM, which the root sends last."""
    signals = Signals(*_ENDING)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    options = load_options(Path(sys.argv[1]), sys.argv[2], HeartOptions)
    log_events(role="heart")
    pid_dir = Path(options.pid_dir)
    write_pid(pid_dir, options.part, *child.identity())
    epoch = next_epoch(pid_dir, options.part)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    supervisor = SupervisorClient(Path(options.supervisor_socket))
    root = os.getppid()
    # A script's graph is no service of its own, even if the script is one.
    notifier = Notifier() if options.kill_uri else None
    heart = Heart(options, epoch, context, supervisor, SystemClock(), (root, child.start_time(root) or 0), notifier)
    heart.listen(signals)
    try:
        heart.run()
    finally:
        heart.close()
        context.term()


if __name__ == "__main__":
    main()
