"""The DEALER side of every connection: connects, notices each (re)connection, greets, never blocks."""

import struct
from collections.abc import Callable, Iterator
from typing import Final

import zmq

#: milliseconds between attempts to reconnect; small, because recovery must not wait
_RECONNECT_MS: Final = 10
#: milliseconds that a closing socket may take to hand over what was sent
_LINGER_MS: Final = 2000
#: messages; far above all credit and control, so it is a second line only
_HIGH_WATER: Final = 100_000
_EVENT: Final = struct.Struct("=Hi")


def is_superseded(peer: bytes) -> bool:
    """Tell whether a message came on a connection whose identity a newer one has taken over.

    A ROUTER with `ROUTER_HANDOVER` reads what such a connection has left behind, under a name that it makes up. Whoever
    sent it has greeted anew, or has a successor: a greeting that is taken from it would be answered to nobody.

    Args:
        peer: the identity that the ROUTER tells.
    """
    return peer.startswith(b"\0")


class Dealer:
    """A DEALER socket that greets its peer at every connection.

    ZeroMQ reconnects by itself and keeps what was sent meanwhile, but it does not say that the peer is a new
    incarnation that has never heard of us. So a socket monitor reports every finished handshake, and ``greeting`` is
    sent then. Whatever overtakes it carries the number of the old incarnation and is dropped by the new one.

    Args:
        context: the process's ZeroMQ context.
        uri: where the peer listens.
        identity: our identity, unique among the peer's peers.
        greeting: gives the frames to send at each (re)connection.
    """

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        uri: str,
        identity: bytes,
        greeting: Callable[[], list[bytes]],
    ) -> None:
        self.uri = uri
        self.connected = False
        self._greeting = greeting
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.IDENTITY, identity)
        self.socket.setsockopt(zmq.LINGER, _LINGER_MS)
        self.socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
        self.socket.setsockopt(zmq.SNDHWM, _HIGH_WATER)
        self.socket.setsockopt(zmq.RCVHWM, _HIGH_WATER)
        self.monitor: zmq.Socket[bytes] | None = None
        if uri.startswith("inproc:"):
            # There are no handshakes between threads, and no reconnections either.
            self.connected = True
            self.socket.connect(uri)
            self.send(greeting())
        else:
            self.monitor = self.socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
            self.socket.connect(uri)

    def register(self, poller: zmq.Poller) -> None:
        """Let the poller wake for messages and for connections."""
        poller.register(self.socket, zmq.POLLIN)
        if self.monitor is not None:
            poller.register(self.monitor, zmq.POLLIN)

    def unregister(self, poller: zmq.Poller) -> None:
        """Take both sockets out of the poller."""
        poller.unregister(self.socket)
        if self.monitor is not None:
            poller.unregister(self.monitor)

    def check_connection(self) -> None:
        """Read the monitor; greet the peer if it is newly connected."""
        while self.monitor is not None:
            try:
                event, _ = self.monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            kind, _value = _EVENT.unpack(event)
            self.connected = kind == zmq.EVENT_HANDSHAKE_SUCCEEDED
            if self.connected:
                self.send(self._greeting())

    def send(self, frames: list[bytes]) -> None:
        """Queue a message; it never blocks.

        Raises:
            zmq.Again: the high-water mark is reached, which credit makes impossible unless the peer is gone for long.
        """
        try:
            self.socket.send_multipart(frames, zmq.NOBLOCK, copy=True)
        except zmq.Again:
            # A thread that was the peer has ended, as it does only when the whole consecutor does: what is said now
            # is said to nobody, and the log has what is open.
            if self.monitor is not None:
                raise

    def messages(self, most: int) -> Iterator[list[bytes]]:
        """Yield what has arrived, ``most`` messages at the utmost, so that no peer can hold a loop."""
        for _ in range(most):
            try:
                yield self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return

    def close(self) -> None:
        """Close; what was sent is still handed over."""
        if self.monitor is not None:
            self.socket.disable_monitor()
            self.monitor.close(linger=0)
        self.socket.close()
