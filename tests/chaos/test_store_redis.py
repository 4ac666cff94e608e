"""Rows of the table: the Redis server that holds the log is killed, is full, is slow; under load."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.conftest import Scale
from tests.chaos.daemon import Daemon, eventually, running
from tests.chaos.load import Load
from tests.chaos.proxy import SlowProxy
from tests.chaos.table import Row
from tests.chaos.watch import Watch
from tests.graphs import dag
from tests.redis_server import RedisServer, free_port

pytestmark = pytest.mark.chaos

#: MiB by which a process may grow
MOST_GROWTH = 64

up = contextmanager(running)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis", free_port())
    try:
        yield server.start()
    finally:
        server.close()


def on(server: RedisServer, base: Path, url: str = "") -> Daemon:
    """Make a daemon whose log is on a server, which the oracle reads without detours."""
    daemon = Daemon.of_dag(base, CONSECUTIOND_STORE=url or server.url())
    daemon.store = server.url(daemon.dir.id)
    return daemon


def starts(daemon: Daemon) -> dict[str, int]:
    return {name: daemon.starts(name) for name in daemon.pids() if name != "root"}


def trouble(daemon: Daemon) -> str:
    return str(daemon.ask("status").get("store_trouble") or "")


def wait_until_nothing_is_accepted(daemon: Daemon) -> None:
    """Wait until no receipt is on its way any more; one that came later would make this wait for ever."""

    def stands() -> bool:
        before = len(daemon.oracle.receipted)
        for _ in range(20):
            daemon.ask("status")
        return len(daemon.oracle.receipted) == before

    eventually(stands, "intake stops")


def flows_again(daemon: Daemon, watch: Watch, load: Load, since: float) -> float:
    """Wait until an input is completed that was sent after now; return how long after a moment that was."""
    first = daemon.oracle.sent
    eventually(lambda: load.error or watch.recovery_s(since, first) is not None, "new inputs are completed")
    load.check()
    return watch.recovery_s(since, first) or 0.0


def finish(daemon: Daemon, row: Row, watch: Watch, load: Load) -> None:
    load.end()
    row.judged(daemon.drain())
    row.grew(watch)
    row.note_pause(load.longest_s)


def test_f04_kill_9_of_the_redis_server(tmp_path: Path, server: RedisServer, row: Row, scale: Scale) -> None:
    """It is started again, as its service manager would; of ours nobody is."""
    times, every_s = scale.pick(3, 20), 5.0 if scale.full else 2.0
    row.fault = "F04 the Redis server (appendfsync always) is killed, and started again"
    row.how = f"{times} times, one each {every_s:g} s"
    with up(on(server, tmp_path)) as daemon, daemon.watch() as watch:
        before = starts(daemon)
        load = daemon.load()
        eventually(lambda: watch.complete or load.error, "the load flows")
        kills = []
        for _ in range(times):
            due = time.monotonic() + every_s
            kills.append((time.monotonic(), daemon.oracle.sent))
            server.kill()
            server.start()
            time.sleep(max(0.0, due - time.monotonic()))
            load.check()
        flows_again(daemon, watch, load, time.monotonic())
        assert starts(daemon) == before, "a part of ours was started again"
        assert trouble(daemon) == ""
        finish(daemon, row, watch, load)
        found = [watch.recovery_s(*kill) for kill in kills]
    row.recovery_s = [seconds for seconds in found if seconds is not None]


def test_f12_the_memory_of_the_redis_server_is_full(
    tmp_path: Path, server: RedisServer, row: Row, scale: Scale
) -> None:
    """What was accepted is worked off meanwhile; what was not is accepted when there is room."""
    hold_s = scale.pick(1, 60)
    row.fault = "F12 the Redis server reaches its maxmemory (noeviction)"
    row.how = f"once, with open inputs, held for {hold_s} s after the last of them was through"
    gate, client = tmp_path / "slow", server.client()
    gate.touch()
    daemon = on(server, tmp_path)
    daemon.item = lambda number: dag.item(number, slow=[str(gate), 0.02])
    with up(daemon), daemon.watch() as watch:
        before = starts(daemon)
        load = daemon.load()
        eventually(lambda: load.error or daemon.count_open() >= 500, "open inputs gather")
        client.config_set("maxmemory", client.info("memory")["used_memory"] // 2)
        eventually(lambda: "maxmemory" in trouble(daemon), "the trouble is told")
        wait_until_nothing_is_accepted(daemon)
        gate.unlink()
        accepted = daemon.oracle.receipted.copy()
        eventually(lambda: accepted <= watch.complete.keys(), "what was accepted is worked off")
        eventually(lambda: daemon.count_open() == 0, "that is recorded, although nothing can be added")
        time.sleep(hold_s)
        assert daemon.oracle.receipted == accepted, "a receipt came while nothing could be recorded"
        freed = time.monotonic()
        client.config_set("maxmemory", 0)
        row.recovery_s.append(flows_again(daemon, watch, load, freed))
        eventually(lambda: not trouble(daemon), "the trouble is over")
        assert starts(daemon) == before, "a part of ours was started again"
        finish(daemon, row, watch, load)
    row.notes.append(f"{len(accepted):,} accepted inputs were worked off while it was full")


def test_f14_the_redis_server_is_slow(tmp_path: Path, server: RedisServer, row: Row, scale: Scale) -> None:
    """Each answer is late, and at times there is none for a while: slower, but no connection is given up for it."""
    latency_s, stall_s, every_s = (0.5, 5.0, 30.0) if scale.full else (0.1, 1.5, 3.0)
    rounds = scale.pick(2, 5)
    row.fault = "F14 the Redis server is slow"
    row.how = f"{1000 * latency_s:.0f} ms for each answer, and {rounds} stalls of {stall_s:g} s, one each {every_s:g} s"
    with SlowProxy(server.port) as proxy, up(on(server, tmp_path, f"redis://127.0.0.1:{proxy.port}/0")) as daemon:
        before, connections = starts(daemon), proxy.connections
        proxy.latency_s = latency_s
        with daemon.watch() as watch:
            load, begun = daemon.load(), time.monotonic()
            eventually(lambda: watch.complete or load.error, "the load flows")
            stalls = []
            for _ in range(rounds):
                due = time.monotonic() + every_s
                stalls.append((time.monotonic(), daemon.oracle.sent))
                proxy.stall(stall_s)
                time.sleep(max(0.0, due - time.monotonic()))
                load.check()
            flows_again(daemon, watch, load, time.monotonic())
            rate = len(watch.complete) / (time.monotonic() - begun)
            load.end()
            eventually(lambda: daemon.count_open() == 0, "all of it is done")
            assert starts(daemon) == before, "a part of ours was started again"
            assert proxy.connections == connections, "a connection was given up and made anew"
            proxy.latency_s = 0.0
            finish(daemon, row, watch, load)
            found: list[Any] = [watch.recovery_s(*stall) for stall in stalls]
    row.recovery_s = [seconds for seconds in found if seconds is not None]
    row.notes.append(f"{rate:.0f} inputs/s were completed meanwhile")
    assert row.grown_mib <= MOST_GROWTH, row.grown_part
