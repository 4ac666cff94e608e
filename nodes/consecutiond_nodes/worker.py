"""THE hot loop: take a batch, process its items, send what they pushed, settle."""

import logging
import time
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import zmq

from consecutiond_broker import codec, wire
from consecutiond_broker.cell import INDEX, Cell
from consecutiond_broker.dealer import Dealer
from consecutiond_broker.edge import FIRST_HINT
from consecutiond_broker.errors import CodecError, WireError
from consecutiond_broker.recorder import WINDOW, Recorder
from consecutiond_broker.signals import Signals
from consecutiond_broker.wake import Wake
from consecutiond_nodes.errors import NodeError, OutputError
from consecutiond_nodes.graph import Outlet
from consecutiond_nodes.job import Job
from consecutiond_nodes.node import Node
from consecutiond_nodes.outbox import Buffer
from consecutiond_nodes.ports import Context, Downstream, Upstream, Who
from consecutiond_nodes.routing import check_route

log = logging.getLogger("consecutiond.worker")

_IDLE_MS: Final = 1000
#: characters of a traceback that travel with a failure
_MOST_TRACEBACK: Final = 16_000
#: output messages that may wait for credit before a node in the middle of a batch is held
_MOST_UNSENT: Final = 4


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


class Worker:
    """One running copy of a node.

    Args:
        options: what the plan says.
        node: the user's object.
        outlets: where pushed values go.
        who: the worker's identity.
        context: the process's ZeroMQ context.
    """

    def __init__(
        self, options: WorkerOptions, node: Node, outlets: tuple[Outlet, ...], who: Who, context: Context
    ) -> None:
        self.options, self.node, self.who = options, node, who
        self.stopping = False
        self.items = self.failures = self.batches = self.dropped = 0
        self._hint = FIRST_HINT
        self._inbox: deque[Job] = deque()
        self._job: Job | None = None
        self._ended = False
        self._turn_asked: wire.Turn | None = None
        self._turn_done: list[bytes] | None = None
        self._round = 0
        self._recorder: Recorder | None = None
        self._context = context
        self._signals: Signals | Wake | None = None
        self.cell = Cell(Path(who.cell) if who.cell else None, who.epoch, len(options.upstream))
        self.poller = zmq.Poller()
        self.up = [
            Upstream(context, who, slot, end.name, end.uri, options.window, self._inbox.append)
            for slot, end in enumerate(options.upstream)
        ]
        for port in self.up:
            port.hint = self._hint
        self.down = {
            name: Downstream(context, who, end.name, end.uri, self._settle) for name, end in options.downstream.items()
        }
        if options.output is not None:
            self.down["output"] = Downstream(context, who, options.output.name, options.output.uri, self._settle)
        self._ports = list(self.down.values())
        self.acker = Dealer(context, options.acker_uri, f"N:{who.name}".encode(), self._greet_acker)
        for link in (self.acker, *(port.dealer for port in (*self.up, *self._ports))):
            link.register(self.poller)
        self._buffers: list[Buffer] = []
        self._finish_batch: Callable[[], None] | None = getattr(node, "finish_batch", None)
        node.bind(self._bind_push(outlets), self._bind_write(), self._key)

    # --- what the node calls ---------------------------------------------------------------------------------

    def _buffer(self, ports: tuple[Downstream, ...]) -> Buffer:
        buffer = Buffer(self.node.name, ports, self.options.batch_bytes, self.options.max_message)
        self._buffers.append(buffer)
        return buffer

    def _bind_push(self, outlets: tuple[Outlet, ...]) -> Callable[[Any], None]:
        """Choose once what a push does."""
        broadcast = tuple(self.down[name] for outlet in outlets if outlet.router is None for name in outlet.targets)
        pushes = [self._appender(self._buffer(broadcast))] if broadcast else []
        pushes += [self._router(outlet) for outlet in outlets if outlet.router is not None]
        if not pushes:
            return self._drop
        if len(pushes) == 1:
            return pushes[0]

        def push_to_all(value: Any) -> None:
            for push in pushes:
                push(value)

        return push_to_all

    def _drop(self, _value: Any) -> None:
        """The last node of a line pushes into nothing: allowed, as a node may stand anywhere, and counted."""
        self.dropped += 1

    def _appender(self, buffer: Buffer) -> Callable[[Any], None]:
        values, add_value, add_parent, words = (
            buffer.values,
            buffer.values.append,
            buffer.parents.append,
            self.cell.words,
        )

        def push(value: Any) -> None:
            add_value(value)
            add_parent(words[INDEX] - 1)
            if len(values) >= buffer.limit:
                self._send_slice(buffer)

        return push

    def _router(self, outlet: Outlet) -> Callable[[Any], None]:
        route = outlet.router
        assert route is not None  # noqa: S101 - the caller has asked
        pushes = {name: self._appender(self._buffer((self.down[name],))) for name in outlet.targets}

        def push(value: Any) -> None:
            name = route(value)
            try:
                to = pushes[name]
            except (KeyError, TypeError):
                check_route(outlet, name, self.node.name)
                raise
            to(value)

        return push

    def _bind_write(self) -> Callable[[str, Any], None]:
        known = self.options.outputs
        if self.options.output is None:
            return self._no_output
        append = self._appender(self._buffer((self.down["output"],)))

        def write(container_name: str, value: Any) -> None:
            if known is not None and container_name not in known:
                self._no_output(container_name, value)
            append((container_name, value))

        return write

    def _no_output(self, container_name: str, _value: Any) -> None:
        known = ", ".join(self.options.outputs or ()) or "none"
        raise OutputError(
            f"node {self.node.name} wrote to the output {container_name!r}, which is not registered (registered: "
            f"{known}). Register it before the start: consecutor.register_output({container_name!r}, [])"
        )

    def _key(self) -> int:
        job, place = self._job, self.cell.words[INDEX]
        if job is None or place == 0:
            raise NodeError(f"node {self.node.name} has no item in hand: item_key works only inside process")
        return int(job.ids[place - 1])

    # --- the loop --------------------------------------------------------------------------------------------

    def listen(self, signals: Signals | Wake) -> None:
        """Stop when one of these signals comes, or the call."""
        self._signals = signals
        self.poller.register(signals.fileno(), zmq.POLLIN)

    def run(self) -> None:
        """Work until `stopping` is set."""
        while not self.stopping:
            self._turn(_IDLE_MS)

    def _turn(self, timeout_ms: int) -> None:
        busy = self._can_work()
        self._pump(0 if busy else timeout_ms)
        if self._can_work():
            self._work(self._inbox.popleft())
        elif self._turn_asked is not None:
            self._take_turn(self._turn_asked)

    def _can_work(self) -> bool:
        """Work waits while outputs wait for credit (that is the back-pressure), and after `end`."""
        if not self._inbox or self._ended or self._turn_asked is not None:
            return False
        return not any(port.unsent for port in self._ports)

    def _pump(self, timeout_ms: int) -> None:
        """Read everything that has arrived; never start work."""
        ready = self.poller.poll(timeout_ms)
        if not ready:
            return
        if self._signals is not None and self._signals.taken():
            self.stopping = True
        for port in (*self._ports, *self.up):
            port.pump()
        self.acker.check_connection()
        for frames in self.acker.messages(10):
            self._from_acker(wire.unpack(frames))
        if self._recorder is not None:
            self._recorder.pump()

    def _work(self, job: Job) -> None:
        if job.stale:
            return
        started = time.perf_counter()
        self._job = job
        self.cell.start(job.slot, job.seq)
        for buffer in self._buffers:
            buffer.start()
        try:
            values = codec.decode(job.body)
        except CodecError as error:
            values = []
            job.fails.append(wire.Fail("undecodable", True, job.roots.tobytes(), self.node.name, str(error), ""))
            job.failed.extend(range(len(job.roots)))
        self._process(job, values)
        self._send_outputs(job)
        if self._finish_batch is not None:
            self._finish(job, self._finish_batch)
        self.cell.finish()
        self._job = None
        job.body = b""
        job.finished = True
        self._measure(time.perf_counter() - started, len(values))
        if job.settled:
            self._settle(job)

    def _process(self, job: Job, values: list[Any]) -> None:
        process, words, skip = self.node.process, self.cell.words, job.skip
        for position, value in enumerate(values):
            if skip and position in skip:
                continue
            words[INDEX] = position + 1
            try:
                process(value)
            except BaseException as error:  # whatever the user's code raises, sys.exit too, fails this item alone
                self._raised(job, position, error)
        words[INDEX] = 0

    def _finish(self, job: Job, finish_batch: Callable[[], None]) -> None:
        """Let the node finish what it did for the batch; if it cannot, no item of the batch is done."""
        try:
            finish_batch()
        except BaseException as error:  # the user's container; a full disk, say
            for position in set(range(len(job.roots))).difference(job.failed, job.skip):
                self._raised(job, position, error)

    def _raised(self, job: Job, position: int, error: BaseException) -> None:
        for buffer in self._buffers:
            buffer.drop_from(position)
        self.failures += 1
        job.fail(position, "raised", self.node.name, describe(error), user_traceback(error))

    def _send_outputs(self, job: Job) -> None:
        for buffer in self._buffers:
            if buffer.values:
                self.cell.outputs_leave(job.slot, job.seq)
                buffer.send(job)

    def _send_slice(self, buffer: Buffer) -> None:
        """A buffer is full in the middle of a batch: send it, and hold the node while nobody takes it."""
        job = self._job
        if job is None:
            self._record(buffer)
            return
        self.cell.outputs_leave(job.slot, job.seq)
        buffer.send(job)
        while sum(len(port.unsent) for port in buffer.ports) > _MOST_UNSENT and not self.stopping:
            self._pump(_IDLE_MS)

    def _measure(self, seconds: float, count: int) -> None:
        self.batches += 1
        self.items += count
        if count:
            fitting = int(self.options.batch_s * count / max(seconds, 1e-9))
            # At most double: the first items of a node are often the quickest or the slowest.
            self._hint = max(1, min(fitting, 2 * self._hint, self.options.batch_items))

    def _settle(self, job: Job) -> None:
        self.up[job.slot].settle(job, self._hint)

    # --- begin, end: driven by the acker -----------------------------------------------------------------------

    def begin(self) -> None:
        """Run the user's `begin`, and record what it pushed."""
        self.node.begin()
        self._record_all()

    def _greet_acker(self) -> list[bytes]:
        who = self.who
        state = -self._round if self._ended else self._round
        return [wire.pack(wire.NodeJoin(wire.VERSION, self.node.name, who.name, who.epoch, state))]

    def _from_acker(self, head: wire.Head) -> None:
        if not isinstance(head, wire.Turn):
            raise WireError(f"the acker sent {type(head).__name__} to a worker")
        if (head.what == "end") == self._ended and head.round == self._round and self._turn_done is not None:
            self.acker.send(self._turn_done)
        else:
            self._turn_asked = head

    def _take_turn(self, turn: wire.Turn) -> None:
        """Run `begin` or `end`; what they push becomes roots that enter after this node."""
        raised = ""
        try:
            if turn.what == "end":
                self.node.end()
            else:
                self.node.begin()
            self._record_all()
        except BaseException as error:  # the user's code; the acker carries its traceback to whoever waits
            log.exception("node.%s_raised", turn.what)
            raised = user_traceback(error)
            self._clear()
        self._turn_asked = None
        self._ended = turn.what == "end"
        self._round = turn.round
        who = self.who
        done = wire.TurnDone(turn.what, turn.round, self.node.name, who.name, who.epoch, raised)
        self._turn_done = [wire.pack(done)]
        self.acker.send(self._turn_done)

    def _record_all(self) -> None:
        for buffer in self._buffers:
            if buffer.values:
                self._record(buffer)
        while self._recorder is not None and self._recorder.outstanding and not self.stopping:
            self._pump(_IDLE_MS)

    def _record(self, buffer: Buffer) -> None:
        """Values pushed outside `process` have no parent: they become roots, recorded before they travel."""
        if self._recorder is None:
            self._recorder = Recorder(self._context, self.options.acker_uri, inside=True)
            self._recorder.dealer.register(self.poller)
        entry = tuple(port.edge for port in buffer.ports)
        try:
            messages = list(buffer.encoded(self.options.batch_items))
        except CodecError as error:
            bad = codec.faults(buffer.values)
            self._clear()
            reason = bad[0][1] if bad else str(error)
            raise CodecError(f"node {self.node.name} pushed {reason}") from None
        for start, stop, body in messages:
            self._recorder.append(body, stop - start, entry)
            while self._recorder.outstanding >= WINDOW and not self.stopping:
                self._pump(_IDLE_MS)
        buffer.values.clear()
        buffer.parents.clear()

    def _clear(self) -> None:
        for buffer in self._buffers:
            buffer.values.clear()
            buffer.parents.clear()

    # ---------------------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, object]:
        """Return the counters of the moment."""
        return {
            "node": self.options.node,
            "items": self.items,
            "failures": self.failures,
            "batches": self.batches,
            "in_hand": len(self._inbox),
            "dropped": self.dropped,
            "hint": self._hint,
        }

    def close(self) -> None:
        """Leave every broker and close the connections."""
        leave = [wire.pack(wire.Leave(self.who.epoch))]
        for port in (*self.up, *self._ports):
            port.dealer.send(leave)
            port.dealer.close()
        self.acker.close()
        if self._recorder is not None:
            self._recorder.close()
        self.cell.close()


def describe(error: BaseException) -> str:
    """Return ``Type: text``, for people."""
    text = str(error)
    name = type(error).__qualname__
    return f"{name}: {text}" if text else name


def user_traceback(error: BaseException) -> str:
    """Return the traceback of the user's own frames; the first frame is ours and is cut."""
    tb = error.__traceback__
    text = "".join(traceback.format_exception(type(error), error, tb.tb_next if tb is not None else None))
    return text if len(text) <= _MOST_TRACEBACK else text[:2000] + "\n…\n" + text[2000 - _MOST_TRACEBACK :]
