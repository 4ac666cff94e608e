"""Sockets that other machines reach: how a server listens, who is let in, and how a client connects."""

import threading
from pathlib import Path
from typing import Final

import msgspec
import zmq
from zmq.utils import z85

from consecutiond_broker.errors import ConsecutiondError

#: heartbeats of a connection within the time after which its silence counts as its end
_BEATS: Final = 4
#: milliseconds between attempts to connect, at the utmost
_RECONNECT_MAX_MS: Final = 1000
#: milliseconds for one attempt; the system's own patience doubles with each packet that gets no answer
_CONNECT_MS: Final = 2000
#: milliseconds that a new connection may take to prove who it is
_HANDSHAKE_MS: Final = 5000
_DOMAIN: Final = b"consecutiond"
_ZAP: Final = "inproc://zeromq.zap.01"
_KEY: Final = 32


class ListenError(ConsecutiondError):
    """A socket cannot be opened to other machines."""


class Listen(msgspec.Struct, frozen=True):
    """A second address of a ROUTER, for workers on other machines."""

    uri: str
    #: file with the `ServerKeys`; empty for an address that only this machine reaches
    keys: str
    #: seconds of silence after which a connection is taken for dead
    silence_s: float


class ServerKeys(msgspec.Struct, frozen=True):
    """The CURVE keys of a consecutor, in Z85."""

    public: str
    secret: str
    #: the public keys of those who may come in
    clients: tuple[str, ...]


class ClientKeys(msgspec.Struct, frozen=True):
    """What a client needs, in Z85."""

    #: the public key of the consecutor
    server: str
    public: str
    secret: str


class Gate(threading.Thread):
    """Answers libzmq's question whether a client may come in; ends with its context.

    libzmq asks on a socket inside the process (ZAP, RFC 27). It is a thread, since a handshake must not wait for a
    loop that is busy.

    Args:
        context: of the sockets to be guarded; it can have one gate.
        clients: the public keys that may come in, in Z85.
    """

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", clients: tuple[str, ...]) -> None:
        super().__init__(name="gate", daemon=True)
        self._clients = frozenset(clients)
        self._socket = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(_ZAP)

    def run(self) -> None:
        """Answer until the context ends."""
        try:
            while True:
                self._socket.send_multipart(self._answer(self._socket.recv_multipart()))
        except zmq.ContextTerminated:
            self._socket.close()

    def _answer(self, question: list[bytes]) -> list[bytes]:
        version, number, domain, _address, _identity, mechanism, *credentials = question
        known = mechanism == b"CURVE" and len(credentials) == 1 and len(credentials[0]) == _KEY
        if known and domain == _DOMAIN and z85.encode(credentials[0]).decode() in self._clients:
            return [version, number, b"200", b"OK", b"", b""]
        return [version, number, b"400", b"this key is not known here", b"", b""]


def listen(context: "zmq.Context[zmq.Socket[bytes]]", socket: "zmq.Socket[bytes]", where: Listen) -> None:
    """Bind a socket to an address that other machines reach, beside those that it has.

    Options count from the next `bind` on, so the addresses that it has keep none of this.

    Args:
        context: of the socket; when there are keys, it gets its gate here.
        socket: a ROUTER.
        where: the address.

    Raises:
        ListenError: the address or the keys cannot be used.
    """
    beat_ms = int(1000 * where.silence_s / _BEATS)
    for option, value in (
        (zmq.HEARTBEAT_IVL, beat_ms), (zmq.HEARTBEAT_TIMEOUT, int(1000 * where.silence_s)),
        (zmq.HANDSHAKE_IVL, _HANDSHAKE_MS),
    ):  # fmt: skip
        socket.setsockopt(option, value)
    if where.keys:
        keys = _server_keys(Path(where.keys))
        Gate(context, keys.clients).start()
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.encode())
        socket.setsockopt(zmq.ZAP_DOMAIN, _DOMAIN)
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    try:
        socket.bind(where.uri)
    except zmq.ZMQError as error:
        raise ListenError(f"cannot listen on {where.uri}: {zmq.strerror(error.errno or 0)}") from None


def _server_keys(path: Path) -> ServerKeys:
    try:
        if path.stat().st_mode & 0o077:
            raise ListenError(f"others than you can read the secret key in {path}; try: chmod 600 {path}")
        return msgspec.json.decode(path.read_bytes(), type=ServerKeys)
    except OSError as error:
        raise ListenError(f"cannot read the keys in {path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise ListenError(f"there are no keys in {path} ({error}); remove it, and new ones are made") from None


def client_context(keys: ClientKeys | None, silence_s: float) -> "zmq.Context[zmq.Socket[bytes]]":
    """Make a context all of whose sockets speak to one consecutor on another machine.

    Args:
        keys: None where the connection is not encrypted.
        silence_s: seconds of silence after which a connection is taken for dead, and made anew.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    for option, value in (
        (zmq.HEARTBEAT_IVL, int(1000 * silence_s / _BEATS)), (zmq.HEARTBEAT_TIMEOUT, int(1000 * silence_s)),
        (zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS), (zmq.CONNECT_TIMEOUT, _CONNECT_MS),
        (zmq.HANDSHAKE_IVL, _HANDSHAKE_MS),
    ):  # fmt: skip
        context.setsockopt(option, value)
    if keys is not None:
        context.setsockopt(zmq.CURVE_SERVERKEY, keys.server.encode())
        context.setsockopt(zmq.CURVE_PUBLICKEY, keys.public.encode())
        context.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.encode())
    return context
