"""A real Redis server of a test's own: started, paused, killed and set as the test wants, and stopped by its pid."""

import atexit
import functools
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import redis

from tests import needs

#: seconds after which a server that does not answer is given up
_PATIENCE_S = 60.0
_DURABLE = {"appendonly": "yes", "appendfsync": "always"}


class RedisServer:
    """One server in a directory; what it writes there it finds again after a restart.

    Args:
        directory: its own.
        port: where it listens on the loopback; 0: on a Unix socket only.
        settings: lines of its configuration, over those that make it durable.
    """

    def __init__(self, directory: Path, port: int = 0, **settings: str) -> None:
        self._program, self.directory, self.port = needs.redis_server(), directory, port
        directory.mkdir(parents=True, exist_ok=True)
        # A path of a socket has at most 107 bytes.
        self._short = Path(tempfile.mkdtemp(prefix="redis-"))
        self.socket = self._short / "s"
        self.settings = _DURABLE | {"save": "", "maxmemory-policy": "noeviction"} | settings
        self.process: subprocess.Popen[bytes] | None = None

    def url(self, name: str = "", *, tcp: bool = False, password: str = "") -> str:
        server = (
            f"redis://{f':{password}@' if password else ''}127.0.0.1:{self.port}/0" if tcp else f"unix://{self.socket}"
        )
        return f"{server}?prefix={name}" if name else server

    def start(self, *, wait: bool = True) -> "RedisServer":
        options = {"dir": str(self.directory), "port": str(self.port), "unixsocket": str(self.socket)} | self.settings
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        with (self.directory / "redis.out").open("ab") as out:
            # It dies with the tests, however they end.
            command = ["setpriv", "--pdeathsig", "KILL", self._program, *arguments]
            self.process = subprocess.Popen(command, stdout=out, stderr=out)
        if wait:
            self.wait()
        return self

    def wait(self) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self.client().ping()
            except redis.exceptions.AuthenticationError:
                return
            except redis.exceptions.ConnectionError:
                assert time.monotonic() < deadline, (self.directory / "redis.out").read_text()
                time.sleep(0.01)
            else:
                return

    def client(self, **options: Any) -> Any:
        return redis.Redis(unix_socket_path=str(self.socket), **options)

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self._wait_gone()

    def stop(self) -> None:
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        self._wait_gone()

    def close(self) -> None:
        if self.process is not None:
            self.kill()
        shutil.rmtree(self._short, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def _wait_gone(self) -> None:
        assert self.process is not None
        self.process.wait(_PATIENCE_S)
        self.process = None


@functools.cache
def shared() -> RedisServer:
    """Return a durable server that all tests of the session share, each with a log of its own name."""
    server = RedisServer(Path(tempfile.mkdtemp(prefix="redis-data-"))).start()
    atexit.register(shutil.rmtree, server.directory, ignore_errors=True)
    atexit.register(server.close)
    return server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
