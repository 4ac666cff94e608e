"""Connections that never ask, or ask too slowly: none of them keeps the others out."""

import asyncio
import logging
from typing import Any, Final, Protocol

#: bytes of a request's line and headers at the utmost
_HEAD_BYTES: Final = 64 << 10
_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Connections:
    """All connections of one server.

    Args:
        most: how many there may be. One more closes the one that has been idle for longest, or is closed itself.
        head_s: seconds that a request's line and headers may take.
    """

    def __init__(self, most: int, head_s: float) -> None:
        self.most, self.head_s = most, head_s
        self._open: dict[_Guarded, None] = {}

    def admit(self, connection: "_Guarded") -> None:
        """Take a connection in, or close one."""
        self._open[connection] = None
        if len(self._open) > self.most:
            idle = next((each for each in self._open if each.idle), connection)
            self._open.pop(idle)
            # Not `abort`: an answer that was given a moment ago has to leave first.
            idle.transport.close()

    def asked(self, connection: "_Guarded") -> None:
        """A request has come: of all connections, this one has been idle for the shortest time."""
        if connection in self._open:
            del self._open[connection]
            self._open[connection] = None

    def remove(self, connection: "_Guarded") -> None:
        """A connection is closed."""
        self._open.pop(connection, None)


class _Cork:
    """A transport that writes once per turn of the loop: an answer's head and its body leave together."""

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._held: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Write, soon."""
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def _flush(self) -> None:
        data = b"".join(self._held)
        self._held.clear()
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Write what is held, and close."""
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Guarded(Protocol):
    transport: Any

    @property
    def idle(self) -> bool: ...


def guarded(connections: Connections) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol with limits on connections, and on the size and time of a request's head."""
    base: Any
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as base  # noqa: N813
    except ImportError:
        from uvicorn.protocols.http.h11_impl import H11Protocol as base  # noqa: N813

    class Guarded(base):  # type: ignore[misc]
        _timer: asyncio.TimerHandle | None = None
        _head_bytes = 0

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            # Uvicorn warns of every malformed request, which would let anybody fill a disk.
            self.logger = logging.Logger("consecutiond.http", logging.ERROR)
            self.logger.parent = logging.getLogger("consecutiond")

        @property
        def idle(self) -> bool:
            """Whether no request is going on."""
            return self.cycle is None or bool(self.cycle.response_complete)

        def connection_made(self, transport: Any) -> None:
            """Admit it, and give it some time for its first request."""
            super().connection_made(_Cork(transport, self.loop))
            self._start_timer()
            connections.admit(self)

        def data_received(self, data: bytes) -> None:
            """Watch how long, and how large, a head gets."""
            super().data_received(data)
            if not self.idle:
                connections.asked(self)
                self._stop_timer()
                self._head_bytes = 0
                return
            if self._timer is None:
                self._start_timer()
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_BYTES and not self.transport.is_closing():
                self.transport.write(_TOO_LARGE)
                self.transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            """Forget it."""
            self._stop_timer()
            connections.remove(self)
            super().connection_lost(exc)

        def _start_timer(self) -> None:
            self._timer = self.loop.call_later(connections.head_s, self._too_slow)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_slow(self) -> None:
            self._timer = None
            if self.idle:
                self.transport.abort()

    return Guarded
