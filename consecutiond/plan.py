"""Graph and configuration become programs with endpoints: a pure value that can be printed."""

import math
import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from consecutiond.acker.options import AckerOptions
from consecutiond.acker.policies import Policies, Policy
from consecutiond.config import Settings
from consecutiond.heartoptions import DoorOptions, HeartOptions
from consecutiond.inputs.options import InputOptions
from consecutiond.remoteplan import RemotePlan
from consecutiond.supervision.states import HEART, Program
from consecutiond_broker.options import BrokerOptions
from consecutiond_nodes import shipping
from consecutiond_nodes.endpoints import OUTPUT_EDGE as OUTPUT_EDGE
from consecutiond_nodes.graph import Graph
from consecutiond_nodes.worker import EdgeEnd, WorkerOptions

ACKER: Final = "acker"
OUTPUT: Final = "output"
INPUT: Final = "input"

#: threads that numerical libraries may start in a child: none of the parts computes with them
_ONE_THREAD: Final = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


#: messages in the hands of the output process, at least
_OUTPUT_WINDOW: Final = 16


class Plan(msgspec.Struct, frozen=True):
    """Everything that runs, and what each part has to know."""

    #: part name -> its options
    parts: dict[str, Any]
    programs: tuple[Program, ...]
    acker_uri: str
    control_uri: str
    #: options of the worker that appends to the containers, or None
    output: WorkerOptions | None
    remote: RemotePlan

    def to_json(self) -> bytes:
        """Return the plan file, in which every child finds its own options."""
        return msgspec.json.format(msgspec.json.encode({"parts": self.parts}), indent=1)


class Places(msgspec.Struct, frozen=True):
    """The paths that a plan needs."""

    #: gives the URI of a socket by name
    uri: Callable[[str], str]
    plan: str
    pid_dir: str
    supervisor_socket: str
    #: the store's URL
    store: str
    #: URI at which the heart can be asked for a stop; empty where the calling process listens itself
    kill_uri: str = ""
    #: file with the keys for other machines
    keys: str = ""
    #: file that a worker on another machine connects with
    connection: str = "connection.json"


def input_edge(graph: Graph) -> str:
    """Return the name of the edge at which the input enters."""
    return f"input->{graph.root.name}"


def make_plan(
    graph: Graph,
    settings: Settings,
    target: str,
    outputs: tuple[str, ...] | None,
    places: Places,
    *,
    local_output: bool,
    input_uri: str = "",
) -> Plan:
    """Decide every process, socket and option.

    Args:
        graph: a valid graph.
        settings: the options.
        target: how workers import the graph.
        outputs: names of the registered outputs; None takes every name; an empty tuple has no output edge.
        places: where things are.
        local_output: the containers are in the calling process, which runs the output worker itself.
        input_uri: where a program of its own takes input from clients; empty for a consecutor that is fed otherwise.
    """
    return _Planner(graph, settings, target, outputs, places).make(local_output=local_output, input_uri=input_uri)


def _plain_names(edges: Iterable[str]) -> dict[str, str]:
    """Name edges without arrows and stars; nodes may have dashes in their names, so two could come out the same."""
    plain: dict[str, str] = {}
    taken: set[str] = set()
    for edge in edges:
        name = base = edge.replace("->", "-").replace("*", "any")
        count = 1
        while name in taken:
            count += 1
            name = f"{base}.{count}"
        taken.add(name)
        plain[edge] = name
    return plain


class _Planner:
    def __init__(
        self, graph: Graph, settings: Settings, target: str, outputs: tuple[str, ...] | None, places: Places
    ) -> None:
        self.graph, self.settings, self.target, self.outputs, self.places = (
            graph,
            settings,
            target,
            outputs,
            places,
        )
        self.input_edge = input_edge(graph)
        #: edge name -> the node it leads to
        self.edges = {
            self.input_edge: graph.root.name,
            **{edge.name: edge.downstream for edge in graph.edges},
        }
        if outputs is None or outputs:
            self.edges[OUTPUT_EDGE] = OUTPUT
        #: edge name -> its name in those of programs and files
        self.plain = _plain_names(self.edges)
        #: what other machines reach
        self.remote = RemotePlan(graph, settings, self.edges, places.keys)
        #: where the parts on this machine meet
        self.uris = {name: places.uri(f"edge-{plain}") for name, plain in self.plain.items()} | self.remote.local
        self.workers = {
            name: tuple(f"{name}.{k}" for k in range(node.num_workers)) for name, node in graph.nodes.items()
        }
        self.acker_uri, self.heart_uri = places.uri(ACKER), places.uri("alive")
        self.control_uri = places.uri("control")
        self.common: dict[str, Any] = {
            "heart_uri": self.heart_uri,
            "pid_dir": places.pid_dir,
            "heartbeat_s": settings.heartbeat_s,
        }

    def make(self, *, local_output: bool, input_uri: str) -> Plan:
        acker = self._acker()
        brokers = [self._broker(name) for name in self.edges]
        every = [self._worker(name, worker) for name in self.graph.nodes for worker in self.workers[name]]
        far = [worker for worker in every if worker.node in self.remote.nodes]
        workers = [worker for worker in every if worker.node not in self.remote.nodes]
        output = self._output() if OUTPUT_EDGE in self.edges else None
        if output is not None and not local_output:
            workers.append(output)
        inputs = [self._input(input_uri)] if input_uri else []
        parts: list[AckerOptions | BrokerOptions | WorkerOptions | InputOptions] = [acker, *brokers, *workers, *inputs]
        local = (OUTPUT,) if output is not None and local_output else ()
        known = tuple(part.part for part in (*parts, *far)) + local
        heart = HeartOptions(
            part=HEART, alive_uri=self.heart_uri, control_uri=self.control_uri, acker_uri=self.acker_uri,
            supervisor_socket=self.places.supervisor_socket, pid_dir=self.places.pid_dir,
            parts=known, local_parts=known if self.settings.architecture == "thread" else local,
            worker_parts=self._worker_parts(workers), stall_s=self.settings.stall_s,
            start_timeout_s=self.settings.start_timeout_s, stop_timeout_s=self.settings.stop_timeout_s,
            door=self._door(far), input_part=INPUT if inputs else "", kill_uri=self.places.kill_uri,
            kill_tiers=self._kill_tiers(), restartable=self._restartable([*workers, *inputs]),
            restart_limit=self.settings.restart_limit, restart_window_s=self.settings.restart_window_s,
        )  # fmt: skip
        programs = (
            self._program(HEART, "consecutiond.supervision.heart", 1, autorestart=True),
            self._program(ACKER, "consecutiond.acker", 10),
            *(self._program(part.part, "consecutiond_broker", 20) for part in brokers),
            *(
                self._program(part.part, "consecutiond.output" if part.part == OUTPUT else "consecutiond_nodes", 30)
                for part in workers
            ),
            *(self._program(part.part, "consecutiond.inputs", 40) for part in inputs),
        )
        options: dict[str, Any] = {part.part: part for part in parts} | {HEART: heart}
        return Plan(options, programs, self.acker_uri, self.control_uri, output, self.remote)

    def _door(self, workers: list[WorkerOptions]) -> DoorOptions | None:
        listen = self.remote.listen(self.remote.door)
        if listen is None:
            return None
        target = "TARGET" if self.target.startswith(shipping.SCHEME) or not self.target else self.target
        commands = {
            each.part: f"consecutiond worker {target} {each.node} --connect {self.places.connection}"
            for each in workers
        }
        options = {each.part: msgspec.to_builtins(self.remote.worker(each)) for each in workers}
        return DoorOptions(listen=listen, workers=options, commands=commands)

    def _program(self, name: str, module: str, priority: int, *, autorestart: bool = False) -> Program:
        argv = (sys.executable, "-m", module, self.places.plan, name)
        return Program(name, argv, env=dict(_ONE_THREAD), autorestart=autorestart, priority=priority)

    def _acker(self) -> AckerOptions:
        s = self.settings
        return AckerOptions(
            part=ACKER, uri=self.acker_uri, store=self.places.store if s.uses_store else "memory://",
            durability=s.durability, acker_store=s.acker_store, input_store=s.input_store,
            reach=self._reach(), input_edge=self.input_edge, targets=self.edges, nodes=self.workers,
            max_pending=s.max_pending, max_backlog=s.max_backlog, policies=self._policies(),
            retain_s=None if math.isinf(s.retain_s) else s.retain_s,
            input_uri="" if s.tracking else self.uris[self.input_edge],
            max_message=2 * s.max_message, listen=self.remote.listen(self.remote.acker), **self.common,
        )  # fmt: skip

    def _policies(self) -> Policies:
        """Return what becomes of items that fail: the options, and what nodes say over them."""
        s = self.settings
        default = Policy(s.max_attempts, s.retry_backoff_s, s.retry_backoff_max_s, s.max_age_s, s.exhausted)
        fields = Policy.__struct_fields__
        nodes = {}
        for name, node in self.graph.nodes.items():
            said = {field: value for field in fields if (value := getattr(node.failure_policy, field)) is not None}
            if said:
                nodes[name] = replace(default, **said)
        return Policies(default, nodes)

    def _worker_parts(self, workers: list[WorkerOptions]) -> tuple[str, ...]:
        """Return the workers that are processes of this machine."""
        return () if self.settings.architecture == "thread" else tuple(worker.part for worker in workers)

    def _restartable(self, parts: Iterable[WorkerOptions | InputOptions]) -> dict[str, tuple[str, ...]]:
        """Return what the heart may end and start one by one: nodes, output and input, with their parts."""
        found: dict[str, tuple[str, ...]] = {}
        for part in parts if self.settings.architecture == "process" else ():
            name = part.node if isinstance(part, WorkerOptions) else INPUT
            found[name] = (*found.get(name, ()), part.part)
        return found

    def _timeout_s(self, node: str) -> float:
        if node not in self.graph.nodes:
            return 0.0
        said = self.graph.nodes[node].failure_policy.timeout_s
        return self.settings.timeout_s if said is None else said

    def _broker(self, name: str) -> BrokerOptions:
        return BrokerOptions(
            part=f"broker-{self.plain[name]}", edge=name, uri=self.uris[name], acker_uri=self.acker_uri,
            window=self.settings.edge_window, acker_window=2 * self.settings.edge_window,
            max_message=2 * self.settings.max_message, listen=self.remote.listen(self.remote.uris.get(name)),
            **self.common,
        )  # fmt: skip

    def _input(self, uri: str) -> InputOptions:
        s = self.settings
        return InputOptions(
            part=INPUT, uri=uri, acker_uri=self.acker_uri, control_uri=self.control_uri, batch_items=s.batch_items,
            batch_bytes=s.batch_bytes, max_message=s.max_message, start_timeout_s=s.start_timeout_s, **self.common,
        )  # fmt: skip

    def _worker(self, node: str, worker: str) -> WorkerOptions:
        upstream = [name for name, target in self.edges.items() if target == node]
        downstream = {edge.downstream: self._end(edge.name) for edge in self.graph.edges if edge.upstream == node}
        return self._worker_options(
            part=f"node-{worker}", worker=worker, node=node, upstream=upstream, downstream=downstream,
            output=self._end(OUTPUT_EDGE) if OUTPUT_EDGE in self.edges else None,
        )  # fmt: skip

    def _output(self) -> WorkerOptions:
        options = self._worker_options(
            part=OUTPUT, worker=OUTPUT, node=OUTPUT, upstream=[OUTPUT_EDGE], downstream={}, output=None
        )
        # What it has in hand is flushed together; a disk's turn is worth more than two batches.
        return replace(options, window=max(options.window, _OUTPUT_WINDOW))

    def _worker_options(
        self, *, part: str, worker: str, node: str, upstream: list[str], downstream: dict[str, EdgeEnd],
        output: EdgeEnd | None,
    ) -> WorkerOptions:  # fmt: skip
        s = self.settings
        return WorkerOptions(
            part=part, worker=worker, node=node, target=self.target,
            upstream=tuple(self._end(name) for name in upstream), downstream=downstream, output=output,
            outputs=self.outputs, acker_uri=self.acker_uri, window=s.worker_window, batch_items=s.batch_items,
            batch_s=s.batch_s, batch_bytes=s.batch_bytes, max_message=s.max_message, consecutor=s.id,
            tracking=s.tracking, timeout_s=self._timeout_s(node), **self.common,
        )  # fmt: skip

    def _end(self, name: str) -> EdgeEnd:
        return EdgeEnd(name, self.uris[name])

    def _kill_tiers(self) -> tuple[tuple[str, ...], ...]:
        """Return the parts of all nodes by depth: every node comes after all that it gets items from."""
        depths: dict[str, int] = {}
        for node in self.graph.nodes:  # topological
            above = [depths[edge.upstream] for edge in self.graph.edges if edge.downstream == node]
            depths[node] = max(above, default=-1) + 1
        tiers: list[list[str]] = [[] for _ in range(max(depths.values()) + 1)]
        for node, depth in depths.items():
            tiers[depth] += [f"node-{worker}" for worker in self.workers[node]]
        return tuple(map(tuple, tiers))

    def _reach(self) -> dict[str, tuple[str, ...]]:
        """For every edge: the edges at which a root can enter and come to it."""
        into: dict[str, set[str]] = {name: set() for name in self.graph.nodes}
        for edge in self.graph.edges:
            into[edge.downstream].add(edge.upstream)
        above: dict[str, set[str]] = {}
        for node in self.graph.nodes:  # topological, so everything above a node is known before it
            above[node] = {node}.union(*(above[name] for name in into[node]))
        reach = {}
        for name in self.edges:
            if name == OUTPUT_EDGE:
                reach[name] = tuple(self.edges)
            else:
                source = name.rpartition("->")[0]
                nodes = above.get(source, set())
                reach[name] = (
                    name,
                    *(other for other, to in self.edges.items() if to in nodes and other != name),
                )
        return reach
