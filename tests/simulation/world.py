"""The whole, in one process and in simulated time: real producers, acker, brokers and workers on a simulated network.

    producer -> acker -> [in->a] -> a -> [a->b] -> b -> [b->d] -> d
                                    a -> [a->c] -> c

``a`` pushes up to two children of each value to both ``b`` and ``c``. ``b`` passes them on, fails now and then, and
pushes one more value when it ends. Fakes are the sockets, the clock, and the processes; everything that decides is
the real thing.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import patch

import zmq

from consecutiond.acker import ends
from consecutiond.acker.options import AckerOptions
from consecutiond.acker.policies import Policies, Policy
from consecutiond.acker.service import Acker
from consecutiond_broker import codec
from consecutiond_broker.clock import FakeClock
from consecutiond_broker.errors import FencedError
from consecutiond_broker.options import BrokerOptions
from consecutiond_broker.recorder import Recorder
from consecutiond_broker.router import Broker
from consecutiond_nodes.node import Node
from consecutiond_nodes.ports import Who
from consecutiond_nodes.routing import Outlet
from consecutiond_nodes.worker import EdgeEnd, Worker, WorkerOptions
from consecutiond_nodes.workers import worker_class
from tests.simulation.network import Context, Faults, Network, Poller
from tests.simulation.oracle import Oracle
from tests.simulation.processes import (
    Kernel,
    Process,
    SimulatedCommitter,
    SimulatedDeaths,
    SimulatedStore,
    freeze,
)

ACKER: Final = "sim://acker"
IN, AB, AC, BD = "in->a", "a->b", "a->c", "b->d"
REACH: Final = {IN: (IN,), AB: (IN, AB), AC: (IN, AC), BD: (IN, AB, BD)}
TARGETS: Final = {edge: edge[-1] for edge in REACH}
NODES: Final = {"a": ("a.0", "a.1"), "b": ("b.0", "b.1"), "c": ("c.0",), "d": ("d.0",)}
OUTLETS: Final[dict[str, tuple[Outlet, ...]]] = {"a": (Outlet(("b", "c")),), "b": (Outlet(("d",)),), "c": (), "d": ()}
MAX_PENDING: Final = 12
MAX_ATTEMPTS: Final = 3
#: batches that each sender may have in a broker's queue, and deliveries that a worker may have in hand
EDGE_WINDOW, WORKER_WINDOW, BATCH_ITEMS = 2, 2, 4


class Feed:
    """A producer: the real recorder, and what was handed to it."""

    def __init__(self, context: Context) -> None:
        self.recorder = Recorder(context, ACKER, inside=False)  # type: ignore[arg-type]
        self.recorder.register(zmq.Poller())
        #: the values of each batch, by its number
        self.batches: dict[int, list[int]] = {}
        self.ended = False

    def _turn(self, _timeout_ms: int) -> None:
        self.recorder.pump()


class World:
    """Everything that there is.

    Args:
        directory: for the workers' cells.
        seed: decides whatever the steps of a test leave open.
        faults: of the network, beyond those that ZeroMQ has.
        fails: the probability that ``b`` raises.
    """

    #: the workers of each node
    nodes = NODES
    max_pending = MAX_PENDING

    def __init__(self, directory: Path, seed: int, faults: Faults = Faults(), fails: float = 0.1) -> None:  # noqa: B008
        self.directory = directory
        self.network, self.kernel, self.clock = Network(seed, faults), Kernel(), FakeClock()
        self.random = self.network.random
        self.fails = fails
        self.store = SimulatedStore(self.random.getrandbits(64))
        self.oracle = Oracle(self.store)
        self.network.watch = self.oracle.arrived
        self.epochs: dict[str, int] = {}
        #: the newest incarnation of each part, dead or alive, and older ones that live
        self.parts: dict[str, Process] = {}
        self.zombies: list[Process] = []
        self.feeds: list[Process] = []
        self._values = 0
        self._running: list[Process] = []
        self._patches = ExitStack()
        for each in self._fakes():
            self._patches.enter_context(each)
        self.makers: dict[str, Callable[[Process], Any]] = {"acker": self._acker}
        self.makers |= {f"broker {edge}": lambda process, edge=edge: self._broker(process, edge) for edge in REACH}  # type: ignore[misc]
        self.makers |= {
            worker: lambda process, node=node: self._worker(process, node)  # type: ignore[misc]
            for node, workers in self.nodes.items()
            for worker in workers
        }
        for name in self.makers:
            self.start(name)

    def _fakes(self) -> Iterator[Any]:
        """Yield what stands in for the operating system."""
        yield patch.object(zmq, "Poller", lambda: Poller(self.kernel.readable, self._others))
        yield patch("consecutiond_broker.child.identity", lambda: (self._running[-1].pid, self._running[-1].started))
        yield patch("consecutiond.acker.producers.start_time", self.kernel.start_time)
        yield patch("consecutiond_broker.recorder.os", SimpleNamespace(urandom=self.random.randbytes))

    def close(self) -> None:
        self._patches.close()

    # --- processes ---------------------------------------------------------------------------------------------

    @contextmanager
    def _inside(self, process: Process) -> Iterator[None]:
        self._running.append(process)
        process.busy = True
        try:
            yield
        finally:
            process.busy = False
            self._running.pop()

    def start(self, name: str) -> Process:
        """Start a new incarnation of a part."""
        epoch = self.epochs[name] = self.epochs.get(name, 0) + 1
        process = self.kernel.spawn(name, epoch, self.directory / f"{name}-{epoch}.cell")
        process.die = lambda: self.kill(process)
        self.parts[name] = process
        with self._inside(process):
            process.part = self.makers[name](process)
        return process

    def start_feed(self) -> Process:
        process = self.kernel.spawn(f"feed {len(self.feeds)}", 1)
        process.die = lambda: self.kill(process)
        self.feeds.append(process)
        with self._inside(process):
            process.part = Feed(Context(self.network, process))
        return process

    def _acker(self, process: Process) -> Acker:
        options = AckerOptions(
            part="acker", uri=ACKER, heart_uri="", pid_dir="", store="", reach=REACH, input_edge=IN, targets=TARGETS,
            nodes=self.nodes, max_pending=self.max_pending, max_backlog=100,
            policies=Policies(Policy(MAX_ATTEMPTS, 0.1, 1.0)),
        )  # fmt: skip
        committer: Any = SimulatedCommitter(self.store, process, self.kernel)
        context: Any = Context(self.network, process)
        acker = Acker(options, process.epoch, context, committer, self.clock)
        acker.log._random = self.random
        acker.ready = True
        self.oracle.follow(acker, process)
        return acker

    def _broker(self, process: Process, edge: str) -> Broker:
        options = BrokerOptions(
            part="", edge=edge, uri=f"sim://{edge}", acker_uri=ACKER, heart_uri="", pid_dir="", window=EDGE_WINDOW,
            acker_window=EDGE_WINDOW,
        )  # fmt: skip
        context: Any = Context(self.network, process)
        broker = Broker(options, process.epoch, context)
        broker.deaths.close()
        broker.deaths = SimulatedDeaths(self.kernel)  # type: ignore[assignment]
        self.oracle.follow_broker(broker)
        return broker

    def _worker(self, process: Process, name: str) -> Worker:
        def ends(edges: list[str]) -> tuple[EdgeEnd, ...]:
            return tuple(EdgeEnd(edge, f"sim://{edge}") for edge in edges)

        options = WorkerOptions(
            part="", worker=process.name, node=name, target="",
            upstream=ends([edge for edge in REACH if TARGETS[edge] == name]),
            downstream={end.name[-1]: end for end in ends([edge for edge in REACH if edge.startswith(f"{name}->")])},
            output=None, outputs=None, acker_uri=ACKER, heart_uri="", pid_dir="", window=WORKER_WINDOW,
            # Such that the time that an item really takes decides nothing.
            batch_items=BATCH_ITEMS, batch_s=1e6,
        )  # fmt: skip
        who = Who(process.name, process.epoch, process.pid, process.started, str(process.cell))
        node = self._node(name, process)
        context: Any = Context(self.network, process)
        worker = worker_class(node)(options, node, OUTLETS[name], who, context)
        process.part = worker
        worker.begin()
        return worker

    def _node(self, name: str, process: Process) -> Node:
        def run(node: Node, value: Any) -> None:
            self._process(node, process, value)

        def end(node: Node) -> None:
            if node.name == "b":
                node.push(self.oracle.farewell(process))

        return type("User", (Node,), {"process": run, "end": end})(name)  # type: ignore[no-any-return]

    def _process(self, node: Node, process: Process, value: Any) -> None:
        worker: Worker = process.part
        job = worker._job
        assert job is not None
        root = int(job.roots[worker.cell.words[5] - 1])
        source = value[0] if isinstance(value, list) else value
        if node.name == "a":
            for place in range(fan_out(value)):
                node.push([value, place])
        elif node.name == "b":
            node.push(value)
        if process.doomed:
            self.oracle.blame(source)
            self.kill(process)
        elif node.name == "b" and self.random.random() < self.fails:
            self.oracle.blame(source)
            raise ValueError(f"no {value}")
        if process.alive:
            self.oracle.processed(root, node.name, value)

    def kill(self, process: Process) -> None:
        """End a process as ``kill -9`` does."""
        if not process.alive:
            return
        process.alive = False
        if process.cell is not None:
            freeze(process.cell)
        if isinstance(process.part, Worker):
            self.oracle.kills += 1
            process.part.stopping = True
        self.network.kill(process)
        if process in self.zombies:
            self.zombies.remove(process)

    def stop(self, process: Process) -> None:
        """End a worker in order."""
        with self._inside(process):
            process.part.close()
        process.alive = False
        if process in self.zombies:
            self.zombies.remove(process)

    def clash(self, name: str) -> None:
        """Start another instance of a worker that lives."""
        older = self.parts[name]
        if older.alive:
            self.zombies.append(older)
        self.start(name)

    # --- steps -------------------------------------------------------------------------------------------------

    def append(self, process: Process, count: int) -> None:
        """Hand new values to a producer."""
        feed: Feed = process.part
        values = list(range(self._values, self._values + count))
        self._values += count
        with self._inside(process):
            number = feed.recorder.append(codec.encode(values), count)
        feed.batches[number] = values

    def end_input(self) -> None:
        for process in self.feeds:
            if process.alive and not process.part.ended:
                process.part.ended = True
                with self._inside(process):
                    process.part.recorder.end(wait=True)

    def run(self, steps: int) -> None:
        """Take small steps of whatever could take one."""
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        chance = self.random.random()
        self.clock.advance(0.001)
        if chance < 0.45 and self.network.step():
            return
        if chance < 0.55 and self.parts["acker"].part.committer.work():
            return
        self.turn(self.random.choice([*self.parts.values(), *self.zombies, *self.feeds]))

    def turn(self, process: Process) -> None:
        if not process.alive:
            # Whoever is dead is started again after a while.
            if process.name in self.makers and not process.busy and self.random.random() < 0.2:
                self.start(process.name)
            return
        if process.busy:
            return
        try:
            with self._inside(process):
                process.part._turn(0)
        except FencedError:
            assert process is not self.parts[process.name], "the newest instance was fenced"
            self.stop(process)
        self.oracle.look(self)

    def _others(self) -> None:
        """Somebody waits."""
        for _ in range(20):
            self.step()

    @property
    def quiet(self) -> bool:
        """Whether nothing is on its way and nobody has anything to read."""
        network = self.network
        return not (
            network._lonely()
            or any(connection.up or connection.down for connection in network.connections)
            or any(socket.readable for socket in (*network.bound.values(), *network.dealers))
        )

    def drain(self, steps: int = 30_000) -> None:
        """Mend the network and let everything come to its end.

        Raises:
            AssertionError: it does not.
        """
        self.network.mend()
        if not any(process.alive for process in self.feeds):
            self.start_feed()
        for process in (*self.parts.values(), *self.feeds):
            process.fuse, process.doomed = None, False
        for process in list(self.zombies):
            # Nobody starts a second instance for ever; it either hears that it is fenced, or somebody ends it.
            process.fuse = None
        self.end_input()
        for _ in range(steps):
            self.step()
            if self.quiet:
                self.clock.advance(0.05)
            if self.finished:
                break
        else:
            raise AssertionError(f"it never came to its end: {self.picture()}")
        self.oracle.finished(self)

    @property
    def finished(self) -> bool:
        """Whether every producer that lives has heard of the end."""
        told = all(process.part.recorder.summary is not None for process in self.feeds if process.alive)
        # An acker that was killed after it had told them has the nodes end once more.
        acker = self.parts["acker"]
        return told and acker.alive and acker.part.ends.phase == ends.FINISHED and acker.part.log.clean()

    def picture(self) -> dict[str, Any]:
        """Return what there is, for people."""
        acker: Acker = self.parts["acker"].part
        brokers = {name: process.part.stats() for name, process in self.parts.items() if name.startswith("broker")}
        return {"acker": acker.stats(), "dead": [n for n, p in self.parts.items() if not p.alive], "brokers": brokers}


def fan_out(value: int) -> int:
    """Return how many children ``a`` pushes of a value."""
    return value % 3
