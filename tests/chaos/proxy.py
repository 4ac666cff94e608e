"""A TCP proxy that is slow: every answer comes late, and now and then nothing goes through at all."""

import asyncio
import socket
import threading
import time
from contextlib import suppress

_CHUNK = 1 << 16


class SlowProxy:
    """Passes bytes on between clients and one server on the loopback.

    Args:
        port: of the server.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        #: seconds by which each answer comes late
        self.latency_s = 0.0
        #: connections that clients have made so far
        self.connections = 0
        self._stalled_until = 0.0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> "SlowProxy":
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._socket.close()

    def stall(self, seconds: float) -> None:
        """Pass nothing on for a while; what comes waits."""
        self._stalled_until = time.monotonic() + seconds

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, sock=self._socket))
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        server, client = await asyncio.open_connection("127.0.0.1", self._server_port)
        with suppress(ConnectionError):
            await asyncio.gather(self._pass(reader, client, late=False), self._pass(server, writer, late=True))

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, late: bool) -> None:
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        sending = asyncio.ensure_future(self._send(waiting, sink))
        try:
            while data := await source.read(_CHUNK):
                waiting.put_nowait((time.monotonic() + (self.latency_s if late else 0.0), data))
        finally:
            waiting.put_nowait((0.0, b""))
            await sending

    async def _send(self, waiting: "asyncio.Queue[tuple[float, bytes]]", sink: asyncio.StreamWriter) -> None:
        try:
            while True:
                due, data = await waiting.get()
                while (left := max(due, self._stalled_until) - time.monotonic()) > 0:
                    await asyncio.sleep(left)
                if not data:
                    return
                sink.write(data)
                await sink.drain()
        finally:
            sink.close()
