"""kill -9 of the acker while clients feed: what got a 202 or a receipt is in the store exactly once."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consecutiond import Consecutor
from consecutiond.acker.stores import read_only
from consecutiond.feeder import Feeder
from consecutiond.inputs.httpserver import HttpServer
from consecutiond.inputs.uris import parse_http, parse_zmq
from consecutiond.inputs.zmqserver import ZmqServer
from consecutiond_broker import codec
from tests.graphs import held
from tests.inputs.acker import until

CLIENTS = Path(__file__).with_name("inputclients.py")
GRAPH = Path(held.__file__)

Make = Callable[[Feeder], Any]


def http(feeder: Feeder) -> HttpServer:
    return HttpServer(parse_http("http://127.0.0.1:0"), feeder)


def router(feeder: Feeder) -> ZmqServer:
    return ZmqServer(parse_zmq("tcp://127.0.0.1:0?type=router"), feeder)


def pull(feeder: Feeder) -> ZmqServer:
    return ZmqServer(parse_zmq("tcp://127.0.0.1:0"), feeder)


def in_store(path: Path) -> Counter[int]:
    """Read the values of every chunk of the store itself."""
    store, found, after = read_only(path), Counter[int](), 0
    while page := store.open_chunks(after):
        for row in page:
            found.update(codec.decode(store.body(row.chunk.id)))
        after = page[-1].chunk.id
    store.close()
    return found


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("make", "kind", "count"),
    [(http, "single", 600), (http, "stream", 100_000), (router, "dealer", 10_000), (pull, "push", 100_000)],
)
def test_what_was_receipted_is_in_the_store_exactly_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Make, kind: str, count: int
) -> None:
    gate = tmp_path / "gate"
    monkeypatch.setenv(held.GATE, str(gate))
    out: list[int] = []
    consecutor = Consecutor(held.graph, target=f"{GRAPH}:graph", id="held", dir=tmp_path, max_backlog=1 << 30)
    consecutor.register_output("values", out)
    consecutor.up()
    session = consecutor._session
    assert session is not None
    server = make(session.feeder)
    server.start()
    clients = [
        subprocess.Popen(
            [sys.executable, str(CLIENTS), kind, server.endpoint, str(number * count), str(count)],
            stdout=subprocess.PIPE, text=True,
        )
        for number in range(2)
    ]  # fmt: skip
    kills = 0
    for _ in range(3):
        # Not before something went on: otherwise the clients would only ever meet a dead acker.
        until(lambda before=session.feeder.recorded: session.feeder.recorded > before or _ended(clients))
        pid = _pid_when_ready(consecutor)
        kills += not _ended(clients)
        os.kill(pid, signal.SIGKILL)
    assert kills, "every client was done before the first kill"
    receipted = Counter(number for client in clients for number in json.loads(client.communicate()[0]))
    assert all(client.returncode == 0 for client in clients)
    if kind == "push":
        until(lambda: server.counts.taken == 2 * count)
    server.stop()
    assert receipted == Counter(range(2 * count))
    store = tmp_path / "held" / "acker_db.sqlite"
    assert in_store(store) == receipted, f"after {kills} kills"
    gate.touch()
    summary = consecutor.down()
    assert (summary.completed, summary.open, summary.failed) == (2 * count, 0, 0)
    assert set(out) == set(range(2 * count))


def _pid_when_ready(consecutor: Consecutor) -> int:
    def ready() -> bool:
        part.update(consecutor.status()["parts"]["acker"])
        return part["state"] == "ready" and Path(f"/proc/{part['pid']}").exists()

    part: dict[str, Any] = {}
    until(ready)
    return int(part["pid"])


def _ended(clients: list[subprocess.Popen[str]]) -> bool:
    return all(client.poll() is not None for client in clients)
