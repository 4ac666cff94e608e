"""A worker on real sockets: its brokers and its acker are ROUTERs of the test."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from consecutiond_broker import codec, wire
from consecutiond_broker.ids import as_u64, name_salt
from consecutiond_nodes.node import Node
from consecutiond_nodes.ports import Port, Who
from consecutiond_nodes.routing import Outlet
from consecutiond_nodes.worker import EdgeEnd, Worker, WorkerOptions
from consecutiond_nodes.workers import worker_class

EPOCH, ACKER, WORKER = 7, 3, 5
#: an epoch that nobody has
_MARK = 999_999
Context = zmq.Context[zmq.Socket[bytes]]


def words(*values: int) -> bytes:
    return np.array(values, dtype="<u8").tobytes()


def numbers(frame: bytes) -> list[int]:
    return [int(value) for value in as_u64(frame)]


class Router:
    """One end that a worker connects to; it keeps what it hears."""

    def __init__(self, context: Context, uri: str) -> None:
        self.context, self.uri = context, uri
        self.peer = b""
        self.heard: list[tuple[Any, list[bytes]]] = []
        self.open()

    def open(self) -> None:
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(self.uri)

    def pump(self) -> None:
        while not self.socket.closed and self.socket.poll(0):
            self.peer, *frames = self.socket.recv_multipart()
            head = wire.unpack(frames)
            self.heard.append((head, frames[1:]))
            self.answer(head, frames[1:])

    def answer(self, head: Any, raw: list[bytes]) -> None:
        """Do what has to be done at once."""

    def send(self, head: wire.Head, *frames: bytes) -> None:
        self.socket.send_multipart([self.peer, wire.pack(head), *frames])

    def of(self, kind: type) -> list[Any]:
        return [head for head, _ in self.heard if isinstance(head, kind)]

    def raw(self, kind: type) -> list[list[bytes]]:
        return [raw for head, raw in self.heard if isinstance(head, kind)]


class Broker(Router):
    """The broker of one edge. ``accepting``: it takes every batch into custody at once."""

    def __init__(self, context: Context, directory: Path, edge: str) -> None:
        self.edge, self.epoch, self.salt = edge, EPOCH, name_salt(edge)
        self.accepting, self.joining = True, True
        self.accepted, self.limit, self.hint = 0, 1000, 16
        self._deliveries = 0
        super().__init__(context, f"ipc://{directory}/{edge.replace('->', '-').replace('*', 'any')}")

    def answer(self, head: Any, raw: list[bytes]) -> None:
        if isinstance(head, wire.Join) and self.joining:
            limit = self.limit if head.side == "up" else head.limit
            self.send(wire.Joined(wire.VERSION, self.epoch, self.accepted, limit, self.hint))
        elif isinstance(head, wire.Batch) and self.accepting and head.seq == self.accepted + 1:
            self.grant(head.seq)

    def grant(self, accepted: int | None = None, limit: int | None = None) -> None:
        self.accepted = self.accepted if accepted is None else accepted
        self.limit = self.limit if limit is None else limit
        self.send(wire.Grant(self.epoch, self.accepted, self.limit, self.hint))

    def die(self) -> None:
        self.pump()
        self.socket.close()

    def return_as(self, epoch: int) -> None:
        """A new incarnation, or for the old epoch: the same one after a broken connection."""
        if epoch != self.epoch:
            self.epoch, self.accepted = epoch, 0
        self.open()

    # --- as the edge above the worker ---

    def deliver(
        self, *values: Any, roots: tuple[int, ...] = (), ids: tuple[int, ...] = (), skip: tuple[int, ...] = (),
        acker_epoch: int = ACKER, body: bytes | None = None, broker_epoch: int | None = None,
    ) -> int:  # fmt: skip
        """Hand out a batch, by default of roots 11, 12 … with ids 101, 102 …"""
        self._deliveries += 1
        count = len(roots) or len(values)
        roots = roots or tuple(range(11, 11 + count))
        ids = ids or tuple(range(101, 101 + count))
        epoch = self.epoch if broker_epoch is None else broker_epoch
        head = wire.Deliver(epoch, self._deliveries, acker_epoch, count, skip)
        self.send(head, words(*roots), words(*ids), codec.encode(values) if body is None else body)
        return self._deliveries

    @property
    def settled(self) -> list[int]:
        return [head.seq for head in self.of(wire.Settle)]

    def report(self, place: int = -1) -> dict[int, int]:
        """Return the XOR by root of a settlement's report."""
        roots, xors, _ = self.raw(wire.Settle)[place]
        report: dict[int, int] = defaultdict(int)
        for root, xor in zip(numbers(roots), numbers(xors), strict=True):
            report[root] ^= xor
        return dict(report)

    def fails(self, place: int = -1) -> list[wire.Fail]:
        return wire.unpack_fails(self.raw(wire.Settle)[place][2])

    # --- as an edge below it ---

    def items(self) -> list[tuple[int, int, Any]]:
        """Return ``(root, id, value)`` of everything that has come."""
        return [
            each
            for roots, ids, body in self.raw(wire.Batch)
            for each in zip(numbers(roots), numbers(ids), codec.decode(body), strict=True)
        ]

    @property
    def values(self) -> list[Any]:
        return [value for _, _, value in self.items()]


class Acker(Router):
    """The acker, as a worker sees it. ``recording``: it gives receipts."""

    def __init__(self, context: Context, directory: Path) -> None:
        self.recording = True
        self.recorded = 0
        self.worker = self.producer = b""
        super().__init__(context, f"ipc://{directory}/acker")

    def answer(self, head: Any, raw: list[bytes]) -> None:
        if isinstance(head, wire.NodeJoin):
            self.worker = self.peer
        elif isinstance(head, wire.ProducerJoin):
            self.producer = self.peer
            self.send(wire.ProducerJoined(ACKER, self.recorded))
        elif isinstance(head, wire.Append) and self.recording and head.seq == self.recorded + 1:
            self.recorded = head.seq
            self.send(wire.Receipt(head.seq))

    def turn(self, what: str, round: int = 1) -> None:
        self.socket.send_multipart([self.worker, wire.pack(wire.Turn(what, round))])

    def give_receipts(self, recorded: int) -> None:
        self.recorded = recorded
        self.socket.send_multipart([self.producer, wire.pack(wire.Receipt(recorded))])

    def roots(self) -> list[tuple[tuple[str, ...], Any]]:
        """Return ``(entry edges, value)`` of everything that was recorded, each batch once."""
        batches = {head.seq: (head, raw) for head, raw in self.heard if isinstance(head, wire.Append)}
        return [(head.entry, value) for head, raw in batches.values() for value in codec.decode(raw[0])]


class Bench:
    """A worker and all that it talks to."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.context: Context = zmq.Context()
        self.acker = Acker(self.context, directory)
        self.brokers: dict[str, Broker] = {}
        self.workers: list[Worker] = []
        self.up = self.edge("in->a")

    def edge(self, name: str) -> Broker:
        if name not in self.brokers:
            self.brokers[name] = Broker(self.context, self.directory, name)
        return self.brokers[name]

    def options(
        self, to: tuple[str, ...] = (), *, up: tuple[str, ...] = ("in->a",), output: bool = False, **options: Any
    ) -> WorkerOptions:
        def end(name: str) -> EdgeEnd:
            return EdgeEnd(name, self.edge(name).uri)

        return WorkerOptions(
            part="node-a.0", worker="a.0", node="a", target="", upstream=tuple(end(name) for name in up),
            downstream={name: end(f"a->{name}") for name in to}, output=end("*->output") if output else None,
            acker_uri=self.acker.uri, heart_uri="", pid_dir="", **{"outputs": None, **options},
        )  # fmt: skip

    def start(
        self, node: Node, *targets: str, outlets: tuple[Outlet, ...] | None = None, joined: bool = True,
        epoch: int = WORKER, keyed: Any = None, **options: Any,
    ) -> Worker:  # fmt: skip
        """Start a worker that broadcasts to the targets, or has the given outlets."""
        if outlets is None:
            outlets = (Outlet(targets),) if targets else ()
        to = tuple(dict.fromkeys(name for outlet in outlets for name in outlet.targets))
        who = Who("a.0", epoch, 1, 1, str(self.directory / f"a.0-{epoch}.cell"))
        self.worker = worker_class(node)(self.options(to, **options), node, outlets, who, self.context, keyed)
        self.workers.append(self.worker)
        if joined:
            self.join()
        return self.worker

    def join(self) -> None:
        self.until(lambda: all(port.broker_epoch for port in (*self.worker.up, *self.worker.down.values())))
        self.until(lambda: self.acker.of(wire.NodeJoin))

    def pump(self) -> None:
        for router in (self.acker, *self.brokers.values()):
            router.pump()

    def until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 20
        self.pump()
        while not condition():
            assert time.monotonic() < deadline, "it never came to that"
            self.worker._turn(5)
            self.pump()

    def settle(self, count: int = 1) -> None:
        """Run until so many deliveries are settled."""
        self.until(lambda: len(self.up.settled) >= count)

    def idle(self) -> None:
        """Turn until the worker has read everything that was sent to it, and what it sent has arrived."""
        ports = [port for port in (*self.worker.up, *self.worker.down.values()) if self.edge(port.edge).peer]
        ports = [port for port in ports if not self.edge(port.edge).socket.closed]
        read: list[Port] = []
        for port in ports:
            self._notice(port, read)
            self.edge(port.edge).send(wire.Grant(_MARK, 0, 0, 0))
        self.until(lambda: len(read) == len(ports))
        self.worker._turn(0)
        for port in ports:
            # One message in a pipe proves that all before it have passed.
            port.dealer.send([wire.pack(wire.Leave(_MARK))])
        self.until(lambda: all(wire.Leave(_MARK) in self.edge(port.edge).of(wire.Leave) for port in ports))
        for port in ports:
            heard = self.edge(port.edge).heard
            heard[:] = [each for each in heard if each[0] != wire.Leave(_MARK)]

    def _notice(self, port: Port, read: list[Port]) -> None:
        receive = port.receive

        def noticing(head: wire.Head, frames: list[bytes]) -> None:
            if isinstance(head, wire.Grant) and head.broker_epoch == _MARK:
                read.append(port)
                port.receive = receive  # type: ignore[method-assign]
            else:
                receive(head, frames)

        port.receive = noticing  # type: ignore[method-assign]

    def expected(self, *edges: str, own: dict[int, int]) -> dict[int, int]:
        """Return the report that is right: by root its consumed ids and those of all of its children.

        Args:
            edges: where the children went.
            own: by root the XOR of the ids that were consumed.
        """
        report = dict(own)
        for edge in edges:
            for root, id, _ in self.edge(edge).items():
                report[root] ^= id
        return report

    def stop(self) -> None:
        """Close the worker, in order."""
        self.workers.remove(self.worker)
        self.worker.close()

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        for router in (self.acker, *self.brokers.values()):
            router.socket.close()
        self.context.destroy(linger=0)


def benches(directory: Path) -> Iterator[Bench]:
    """Give a bench to a fixture."""
    bench = Bench(directory)
    yield bench
    bench.close()


def fanned(count: int) -> Callable[[Node, Any], None]:
    """Return a `process` that pushes the value so many times, numbered."""

    def process(self: Node, value: Any) -> None:
        for number in range(count):
            self.push([value, number])

    return process


def node(process: Callable[[Node, Any], None], name: str = "a", **methods: Any) -> Node:
    """Return a node that has this `process`."""
    return type("User", (Node,), {"process": process, **methods})(name)  # type: ignore[no-any-return]
