"""The acker's loop: one ROUTER for brokers, producers, workers and the heart; everything else is policy."""

from collections import deque
from typing import Any, Final

import msgspec
import numpy as np
import structlog
import zmq

from consecutiond.acker import ends
from consecutiond.acker.backstop import Backstop
from consecutiond.acker.committer import Committer
from consecutiond.acker.ends import Ends
from consecutiond.acker.inputlog import Entry, InputLog, Ready, Retries
from consecutiond.acker.ledger import Ledger
from consecutiond.acker.producers import Producers
from consecutiond.acker.stores.base import Durability
from consecutiond_broker import codec, wire
from consecutiond_broker.clock import SystemClock
from consecutiond_broker.errors import WireError
from consecutiond_broker.ids import as_u64, name_salt, root_ids
from consecutiond_broker.signals import Signals

log = structlog.get_logger("acker")

#: messages read per turn
_DRAIN: Final = 200
_HIGH_WATER: Final = 100_000


class AckerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of the acker."""

    part: str
    uri: str
    heart_uri: str
    pid_dir: str
    #: the store's URL
    store: str
    durability: Durability = "durable"
    #: for every edge the edges at which a root can enter and reach it, itself among them
    reach: dict[str, tuple[str, ...]]
    #: the edge at which input enters
    input_edge: str
    #: the node that each edge leads to
    targets: dict[str, str]
    #: the workers of each node, in topological order
    nodes: dict[str, tuple[str, ...]]
    #: open roots at which emission stops
    max_pending: int = 20_000
    #: bytes recorded and not emitted at which receipts are withheld
    max_backlog: int = 8 << 20
    max_attempts: int = 3
    retry_backoff_s: float = 0.1
    retry_backoff_max_s: float = 60.0
    heartbeat_s: float = 0.5
    max_message: int = 64 << 20


class _Edge:
    """The acker's view of one edge's broker."""

    __slots__ = ("applied", "epoch", "hint", "limit", "name", "peer", "reports", "salt", "sent", "unsent")

    def __init__(self, name: str) -> None:
        self.name = name
        self.salt = name_salt(name)
        self.peer = b""
        self.epoch = self.limit = self.sent = self.applied = self.reports = 0
        self.hint = 1
        self.unsent: deque[tuple[int, list[bytes]]] = deque()


class Acker:
    """The process that owns the ledger, the input log and the dead letters.

    Args:
        options: what the plan says.
        epoch: this incarnation; root keys carry it, and reports of another one are dropped.
        context: the process's ZeroMQ context.
        committer: the store's thread, the store open.
    """

    def __init__(
        self,
        options: AckerOptions,
        epoch: int,
        context: "zmq.Context[zmq.Socket[bytes]]",
        committer: Committer,
    ) -> None:
        self.options, self.epoch = options, epoch
        self.stopping = False
        self.clock = SystemClock()
        self.committer = committer
        self.ledger = Ledger(epoch)
        retries = Retries(options.max_attempts, options.retry_backoff_s, options.retry_backoff_max_s)
        self.log = InputLog(committer, self.clock, retries, (options.input_edge,))
        self.ends = Ends(options.nodes)
        self.backstop = Backstop(frozenset(options.targets))
        self.edges = {name: _Edge(name) for name in options.targets}
        self.producers = Producers(self._send, options.max_backlog)
        self.ready = False
        #: edges whose broker has not greeted this acker yet. Nothing is emitted before all have: a root that is on its
        #: way when a broker greets has to be tried anew, since nobody can say what an earlier broker had of it.
        self._unknown_edges = set(options.targets)
        self.draining = ""
        self._workers: dict[str, bytes] = {}
        self._heart = b""
        self._parked: list[Ready] = []
        self._finishing = False
        self._counts = dict.fromkeys(("emitted", "retried", "swept", "lost", "malformed", "reports"), 0)
        self._signals: Signals | None = None
        self.router = context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.ROUTER_MANDATORY, 1), (zmq.ROUTER_HANDOVER, 1), (zmq.LINGER, 1000),
            (zmq.SNDHWM, _HIGH_WATER), (zmq.RCVHWM, _HIGH_WATER), (zmq.MAXMSGSIZE, options.max_message),
        ):  # fmt: skip
            self.router.setsockopt(option, value)
        self.router.bind(options.uri)
        self.poller = zmq.Poller()
        self.poller.register(self.router, zmq.POLLIN)
        self.poller.register(committer.fd, zmq.POLLIN)
        self._handlers = {
            wire.Reports: self._reports, wire.Append: self._append, wire.Grant: self._grant,
            wire.EdgeJoin: self._edge_joined, wire.Idle: self._idle, wire.ProducerJoin: self._producer_joined,
            wire.EndOfInput: self._end_of_input, wire.NodeJoin: self._node_joined, wire.TurnDone: self._turn_done,
            wire.HeartJoin: self._heart_joined, wire.Drain: self._drain, wire.StatsAsk: self._stats_asked,
        }  # fmt: skip

    def listen(self, signals: Signals) -> None:
        """Stop when one of these signals comes."""
        self._signals = signals
        self.poller.register(signals.fileno(), zmq.POLLIN)

    def run(self) -> None:
        """Serve until `stopping` is set."""
        while not self.stopping:
            self._turn(1000)

    def _turn(self, timeout_ms: int) -> None:
        wait = min(timeout_ms, int(1000 * self.log.wait_s(self._may_enter)) + 1)
        self.poller.poll(wait)
        if self._signals is not None and self._signals.taken():
            self.stopping = True
        self.committer.finish()
        self._receive()
        self.log.load(self._may_enter)
        self._emit()
        self._confirm_reports()
        self.producers.send_receipts(self.log.backlog_bytes)
        self._end_in_order()
        self.log.flush()
        self._check_lost()

    def _receive(self) -> None:
        for _ in range(_DRAIN):
            try:
                peer, *frames = self.router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                head = wire.unpack(frames)
                handler: Any = self._handlers.get(type(head))
                if handler is None:
                    raise WireError(f"nobody has business sending {type(head).__name__} to the acker")
                handler(peer, head, frames)
            except WireError as error:
                self._counts["malformed"] += 1
                if self._counts["malformed"] & (self._counts["malformed"] - 1) == 0:
                    log.warning("wire.malformed", peer=repr(peer), error=str(error))

    def _send(self, peer: bytes, head: wire.Head, *frames: bytes) -> bool:
        try:
            self.router.send_multipart([peer, wire.pack(head), *frames], zmq.NOBLOCK)
        except zmq.ZMQError:
            # The peer is gone. Whoever it is greets when it is back and is told where it stands.
            return False
        return True

    # --- brokers ---------------------------------------------------------------------------------------------

    def _edge_joined(self, peer: bytes, head: wire.EdgeJoin, _frames: list[bytes]) -> None:
        edge = self.edges.get(head.edge)
        if edge is None:
            raise WireError(f"there is no edge {head.edge!r}")
        if head.version != wire.VERSION or head.epoch < edge.epoch:
            raise WireError(f"a broker of {head.edge} with epoch {head.epoch}, version {head.version} is fenced")
        if head.epoch > edge.epoch:
            edge.applied = edge.reports = 0
        edge.peer, edge.epoch, edge.limit, edge.hint, edge.sent = peer, head.epoch, head.limit, head.hint, 0
        # Whatever the old broker (or the broken connection) held is gone, and nobody can say what it was: every
        # open root that could have had an item there is tried anew. None of this is the item's fault.
        entries = frozenset(self.options.reach[head.edge])
        for name in entries:
            self.edges[name].unsent.clear()
        swept = 0
        for closed in self.ledger.sweep(entries):
            swept += len(closed.indices)
            self.log.again(closed)
        self._counts["swept"] += swept
        self._unknown_edges.discard(edge.name)
        log.info("edge.joined", edge=head.edge, epoch=head.epoch, swept=swept)
        self._send(peer, wire.EdgeJoined(self.epoch, edge.applied))

    def _edge_of(self, peer: bytes, epoch: int) -> _Edge | None:
        edge = self.edges.get(peer[2:].decode(errors="replace"))
        return edge if edge is not None and edge.peer == peer and edge.epoch == epoch else None

    def _grant(self, peer: bytes, head: wire.Grant, _frames: list[bytes]) -> None:
        edge = self._edge_of(peer, head.broker_epoch)
        if edge is not None:
            edge.limit, edge.hint = head.limit, head.hint
            self._send_batches(edge)

    def _reports(self, peer: bytes, head: wire.Reports, frames: list[bytes]) -> None:
        edge = self._edge_of(peer, head.broker_epoch)
        if edge is None:
            return
        for place, acker_epoch in enumerate(head.acker_epochs):
            seq = head.first + place
            if seq <= edge.applied:
                # XOR is not idempotent: a report that comes twice is applied once.
                continue
            edge.applied = seq
            if acker_epoch == self.epoch:
                self._apply(*frames[1 + 3 * place : 4 + 3 * place])

    def _apply(self, roots: bytes, xors: bytes, fails: bytes) -> None:
        if len(roots) % 8 or len(roots) != len(xors):
            raise WireError(f"a report has {len(roots)} bytes of roots and {len(xors)} of xors")
        self._counts["reports"] += 1
        for fail in wire.unpack_fails(fails):
            self._failed(fail)
        if roots:
            for closed in self.ledger.apply(as_u64(roots), as_u64(xors)):
                self.log.completed(closed)

    def _failed(self, fail: wire.Fail) -> None:
        if len(fail.roots) % 8:
            raise WireError(f"a failure has {len(fail.roots)} bytes of roots")
        for closed in self.ledger.take(as_u64(fail.roots)):
            if fail.charged:
                self._counts["retried"] += len(closed.indices)
                self.log.failed(closed, fail)
            else:
                self._counts["swept"] += len(closed.indices)
                self.log.again(closed)

    def _confirm_reports(self) -> None:
        for edge in self.edges.values():
            if edge.applied != edge.reports:
                edge.reports = edge.applied
                self._send(edge.peer, wire.Applied(edge.epoch, edge.applied))

    # --- emission --------------------------------------------------------------------------------------------

    def _may_enter(self, entry: Entry) -> bool:
        return self.ready and not any(self.ends.has_ended(self.options.targets[name]) for name in entry)

    def _emit(self) -> None:
        """Emit what is ready, as far as open roots, credit and the end of the graph allow."""
        queue = self.log.ready
        if not self.ready or self._unknown_edges:
            return
        for _ in range(len(queue)):
            ready = queue[0]
            inside = ready.entry != (self.options.input_edge,)
            if self.ledger.open >= self.options.max_pending and not inside:
                return
            queue.popleft()
            if not self._may_enter(ready.entry):
                self._parked.append(ready)
            elif any(self.edges[name].unsent for name in ready.entry):
                # No credit at its edge; what enters elsewhere need not wait.
                queue.append(ready)
            else:
                self._emit_one(ready)

    def _emit_one(self, ready: Ready) -> None:
        edges = [self.edges[name] for name in ready.entry]
        ids = [root_ids(self.log.salt, ready.positions, edge.salt) for edge in edges]
        xors = np.bitwise_xor.reduce(np.stack(ids), axis=0) if len(ids) > 1 else ids[0].copy()
        _, keys = self.ledger.emit(ready.positions, xors, ready.entry, ready.chunk)
        self.log.emitted(ready)
        self._counts["emitted"] += len(keys)
        raw_keys = keys.tobytes()
        for edge, edge_ids in zip(edges, ids, strict=True):
            self._queue(edge, len(keys), raw_keys, edge_ids.tobytes(), ready.body)
            self._send_batches(edge)

    def _queue(self, edge: _Edge, count: int, roots: bytes, ids: bytes, body: bytes) -> None:
        """Cut an emission into messages of the size that the edge's receivers can use."""
        per = max(1, edge.hint)
        if count <= per:
            edge.unsent.append((count, [roots, ids, body]))
            return
        values = codec.split(body)
        for start in range(0, count, per):
            stop = min(start + per, count)
            part = [roots[8 * start : 8 * stop], ids[8 * start : 8 * stop], codec.join(values[start:stop])]
            edge.unsent.append((stop - start, part))

    def _send_batches(self, edge: _Edge) -> None:
        while edge.unsent and edge.sent < edge.limit:
            count, frames = edge.unsent[0]
            head = wire.Batch(edge.epoch, edge.sent + 1, self.epoch, count)
            if not self._send(edge.peer, head, *frames):
                # The broker is gone; its successor's greeting retries every root that entered here.
                return
            edge.unsent.popleft()
            edge.sent += 1

    # --- producers -------------------------------------------------------------------------------------------

    def _producer_joined(self, peer: bytes, head: wire.ProducerJoin, _frames: list[bytes]) -> None:
        if head.version != wire.VERSION:
            self._send(peer, wire.Refused(f"this acker speaks protocol version {wire.VERSION}, you {head.version}"))
            return
        if self.draining and not head.inside:
            self._send(peer, wire.Refused(self.draining))
            return
        store = self.committer.store

        def known(recorded: int) -> None:
            recorded = self.producers.join(peer, head.producer, recorded, inside=head.inside)
            self._send(peer, wire.ProducerJoined(self.epoch, recorded))

        self.committer.ask(lambda: store.last_sequence(head.producer), known)

    def _append(self, peer: bytes, head: wire.Append, frames: list[bytes]) -> None:
        problem = self._unacceptable(head)
        if problem:
            self._send(peer, wire.Refused(problem))
            raise WireError(problem)
        producer = self.producers.expecting(peer, head)
        if producer is None:
            return
        if self.draining and not producer.inside:
            self._send(peer, wire.Refused(self.draining))
            return
        entry = head.entry or (self.options.input_edge,)
        self.log.append(frames[1], head.count, entry, producer.origin(head.seq), lambda: producer.record(head.seq))

    def _unacceptable(self, head: wire.Append) -> str:
        if not 1 <= head.count <= 4096:
            return f"a batch holds 1 to 4096 values, not {head.count}"
        unknown = [name for name in head.entry if name not in self.edges]
        return f"there is no edge {unknown[0]!r}" if unknown else ""

    def _end_of_input(self, peer: bytes, head: wire.EndOfInput, _frames: list[bytes]) -> None:
        self.producers.ended(peer, wait=head.wait)
        if not head.wait:
            self.log.forget(head.producer)

    # --- workers and the end ---------------------------------------------------------------------------------

    def _node_joined(self, peer: bytes, head: wire.NodeJoin, _frames: list[bytes]) -> None:
        self._workers[head.worker] = peer
        turn = self.ends.joined(head.node, head.worker, head.round)
        if turn is not None:
            self._send(peer, turn)

    def _turn_done(self, _peer: bytes, head: wire.TurnDone, _frames: list[bytes]) -> None:
        self.ends.done(head)

    def _tell(self, turns: list[tuple[str, wire.Turn]]) -> None:
        for worker, turn in turns:
            # One that is not connected hears of it when it greets.
            if worker in self._workers:
                self._send(self._workers[worker], turn)

    def _quiet(self) -> bool:
        """Nothing is open that could still make progress in this round."""
        if self.ledger.open or self.log.moving() or any(edge.unsent for edge in self.edges.values()):
            return False
        return bool(self.draining) or not any(self._may_enter(entry) for entry in self.log.waiting_entries())

    def _end_in_order(self) -> None:
        machine = self.ends
        if machine.phase == ends.FINISHED:
            self._finish()
        elif not self.ready or not (self.draining or self.producers.input_ended) or not self._quiet():
            return
        elif machine.phase == ends.RUNNING:
            log.info("graph.ending", round=machine.round)
            self._tell(machine.start())
        elif machine.phase == ends.ENDING and machine.current_done():
            self._tell(machine.advance())
        elif machine.phase == ends.ENDED:
            if not self.draining and (self._parked or self.log.waiting):
                self._tell(machine.again())
                self.log.ready.extend(self._parked)
                self._parked.clear()
            else:
                machine.finish()

    def _finish(self) -> None:
        """Everything has ended: say so once it is on disk."""
        if self._finishing:
            return
        if not self.log.clean():
            self.log.flush(everything=True)
            return
        self._finishing = True
        log.info(
            "graph.finished",
            **{name: getattr(self.log.totals, name) for name in ("completed", "failed", "open")},
        )
        summary = msgspec.json.encode(self.stats())
        for peer in (*self.producers.waiting_peers(), self._heart):
            self._send(peer, wire.Finished(summary))

    # --- heart -----------------------------------------------------------------------------------------------

    def _heart_joined(self, peer: bytes, head: wire.HeartJoin, _frames: list[bytes]) -> None:
        self._heart = peer
        self.ready = self.ready or head.ready
        if self._finishing:
            self._send(peer, wire.Finished(msgspec.json.encode(self.stats())))

    def _drain(self, _peer: bytes, head: wire.Drain, _frames: list[bytes]) -> None:
        self.draining = self.draining or head.reason
        for peer in self.producers.peers():
            self._send(peer, wire.Refused(head.reason))

    def _stats_asked(self, peer: bytes, head: wire.StatsAsk, _frames: list[bytes]) -> None:
        self._send(peer, wire.Stats(head.number, msgspec.json.encode(self.stats())))

    def stats(self) -> dict[str, Any]:
        """Return the counters of the moment; ``accepted = completed + failed + open`` in every snapshot."""
        totals = self.log.totals
        return {
            "accepted": totals.accepted, "completed": totals.completed, "failed": totals.failed,
            "open": totals.open, "waiting": totals.waiting, "in_trees": self.ledger.open,
            "backlog_bytes": self.log.backlog_bytes, "phase": self.ends.phase, "round": self.ends.round,
            "ready": self.ready, "draining": self.draining, "store_trouble": self.committer.trouble,
            "guarantee": self.committer.store.describe(), "epoch": self.epoch, "parked": len(self._parked),
            "node_errors": self.ends.errors, "failures": list(self.log.failures.values()), **self._counts,
        }  # fmt: skip

    # --- backstop --------------------------------------------------------------------------------------------

    def _check_lost(self) -> None:
        if not self.ledger.open or any(edge.unsent for edge in self.edges.values()):
            return
        number = self.backstop.ask(self._counts["reports"] + self._counts["emitted"], self.clock.now())
        if number is not None:
            for edge in self.edges.values():
                self._send(edge.peer, wire.Probe(number))

    def _idle(self, peer: bytes, head: wire.Idle, _frames: list[bytes]) -> None:
        edge = self.edges.get(peer[2:].decode(errors="replace"))
        if edge is None or edge.peer != peer:
            return
        left = head.queued + head.held + head.reports
        if self.backstop.answer(edge.name, head.number, left, head.activity) and self.ledger.open:
            lost = self.ledger.open
            self._counts["lost"] += lost
            log.error("bug.roots_lost", count=lost, action="retried; please report this with the logs")
            for closed in self.ledger.sweep(frozenset(self.edges)):
                self.log.again(closed)

    def close(self) -> None:
        """Commit what is left and close."""
        while not self.log.clean():
            self.log.flush(everything=True)
            if self.poller.poll(1000) and not self.committer.trouble:
                self.committer.finish()
            if self.committer.trouble:
                break
        self.router.close()
        self.committer.close()
