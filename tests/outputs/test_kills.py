"""kill -9 of workers, brokers, acker, output and Redis server under load: the sinks have everything exactly once."""

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.daemon import Daemon, eventually, running
from tests.chaos.oracle import Oracle, lines
from tests.graphs import dag, sinks
from tests.redis_server import RedisServer

pytestmark = pytest.mark.chaos
REDIS = "the Redis server"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis")
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
def daemon(tmp_path: Path, server: RedisServer) -> Iterator[Daemon]:
    places = {"SINKS_LINES": str(tmp_path / "lines"), "SINKS_RAW": str(tmp_path / "raw"), "SINKS_URL": server.url()}
    daemon = Daemon(tmp_path, f"{Path(sinks.__file__)}:consecutor", Oracle(dag.outputs), dag.item, **places)
    daemon.sink = tmp_path / "lines"
    yield from running(daemon)


VICTIMS = {
    "worker": ["node-load.0", "node-split.0", "node-left.0", "node-load.0", "node-right.0", "node-parse.0"],
    "broker": ["broker-any-output", "broker-left-load", "broker-input-parse", "broker-any-output", "broker-split-left"],
    "acker": ["acker"] * 4,
    "output": ["output"] * 6,
    "redis": [REDIS] * 3,
    "all": ["node-load.0", "broker-any-output", "output", "acker", REDIS, "node-split.0", "output", "broker-left-load",
            "acker", "output"],
}  # fmt: skip


def kill(daemon: Daemon, server: RedisServer, victims: list[str]) -> None:
    """Kill one after the other, each when all are up and there is something to do."""
    for name in victims:
        daemon.pids()
        before = len(daemon.oracle.receipted)
        eventually(lambda before=before: len(daemon.oracle.receipted) >= before + 100, "more receipts")
        # Where in its work it is hit is left to chance.
        time.sleep(random.uniform(0.0, 0.1))
        if name == REDIS:
            server.kill()
            server.start()
        else:
            daemon.kill(name)
    eventually(daemon.is_up, "all are back")


def counted(values: list[Any]) -> Counter[Any]:
    return Counter(tuple(value) for value in values)


@pytest.mark.parametrize("who", VICTIMS)
def test_every_accepted_item_is_in_the_sinks_exactly_once(
    daemon: Daemon, server: RedisServer, tmp_path: Path, who: str
) -> None:
    load = daemon.load(rate=100.0)
    # In this thread, which outlives the server that it starts again.
    kill(daemon, server, VICTIMS[who])
    load.end()
    verdict = daemon.drain()
    assert verdict.completed == daemon.oracle.receipted
    assert not verdict.failed
    expected = Counter(item for number in verdict.completed for item in dag.outputs(number))
    assert counted(lines(daemon.sink)) == expected
    assert counted([json.loads(value) for value in server.client().lrange("list", 0, -1)]) == expected
    raw = counted(lines(tmp_path / "raw"))
    assert raw.keys() == expected.keys()
    print(f"{who}: {len(verdict.completed)} roots, {expected.total()} items, {raw.total() - len(raw)} came again")
    if who in ("broker", "acker", "all"):
        assert raw.total() > expected.total(), "nothing came again: this has shown nothing"
