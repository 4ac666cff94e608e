"""A worker's connections: one `Upstream` per incoming edge, one `Downstream` per outgoing edge."""

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import zmq

from consecutiond_broker import wire
from consecutiond_broker.dealer import Dealer
from consecutiond_broker.edge import ANY, FIRST_HINT
from consecutiond_broker.errors import FencedError, WireError
from consecutiond_broker.ids import name_salt
from consecutiond_nodes.job import Bundle, Errand, Job

#: messages read per wake-up and connection
_DRAIN = 100

Context = zmq.Context[zmq.Socket[bytes]]
#: whose outputs they are
Origin = Job | Bundle | Errand


class Who(NamedTuple):
    """A worker as its brokers know it; on another machine it has neither pid nor start time nor cell."""

    name: str
    epoch: int
    pid: int
    started: int
    cell: str

    @property
    def identity(self) -> str:
        """Who it is among all peers of a socket: on another machine, where two may live, each incarnation its own."""
        return self.name if self.pid else f"{self.name}/{self.epoch}"

    @property
    def node(self) -> str:
        """The name of its node."""
        return self.name.rpartition(".")[0] or self.name

    @property
    def number(self) -> int:
        """Which of its node's workers it is, from 0; -1 for a worker that is the only one there can be."""
        number = self.name.rpartition(".")[2]
        return int(number) if number.isdecimal() else -1


class Port:
    """What both directions share: the connection, and which incarnation of the broker it leads to."""

    def __init__(self, context: Context, who: Who, side: str, edge: str, uri: str) -> None:
        self.who, self.side, self.edge = who, side, edge
        self.broker_epoch = 0
        identity = f"{side}:{who.identity}".encode()
        self.dealer = Dealer(context, uri, identity, self.greeting)

    def greeting(self) -> list[bytes]:
        """Return the `Join` for a new connection."""
        raise NotImplementedError

    def pump(self) -> None:
        """Read what the broker says."""
        self.dealer.check_connection()
        for frames in self.dealer.messages(_DRAIN):
            head = wire.unpack(frames)
            if isinstance(head, wire.Fenced) and head.epoch != self.who.epoch:
                # It is for one whose identity we have taken over before the message was sent.
                continue
            if isinstance(head, wire.Fenced):
                raise FencedError(
                    f"{self.who.name} (epoch {self.who.epoch}) was fenced on edge {self.edge}: "
                    "a newer worker of that name has joined"
                )
            self.receive(head, frames)

    def receive(self, head: wire.Head, frames: list[bytes]) -> None:
        """Act on one message."""
        raise NotImplementedError


class Upstream(Port):
    """An incoming edge: deliveries in, settlements out.

    Args:
        slot: the place of this edge in the worker's cell.
        window: deliveries that the worker will have in hand from this edge.
        take: receives each new job.
        drop: is told that the broker is another one and its jobs are stale.
    """

    def __init__(
        self,
        context: Context,
        who: Who,
        slot: int,
        edge: str,
        uri: str,
        window: int,
        take: Callable[[Job], None],
    ) -> None:
        self.slot, self.window, self.take = slot, window, take
        self.hint = FIRST_HINT
        self.jobs: dict[int, Job] = {}
        #: the newest delivery that has come; the numbers of one broker rise
        self._newest = 0
        self._settled = 0
        super().__init__(context, who, "down", edge, uri)

    def greeting(self) -> list[bytes]:
        """Join with what is in hand; both sides count deliveries from here."""
        self._settled = sum(job.parked for job in self.jobs.values())
        who = self.who
        join = wire.Join(
            wire.VERSION, "down", who.name, who.epoch, who.pid, who.started, who.cell, self.slot,
            self._settled + self.window, self.hint, tuple(self.jobs), who.number,
        )  # fmt: skip
        return [wire.pack(join)]

    def receive(self, head: wire.Head, frames: list[bytes]) -> None:
        """Take deliveries; note a new broker."""
        if isinstance(head, wire.Deliver):
            if head.broker_epoch == self.broker_epoch and head.seq > self._newest:
                # One that comes twice must not be worked on twice in its trees: its outputs would cancel each other.
                self._newest = head.seq
                job = Job(self.slot, head, frames, self.edge, self.who.node)
                self.jobs[job.seq] = job
                self.take(job)
        elif isinstance(head, wire.Joined):
            self._joined(head.broker_epoch)
        elif not isinstance(head, wire.Grant):
            raise WireError(f"the broker of {self.edge} sent {type(head).__name__} to a receiver")

    def _joined(self, broker_epoch: int) -> None:
        if broker_epoch == self.broker_epoch:
            return
        self.broker_epoch, self._newest = broker_epoch, 0
        for job in self.jobs.values():
            job.orphan()
        self.jobs.clear()

    def settle(self, job: Job, hint: int) -> None:
        """Send the report of a job; it takes up to ``window`` further deliveries.

        A job of which the node holds items stays in hand, and does not count as one of the deliveries.
        """
        if self.jobs.get(job.seq) is not job:
            # Its broker is gone, and another one may use the number.
            return
        report = job.report()
        held = len(job.held)
        self._settled += not job.parked
        job.parked = held > 0
        if not held:
            del self.jobs[job.seq]
        self.hint = hint
        limit = self._settled + self.window
        head = wire.Settle(self.broker_epoch, job.seq, job.acker_epoch, limit, hint, held, job.covered, self.who.epoch)
        self.dealer.send([wire.pack(head), *report])


class Downstream(Port):
    """An outgoing edge: batches out, kept until the broker has accepted them.

    Args:
        done: is told of each job whose last output was accepted, or that lost one.
    """

    def __init__(self, context: Context, who: Who, edge: str, uri: str, done: Callable[[Job], None]) -> None:
        self.salt = name_salt(edge)
        self.hint = 1
        self.unsent: deque[tuple[Origin, int, list[bytes], bytes, int]] = deque()
        self._unaccepted: deque[tuple[int, Origin, int, list[bytes]]] = deque()
        self._sent = self._accepted = self._limit = 0
        self._done = done
        super().__init__(context, who, "up", edge, uri)

    def greeting(self) -> list[bytes]:
        """Join as a sender."""
        who = self.who
        return [wire.pack(wire.Join(wire.VERSION, "up", who.name, who.epoch, who.pid, who.started, "", 0, 0, 0, ()))]

    def send(self, job: Origin, count: int, frames: list[bytes], spans: bytes = b"", partition: int = ANY) -> None:
        """Send a batch, or keep it until there is credit."""
        for member in job.members:
            member.waiting += 1
        self.unsent.append((job, count, frames, spans, partition))
        self._flush()

    def _flush(self) -> None:
        while self.unsent and self._sent < self._limit:
            job, count, frames, spans, partition = self.unsent.popleft()
            if job.dead:
                continue
            self._sent += 1
            head = wire.Batch(
                self.broker_epoch, self._sent, job.acker_epoch, count, job.attempt, job.accepted_ms, spans, partition,
                job.path, self.who.epoch,
            )  # fmt: skip
            message = [wire.pack(head), *frames]
            self._unaccepted.append((self._sent, job, count, message))
            self.dealer.send(message)

    def receive(self, head: wire.Head, frames: list[bytes]) -> None:
        """Note what was accepted, and what a new broker means."""
        if isinstance(head, wire.Grant):
            if head.broker_epoch != self.broker_epoch or head.limit < self._limit:
                # Of a broker that is dead, or overtaken: credit only rises.
                return
        elif isinstance(head, wire.Joined):
            if head.broker_epoch != self.broker_epoch:
                self._new_broker(head.broker_epoch)
            else:
                self._resend(head.accepted)
        else:
            raise WireError(f"the broker of {self.edge} sent {type(head).__name__} to a sender")
        self._limit, self.hint = head.limit, max(1, head.hint)
        self._accept(head.accepted)
        self._flush()

    def _accept(self, accepted: int) -> None:
        while self._unaccepted and self._unaccepted[0][0] <= accepted:
            _, job, _, _ = self._unaccepted.popleft()
            for member in job.members:
                member.waiting -= 1
                if isinstance(member, Job) and member.settled:
                    self._done(member)

    def _resend(self, accepted: int) -> None:
        for seq, _, _, message in self._unaccepted:
            if seq > accepted:
                self.dealer.send(message)

    def _new_broker(self, broker_epoch: int) -> None:
        """The broker died: nobody can say which of the unaccepted batches it had, so their roots are tried anew.

        Those that are not tracked are gone, since the broker may have passed them on.
        """
        self.broker_epoch = broker_epoch
        lost: list[tuple[Job | Errand, int]] = []
        for _, origin, count, _ in self._unaccepted:
            members: tuple[Job | Errand, ...] = origin.members
            # What several jobs share is counted by the first of them.
            lost += [(member, 0 if place else count) for place, member in enumerate(members)]
        self._unaccepted.clear()
        self._sent = self._accepted = 0
        why = f"the broker of {self.edge} died before it accepted {self.who.name}'s outputs"
        for job, count in lost:
            was_lost = job.lost
            job.lose(count, why)
            if isinstance(job, Job) and job.settled and not was_lost:
                self._done(job)

    @property
    def blocked(self) -> bool:
        """Whether batches wait for credit."""
        return bool(self.unsent)
