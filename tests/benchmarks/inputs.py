"""The inputs against their yardsticks, in one run each: ``python tests/benchmarks/inputs.py``.

- One JSON item a request, 64 connections: against an endpoint on the same Starlette and uvicorn that only parses and
  answers 202. Goal: half of it.
- One client's NDJSON stream, up to its 202. Goal: 50,000 items/s.
- One PUSH client, until all is recorded: against `produce_from_iterable`. Goal: two thirds of it.

Every item is recorded in the log, and goes through three nodes in a line meanwhile. Clients are processes of their own.
"""

import argparse
import asyncio
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import msgspec
import uvicorn
from rich.console import Console
from rich.table import Table
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from consecutiond import Consecutor
from consecutiond.feeder import Feeder
from consecutiond.inputs.httpserver import HttpServer
from consecutiond.inputs.uris import parse_http, parse_zmq
from consecutiond.inputs.zmqserver import ZmqServer
from consecutiond_nodes import importer

GRAPH = Path(__file__).with_name("linegraph.py")
CLIENTS = Path(__file__).with_name("inputclients.py")


def client(kind: str, endpoint: str, count: int) -> float:
    """Run a client; return its seconds."""
    command = [sys.executable, str(CLIENTS), kind, endpoint, str(count)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


class Bare:
    """The yardstick: parses, answers 202, and does nothing else; in a thread, as the input is."""

    def __init__(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        app = Starlette(routes=[Route("/items", self.take, methods=["POST"])])
        self.server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
        self.thread = threading.Thread(target=lambda: asyncio.run(self.server.serve(sockets=[listener])))
        self.thread.start()

    @staticmethod
    async def take(request: Request) -> Response:
        """Parse and accept."""
        msgspec.json.decode(await request.body())
        return Response(b'{"accepted":1}', status_code=202, media_type="application/json")

    def stop(self) -> None:
        """End."""
        self.server.should_exit = True
        self.thread.join()


def bare_single(count: int) -> float:
    """Return requests/s of the yardstick."""
    server = Bare()
    client("single", server.endpoint, count // 10)
    rate = count / client("single", server.endpoint, count)
    server.stop()
    return rate


class Running:
    """A consecutor that is up, and its feeder."""

    def __init__(self, directory: str, durability: str, name: str) -> None:
        graph = importer.load(f"{GRAPH}:graph")
        self.consecutor = Consecutor(
            graph, target=f"{GRAPH}:graph", id=f"{name}-{durability}", dir=directory, durability=durability
        )
        self.consecutor.up()
        self.consecutor.push_many([{"id": number, "text": "a b c"} for number in range(2000)])

    @property
    def feeder(self) -> Feeder:
        """The feeder."""
        session = self.consecutor._session
        assert session is not None
        return session.feeder

    def http(self, kind: str, count: int) -> float:
        """Return items/s of an HTTP client."""
        server = HttpServer(parse_http("http://127.0.0.1:0"), self.feeder)
        server.start()
        client(kind, server.endpoint, count // 10)
        rate = count / client(kind, server.endpoint, count)
        server.stop()
        return rate

    def push(self, count: int) -> float:
        """Return items/s of a PUSH client, from its first item to the record of its last."""
        server = ZmqServer(parse_zmq("tcp://127.0.0.1:0"), self.feeder)
        server.start()
        before = self.feeder.recorded
        process = subprocess.Popen(
            [sys.executable, str(CLIENTS), "push", server.endpoint, str(count)], stdout=subprocess.DEVNULL
        )
        while self.feeder.recorded == before:
            time.sleep(0.001)
        first, started = self.feeder.recorded - before, time.perf_counter()
        while self.feeder.recorded - before < count:
            time.sleep(0.001)
        seconds = time.perf_counter() - started
        process.wait()
        server.stop()
        return (count - first) / seconds

    def iterable(self, count: int) -> float:
        """Return items/s of the same items from this process, to the record of the last."""
        values = [{"id": number, "text": "the quick brown fox jumps over the lazy dog"} for number in range(count)]
        started = time.perf_counter()
        self.feeder.feed(values, None)
        return count / (time.perf_counter() - started)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--durability", default="fast")
    given = parser.parse_args()
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        for turn in range(given.rounds):
            running = Running(directory, given.durability, f"inputs{turn}")
            for name, measure in (
                ("bare", lambda run: bare_single(given.requests)),
                ("single", lambda run: run.http("single", given.requests)),
                ("stream", lambda run: run.http("stream", given.items)),
                ("iterable", lambda run: run.iterable(given.items)),
                ("push", lambda run: run.push(given.items)),
            ):
                rows.setdefault(name, []).append(measure(running))
            running.consecutor.down()
    # What is compared was measured one after the other, so each round has its own ratio.
    ratios = {
        "single": statistics.median(mine / bare for mine, bare in zip(rows["single"], rows["bare"], strict=True)),
        "push": statistics.median(mine / other for mine, other in zip(rows["push"], rows["iterable"], strict=True)),
    }
    table = Table("input", "items/s (median)", "goal", "reached")
    for name, label, goal, reached in (
        ("bare", "bare endpoint, 64 connections", "", ""),
        ("single", "HTTP, one item a request", "0.50 of the bare endpoint", f"{ratios['single']:.2f}"),
        ("stream", "HTTP, NDJSON", "50,000", f"{statistics.median(rows['stream']):,.0f}"),
        ("iterable", "produce_from_iterable", "", ""),
        ("push", "zmq PUSH, one item a frame", "0.67 of the iterable", f"{ratios['push']:.2f}"),
    ):
        table.add_row(label, f"{statistics.median(rows[name]):,.0f}", goal, reached)
    Console().print(table)


if __name__ == "__main__":
    main()
