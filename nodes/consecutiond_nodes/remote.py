"""A worker on another machine: it asks for its options, connects, and works until the graph ends."""

import os
import signal
import struct
import time
from pathlib import Path
from typing import Final

import msgspec
import zmq

from consecutiond_broker import wire
from consecutiond_broker.errors import ConsecutiondError, WireError
from consecutiond_broker.signals import Signals
from consecutiond_broker.tcp import ClientKeys, client_context
from consecutiond_nodes.endpoints import fault_of, is_loopback, normal
from consecutiond_nodes.errors import TargetError
from consecutiond_nodes.graph import Graph
from consecutiond_nodes.lifeline import Lifeline
from consecutiond_nodes.ports import Who
from consecutiond_nodes.running import EXIT_FENCED, Life
from consecutiond_nodes.worker import WorkerOptions

_EVENT: Final = struct.Struct("=Hi")
_AUTH: Final = zmq.EVENT_HANDSHAKE_FAILED_AUTH
#: after these libzmq does not connect again
_FINAL: Final = _AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
#: where one side is encrypted and the other is not, the connection may end without more ado
_REFUSED: Final = _FINAL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_DISCONNECTED
#: milliseconds between looks at the connection
_LOOK_MS: Final = 100
#: seconds of silence for a connection over which only a request is made
_ASK_SILENCE_S: Final = 5.0
#: handshakes that fail before the keys are blamed: the network may break one
_FAILURES: Final = 3


class ConnectError(ConsecutiondError):
    """It is not known, or not allowed, how to reach the consecutor."""


class AwayError(ConsecutiondError):
    """The consecutor cannot be reached."""


class TurnedAwayError(ConsecutiondError):
    """The consecutor does not want this worker, or has a newer one in its place."""


class Connection(msgspec.Struct, frozen=True):
    """How to reach a consecutor: the content of the file that it writes for workers on other machines."""

    #: the heart's door
    uri: str
    #: None where the connection is not encrypted
    keys: ClientKeys | None = None


class Given(msgspec.Struct, frozen=True):
    """The answer at the door."""

    options: WorkerOptions
    epoch: int
    silence_s: float


def read_connection(text: str) -> Connection:
    """Return how to reach a consecutor.

    Args:
        text: the path of a connection file, or the uri of a consecutor on this machine.

    Raises:
        ConnectError: it is neither, or others can read the file.
    """
    if "://" in text:
        fault = fault_of(text)
        if fault or text.startswith("ipc:"):
            raise ConnectError(fault or f"{text!r}: workers connect over tcp")
        return _checked(Connection(normal(text)))
    path = Path(text)
    try:
        if path.stat().st_mode & 0o077:
            raise ConnectError(f"others than you can read the secret key in {path}; try: chmod 600 {path}")
        return _checked(msgspec.json.decode(path.read_bytes(), type=Connection))
    except OSError as error:
        raise ConnectError(
            f"cannot read the connection file {path}: {error.strerror}; it is made when the consecutor starts, as "
            "connection.json in its directory"
        ) from None
    except msgspec.DecodeError as error:
        raise ConnectError(f"{path} is no connection file: {error}") from None


def _checked(connection: Connection) -> Connection:
    if connection.keys is None and not is_loopback(connection.uri):
        raise ConnectError(
            f"{connection.uri} is on another machine, and nothing goes there unencrypted: copy connection.json from "
            "the consecutor's directory to this machine, and name it with --connect connection.json"
        )
    return connection


class Door:
    """The request for a worker's options.

    Args:
        connection: how to reach the consecutor.
        patience_s: seconds for which a consecutor that is away is waited for.
    """

    def __init__(self, connection: Connection, patience_s: float) -> None:
        self._connection, self._patience_s = connection, patience_s

    def ask(self, node: str, number: int | None) -> Given:
        """Ask to be a worker of a node.

        Raises:
            AwayError: nobody answered in time.
            TurnedAwayError: the keys, or the request, were refused.
        """
        context = client_context(self._connection.keys, _ASK_SILENCE_S)
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.IDENTITY, b"W:" + os.urandom(8).hex().encode())
        monitor = socket.get_monitor_socket(_REFUSED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        try:
            socket.connect(self._connection.uri)
            return self._answer(socket, monitor, msgspec.json.encode({"node": node, "number": number}))
        finally:
            socket.disable_monitor()
            monitor.close(linger=0)
            socket.close()
            context.term()

    def _answer(self, socket: "zmq.Socket[bytes]", monitor: "zmq.Socket[bytes]", request: bytes) -> Given:
        deadline, failures = time.monotonic() + self._patience_s, 0
        while time.monotonic() < deadline:
            while monitor.poll(0):
                event, value = _EVENT.unpack(monitor.recv_multipart()[0])
                if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                    # Asked again on a new connection, the heart gives the same answer.
                    socket.send(wire.pack(wire.Ask(1, "worker", request)))
                    failures = 0
                    continue
                failures += 1
                if event & _FINAL or failures >= _FAILURES:
                    raise TurnedAwayError(self._why_refused(value if event == _AUTH else 0))
            if socket.poll(_LOOK_MS):
                return self._read(socket.recv_multipart())
        raise AwayError(
            f"no consecutor answers at {self._connection.uri} within {self._patience_s:g} s: does it run, and do the "
            "machines reach each other at this port and those above it?"
        )

    def _why_refused(self, code: int) -> str:
        number = f" ({code})" if code else ""
        if self._connection.keys is None:
            return f"{self._connection.uri} is encrypted; name its connection file with --connect"
        return (
            f"the consecutor at {self._connection.uri} refused the key of this worker{number}: the connection file is "
            "of another consecutor, or older than its keys; copy connection.json again"
        )

    def _read(self, frames: list[bytes]) -> Given:
        try:
            head = wire.unpack(frames)
            if isinstance(head, wire.Answer) and head.error:
                raise TurnedAwayError(f"the consecutor at {self._connection.uri} says: {head.error}")
            if isinstance(head, wire.Answer):
                return msgspec.json.decode(head.body, type=Given)
        except (WireError, msgspec.DecodeError) as error:
            raise AwayError(
                f"what answers at {self._connection.uri} is no consecutor of this version: {error}"
            ) from None
        raise AwayError(f"what answers at {self._connection.uri} is no consecutor: it sent {type(head).__name__}")


def check_graph(graph: Graph, options: WorkerOptions, target: str) -> None:
    """Check that the graph here is that of the consecutor, as far as this worker is concerned.

    Raises:
        TargetError: it is another one.
    """
    node = options.node
    there = {end.name for end in (*options.upstream, *options.downstream.values())}
    here = {edge.name for edge in graph.edges if node in edge}
    if node == graph.root.name:
        here.add(f"input->{node}")
    if there != here:
        raise TargetError(
            f"the graph of {target} is not the one that runs: there, node {node} has the edges "
            f"{', '.join(sorted(there))}; here, {', '.join(sorted(here))}. Bring both machines to one version"
        )


def run_worker(graph: Graph, given: Given, connection: Connection, patience_s: float) -> int:
    """Work until the graph ends, or the process is told to; return the exit code of the worker.

    Raises:
        AwayError: the consecutor was away for too long.
        TurnedAwayError: a newer worker has this one's place.
    """
    context = client_context(connection.keys, given.silence_s)
    options = given.options
    who = Who(options.worker, given.epoch, 0, 0, "")
    life = Life(options, who, context, lambda: Signals(signal.SIGTERM, signal.SIGINT))
    lifeline = Lifeline(
        context, options.heart_uri, options.part, who, options.heartbeat_s, patience_s, life.stats
    )  # fmt: skip
    code = life.run(lambda: graph, lifeline)
    if lifeline.fenced or code == EXIT_FENCED:
        raise TurnedAwayError(f"a newer worker has the place of {options.worker}")
    if lifeline.given_up:
        raise AwayError(
            f"the consecutor at {connection.uri} was away for {patience_s:g} s; what it had given is its own"
        )
    return code
