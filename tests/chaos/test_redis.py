"""kill -9 of the Redis server that holds the log, and of the acker that writes to it: nothing receipted is lost."""

import os
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from math import inf
from pathlib import Path
from typing import Any

import pytest

from consecutiond import Consecutor
from tests.chaos.daemon import eventually
from tests.chaos.load import Load
from tests.chaos.oracle import Oracle
from tests.graphs import line
from tests.redis_server import RedisServer

GRAPH = f"{Path(line.__file__)}:graph"
pytestmark = pytest.mark.chaos


@pytest.fixture
def settings() -> dict[str, str]:
    return {}


@pytest.fixture
def server(tmp_path: Path, settings: dict[str, str]) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis", **settings)
    try:
        yield server.start()
    finally:
        server.close()


def up(tmp_path: Path, server: RedisServer, sink: list[int]) -> Consecutor:
    consecutor = Consecutor(line.graph, target=GRAPH, id="flow", dir=tmp_path, store=server.url())
    consecutor.register_output("ids", sink)
    consecutor.up()
    return consecutor


def trouble(consecutor: Consecutor) -> str:
    return str(consecutor.status().get("store_trouble") or "")


def no_receipt_comes(consecutor: Consecutor, oracle: Oracle) -> None:
    """Wait until no receipt is on its way any more; one that came later would make this wait for ever."""

    def stands() -> bool:
        before = len(oracle.receipted)
        for _ in range(20):
            consecutor.status()
        return len(oracle.receipted) == before

    eventually(stands, "intake stops")


def pushing(consecutor: Consecutor) -> tuple[Load, Oracle]:
    """Push as much as is taken."""
    oracle = Oracle()
    return Load(oracle, nullcontext(consecutor.push_many), line.item, rate=inf), oracle


def wait_for_more(load: Load, oracle: Oracle) -> None:
    until = len(oracle.receipted) + 2000
    eventually(lambda: load.error or len(oracle.receipted) >= until, "more receipts")
    load.check()


@pytest.mark.usefixtures("architecture")
def test_while_the_server_is_dead_nothing_is_accepted_and_everything_heals_by_itself(
    tmp_path: Path, server: RedisServer
) -> None:
    sink: list[int] = []
    consecutor = up(tmp_path, server, sink)
    assert trouble(consecutor) == ""
    load, oracle = pushing(consecutor)
    for _ in range(3):
        wait_for_more(load, oracle)
        server.kill()
        eventually(lambda: "server is down" in trouble(consecutor), "the trouble is told")
        no_receipt_comes(consecutor, oracle)
        server.start()
        eventually(lambda: not trouble(consecutor), "the trouble is over")
    wait_for_more(load, oracle)
    load.end()
    summary: Any = consecutor.down()
    assert (summary.open, summary.stats["lost"]) == (0, 0)
    assert not oracle.judge(server.url("flow"), sink).open


def test_the_acker_is_killed_and_takes_its_log_up_again_from_the_server(tmp_path: Path, server: RedisServer) -> None:
    """Once with the server there, and once with it dead as well: then it is started until the server is back."""
    sink: list[int] = []
    consecutor = up(tmp_path, server, sink)
    load, oracle = pushing(consecutor)
    for server_too in (False, True):
        wait_for_more(load, oracle)
        pid = consecutor.status()["parts"]["acker"]["pid"]
        if server_too:
            server.kill()
        os.kill(pid, signal.SIGKILL)
        eventually(lambda pid=pid: consecutor.status()["parts"]["acker"]["pid"] not in (0, pid), "another acker")
        if server_too:
            server.start()
    wait_for_more(load, oracle)
    load.end()
    summary: Any = consecutor.down()
    assert (summary.open, summary.stats["lost"]) == (0, 0)
    assert not oracle.judge(server.url("flow"), sink).open


@pytest.mark.parametrize("settings", [{"appendonly": "no"}], ids=["appendonly no"])
def test_a_server_that_loses_its_data_is_told_and_the_graph_goes_on_with_what_there_is(
    tmp_path: Path, server: RedisServer
) -> None:
    """What was accepted is gone, but numbers are not used twice and new input flows."""
    sink: list[int] = []
    consecutor = up(tmp_path, server, sink)
    assert "any end of the server takes all" in consecutor.status()["guarantee"]
    load, oracle = pushing(consecutor)
    wait_for_more(load, oracle)
    server.kill()
    server.start()
    wait_for_more(load, oracle)
    before = set(oracle.receipted)
    wait_for_more(load, oracle)
    load.end()
    consecutor.down()
    assert "accepted items are lost" in (tmp_path / "flow" / "log_files" / "acker.log").read_text()
    assert oracle.receipted - before <= set(sink)
