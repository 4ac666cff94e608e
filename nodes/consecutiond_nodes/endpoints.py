"""The uris that users give to edges: which edge each one is for, and every fault that they can have."""

import ipaddress
import os
import re
from collections import defaultdict
from collections.abc import Mapping

from consecutiond_nodes.vertex import Vertex
from consecutiond_nodes.wiring import Wiring

#: What stands for the other end of an edge where there is no node.
INPUT, OUTPUT = "input", "output"
#: The one edge that leads to the outputs, from whichever node writes.
OUTPUT_EDGE = "*->output"
#: Bytes of the longest path of a Unix socket, see unix(7).
_SOCKET_PATH_MAX = 107

_TCP = re.compile(r"tcp://([^/:]+):([0-9]{1,5})")


def normal(uri: str) -> str:
    """Return a uri as sockets take it: an address instead of `localhost`, an absolute path.

    Args:
        uri: one without a fault.

    """
    scheme, _, rest = uri.partition("://")
    if scheme == "ipc":
        return f"ipc://{os.path.abspath(rest)}"
    return uri.replace("tcp://localhost:", "tcp://127.0.0.1:")


def fault_of(uri: object) -> str:
    """Say why something is no uri of a socket; empty if it is one.

    Args:
        uri: what a user gave.

    """
    if not isinstance(uri, str):
        return f"{uri!r} is of type {type(uri).__name__}; a uri is a string"
    if uri.startswith("ipc://") and uri != "ipc://":
        length = len(os.fsencode(normal(uri).removeprefix("ipc://")))
        return "" if length <= _SOCKET_PATH_MAX else f"{uri!r}: its path has {length} bytes, {_SOCKET_PATH_MAX} at most"
    if (match := _TCP.fullmatch(uri)) is None:
        return f"{uri!r} is no uri; write tcp://10.0.0.1:7101 or ipc:///path/to.sock"
    host, port = match.groups()
    if not 0 < int(port) < 65536:
        return f"{uri!r}: a port is a number from 1 to 65535"
    return _host_fault(uri, host)


def _host_fault(uri: str, host: str) -> str:
    if host == "localhost":
        return ""
    try:
        address = ipaddress.IPv4Address(host)
    except ValueError:
        address = None
    if address is None or address.is_unspecified:
        return f"{uri!r}: {host!r} is not the IPv4 address at which others reach this machine, such as 10.0.0.1"
    return ""


def is_loopback(uri: str) -> bool:
    """Say whether only processes of this machine reach a uri.

    Args:
        uri: one without a fault.

    """
    match = _TCP.fullmatch(normal(uri))
    return match is None or ipaddress.IPv4Address(match[1]).is_loopback


class Endpoints:
    """The custom uris of a wiring's edges.

    Args:
        wiring: what `|` has built.

    """

    def __init__(self, wiring: Wiring) -> None:
        #: by the name of the edge
        self.uris: dict[str, str] = {}
        #: texts; the uris are usable when there are none
        self.faults: list[str] = []
        self._said: dict[str, str] = {}
        before: dict[int, list[str]] = defaultdict(list)
        after: dict[int, list[str]] = defaultdict(list)
        for source, target in wiring.arrows():
            before[id(target)].append(str(source.name))
            after[id(source)].append(str(target.name))
        #: edge -> a node on another machine that needs it
        remote: dict[str, str] = {}
        for vertex in wiring.vertices:
            name = str(vertex.name)
            up = {other: f"{other}->{name}" for other in before[id(vertex)] or [INPUT]}
            down = {other: f"{name}->{other}" for other in after[id(vertex)]}
            single = down or {OUTPUT: OUTPUT_EDGE}
            self._side(vertex, "upstream_uri", vertex._upstream_uri, up, up)
            self._side(vertex, "downstream_uri", vertex._downstream_uri, single, {**down, OUTPUT: OUTPUT_EDGE})
            if vertex.is_remote:
                remote |= dict.fromkeys((*up.values(), *down.values(), OUTPUT_EDGE), name)
        self._find_shared()
        self._find_unreachable(remote)

    def _side(
        self, vertex: Vertex, keyword: str, given: object, single: Mapping[str, str], edges: Mapping[str, str]
    ) -> None:
        """Take what one node says about the edges on one side of it.

        Args:
            vertex: the node.
            keyword: the argument of `connect_with`.
            given: its value.
            single: the edges that one plain uri is for, by the name of the other end.
            edges: all that a mapping can name.

        """
        if given is None:
            return
        says = f"node {vertex.name!r}: connect_with({keyword}={given!r})"
        if not isinstance(given, Mapping):
            if len(single) > 1:
                example = ", ".join(f'"{other}": …' for other in single)
                self.faults.append(
                    f"{says} is one uri for {len(single)} edges, and each has a socket of its own\n"
                    f"right: connect_with({keyword}={{{example}}})"
                )
                return
            given = dict.fromkeys(single, given)
        for other, uri in given.items():
            if other not in edges:
                self.faults.append(
                    f"{says}: there is no such edge as the one with {other!r}; known: {', '.join(edges)}"
                )
            elif fault := fault_of(uri):
                self.faults.append(f"{says}: {fault}")
            else:
                self._take(vertex, edges[other], normal(str(uri)))

    def _take(self, vertex: Vertex, edge: str, uri: str) -> None:
        known = self.uris.setdefault(edge, uri)
        said = self._said.setdefault(edge, str(vertex.name))
        if known != uri:
            self.faults.append(
                f"the edge {edge} has one socket, and its two ends give it two uris: {said} says {known}, "
                f"{vertex.name} says {uri}; give it in one place"
            )

    def _find_shared(self) -> None:
        users: dict[str, list[str]] = defaultdict(list)
        for edge, uri in self.uris.items():
            users[uri].append(edge)
        for uri, edges in users.items():
            if len(edges) > 1:
                self.faults.append(
                    f"the uri {uri} is given to {len(edges)} edges, {', '.join(edges)}; each has a socket of its own"
                )

    def _find_unreachable(self, remote: Mapping[str, str]) -> None:
        for edge, uri in self.uris.items():
            if uri.startswith("ipc:") and edge in remote:
                self.faults.append(
                    f"node {remote[edge]!r} is remote, and no other machine reaches {uri}, the socket of {edge}; give "
                    "it a tcp:// uri, or none"
                )
