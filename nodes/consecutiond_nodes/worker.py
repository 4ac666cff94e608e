"""THE hot loop: take a batch, process its items, send what they pushed, settle."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import zmq

from consecutiond_broker import codec, wire
from consecutiond_broker.cell import INDEX, OUTPUTS, Cell
from consecutiond_broker.edge import FIRST_HINT
from consecutiond_broker.errors import CodecError, FencedError
from consecutiond_broker.signals import Signals
from consecutiond_broker.wake import Wake
from consecutiond_nodes.alarm import Alarm, ProcessTimeout
from consecutiond_nodes.errors import NodeError
from consecutiond_nodes.exits import Exits
from consecutiond_nodes.graph import Outlet
from consecutiond_nodes.job import Job
from consecutiond_nodes.keys import Keyed
from consecutiond_nodes.node import Node
from consecutiond_nodes.outbox import Buffer
from consecutiond_nodes.ports import Context, Downstream, Upstream, Who
from consecutiond_nodes.raised import describe, user_traceback
from consecutiond_nodes.turns import Turns

_IDLE_MS: Final = 1000
#: output messages that may wait for credit before a node in the middle of a batch is held
_MOST_UNSENT: Final = 4
#: seconds that a worker that ends gives the brokers below to accept what has left it; they answer at once unless they
#: are dead, or the graph is full
_HAND_OVER_S: Final = 2.0
_HAND_OVER_MS: Final = 50


class Interrupted(BaseException):
    """The worker has to end in the middle of an item, whose node waits for credit: nothing is the item's fault."""


class EdgeEnd(msgspec.Struct, frozen=True):
    """One edge as seen from a worker."""

    name: str
    uri: str


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of one worker."""

    #: the name of its program
    part: str
    #: the name of the worker, ``parse.0``
    worker: str
    node: str
    #: how to import the graph; empty for a node that is already at hand
    target: str
    upstream: tuple[EdgeEnd, ...]
    #: outgoing edges, by the name of the node they lead to
    downstream: dict[str, EdgeEnd]
    #: the edge to the outputs, if the consecutor has any
    output: EdgeEnd | None
    #: names of the registered outputs; None takes every name
    outputs: tuple[str, ...] | None
    acker_uri: str
    heart_uri: str
    pid_dir: str
    #: the id of the consecutor
    consecutor: str = ""
    heartbeat_s: float = 0.5
    #: deliveries in hand per incoming edge
    window: int = 3
    #: most items in one delivery
    batch_items: int = 1024
    #: seconds of work aimed at for one delivery; slow nodes therefore get small batches, which other workers can share
    batch_s: float = 0.02
    #: bytes aimed at for one message
    batch_bytes: int = 1 << 20
    #: bytes of the largest single value
    max_message: int = 48 << 20
    #: seconds that one `process` may take; 0: for ever
    timeout_s: float = 0.0
    #: false: no batch has roots and ids, and none may be processed twice
    tracking: bool = True


class Worker:
    """One running copy of a node.

    Args:
        options: what the plan says.
        node: the user's object.
        outlets: where pushed values go.
        who: the worker's identity.
        context: the process's ZeroMQ context.
        keyed: the nodes among whose workers values are shared out by key.
    """

    def __init__(
        self,
        options: WorkerOptions,
        node: Node,
        outlets: tuple[Outlet, ...],
        who: Who,
        context: Context,
        keyed: Mapping[str, Keyed] | None = None,
    ) -> None:
        self._keyed: Mapping[str, Keyed] = keyed or {}
        self.options, self.node, self.who = options, node, who
        self.stopping = False
        self.items = self.failures = self.batches = 0
        self._hint = FIRST_HINT
        self._inbox: deque[Job] = deque()
        self._job: Job | None = None
        self._fenced: FencedError | None = None
        self._signals: Signals | Wake | None = None
        self.cell = Cell(Path(who.cell) if who.cell else None, who.epoch, len(options.upstream))
        self._alarm = Alarm(options.timeout_s, self.cell.words) if options.timeout_s and Alarm.works_here() else None
        self.poller = zmq.Poller()
        self.up = [
            Upstream(context, who, slot, end.name, end.uri, options.window, self._inbox.append)
            for slot, end in enumerate(options.upstream)
        ]
        self.down = {
            name: Downstream(context, who, end.name, end.uri, self._settle) for name, end in options.downstream.items()
        }
        if options.output is not None:
            self.down["output"] = Downstream(context, who, options.output.name, options.output.uri, self._settle)
        self._ports = list(self.down.values())
        for port in (*self.up, *self._ports):
            port.dealer.register(self.poller)
        self.turns = Turns(
            context, options.acker_uri, node.name, who, options.batch_items, self, self.poller, tracked=options.tracking
        )
        sizes = options.batch_bytes, options.max_message
        self.exits = Exits(node.name, self.down, self._keyed, options.outputs, sizes, self.cell.words, self._send_slice)
        self._buffers = self.exits.buffers
        self._bind(outlets)
        node.initialize(
            tuple(end.name for end in options.upstream), tuple(end.name for end in options.downstream.values()),
            options.consecutor,
        )  # fmt: skip

    # --- what the node calls ---------------------------------------------------------------------------------

    def _bind(self, outlets: tuple[Outlet, ...]) -> None:
        """Give the node its way out."""
        self.node.bind(self.exits.push(outlets), self.exits.write(), self._key)

    def _key(self) -> int:
        job, place = self._job, self.cell.words[INDEX]
        if job is None or place == 0:
            raise NodeError(f"node {self.node.name} has no item in hand: item_key works only inside process")
        if job.untracked:
            raise NodeError(f"node {self.node.name} asked for an item_key, and with tracking=False items have none")
        return int(job.ids[job.entry(place - 1)])

    def log_context(self) -> dict[str, object]:
        """Return what an event says of the item in hand: its root, and which attempt that is."""
        job, place = self._job, self.cell.words[INDEX]
        if job is None or place == 0 or place > job.count or job.untracked:
            return {}
        return {"root": f"{int(job.roots[job.entry(place - 1)]):016x}", "attempt": job.attempt}

    # --- the loop --------------------------------------------------------------------------------------------

    def listen(self, signals: Signals | Wake) -> None:
        """Stop when one of these signals comes, or the call."""
        self._signals = signals
        self.poller.register(signals.fileno(), zmq.POLLIN)

    def run(self) -> None:
        """Work until `stopping` is set."""
        while not self.stopping:
            self._turn(_IDLE_MS)
        self._hand_over()

    def _hand_over(self) -> None:
        """Settle what is finished, or others would do again what is done; what was not begun goes back as it is."""
        until = time.monotonic() + _HAND_OVER_S
        while self._fenced is None and self._has_unaccepted() and time.monotonic() < until:
            self._pump(_HAND_OVER_MS)

    def _has_unaccepted(self) -> bool:
        return any(job.finished and not job.settled for port in self.up for job in port.jobs.values())

    def _turn(self, timeout_ms: int) -> None:
        busy = self._can_work() or self.turns.asked is not None
        self._pump(0 if busy else timeout_ms)
        self._check_fenced()
        if self._can_work():
            self._work(self._inbox.popleft())
        elif self.turns.asked is not None:
            self._take_turn(self.turns.asked)
        self._check_fenced()

    def _check_fenced(self) -> None:
        """End, if a newer worker of our name has joined; never in the middle of the user's code, which would catch it.

        Raises:
            FencedError: one has.
        """
        if self._fenced is not None:
            raise self._fenced

    def _can_work(self) -> bool:
        """Work waits while outputs wait for credit (that is the back-pressure), and after `end`."""
        if not self._inbox or self.turns.ended or self.turns.asked is not None:
            return False
        return not any(port.unsent for port in self._ports)

    def _pump(self, timeout_ms: int) -> None:
        """Read everything that has arrived; never start work."""
        ready = self.poller.poll(timeout_ms)
        if not ready:
            return
        if self._signals is not None and self._signals.taken():
            self.stopping = True
        try:
            for port in (*self._ports, *self.up):
                port.pump()
        except FencedError as error:
            self._fenced, self.stopping = error, True
        self.turns.pump()

    def _work(self, job: Job) -> None:
        if job.stale:
            return
        started = time.perf_counter()
        self._job = job
        self.cell.start(job.slot, job.seq)
        if job.untracked:
            # Should we die, nobody else may have it: it cannot be told from one whose outputs have left.
            self._outputs_leave(job)
        for buffer in self._buffers:
            buffer.start()
        values = self._decoded(job)
        try:
            self._process(job, values)
            self._send_outputs(job)
        except Interrupted:
            # Nobody settles it, and its broker, which knows that outputs have left, has its roots tried anew.
            return
        finally:
            self.cell.finish()
            self._job = None
        job.body = b""
        self._measure(time.perf_counter() - started, len(values))
        self._processed(job)
        self._finished_batch()

    def _processed(self, job: Job) -> None:
        """Nothing more is to be done for a batch than to wait for whom its outputs went to."""
        job.finished = True
        if job.settled:
            self._settle(job)

    def _decoded(self, job: Job) -> list[Any]:
        """Return the values of a batch; none, and every item has failed, if that is impossible."""
        try:
            values = codec.decode(job.body)
            if len(values) != job.count:
                raise CodecError(f"a batch of {job.count} items has {len(values)} values")
        except CodecError as error:
            job.fails.append(wire.Fail("undecodable", True, job.roots.tobytes(), self.node.name, str(error), ""))
            job.failed.extend(range(job.count))
            self.failures += job.count
            return []
        return values

    def _finished_batch(self) -> None:
        """Act after a batch, or after `end`; for workers that have more to do."""

    def _process(self, job: Job, values: list[Any]) -> None:
        process, words, skip = self._timed(self.node.process), self.cell.words, job.skip
        for position, value in enumerate(values):
            if skip and position in skip:
                continue
            words[INDEX] = position + 1
            try:
                process(value)
            except Interrupted:
                raise
            except BaseException as error:  # whatever the user's code raises, sys.exit too, fails this item alone
                self._raised(job, position, error)
        words[INDEX] = 0

    def _timed(self, call: Callable[[Any], None]) -> Callable[[Any], None]:
        """Return what runs the user's code for one item, with the alarm set if there is one."""
        return call if self._alarm is None else self._alarm.guarded(call)

    def _run_begin(self) -> None:
        self.node.begin()

    def _run_end(self) -> None:
        self.node.end()

    def _raised(self, job: Job, position: int, error: BaseException) -> None:
        for buffer in self._buffers:
            buffer.drop_from(position)
        self.failures += 1
        if isinstance(error, CodecError):
            job.fail(position, "unserialisable", self.node.name, str(error), user_traceback(error))
        elif isinstance(error, ProcessTimeout):
            job.fail(position, wire.TIMED_OUT, self.node.name, str(error), user_traceback(error))
        else:
            job.fail(position, "raised", self.node.name, describe(error), user_traceback(error))

    def _send_outputs(self, job: Job) -> None:
        for buffer in self._buffers:
            if len(buffer):
                self._outputs_leave(job)
                buffer.send(job)

    def _outputs_leave(self, job: Job) -> None:
        """Say in the cell that outputs of a job leave, before they do; never less than was said before."""
        self.cell.outputs_leave(job.slot, max(job.seq, self.cell.words[OUTPUTS + job.slot]))

    def _send_slice(self, buffer: Buffer) -> None:
        """A buffer is full in the middle of a batch: send it, and hold the node while nobody takes it."""
        job = self._job
        if job is None:
            self.turns.record(buffer)
            return
        self._outputs_leave(job)
        buffer.send(job)
        left = self._alarm.pause() if self._alarm is not None else 0.0
        while sum(len(port.unsent) for port in buffer.ports) > _MOST_UNSENT:
            if self.stopping:
                raise Interrupted
            self._pump(_IDLE_MS)
        if self._alarm is not None:
            self._alarm.resume(left)

    def _measure(self, seconds: float, count: int) -> None:
        self.batches += 1
        self.items += count
        if count:
            fitting = int(self.options.batch_s * count / max(seconds, 1e-9))
            if fitting < self._hint and 2 * count < self._hint and seconds < self.options.batch_s:
                # What every batch costs weighs most in a small one, such as one item that is tried again; of the time
                # that a large one takes it says nothing.
                return
            # At most double: the first items of a node are often the quickest or the slowest.
            self._hint = max(1, min(fitting, 2 * self._hint, self.options.batch_items))

    def _settle(self, job: Job) -> None:
        if self._fenced is None:
            self.up[job.slot].settle(job, self._hint)

    def begin(self) -> None:
        """Run the user's `begin`, and record what it pushed."""
        self._run_begin()
        self.turns.record_all(self._buffers)
        self._check_fenced()

    def _take_turn(self, turn: wire.Turn) -> None:
        self.turns.take(turn, self._run_end if turn.what == "end" else self._run_begin, self._buffers)

    def wait(self) -> None:
        """Read what arrives, for a second at the utmost; never start work."""
        self._pump(_IDLE_MS)

    def stats(self) -> dict[str, object]:
        """Return the counters of the moment."""
        return {
            "node": self.options.node,
            "items": self.items,
            "failures": self.failures,
            "batches": self.batches,
            "in_hand": len(self._inbox),
            "dropped": self.exits.dropped,
            "hint": self._hint,
        }

    def close(self) -> None:
        """Leave every broker and close the connections."""
        leave = [wire.pack(wire.Leave(self.who.epoch))]
        for port in (*self.up, *self._ports):
            port.dealer.send(leave)
            port.dealer.close()
        self.turns.close()
        # What we still have in hand is decided on by what the cell says, as after a death. Before the graph ends that
        # may be what was on its way to us when we left: it was not begun, and only the cell can prove that.
        self.cell.close(keep=not self.turns.ended or any(port.jobs for port in self.up))
