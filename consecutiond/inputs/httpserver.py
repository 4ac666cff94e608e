"""An HTTP server that feeds a consecutor, in a thread of the calling process."""

import asyncio
import math
import os
import socket
import threading
import time
from concurrent.futures import Future

from consecutiond.feeder import Feeder
from consecutiond.inputs.errors import InputError
from consecutiond.inputs.httpapp import App, Limits
from consecutiond.inputs.httpguard import Connections, guarded
from consecutiond.inputs.uris import HttpUri, is_loopback
from consecutiond.logs import get_logger

log = get_logger("input")


class HttpServer:
    """REST: ``POST /items`` and its companions; `docs/protocol.md` has the whole interface.

    Args:
        uri: where and how; the port may be 0, and `endpoint` has the true one.
        feeder: takes the values.
        limits: times and sizes.

    Raises:
        InputError: the place cannot be used.
    """

    def __init__(self, uri: HttpUri, feeder: Feeder, limits: Limits | None = None) -> None:
        import uvicorn

        self._feeder = feeder
        limits = limits or Limits()
        self._socket = _listen(uri)
        port = self._socket.getsockname()[1]
        host = f"[{uri.host}]" if ":" in uri.host else uri.host
        self.endpoint = f"http://{host}:{port}{uri.prefix}"
        self.app = App(uri, feeder, limits)
        config = uvicorn.Config(
            self.app.asgi, interface="asgi3", http=guarded(Connections(uri.max_connections, limits.head_s)), ws="none",
            lifespan="off", log_config=None, access_log=False, server_header=False, date_header=False,
            proxy_headers=False, timeout_keep_alive=math.ceil(limits.idle_s), backlog=1024,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="http-input", daemon=True)

    # --- the callers' side -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()
        self._started.result()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it answers no more, because of `stop`; return whether that is so."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Answer 503 to what comes, wait for the receipts of what came, and close; from any thread.

        Args:
            timeout_s: seconds after which requests that still wait are cut off; they got no 202.
        """
        if self._thread.ident is None:
            self._socket.close()
            return
        deadline = time.monotonic() + timeout_s
        if self._loop is not None and self._thread.is_alive():
            try:
                asyncio.run_coroutine_threadsafe(self._drain(timeout_s), self._loop).result(timeout_s + 5)
            except (RuntimeError, TimeoutError):
                # The loop has ended on its own, or hangs: what is left is cut off below.
                pass
            self._server.config.timeout_graceful_shutdown = max(1, math.ceil(deadline - time.monotonic()))
            self._server.should_exit = True
        self._thread.join()

    @property
    def counts(self) -> dict[int, int]:
        """How many answers were given, by status."""
        return dict(self.app.counts)

    @property
    def refused(self) -> int:
        """How many requests were not done as asked."""
        return sum(count for status, count in self.counts.items() if status >= 400)

    # --- the thread's side -----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(error)
            log.exception("input.http_failed")
        finally:
            self._socket.close()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.app.open(self._loop)
        # The socket listens already: whoever connects from here on is answered, however long the start takes.
        self._started.set_result(None)
        await self._server.serve(sockets=[self._socket])

    async def _drain(self, timeout_s: float) -> None:
        await self.app.drain(timeout_s)


def _listen(uri: HttpUri) -> socket.socket:
    family = socket.AF_INET6 if ":" in uri.host else socket.AF_INET
    try:
        listener = socket.create_server((uri.host, uri.port), family=family, backlog=1024)
    except OSError as error:
        raise InputError(
            f"cannot listen at http://{uri.host}:{uri.port}: {os.strerror(error.errno) if error.errno else error}; "
            "if it is in use, probably another program, or an earlier run of this one, listens there: choose another "
            "port, or end it"
        ) from None
    # Inherited by every connection. asyncio sets it only on sockets that were made with an explicit protocol; without
    # it an answer's body waits 40 ms for the acknowledgement of its head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not is_loopback(listener.getsockname()[0]) and uri.token is None:
        listener.close()
        raise InputError(f"{uri.host} can be reached from other machines, and there is no token")
    return listener
