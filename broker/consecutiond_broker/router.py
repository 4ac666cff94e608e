"""The broker of one edge: the ROUTER loop that drives an :class:`~consecutiond_broker.edge.Edge`."""

import logging
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import zmq

from consecutiond_broker import stacks, wire
from consecutiond_broker.cell import ALL, BETWEEN, read_remains
from consecutiond_broker.clock import SystemClock
from consecutiond_broker.dealer import Dealer, is_superseded
from consecutiond_broker.deaths import DeathWatch
from consecutiond_broker.edge import Batch, Edge, Source
from consecutiond_broker.errors import WireError
from consecutiond_broker.links import Links
from consecutiond_broker.meter import Meter
from consecutiond_broker.options import BrokerOptions
from consecutiond_broker.signals import Signals
from consecutiond_broker.wake import Wake

log = logging.getLogger("consecutiond.broker")

#: messages read per turn and socket: bounded work on each pass
_DRAIN: Final = 200
#: milliseconds between looks at the clock when nothing happens
_IDLE_MS: Final = 1000
_HIGH_WATER: Final = 100_000
#: the acker as a sender; no worker can have this identity
_ACKER: Final = b"\0acker"

_Report = tuple[int, int, list[bytes]]


class Broker:
    """One edge's broker process (or thread).

    It owns every batch between the sender's hand-over and the receiver's settlement, forwards the settlements to the
    acker, and keeps them until the acker has applied them. The values are never opened.
    """

    def __init__(self, options: BrokerOptions, epoch: int, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
        self.options = options
        self.epoch = epoch
        self.edge = Edge(options.window)
        self.deaths = DeathWatch()
        self.stopping = False
        self._signals: Signals | Wake | None = None
        self._cells: dict[bytes, tuple[str, int, int]] = {}
        #: whether the acker on this connection has said where it stands; before that no report may go to it
        self._acker_greeted = False
        self._acker_source = Source(0)
        self._report_seq = 0
        self._kept: deque[_Report] = deque()
        self._unsent: list[_Report] = []
        self._malformed = 0
        #: items settled, and items taken from senders other than the acker
        self._items = self._accepted = 0
        self._meter = Meter(SystemClock())
        self.router = context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.ROUTER_MANDATORY, 1), (zmq.ROUTER_HANDOVER, 1), (zmq.LINGER, 1000),
            (zmq.SNDHWM, _HIGH_WATER), (zmq.RCVHWM, _HIGH_WATER), (zmq.MAXMSGSIZE, options.max_message),
        ):  # fmt: skip
            self.router.setsockopt(option, value)
        self.router.bind(options.uri)
        self.links = Links(context, self.router, options.listen) if options.listen is not None else None
        #: the connection on which the message in hand came, if there are `links`
        self._link = 0
        self.acker = Dealer(context, options.acker_uri, b"E:" + options.edge.encode(), self._greet_acker)
        self.poller = zmq.Poller()
        self.poller.register(self.router, zmq.POLLIN)
        self.acker.register(self.poller)
        if self.links is not None:
            self.poller.register(self.links.monitor, zmq.POLLIN)

    def listen(self, signals: Signals | Wake) -> None:
        """Stop when one of these signals comes."""
        self._signals = signals
        self.poller.register(signals.fileno(), zmq.POLLIN)

    def run(self) -> None:
        """Serve until `stopping` is set."""
        while not self.stopping:
            self._turn(_IDLE_MS)

    def _turn(self, timeout_ms: int) -> None:
        events = dict(self.poller.poll(timeout_ms))
        if self._signals is not None and self._signals.taken():
            self.stopping = True
        self.acker.check_connection()
        for frames in self.acker.messages(_DRAIN):
            self._from_acker(frames)
        drained = self._drain_workers()
        if drained:
            # Only after everything that the dead had said was read: a settlement may have overtaken the death.
            self._bury_dead(events)
            self._bury_gone()
        self._dispatch()
        self._send_reports()
        self._send_grants()

    # --- workers ---------------------------------------------------------------------------------------------

    def _drain_workers(self) -> bool:
        """Read a bounded number of messages; return whether nothing is left."""
        for _ in range(_DRAIN):
            try:
                peer, *frames = self._receive()
            except zmq.Again:
                return True
            if is_superseded(peer):
                continue
            try:
                self._from_worker(peer, wire.unpack(frames), frames)
            except WireError as error:
                self._foreign(peer, error)
        return False

    def _receive(self) -> list[bytes]:
        if self.links is None:
            return self.router.recv_multipart(zmq.NOBLOCK)
        frames, self._link = self.links.receive()
        return frames

    def _foreign(self, peer: bytes, error: WireError) -> None:
        self._malformed += 1
        if self._malformed & (self._malformed - 1) == 0:
            # The first, second, fourth, eighth …: a flood of garbage must not become a flood of log lines.
            log.warning("wire.malformed peer=%r count=%d error=%s", peer, self._malformed, error)

    def _from_worker(self, peer: bytes, head: wire.Head, frames: list[bytes]) -> None:
        if isinstance(head, wire.Settle):
            if head.broker_epoch == self.epoch:
                self._settled(peer, head, frames)
        elif isinstance(head, wire.Batch):
            if head.broker_epoch == self.epoch and self.edge.offer(peer, head.seq, _batch(head, frames), head.epoch):
                self._accepted += head.count
        elif isinstance(head, wire.Join):
            self._joined(peer, head)
        elif isinstance(head, wire.Leave):
            self._left(peer, head)
        else:
            raise WireError(f"a worker has no business sending {type(head).__name__}")

    def _joined(self, peer: bytes, head: wire.Join) -> None:
        if head.version != wire.VERSION:
            raise WireError(f"{head.name} speaks version {head.version} of the protocol, this broker {wire.VERSION}")
        if self.links is not None and not head.pid and not self._far_joined(self.links, peer, head):
            return self._send(peer, wire.Fenced(head.epoch))
        accepted, limit = 0, head.limit
        if head.side == "up":
            source = self.edge.join_source(peer, head.epoch)
            if source is None:
                return self._send(peer, wire.Fenced(head.epoch))
            accepted, limit = source.accepted, source.taken + self.edge.window
        else:
            old = self._cells.get(peer)
            if old is not None and old[2] < head.epoch:
                self._replaced(peer)
            admitted = self.edge.join_receiver(peer, head.epoch, head.held)
            if admitted is None:
                return self._send(peer, wire.Fenced(head.epoch))
            receiver, lost = admitted
            receiver.limit, receiver.hint, receiver.partition = head.limit, head.hint, head.partition
            receiver.window = head.limit - len(receiver.parked)
            for batch in lost:
                self._fail(
                    batch,
                    "connection broke",
                    f"the connection of {head.name} broke with this batch on its way",
                )
            self._watch(peer, head)
        log.info("peer.joined name=%s side=%s epoch=%d", head.name, head.side, head.epoch)
        self._send(peer, wire.Joined(wire.VERSION, self.epoch, accepted, limit, self.edge.hint))
        return None

    def _far_joined(self, links: Links, peer: bytes, head: wire.Join) -> bool:
        """Admit a worker on another machine, and end its older incarnation; return False when there is a newer one."""
        # The end of its last connection comes before its greeting on this one.
        self._bury_gone()
        rival = links.rival(peer, head)
        if rival is not None:
            other, epoch = rival
            if epoch > head.epoch:
                return False
            # It may live on and send what it likes: it is nobody here from now on.
            self.edge.leave_source(other, epoch)
            self._bury(other)
            self._send(other, wire.Fenced(epoch))
        links.joined(peer, self._link)
        return True

    def _watch(self, peer: bytes, head: wire.Join) -> None:
        self._cells[peer] = (head.cell, head.slot, head.epoch)
        if head.pid in (0, os.getpid()) or self.deaths.fd(peer) is not None:
            return
        if self.deaths.watch(peer, head.pid, head.started):
            fd = self.deaths.fd(peer)
            if fd is not None:
                self.poller.register(fd, zmq.POLLIN)
        else:
            # It died between its greeting and now.
            self._bury(peer)

    def _left(self, peer: bytes, head: wire.Leave) -> None:
        self.edge.leave_source(peer, head.epoch)
        receiver = self.edge.receivers.get(peer)
        if receiver is not None and receiver.epoch == head.epoch:
            log.info("peer.left name=%r", peer)
            self._bury(peer)

    def _settled(self, peer: bytes, head: wire.Settle, frames: list[bytes]) -> None:
        if head.held:
            batch = self.edge.park(peer, head.seq, head.done, head.epoch)
        else:
            batch = self.edge.settle(peer, head.seq, head.epoch)
        receiver = self.edge.receivers.get(peer)
        if batch is None or receiver is None:
            return
        receiver.limit, receiver.hint = head.limit, head.hint
        self._items += len(head.done) if head.done else batch.count
        if frames[3] or not batch.untracked:
            # Of items that nobody tracks, the acker only wants to know which have failed.
            self._keep(batch.acker_epoch, frames[1:])

    # --- deaths ----------------------------------------------------------------------------------------------

    def _bury_dead(self, events: dict[object, int]) -> None:
        fds = self.deaths.fds()
        for fd in events:
            # Asked once more: since the poll, the number may have gone from a dead worker to its living successor.
            if isinstance(fd, int) and fd in fds and self.deaths.is_dead(fds[fd]):
                self._bury(fds[fd])  # type: ignore[arg-type]

    def _bury_gone(self) -> None:
        """Workers on other machines whose connections have ended: nothing can be proven, so all they held fails."""
        for peer in self.links.gone() if self.links is not None else ():
            log.warning("peer.disconnected name=%r", peer)
            self._bury(peer)

    def _replaced(self, peer: bytes) -> None:
        """A newer incarnation greets: if the old one is proven dead its cell counts, else nothing is provable."""
        if self.deaths.is_dead(peer):
            self._bury(peer)
        else:
            self._forget_death(peer)

    def _forget_death(self, peer: bytes) -> None:
        fd = self.deaths.fd(peer)
        if fd is not None:
            self.poller.unregister(fd)
            self.deaths.forget(peer)

    def _bury(self, peer: bytes) -> None:
        """Decide what becomes of a dead worker's batches."""
        self._forget_death(peer)
        cell, slot, epoch = self._cells.pop(peer, ("", 0, 0))
        remains = read_remains(Path(cell), epoch, slot) if cell else None
        verdict = self.edge.bury(peer, remains)
        # What it was at when it was killed for taking too long, as it was asked before.
        stuck = stacks.read(Path(cell).with_suffix(".stacks")) if remains is not None and remains.timed_out else None
        name = peer.decode(errors="replace")
        why = "worker died", f"{name} died after a part of this batch's outputs had left"
        if self.links is not None and not cell:
            why = (
                "connection broke",
                f"the connection to {name}, on another machine, ended with this batch in its hands",
            )
        for batch, suspect in verdict.failed:
            self._fail(batch, *why, suspect, stuck=stuck)
        for batch, suspect in verdict.redelivered:
            if suspect >= 0:
                self._fail_suspect(batch, suspect, name, stuck=stuck)
        for batch, positions in verdict.lost:
            if positions:
                self._keep_fail(batch, wire.Fail("worker died", False, batch.roots(positions), "", f"{name} died", ""))
        if verdict.failed or verdict.redelivered:
            counts = len(verdict.failed), len(verdict.redelivered)
            log.warning("worker.lost name=%s failed=%d redelivered=%d", name, *counts)

    def _fail(self, batch: Batch, kind: str, error: str, suspect: int = -1, *, stuck: str | None = None) -> None:
        """Have the acker retry the roots of a batch, uncharged, but for the suspect of a crash."""
        if suspect == ALL:
            suspects = set(range(batch.count)).difference(batch.skip)
            crash = f"{error}, with this item or one of {len(suspects) - 1} others at fault"
            node = self.options.edge.rpartition("->")[2]
            where = self.options.edge, b"", (*batch.born[3], node)
            self._keep_fail(batch, wire.Fail("crashed", True, batch.roots(suspects), node, crash, "", *where))
            return
        if suspect == BETWEEN:
            name = error.partition(" died ")[0]
            kind, error = wire.BETWEEN, f"{name} died with this batch in hand, between two items"
        if suspect >= 0:
            self._fail_suspect(batch, suspect, error.partition(" died ")[0], stuck=stuck)
        roots = batch.roots(set(range(batch.count)).difference((suspect,), batch.skip))
        if roots:
            node = self.options.edge.rpartition("->")[2]
            self._keep_fail(batch, wire.Fail(kind, False, roots, node, error, "", self.options.edge))

    def _fail_suspect(self, batch: Batch, suspect: int, name: str, *, stuck: str | None) -> None:
        node = self.options.edge.rpartition("->")[2]
        kind, error = "crashed", f"{name} died (killed, crashed or out of memory) with this item in hand"
        if stuck is not None:
            kind, error = wire.TIMED_OUT, f"{name} was killed: this item took longer than timeout_s, and did not return"
        where = self.options.edge, batch.item(suspect), (*batch.born[3], node)
        self._keep_fail(batch, wire.Fail(kind, True, batch.roots({suspect}), node, error, stuck or "", *where))

    def _keep_fail(self, batch: Batch, fail: wire.Fail) -> None:
        self._keep(batch.acker_epoch, [b"", b"", wire.pack_fails([fail])])

    # --- acker -----------------------------------------------------------------------------------------------

    def _greet_acker(self) -> list[bytes]:
        """Greet with a clean slate: what the acker had sent before is either here or will be sent anew."""
        self._acker_greeted = False
        self._acker_source = Source(self._acker_source.epoch + 1)
        self._acker_source.granted = (0, self.options.acker_window, self.edge.hint)
        limit, greeting = self.options.acker_window, self._acker_source.epoch
        return [wire.pack(wire.EdgeJoin(wire.VERSION, self.options.edge, self.epoch, limit, self.edge.hint, greeting))]

    def _from_acker(self, frames: list[bytes]) -> None:
        try:
            head = wire.unpack(frames)
        except WireError as error:
            return self._foreign(_ACKER, error)
        if isinstance(head, wire.Batch):
            source = self._acker_source
            # Before the acker has answered our greeting, what comes is of a connection that broke: it counts otherwise.
            if self._acker_greeted and head.broker_epoch == self.epoch and head.seq == source.accepted + 1:
                source.accepted = head.seq
                self.edge.enqueue(source, _batch(head, frames))
        elif isinstance(head, wire.Applied):
            if head.broker_epoch == self.epoch:
                self._applied(head.seq)
        elif isinstance(head, wire.EdgeJoined):
            self._acker_joined(head)
        elif isinstance(head, wire.Probe):
            counts = self.edge.queued, self.edge.held, len(self._kept), self.edge.activity, self.edge.parked
            self.acker.send([wire.pack(wire.Idle(head.number, *counts, self._accepted))])
        return None

    def _acker_joined(self, head: wire.EdgeJoined) -> None:
        """Drop what belongs to an acker that is gone, send again what this one has not applied."""
        if head.greeting != self._acker_source.epoch:
            # It answers a greeting on a connection that broke, and batches of that one may follow.
            return
        dropped = self.edge.purge(head.acker_epoch)
        self._applied(head.applied)
        self._kept = deque(report for report in self._kept if report[1] >= head.acker_epoch)
        self._acker_greeted = True
        self._unsent = list(self._kept)
        log.info("acker.joined epoch=%d purged=%d resent=%d", head.acker_epoch, dropped, len(self._unsent))

    def _applied(self, seq: int) -> None:
        while self._kept and self._kept[0][0] <= seq:
            self._kept.popleft()

    def _keep(self, acker_epoch: int, frames: list[bytes]) -> None:
        """Keep a report until the acker has applied it; one for a dead acker is of no use to anybody."""
        if acker_epoch < self.edge.acker_epoch:
            return
        self._report_seq += 1
        report = (self._report_seq, acker_epoch, frames)
        self._kept.append(report)
        self._unsent.append(report)

    def _send_reports(self) -> None:
        if not self._unsent or not self._acker_greeted or not self.acker.connected:
            return
        unsent, self._unsent = self._unsent, []
        for run in _runs(unsent):
            head = wire.Reports(self.epoch, run[0][0], tuple(report[1] for report in run))
            self.acker.send([wire.pack(head), *(frame for report in run for frame in report[2])])

    # --- sending ---------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        for peer, seq, batch in self.edge.dispatch():
            head = wire.Deliver(self.epoch, seq, batch.acker_epoch, batch.count, batch.skip, *batch.born)
            try:
                self.router.send_multipart([peer, wire.pack(head), *batch.frames], zmq.NOBLOCK)
            except (zmq.Again, zmq.ZMQError):
                # Not connected (or not reading): the batch goes back to the head of the queue.
                self.edge.unreachable(peer, seq)

    def _send_grants(self) -> None:
        for peer, accepted, limit, hint in self.edge.grants():
            self._send(peer, wire.Grant(self.epoch, accepted, limit, hint))
        source = self._acker_source
        grant = (source.accepted, source.taken + self.options.acker_window, self.edge.hint)
        if grant != source.granted:
            source.granted = grant
            self.acker.send([wire.pack(wire.Grant(self.epoch, *grant, source.epoch))])

    def _send(self, peer: bytes, head: wire.Head) -> None:
        try:
            self.router.send_multipart([peer, wire.pack(head)], zmq.NOBLOCK)
        except zmq.ZMQError:
            # The peer is gone; it greets when it is back, and the answer tells it the same.
            log.debug("peer.unreachable name=%r", peer)

    def stats(self) -> dict[str, object]:
        """Return the counters of the moment: batches, items, and items settled per second of late."""
        items_queued, items_held = self.edge.items
        return {
            "queued": self.edge.queued,
            "held": self.edge.held,
            "parked": self.edge.parked,
            "items_queued": items_queued,
            "items_held": items_held,
            "reports": len(self._kept),
            "items": self._items,
            "rate": round(self._meter.rate(self._items), 3),
            "malformed": self._malformed,
        }

    def close(self) -> None:
        """Close every socket; what was sent is still handed over."""
        self.deaths.close()
        if self.links is not None:
            self.links.close()
        self.acker.close()
        self.router.close()


def _batch(head: wire.Batch, frames: list[bytes]) -> Batch:
    born = head.attempt, head.accepted_ms, head.spans, head.path
    return Batch(head.acker_epoch, head.count, frames[1:], born=born, partition=head.partition)


def _runs(reports: list[_Report]) -> Iterator[list[_Report]]:
    """Cut reports where their numbers have a gap, which those of a dead acker have left."""
    start = 0
    for place in range(1, len(reports) + 1):
        if place == len(reports) or reports[place][0] != reports[place - 1][0] + 1:
            yield reports[start:place]
            start = place
