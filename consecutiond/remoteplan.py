"""Where a consecutor listens for workers on other machines: a pure part of the plan."""

from collections.abc import Iterable

import msgspec

from consecutiond.config import ConfigError, Settings
from consecutiond_broker.tcp import Listen
from consecutiond_nodes.endpoints import OUTPUT_EDGE, is_loopback
from consecutiond_nodes.graph import Graph
from consecutiond_nodes.worker import EdgeEnd, WorkerOptions

_MOST_PORT = 65535


class RemotePlan:
    """The addresses that other machines connect to.

    The heart listens at `remote_uri`, the acker one port above, and each edge of a remote node that has no uri of its
    own takes the next port.

    Args:
        graph: a valid graph.
        settings: the options.
        edges: the names of all edges that have a broker.
        keys: file with the keys, which are used if any address is not loopback.

    Raises:
        ConfigError: with everything that is missing or does not go together.
    """

    def __init__(self, graph: Graph, settings: Settings, edges: Iterable[str], keys: str) -> None:
        self.nodes = tuple(name for name, node in graph.nodes.items() if node.is_remote)
        self._settings = settings
        custom = {edge: uri for edge, uri in graph.uris.items() if edge in set(edges)}
        #: edges on a Unix socket of the user's choice
        self.local = {edge: uri for edge, uri in custom.items() if uri.startswith("ipc:")}
        #: edges that listen on tcp
        self.uris = {edge: uri for edge, uri in custom.items() if uri.startswith("tcp:")}
        self._check()
        self.door = self.acker = ""
        if self.nodes:
            self._take_ports(edge for edge in edges if self._is_far(edge) and edge not in self.uris)
        addresses = (*self.uris.values(), *filter(None, (self.door, self.acker)))
        self._keys = "" if all(map(is_loopback, addresses)) else keys

    def _is_far(self, edge: str) -> bool:
        return edge == OUTPUT_EDGE or not set(self.nodes).isdisjoint(edge.split("->"))

    def _check(self) -> None:
        settings, faults = self._settings, []
        names = ", ".join(self.nodes)
        if self.nodes and not settings.remote_uri:
            faults.append(
                f"remote_uri is not set, and {names} run on other machines, which have to find this one; set it to the "
                "address at which they reach it, and a free port: tcp://10.0.0.1:7000"
            )
        if settings.architecture == "thread" and (self.nodes or self.uris):
            what = names or ", ".join(self.uris)
            faults.append(
                f"architecture = thread keeps everything in one process, and {what} is to be reached from others"
            )
        if self.nodes and not settings.tracking:
            faults.append(f"tracking = false has no remote nodes ({names}): nobody could tell what was lost with one")
        _raise(faults)

    def _take_ports(self, edges: Iterable[str]) -> None:
        host, _, first = self._settings.remote_uri.rpartition(":")
        taken = {uri: f"the uri of {edge}" for edge, uri in self.uris.items()}
        faults = []
        for count, edge in enumerate(("", "", *edges)):
            port = int(first) + count
            uri = f"{host}:{port}"
            if port > _MOST_PORT or uri in taken:
                why = taken.get(uri, f"beyond the last port, {_MOST_PORT}")
                faults.append(f"remote_uri = {self._settings.remote_uri}: port {port} is needed too, and is {why}")
            if count == 0:
                self.door = uri
            elif count == 1:
                self.acker = uri
            else:
                self.uris[edge] = uri
        _raise(faults)

    @property
    def encrypted(self) -> bool:
        """Whether keys are needed."""
        return bool(self._keys)

    def listen(self, uri: str | None) -> Listen | None:
        """Return how a part listens at an address; None if it has none."""
        return Listen(uri, self._keys, self._settings.remote_silence_s) if uri else None

    def worker(self, options: WorkerOptions) -> WorkerOptions:
        """Return the options of a worker on another machine."""

        def far(end: EdgeEnd) -> EdgeEnd:
            return EdgeEnd(end.name, self.uris[end.name])

        return msgspec.structs.replace(
            options, target="", pid_dir="", acker_uri=self.acker, heart_uri=self.door,
            upstream=tuple(map(far, options.upstream)),
            downstream={name: far(end) for name, end in options.downstream.items()},
            output=far(options.output) if options.output is not None else None,
        )  # fmt: skip


def _raise(faults: list[str]) -> None:
    if faults:
        raise ConfigError("the configuration is wrong:\n" + "\n".join(f"  {fault}" for fault in faults))
