"""The acker's loop: one ROUTER for brokers, producers, workers and the heart; everything else is policy."""

from math import inf
from typing import Any, Final

import msgspec
import numpy as np
import zmq

from consecutiond.acker import ends
from consecutiond.acker.backstop import ENDING_S, QUIET_S, Backstop, Verdict
from consecutiond.acker.brokers import Brokers
from consecutiond.acker.committer import Committer
from consecutiond.acker.ends import Ends
from consecutiond.acker.gaps import Gaps
from consecutiond.acker.inputlog import InputLog
from consecutiond.acker.lanes import Entry, Lane, Ready
from consecutiond.acker.ledger import Closed, Ledger
from consecutiond.acker.operations import Operations
from consecutiond.acker.options import AckerOptions
from consecutiond.acker.producers import Producers, fault
from consecutiond.acker.stores.base import Audit
from consecutiond.acker.untracked import LOOK_S, Tally
from consecutiond.logs import get_logger
from consecutiond_broker import wire
from consecutiond_broker.clock import Clock, SystemClock
from consecutiond_broker.dealer import is_superseded
from consecutiond_broker.errors import WireError
from consecutiond_broker.ids import as_u64, mix, root_ids
from consecutiond_broker.signals import Signals
from consecutiond_broker.tcp import listen
from consecutiond_broker.wake import Wake

log = get_logger("acker")

#: messages read per turn
_DRAIN: Final = 200
_HIGH_WATER: Final = 100_000


class Acker:
    """The process that owns the ledger, the input log and the dead letters.

    Args:
        options: what the plan says.
        epoch: this incarnation; root keys carry it, and reports of another one are dropped.
        context: the process's ZeroMQ context.
        committer: the store's thread, the store open.
        clock: the time; the system's unless said otherwise.

    Raises:
        StoreError: the log was written for another graph.
    """

    def __init__(
        self,
        options: AckerOptions,
        epoch: int,
        context: "zmq.Context[zmq.Socket[bytes]]",
        committer: Committer,
        clock: Clock | None = None,
    ) -> None:
        self.options, self.epoch = options, epoch
        self.stopping = False
        self.clock: Clock = clock or SystemClock()
        self.committer = committer
        self.ledger = Ledger(epoch)
        retain_s = inf if options.retain_s is None else options.retain_s
        self.log = InputLog(committer, self.clock, options.policies, (options.input_edge,), retain_s)
        self.ends = Ends(options.nodes)
        self.backstop = Backstop(frozenset(options.targets))
        self.brokers = Brokers(self._send, options.reach, epoch)
        self._lanes = 0
        self._refuse_strangers()
        self.producers = Producers(self._send, options.max_backlog)
        self._gaps = Gaps()
        self.operations = Operations(self.log, committer, self.clock, self.brokers.edges.keys())
        self.ready = False
        self.draining = ""
        #: workers are being killed: nothing is emitted or ended any more, and a death is nobody's fault
        self.cut = False
        self._workers: dict[str, bytes] = {}
        #: the newest incarnation of each worker
        self._incarnations: dict[str, int] = {}
        self._heart = b""
        self._stop_told = False
        self._finishing = False
        #: counts, when nothing is tracked
        self._tally = None if options.tracking else Tally(options.input_edge)
        #: the progress at which the brokers had nothing that moves, and whether nodes held items then
        self._still_at, self._still_held = -1, False
        self._counts = dict.fromkeys(("emitted", "retried", "swept", "lost", "malformed", "reports"), 0)
        self._signals: Signals | Wake | None = None
        self.router = context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.ROUTER_MANDATORY, 1), (zmq.ROUTER_HANDOVER, 1), (zmq.LINGER, 1000),
            (zmq.SNDHWM, _HIGH_WATER), (zmq.RCVHWM, _HIGH_WATER), (zmq.MAXMSGSIZE, options.max_message),
        ):  # fmt: skip
            self.router.setsockopt(option, value)
        self.router.bind(options.uri)
        if options.listen is not None:
            listen(context, self.router, options.listen)
        self.poller = zmq.Poller()
        self.poller.register(self.router, zmq.POLLIN)
        self.poller.register(committer.fd, zmq.POLLIN)
        self._handlers = {
            wire.Reports: self._reports, wire.Append: self._append, wire.Grant: self._grant,
            wire.EdgeJoin: self._edge_joined, wire.Idle: self._idle, wire.ProducerJoin: self._producer_joined,
            wire.EndOfInput: self._end_of_input, wire.NodeJoin: self._node_joined, wire.TurnDone: self._turn_done,
            wire.HeartJoin: self._heart_joined, wire.Drain: self._drain, wire.StatsAsk: self._stats_asked,
            wire.Ask: self._asked,
        }  # fmt: skip

    def listen(self, signals: Signals | Wake) -> None:
        """Stop when one of these signals comes."""
        self._signals = signals
        self.poller.register(signals.fileno(), zmq.POLLIN)

    def run(self) -> None:
        """Serve until `stopping` is set."""
        while not self.stopping:
            self._turn(1000)

    def _turn(self, timeout_ms: int) -> None:
        wait = min(timeout_ms, int(1000 * self.log.wait_s(self._may_enter)) + 1)
        if self._looks:
            wait = min(wait, int(1000 * self._look_s) + 1)
        self.poller.poll(wait)
        if self._signals is not None and self._signals.taken():
            self.stopping = True
        self.committer.finish()
        self._refuse_strangers()
        self._receive()
        self._emit()
        self.log.load(self._may_enter)
        self.brokers.confirm()
        self.producers.send_receipts(self.log.backlog_bytes)
        self._end_in_order()
        self.log.flush()
        self._stop_by_policy()
        self._check_lost()

    def _receive(self) -> None:
        for _ in range(_DRAIN):
            try:
                peer, *frames = self.router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if is_superseded(peer):
                continue
            try:
                head = wire.unpack(frames)
                handler: Any = self._handlers.get(type(head))
                if handler is None:
                    raise WireError(f"nobody has business sending {type(head).__name__} to the acker")
                handler(peer, head, frames)
            except WireError as error:
                self._malformed(peer, error)

    def _malformed(self, peer: bytes, error: WireError) -> None:
        self._counts["malformed"] += 1
        # The first, second, fourth, eighth …: a flood of garbage must not become a flood of log lines.
        if self._counts["malformed"] & (self._counts["malformed"] - 1) == 0:
            log.warning("wire.malformed", peer=repr(peer), count=self._counts["malformed"], error=str(error))

    def _send(self, peer: bytes, head: wire.Head, *frames: bytes) -> bool:
        try:
            self.router.send_multipart([peer, wire.pack(head), *frames], zmq.NOBLOCK)
        except zmq.ZMQError:
            # The peer is gone. Whoever it is greets when it is back and is told where it stands.
            return False
        return True

    # --- brokers ---------------------------------------------------------------------------------------------

    def _edge_joined(self, peer: bytes, head: wire.EdgeJoin, _frames: list[bytes]) -> None:
        # Whatever the old broker (or the broken connection) held is gone, and nobody can say what it was: every
        # open root that could have had an item there is tried anew. None of this is the item's fault.
        swept = self._sweep(self.brokers.join(peer, head))
        self._counts["swept"] += swept
        log.info("edge.joined", edge=head.edge, epoch=head.epoch, swept=swept)
        self.brokers.welcome(head.edge)

    def _sweep(self, entries: frozenset[str]) -> int:
        before = self.ledger.open
        for closed in self.ledger.sweep(entries):
            self.log.again(closed)
        return before - self.ledger.open

    def _grant(self, peer: bytes, head: wire.Grant, _frames: list[bytes]) -> None:
        self.brokers.grant(peer, head)

    def _reports(self, peer: bytes, head: wire.Reports, frames: list[bytes]) -> None:
        for place in self.brokers.new_reports(peer, head):
            try:
                self._apply(*frames[1 + 3 * place : 4 + 3 * place])
            except WireError as error:
                # The others in the message come from other workers.
                self._malformed(peer, error)

    def _apply(self, roots: bytes, xors: bytes, fails: bytes) -> None:
        failures = wire.unpack_fails(fails)
        if len(roots) % 8 or len(roots) != len(xors) or any(len(fail.roots) % 8 for fail in failures):
            raise WireError(f"a report has {len(roots)} bytes of roots and {len(xors)} of xors")
        self._counts["reports"] += 1
        for fail in failures:
            if self._tally is not None:
                self._tally.fail(fail)
            else:
                self._failed(fail)
        for closed in self.ledger.apply(as_u64(roots), as_u64(xors)):
            self.log.completed(closed)

    def _failed(self, fail: wire.Fail) -> None:
        for closed in self.ledger.take(as_u64(fail.roots)):
            charged, free = closed.split(self._is_charged(closed, fail))
            if len(charged.indices):
                self._counts["retried"] += len(charged.indices)
                self.log.failed(charged, fail)
            if len(free.indices):
                self._counts["swept"] += len(free.indices)
                self.log.again(free)

    def _is_charged(self, closed: Closed, fail: wire.Fail) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
        charged = np.full(len(closed.indices), fail.charged and not self.cut)
        if fail.kind == wire.BETWEEN and not self.cut:
            charged |= self._gaps.seen(closed.positions.tolist())
        return charged

    # --- emission --------------------------------------------------------------------------------------------

    def _may_enter(self, entry: Entry) -> bool:
        may_emit = self.ready and not self.cut
        return may_emit and not any(self.ends.has_ended(self.options.targets[name]) for name in entry)

    def _refuse_strangers(self) -> None:
        """Check where the roots enter that were read from the log. Raises StoreError."""
        if len(self.log.lanes) != self._lanes:
            self._lanes = len(self.log.lanes)
            self.brokers.refuse_strangers(self.log.lanes)

    def _emit(self) -> None:
        """Emit what is ready, as far as open roots, credit and the end of the graph allow."""
        if self.brokers.missing:
            return
        for lane in self.log.lanes.values():
            while lane.has_ready and self._may_emit(lane):
                ready = self.log.take(lane, self.options.max_pending - self.ledger.open)
                if ready is not None:
                    self._emit_one(lane.entry, ready)

    def _may_emit(self, lane: Lane) -> bool:
        full = self.ledger.open >= self.options.max_pending and lane.entry == (self.options.input_edge,)
        return not full and self._may_enter(lane.entry) and self.brokers.free(lane.entry)

    def _emit_one(self, entry: Entry, ready: Ready) -> None:
        edges = [self.brokers.edges[name] for name in entry]
        # When it was accepted is a part of its key: a log that lost its end, to a power cut, gives new roots positions
        # that others had before, and an output that knows the keys of those would leave the new ones out.
        salt = mix(self.log.salt ^ ready.accepted_ms)
        ids = [root_ids(salt, ready.positions, edge.salt) for edge in edges]
        xors = np.bitwise_xor.reduce(np.stack(ids), axis=0)
        _, keys = self.ledger.emit(ready.positions, xors, entry, ready.chunk)
        self._counts["emitted"] += len(keys)
        for edge, edge_ids in zip(edges, ids, strict=True):
            self.brokers.hand_over(edge, keys.tobytes(), edge_ids.tobytes(), ready)

    # --- producers -------------------------------------------------------------------------------------------

    def _producer_joined(self, peer: bytes, head: wire.ProducerJoin, _frames: list[bytes]) -> None:
        if head.version != wire.VERSION:
            self._send(peer, wire.Refused(f"this acker speaks protocol version {wire.VERSION}, you {head.version}"))
            return
        store = self.committer.store

        def known(recorded: int) -> None:
            process = (head.pid, head.started) if head.pid else None
            recorded = self.producers.join(peer, head.producer, recorded, inside=head.inside, process=process)
            self._forget_looks()
            # One that comes back while nothing more is taken has to hear which of its batches are recorded.
            uri = "" if self._closed else self.options.input_uri
            self._send(peer, wire.ProducerJoined(self.epoch, recorded, uri))
            if self._closed and not head.inside:
                self._send(peer, wire.Refused(self._closed))

        self.committer.ask(lambda: store.last_sequence(head.producer), known)

    @property
    def _closed(self) -> str:
        """Why no input is taken; empty while it is."""
        return self.draining or ("the graph has ended" if self.ends.phase == ends.FINISHED else "")

    def _append(self, peer: bytes, head: wire.Append, frames: list[bytes]) -> None:
        problem = fault(head, frames[1], self.brokers.edges)
        if problem:
            self._send(peer, wire.Refused(problem))
            raise WireError(problem)
        producer = self.producers.expecting(peer, head)
        if producer is None:
            return
        if self._closed and not producer.inside:
            self._send(peer, wire.Refused(self._closed))
            return
        if self._tally is not None:
            raise WireError("nothing is recorded here: batches go to the broker of the input's edge")
        entry = head.entry or (self.options.input_edge,)
        audit = None
        if head.audit is not None:
            who, what, which = head.audit
            audit = Audit(self.clock.wall(), who, what, head.count, which)
        position = self.log.append(
            frames[1], head.count, entry, producer.origin(head.seq), lambda: producer.record(head.seq, position), audit
        )

    def _end_of_input(self, peer: bytes, head: wire.EndOfInput, _frames: list[bytes]) -> None:
        self.producers.ended(peer, wait=head.wait, lost=head.lost)
        self._forget_looks()
        if not head.wait:
            self.log.forget(head.producer)
        elif self._finishing:
            # It was not connected when the others were told.
            self._send(peer, wire.Finished(msgspec.json.encode(self.stats())))

    # --- workers and the end ---------------------------------------------------------------------------------

    def _node_joined(self, peer: bytes, head: wire.NodeJoin, _frames: list[bytes]) -> None:
        if head.epoch < self._incarnations.get(head.worker, 0):
            # On another machine, a worker that was replaced may live on.
            return
        self._workers[head.worker], self._incarnations[head.worker] = peer, head.epoch
        turn = self.ends.joined(head.node, head.worker, head.round)
        if turn is not None:
            self._send(peer, turn)

    def _turn_done(self, _peer: bytes, head: wire.TurnDone, _frames: list[bytes]) -> None:
        if head.epoch < self._incarnations.get(head.worker, 0):
            return
        self.ends.done(head)
        if self._tally is not None:
            self._tally.lost += head.lost
        # What it held, or pushed, may be on its way now; only a look from here on can tell.
        self._forget_looks()

    def _tell(self, turns: list[tuple[str, wire.Turn]]) -> None:
        for worker, turn in turns:
            # One that is not connected hears of it when it greets.
            if worker in self._workers:
                self._send(self._workers[worker], turn)

    def _quiet(self) -> bool:
        """Nothing is open that could still make progress in this round."""
        if self.log.moving(self._may_enter) or self.brokers.unsent():
            return False
        if self._tally is not None and not (self._still and self.producers.stopped):
            return False
        if self.ledger.open and not self._still:
            return False
        return bool(self.draining) or not self.log.waits(self._may_enter)

    @property
    def _still(self) -> bool:
        """Whether the brokers have nothing that moves, as two looks have shown; held items count until the end."""
        return self._still_at == self._progress and not (self._still_held and self.ends.phase == ends.ENDED)

    def _forget_looks(self) -> None:
        """What was seen of the brokers until now says nothing any more."""
        self._still_at = -1
        self.backstop.forget_looks()

    def _end_in_order(self) -> None:
        """Take every step of the end that is due; no message would wake the loop between one and the next."""
        while self._end_step():
            pass

    def _end_step(self) -> bool:
        machine = self.ends
        if machine.phase == ends.FINISHED:
            self._finish()
            return False
        if not self._is_ending() or not self._quiet():
            return False
        if machine.phase == ends.RUNNING:
            log.info("graph.ending", round=machine.round)
            self._tell(machine.start())
        elif machine.phase == ends.ENDING and machine.current_done():
            self._tell(machine.advance())
        elif machine.phase == ends.ENDED:
            if not self.draining and self.log.holds():
                self._tell(machine.again())
            else:
                machine.finish()
        else:
            return False
        return True

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

    def _stop_by_policy(self) -> None:
        """An item has failed for good in a node that wants everything to stop then: have the heart see to it."""
        if self.log.stop and not self.draining:
            log.error("graph.stopped_by_policy", why=self.log.stop)
            self._drain(b"", wire.Drain(self.log.stop), [])
        if self.log.stop and self._heart and not self._stop_told:
            self._stop_told = self._send(self._heart, wire.Drain(self.log.stop))

    def _drain(self, _peer: bytes, head: wire.Drain, _frames: list[bytes]) -> None:
        self.draining = self.draining or head.reason
        self.cut = self.cut or head.cut
        self._forget_looks()
        for peer in self.producers.peers():
            self._send(peer, wire.Refused(self.draining))

    def _stats_asked(self, peer: bytes, head: wire.StatsAsk, _frames: list[bytes]) -> None:
        self._send(peer, wire.Stats(head.number, msgspec.json.encode(self.stats())))

    def _asked(self, peer: bytes, head: wire.Ask, _frames: list[bytes]) -> None:
        self.operations.obey(peer, head, self._closed, lambda answer: self._send(peer, answer))

    def stats(self) -> dict[str, Any]:
        """Return the counters of the moment; ``accepted = completed + failed + discarded + open`` always."""
        totals = self.log.totals
        return {
            "accepted": totals.accepted, "completed": totals.completed, "failed": totals.failed,
            "discarded": totals.discarded, "open": totals.open, "waiting": totals.waiting, "in_trees": self.ledger.open,
            "retained": totals.retained, "retained_bytes": totals.retained_bytes,
            "backlog_bytes": self.log.backlog_bytes, "phase": self.ends.phase, "round": self.ends.round,
            "only_held": self._still_held and self._still_at == self._progress,
            "ready": self.ready, "draining": self.draining, "cut": self.cut, "store_trouble": self.committer.trouble,
            "guarantee": self.committer.store.describe(), "epoch": self.epoch,
            "node_errors": self.ends.errors, "failures": self.log.failures.show(), **self._counts,
            **(self._tally.stats(self.producers.lost) if self._tally is not None else {"tracking": True}),
        }  # fmt: skip

    # --- backstop --------------------------------------------------------------------------------------------

    @property
    def _progress(self) -> int:
        return self._counts["reports"] + self._counts["emitted"]

    def _is_ending(self) -> bool:
        told = bool(self.draining or self.producers.input_ended)
        return self.ready and told and not self.cut and self.ends.phase != ends.FINISHED

    @property
    def _looks(self) -> bool:
        """Whether the brokers are to be looked at: for the counts, for the end, for roots that were lost."""
        return self._tally is not None or bool(self.ledger.open)

    @property
    def _look_s(self) -> float:
        """Seconds without progress before the brokers are looked at."""
        if self._is_ending():
            return ENDING_S
        return QUIET_S if self._tally is None else LOOK_S

    def _check_lost(self) -> None:
        if not self._looks:
            return
        if self.brokers.unsent():
            # It can leave at any moment, and an answer on its way would know nothing of it.
            self.backstop.forget_looks()
            return
        number = self.backstop.ask(self._progress, self.clock.now(), self._look_s)
        if number is not None:
            self.brokers.probe(number)

    def _idle(self, peer: bytes, head: wire.Idle, _frames: list[bytes]) -> None:
        edge = self.brokers.of(peer)
        if edge is None:
            return
        if self._tally is not None:
            self._tally.see(edge.name, edge.epoch, head.accepted)
        left = head.queued + head.held + head.reports
        verdict = self.backstop.answer(edge.name, head.number, left, head.activity, head.parked)
        if verdict is Verdict.HELD or (verdict is Verdict.LOST and self._tally is not None):
            # Held items hold up neither the nodes before their holder nor itself, or the end would wait for itself.
            self._still_at, self._still_held = self._progress, verdict is Verdict.HELD
        elif verdict is Verdict.LOST and self.ledger.open:
            lost = self._sweep(frozenset(self.brokers.edges))
            self._counts["lost"] += lost
            log.error("bug.roots_lost", count=lost, action="retried; please report this with the logs")

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
