"""A network of one process: sockets with the face of pyzmq's, whose messages move when the simulation says so.

It does to messages what ZeroMQ and the kernel may do. Those of one connection stay in order, those of two do not. What
is on its way when a connection breaks or a process dies arrives up to some point and is lost after it; what a DEALER
had not written by then goes out on its next connection, ahead of the greeting. A ROUTER refuses to send to peers that
it does not know, and swallows what it sends to one that has just died. With `Faults` it does worse than that.
"""

import random
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import zmq

_EVENT: Final = struct.Struct("=Hi")
#: messages by which one may be overtaken
_OVERTAKEN: Final = 4


class Faults(NamedTuple):
    """Probabilities for each message, beyond what ZeroMQ does."""

    lose: float = 0.0
    repeat: float = 0.0
    reorder: float = 0.0


class Owner:
    """A process, as far as its sockets know: whether it lives, and after how many more messages it dies."""

    def __init__(self) -> None:
        self.alive = True
        #: sends that it still survives; None for any number
        self.fuse: int | None = None
        self.die: Callable[[], None] = lambda: None

    def may_send(self) -> bool:
        """Tell whether it lives long enough to send one more message."""
        if self.alive and self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                self.die()
        return self.alive


class Connection:
    """One connection of a DEALER to a ROUTER, with what is on its way in both directions."""

    def __init__(self, dealer: "Socket", router: "Socket") -> None:
        self.dealer, self.router = dealer, router
        self.up: deque[list[bytes]] = deque(dealer.kept)
        self.down: deque[list[bytes]] = deque()
        dealer.kept.clear()
        #: the dealer's process has died, and what it had sent still arrives
        self.ending = False
        #: a message was lost or overtaken on it, so it is no connection any more, and will be found to be broken
        self.tainted = False
        #: messages that have arrived at the router and are not read
        self.unread = 0


class Monitor:
    """What a DEALER hears of its connections."""

    def __init__(self) -> None:
        self.events: deque[int] = deque()

    def recv_multipart(self, _flags: int) -> list[bytes]:
        if not self.events:
            raise zmq.Again
        return [_EVENT.pack(self.events.popleft(), 0), b""]

    def close(self, linger: int = 0) -> None:
        self.events.clear()

    @property
    def readable(self) -> bool:
        return bool(self.events)


class Socket:
    """A DEALER or a ROUTER."""

    def __init__(self, network: "Network", kind: int, owner: Owner) -> None:
        self.network, self.kind, self.owner = network, kind, owner
        self.identity = b""
        self.options: dict[int, Any] = {}
        self.uri = ""
        self.closed = False
        self.monitor = Monitor()
        self.inbox: deque[tuple[Connection, list[bytes]]] = deque()
        #: of a DEALER: its connection, and what waits for one
        self.connection: Connection | None = None
        self.kept: deque[list[bytes]] = deque()
        #: of a ROUTER: the connection of the message that was read last, and the newest one of each identity
        self.reading: Connection | None = None
        self.routes: dict[bytes, Connection] = {}

    def setsockopt(self, option: int, value: Any) -> None:
        self.options[option] = value
        self.identity = self.options.get(zmq.IDENTITY, b"")

    def get_monitor_socket(self, _events: int) -> Monitor:
        return self.monitor

    def disable_monitor(self) -> None:
        self.monitor.events.clear()

    def bind(self, uri: str) -> None:
        self.uri = uri
        self.network.bound[uri] = self

    def connect(self, uri: str) -> None:
        self.uri = uri
        self.network.dealers.append(self)

    def send_multipart(self, frames: list[bytes], flags: int = 0, copy: bool = True) -> None:
        assert flags & zmq.NOBLOCK, "a send that may block holds up whatever else its loop has to do"
        frames = [bytes(frame) for frame in frames]
        if not self.owner.may_send() or self.closed:
            return
        if self.kind == zmq.DEALER:
            (self.connection.up if self.connection is not None else self.kept).append(frames)
            return
        connection = self.routes.get(frames[0])
        if connection is None or not (connection.unread or connection in self.network.connections):
            raise zmq.ZMQError(zmq.EHOSTUNREACH)
        if connection in self.network.connections and not connection.ending:
            connection.down.append(frames[1:])

    def recv_multipart(self, _flags: int = 0) -> list[bytes]:
        if not self.inbox or not self.owner.alive:
            raise zmq.Again
        connection, frames = self.inbox.popleft()
        if self.kind == zmq.DEALER:
            return frames
        connection.unread -= 1
        self.reading = connection
        # What a connection left behind whose identity another one has taken over comes under a name of its own.
        identity = connection.dealer.identity
        return [identity if self.routes.get(identity) is connection else b"\0%x" % id(connection), *frames]

    @property
    def readable(self) -> bool:
        return bool(self.inbox) and self.owner.alive

    def close(self, linger: int = 0) -> None:
        self.closed = True
        self.network.vanish(self, orderly=True)


class Context:
    """Makes the sockets of one process."""

    def __init__(self, network: "Network", owner: Owner) -> None:
        self.network, self.owner = network, owner

    def socket(self, kind: int) -> Socket:
        return Socket(self.network, kind, self.owner)


class Network:
    """All sockets, and the messages between them."""

    def __init__(self, seed: int, faults: Faults) -> None:
        self.random = random.Random(seed)
        self.faults = faults
        self.bound: dict[str, Socket] = {}
        self.dealers: list[Socket] = []
        self.connections: list[Connection] = []
        #: sees every message that arrives: the reader's socket and the frames
        self.watch: Callable[[Socket, list[bytes]], None] = lambda _socket, _frames: None

    def step(self) -> bool:
        """Let one message arrive, or one connection come about; False when there is nothing to do."""
        moves: list[Callable[[], None]] = []
        for connection in self.connections:
            if connection.up:
                moves.append(lambda c=connection: self._arrive(c, c.up, c.router))  # type: ignore[misc]
            if connection.down:
                moves.append(lambda c=connection: self._arrive(c, c.down, c.dealer))  # type: ignore[misc]
            if connection.tainted and self.random.random() < 0.02:
                moves.append(lambda c=connection: self.break_(c))  # type: ignore[misc]
        moves += [lambda d=each: self._connect(d) for each in self._lonely()]  # type: ignore[misc]
        if not moves:
            return False
        self.random.choice(moves)()
        return True

    def _lonely(self) -> list[Socket]:
        return [each for each in self.dealers if each.connection is None and each.uri in self.bound]

    def _arrive(self, connection: Connection, way: deque[list[bytes]], reader: Socket) -> None:
        chance, faults = self.random.random, self.faults
        place = self.random.randrange(min(len(way), _OVERTAKEN)) if chance() < faults.reorder else 0
        frames = way[place]
        del way[place]
        connection.tainted |= place > 0
        if chance() < faults.repeat:
            way.insert(self.random.randrange(min(len(way), _OVERTAKEN) + 1) if faults.reorder else 0, frames)
        if chance() < faults.lose:
            connection.tainted = True
        else:
            self._deliver(connection, frames, reader)
        if connection.ending and not connection.up:
            self.connections.remove(connection)

    def _deliver(self, connection: Connection, frames: list[bytes], reader: Socket) -> None:
        reader.inbox.append((connection, frames))
        if reader is connection.router:
            connection.unread += 1
        self.watch(reader, frames)

    def _connect(self, dealer: Socket) -> None:
        router = self.bound[dealer.uri]
        former = router.routes.get(dealer.identity)
        if former is not None and former in self.connections:
            # The identity is taken over; the other side finds its connection closed.
            self._end(former)
        dealer.connection = Connection(dealer, router)
        router.routes[dealer.identity] = dealer.connection
        self.connections.append(dealer.connection)
        dealer.monitor.events.append(zmq.EVENT_HANDSHAKE_SUCCEEDED)

    def break_(self, connection: Connection) -> None:
        """Break a connection: what is on its way arrives up to some point."""
        self._survive(connection, connection.up, connection.router)
        self._survive(connection, connection.down, connection.dealer)
        self._end(connection)

    def _survive(self, connection: Connection, way: deque[list[bytes]], reader: Socket) -> None:
        for _ in range(self.random.randint(0, len(way))):
            self._deliver(connection, way.popleft(), reader)

    def _end(self, connection: Connection) -> None:
        """Close a connection; what the dealer has not written yet goes out on the next one."""
        self.connections.remove(connection)
        dealer = connection.dealer
        if dealer.connection is connection:
            written = self.random.randint(0, len(connection.up))
            dealer.kept.extend(list(connection.up)[written:])
            dealer.connection = None
            dealer.monitor.events.append(zmq.EVENT_DISCONNECTED)

    def vanish(self, socket: Socket, *, orderly: bool = False) -> None:
        """A socket is closed, or its process is dead; ``orderly``: what it has sent still arrives."""
        if self.bound.get(socket.uri) is socket:
            del self.bound[socket.uri]
            for connection in [each for each in self.connections if each.router is socket]:
                self._survive(connection, connection.down, connection.dealer)
                self._end(connection)
        if socket in self.dealers:
            self.dealers.remove(socket)
            connection_ = socket.connection
            if connection_ is not None:
                if not orderly:
                    for _ in range(self.random.randint(0, len(connection_.up))):
                        connection_.up.pop()
                connection_.down.clear()
                connection_.ending, socket.connection = True, None
                if not connection_.up:
                    self.connections.remove(connection_)

    def kill(self, owner: Owner) -> None:
        """Kill a process: its sockets are gone, and so is what it had not written."""
        sockets = [each for each in (*self.bound.values(), *self.dealers) if each.owner is owner]
        for socket in sockets:
            self.vanish(socket)

    def mend(self) -> None:
        """End all faults; connections that are none any more are found to be broken."""
        self.faults = Faults()
        for connection in [each for each in self.connections if each.tainted]:
            self.break_(connection)


class Poller:
    """Tells what is readable and never waits: who would wait lets the others go on instead.

    Args:
        readable: tells whether a descriptor is.
        others: lets the others go on for a while.
    """

    def __init__(self, readable: Callable[[int], bool], others: Callable[[], None]) -> None:
        self._readable, self._others = readable, others
        self._registered: dict[Any, int] = {}

    def register(self, what: Any, flags: int = zmq.POLLIN) -> None:
        self._registered[what] = flags

    def unregister(self, what: Any) -> None:
        del self._registered[what]

    def poll(self, timeout_ms: int) -> list[tuple[Any, int]]:
        found = self._found()
        if timeout_ms > 0 and not found:
            self._others()
            found = self._found()
        return found

    def _found(self) -> list[tuple[Any, int]]:
        return [
            (what, zmq.POLLIN)
            for what in self._registered
            if (self._readable(what) if isinstance(what, int) else what.readable)
        ]
