"""The door for workers on other machines: they ask for their options here, beat here, and are told to end here."""

from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import zmq

from consecutiond.heartoptions import DoorOptions
from consecutiond.logs import get_logger
from consecutiond.supervision.parts import Parts
from consecutiond_broker import wire
from consecutiond_broker.clock import Clock
from consecutiond_broker.epochs import next_epoch
from consecutiond_broker.errors import WireError
from consecutiond_broker.tcp import listen

log = get_logger("heart")

#: messages read per turn
_DRAIN: Final = 200
#: answers that are kept for clients that ask again
_KEPT: Final = 100
#: the only request
WORKER: Final = "worker"


class Request(msgspec.Struct, frozen=True):
    """Somebody wants to be a worker."""

    node: str
    #: which one; None: any whose place is free
    number: int | None = None


class _Asked(NamedTuple):
    peer: bytes
    number: int
    request: Request
    #: until when a place may become free
    until: float


class Door:
    """A ROUTER of its own, so that a worker's key opens nothing else: it stops nobody, and feeds nothing.

    Args:
        options: what the plan says.
        pid_dir: where the counters of epochs are.
        context: the process's ZeroMQ context.
        poller: of the heart's loop.
        parts: what the heart knows of every part.
        clock: the time.
        recovering: an earlier heart was here, and this one has yet to hear who has which place.

    Raises:
        ListenError: the address or the keys cannot be used.
    """

    def __init__(
        self, options: DoorOptions, pid_dir: Path, context: "zmq.Context[zmq.Socket[bytes]]", poller: zmq.Poller,
        parts: Parts, clock: Clock, *, recovering: bool,
    ) -> None:  # fmt: skip
        self._options, self._pid_dir, self._parts, self._clock = options, pid_dir, parts, clock
        self._peers: dict[bytes, str] = {}
        self._answers: dict[bytes, wire.Answer] = {}
        self._asked: list[_Asked] = []
        #: part -> until when its place is kept for whoever was given it and has not said a word yet
        self._given: dict[str, float] = {}
        #: from when on a worker that has not beaten is not there
        self._knows_from = clock.now() + (options.listen.silence_s if recovering else 0.0)
        self._malformed = 0
        self._router = context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._router.setsockopt(zmq.LINGER, 1000)
        listen(context, self._router, options.listen)
        poller.register(self._router, zmq.POLLIN)

    def hear(self) -> None:
        """Read a bounded number of messages, and answer whoever can be answered now."""
        for _ in range(_DRAIN):
            try:
                peer, *frames = self._router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            try:
                self._receive(peer, wire.unpack(frames))
            except (WireError, msgspec.DecodeError, ValueError) as error:
                self._malformed += 1
                if self._malformed & (self._malformed - 1) == 0:
                    log.warning("wire.malformed", error=str(error), count=self._malformed)
        asked, self._asked = self._asked, []
        self._asked = [each for each in asked if not self._admit(each)]

    def _receive(self, peer: bytes, head: wire.Head) -> None:
        if isinstance(head, wire.Alive):
            self._beat(peer, head)
        elif isinstance(head, wire.Leave):
            self._parts.left(self._part_of(peer), head.epoch)
            del self._peers[peer]
        elif isinstance(head, wire.Ask) and head.verb == WORKER:
            if peer in self._answers:
                self._send(peer, self._answers[peer])
            elif all(each.peer != peer for each in self._asked):
                request = msgspec.json.decode(head.args, type=Request)
                until = self._clock.now() + 2 * self._options.listen.silence_s
                self._asked.append(_Asked(peer, head.number, request, until))
        else:
            raise WireError(f"a remote worker has no business sending {type(head).__name__}")

    def _part_of(self, peer: bytes) -> str:
        if peer not in self._peers:
            raise WireError(f"{peer!r} says goodbye and was never here")
        return self._peers[peer]

    def _beat(self, peer: bytes, head: wire.Alive) -> None:
        if head.name not in self._options.workers:
            raise WireError(f"{head.name!r} is no worker that runs elsewhere")
        if head.epoch < self._parts.epoch(head.name):
            self._send(peer, wire.Fenced(head.epoch))
            return
        self._peers[peer] = head.name
        self._given.pop(head.name, None)
        self._parts.beat(head)

    # --- admission -------------------------------------------------------------------------------------------

    def _admit(self, asked: _Asked) -> bool:
        """Answer a request, if that is possible now."""
        workers = {
            part: options for part, options in self._options.workers.items() if options["node"] == asked.request.node
        }
        if not workers:
            nodes = ", ".join(sorted({options["node"] for options in self._options.workers.values()}))
            return self._refuse(asked, f"there is no remote node {asked.request.node!r}; remote nodes: {nodes}")
        if asked.request.number is not None:
            part = f"node-{asked.request.node}.{asked.request.number}"
            if part not in workers:
                return self._refuse(asked, f"node {asked.request.node} has {len(workers)} workers, from 0 on")
            return self._give(asked, part, workers[part])
        now = self._clock.now()
        for part, options in workers.items() if now >= self._knows_from else ():
            if self._parts.is_free(part) and self._given.get(part, now) <= now:
                return self._give(asked, part, options)
        if now < asked.until:
            # One that has just died is not missed yet.
            return False
        count, node = len(workers), asked.request.node
        return self._refuse(
            asked, f"all {count} workers of node {node} are there; --worker K takes the place of number K"
        )

    def _give(self, asked: _Asked, part: str, options: dict[str, Any]) -> bool:
        epoch = next_epoch(self._pid_dir, part)
        self._given[part] = self._clock.now() + 2 * self._options.listen.silence_s
        body = {"options": options, "epoch": epoch, "silence_s": self._options.listen.silence_s}
        log.info("worker.given", part=part, part_epoch=epoch)
        return self._answer(asked, wire.Answer(asked.number, "", msgspec.json.encode(body)))

    def _refuse(self, asked: _Asked, why: str) -> bool:
        return self._answer(asked, wire.Answer(asked.number, why, b"{}"))

    def _answer(self, asked: _Asked, answer: wire.Answer) -> bool:
        self._answers[asked.peer] = answer
        if len(self._answers) > _KEPT:
            del self._answers[next(iter(self._answers))]
        self._send(asked.peer, answer)
        return True

    def _send(self, peer: bytes, head: wire.Head) -> None:
        # To one that is gone it is dropped: without ROUTER_MANDATORY, and it asks again.
        self._router.send_multipart([peer, wire.pack(head)], zmq.NOBLOCK)

    # --- the end ---------------------------------------------------------------------------------------------

    def how_to_start(self, names: list[str]) -> str:
        """Return what has to be typed on other machines for those of these parts that run there."""
        commands = {self._options.commands[name]: None for name in names if name in self._options.commands}
        return "".join(f"\n  on another machine: {command}" for command in commands)

    def dismiss(self, reason: str) -> None:
        """Tell every worker to end."""
        for peer in self._peers:
            self._send(peer, wire.End(reason))

    def close(self) -> None:
        """Close the socket; what was said is still handed over."""
        self._router.close()
