"""kill -9 of the Redis server that holds the log, and of the acker that writes to it: nothing receipted is lost."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from consecutiond import Consecutor
from consecutiond.acker.stores import read_only
from tests.chaos.daemon import eventually
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


class Pushing(threading.Thread):
    """Pushes batches until it is told to end; notes what it pushed and what has a receipt."""

    def __init__(self, consecutor: Consecutor) -> None:
        super().__init__(daemon=True)
        self.consecutor = consecutor
        self.pushed: set[int] = set()
        self.receipted: set[int] = set()
        self.enough = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.enough.is_set():
                ids = range(len(self.pushed), len(self.pushed) + 500)
                self.pushed.update(ids)
                self.consecutor.push_many([line.item(number) for number in ids])
                self.receipted.update(ids)
        except BaseException as error:
            self.error = error

    def wait_for_more(self) -> None:
        until = len(self.receipted) + 2000
        eventually(lambda: self.error or len(self.receipted) >= until, "more receipts")
        assert self.error is None

    def end(self) -> None:
        self.enough.set()
        self.join()
        assert self.error is None


def up(tmp_path: Path, server: RedisServer, sink: list[int]) -> Consecutor:
    consecutor = Consecutor(line.graph, target=GRAPH, id="flow", dir=tmp_path, store=server.url())
    consecutor.register_output("ids", sink)
    consecutor.up()
    return consecutor


def trouble(consecutor: Consecutor) -> str:
    return str(consecutor.status().get("store_trouble") or "")


def no_receipt_comes(consecutor: Consecutor, pushing: Pushing) -> None:
    """Wait until no receipt is on its way any more; one that came later would make this wait for ever."""

    def stands() -> bool:
        before = len(pushing.receipted)
        for _ in range(20):
            consecutor.status()
        return len(pushing.receipted) == before

    eventually(stands, "intake stops")


def check_conserved(server: RedisServer, pushing: Pushing, sink: list[int]) -> None:
    log = read_only(server.url("flow"))
    try:
        totals, dead, waiting, chunks = log.totals(), log.dead_letters(limit=10**6), log.waiting(), log.open_chunks()
    finally:
        log.close()
    assert (waiting, chunks, totals.open) == ([], [], 0)
    assert totals.accepted == totals.completed + totals.failed == len(pushing.receipted)
    failed = {msgspec.msgpack.decode(letter.body)[0]["id"] for letter in dead}
    assert set(sink) | failed == pushing.receipted


@pytest.mark.usefixtures("architecture")
def test_while_the_server_is_dead_nothing_is_accepted_and_everything_heals_by_itself(
    tmp_path: Path, server: RedisServer
) -> None:
    sink: list[int] = []
    consecutor = up(tmp_path, server, sink)
    assert trouble(consecutor) == ""
    pushing = Pushing(consecutor)
    pushing.start()
    for _ in range(3):
        pushing.wait_for_more()
        server.kill()
        eventually(lambda: "server is down" in trouble(consecutor), "the trouble is told")
        no_receipt_comes(consecutor, pushing)
        server.start()
        eventually(lambda: not trouble(consecutor), "the trouble is over")
    pushing.wait_for_more()
    pushing.end()
    summary: Any = consecutor.down()
    assert (summary.open, summary.stats["lost"]) == (0, 0)
    check_conserved(server, pushing, sink)


def test_the_acker_is_killed_and_takes_its_log_up_again_from_the_server(tmp_path: Path, server: RedisServer) -> None:
    """Once with the server there, and once with it dead as well: then it is started until the server is back."""
    sink: list[int] = []
    consecutor = up(tmp_path, server, sink)
    pushing = Pushing(consecutor)
    pushing.start()
    for server_too in (False, True):
        pushing.wait_for_more()
        pid = consecutor.status()["parts"]["acker"]["pid"]
        if server_too:
            server.kill()
        os.kill(pid, signal.SIGKILL)
        eventually(lambda pid=pid: consecutor.status()["parts"]["acker"]["pid"] not in (0, pid), "another acker")
        if server_too:
            server.start()
    pushing.wait_for_more()
    pushing.end()
    summary: Any = consecutor.down()
    assert (summary.open, summary.stats["lost"]) == (0, 0)
    check_conserved(server, pushing, sink)


@pytest.mark.parametrize("settings", [{"appendonly": "no"}], ids=["appendonly no"])
def test_a_server_that_loses_its_data_is_told_and_the_graph_goes_on_with_what_there_is(
    tmp_path: Path, server: RedisServer
) -> None:
    """What was accepted is gone, but numbers are not used twice and new input flows."""
    sink: list[int] = []
    consecutor = up(tmp_path, server, sink)
    assert "any end of the server takes all" in consecutor.status()["guarantee"]
    pushing = Pushing(consecutor)
    pushing.start()
    pushing.wait_for_more()
    server.kill()
    server.start()
    pushing.wait_for_more()
    before = set(pushing.receipted)
    pushing.wait_for_more()
    pushing.end()
    consecutor.down()
    assert "accepted items are lost" in (tmp_path / "flow" / "log_files" / "acker.log").read_text()
    assert pushing.receipted - before <= set(sink)
