"""Rows of the table: the end of the store's file is cut off, or a bit of it has changed."""

import os
import random
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from consecutiond.acker.stores import open_store, read_only
from consecutiond.acker.stores.base import Append, Changes, Chunk, Failed, StoreError
from consecutiond.acker.stores.numbered import LogLostError
from consecutiond.doctor import sqlite
from tests.chaos.conftest import Scale
from tests.chaos.daemon import Daemon, eventually
from tests.chaos.kills import kill_all
from tests.chaos.oracle import Log, lines
from tests.chaos.table import Row
from tests.graphs import dag
from tests.redis_server import RedisServer

pytestmark = pytest.mark.chaos

#: bytes that are cut off at the utmost
_MOST = 200
_COMMITS = 30


def group(number: int) -> Changes:
    """Return one of many groups, in which there is something of each kind."""
    body = bytes([number]) * 3000
    chunk = Chunk(number, 10 * number, 5, ("in",), body, 1.0, crc32(body))
    changes = Changes(appends=[Append(chunk, None)])
    if number > 2:
        done = number - 2
        row = Failed(10 * done, 1, ("in",), b"v", 1.0, "parse", "raised", "no", "tb", 2.0)
        changes.done = {done: None}
        changes.completed = 4
        (changes.waiting if number % 2 else changes.dead).append(row)
    return changes


def state(url: str) -> list[Any]:
    """Return everything that a log holds."""
    with closing(read_only(url)) as store:
        chunks = store.open_chunks()
        bodies = [store.body(each.chunk.id) for each in chunks]
        return [store.head(), store.totals(), chunks, bodies, store.waiting(), store.dead_letters()]


def filled(url: str, store: Any) -> list[list[Any]]:
    """Commit many groups; return the state after each."""
    states = []
    for number in range(1, _COMMITS):
        store.commit(group(number))
        states.append(state(url))
    return states


def cuts(scale: Scale) -> list[int]:
    """Return how many bytes are cut off in each case."""
    return random.sample(range(1, _MOST + 1), scale.pick(6, _MOST))


def cut(path: Path, count: int) -> None:
    os.truncate(path, path.stat().st_size - count)


def test_f15_the_end_of_the_append_only_file_is_cut_off(tmp_path: Path, row: Row, scale: Scale) -> None:
    """The log is that of an earlier commit, whole; an acker that knows more says what is lost, and writes nothing."""
    cases = cuts(scale)
    row.fault = "F15 the end of the append-only file of Redis is cut off"
    row.how = f"{len(cases)} times, 1 to {_MOST} bytes"
    server = RedisServer(tmp_path / "redis").start()
    whole = tmp_path / "whole"
    try:
        url = server.url("flow")
        with closing(open_store(url, "durable")) as acker:
            states = filled(url, acker)
            server.kill()
            shutil.copytree(server.directory / "appendonlydir", whole)
            for count in cases:
                restore(server, whole, count)
                server.start()
                assert state(url) in states[:-1], "neither whole nor a commit that was"
                with pytest.raises(LogLostError, match=r"went back to an earlier state\..* lost"):
                    acker.commit(group(_COMMITS))
                server.kill()
        restore(server, whole, cases[0])
        server.settings["aof-load-truncated"] = "no"
        server.start(wait=False)
        assert server.process is not None
        assert server.process.wait(60) != 0, "a server that is told to refuses the file"
        with pytest.raises(StoreError, match="the server is down"):
            read_only(url)
    finally:
        server.close()
    row.notes.append("each time a whole earlier commit; an acker that had committed more said so and wrote nothing")


def restore(server: RedisServer, whole: Path, count: int) -> None:
    """Put the files of a server back, but for the last bytes."""
    target = server.directory / "appendonlydir"
    shutil.rmtree(target)
    shutil.copytree(whole, target)
    (newest,) = target.glob("*.incr.aof")
    cut(newest, count)


def test_f15_the_end_of_the_sqlite_file_is_cut_off(tmp_path: Path, row: Row, scale: Scale) -> None:
    """Of the write-ahead log it costs whole commits; of the file itself it is found out, and no value is wrong."""
    cases = cuts(scale)
    row.fault = "F15 the end of the SQLite file, or of its write-ahead log, is cut off"
    row.how = f"{len(cases)} times each, 1 to {_MOST} bytes"
    (tmp_path / "live").mkdir()
    url = f"sqlite:///{tmp_path}/live/log"
    with closing(open_store(url, "durable")) as store:
        states = filled(url, store)
        for count in cases:
            left = copied(tmp_path)
            cut(left / "log-wal", count)
            assert state(f"sqlite:///{left}/log") in states, "neither whole nor a commit that was"
    for count in cases:
        left = copied(tmp_path)
        cut(left / "log", count)
        assert "its end is cut off" in sqlite.read(left / "log", durable=True).error
        for chunk, body in readable(f"sqlite:///{left}/log"):
            assert body == bytes([chunk.id]) * 3000 or not chunk.fits(body), "a wrong value passes for the right one"
    row.notes.append("each time a whole earlier commit, or found out")


def copied(directory: Path) -> Path:
    """Copy a store as a kill would leave it."""
    target = directory / "left"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(directory / "live", target)
    return target


def readable(url: str) -> Iterator[tuple[Chunk, bytes]]:
    """Yield the chunks whose bodies can be read; of others the store says that it is damaged."""
    with suppress(StoreError), closing(read_only(url)) as store:
        for each in store.open_chunks():
            yield each.chunk, store.body(each.chunk.id)


@contextmanager
def made(daemon: Daemon) -> Iterator[Daemon]:
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.close()


def test_f16_bits_of_stored_batches_change(tmp_path: Path, row: Row, scale: Scale) -> None:
    """Batches whose checksum does not fit are kept as damaged; all others are completed."""
    flips, least = scale.pick(5, 200), scale.pick(300, 6000)
    row.fault = "F16 bits of stored batches change, while nobody runs"
    with made(Daemon.of_dag(tmp_path)) as daemon:
        os.kill(daemon.pids()["node-parse.0"], signal.SIGSTOP)
        load = daemon.load()
        eventually(lambda: load.error or len(daemon.oracle.receipted) >= least, "inputs are accepted")
        load.end()
        kill_all(daemon)
        ids = {position: value["id"] for position, value in Log.read(daemon.store).open.items()}
        assert daemon.oracle.receipted <= set(ids.values())
        damaged, flipped = flip(Path(daemon.store), flips)
        row.how = f"a bit in each of {flipped} batches of a log with {len(ids):,} open inputs"
        daemon.start()
        eventually(lambda: daemon.count_open() == 0, "all that can be done is done")
        assert daemon.stop() == 0
        with closing(read_only(daemon.store)) as store:
            letters, totals = store.dead_letters(limit=1_000_000), store.totals()
    assert {letter.kind for letter in letters} == {"damaged"}
    assert all("was damaged in the store" in letter.error and not letter.body for letter in letters)
    quarantined = {ids[letter.position] for letter in letters}
    assert quarantined == {ids[position] for position in damaged}
    completed = set(ids.values()) - quarantined
    assert {tuple(item) for item in lines(daemon.sink)} == {item for each in completed for item in dag.outputs(each)}
    assert (totals.completed, totals.failed, totals.open) == (len(completed), len(quarantined), 0)
    assert "inputlog.damaged" in (daemon.dir.log_dir / "acker.log").read_text()
    row.accepted = totals.accepted
    row.notes.append(f"{len(quarantined):,} inputs of the damaged batches are kept as damaged, all others completed")


def flip(path: Path, count: int) -> tuple[set[int], int]:
    """Change a bit of some bodies; return the positions of all roots of their batches, and how many those are."""
    positions: set[int] = set()
    with closing(sqlite3.connect(path)) as connection:
        chunks = connection.execute("SELECT id, first, count FROM chunks").fetchall()
        # Each batch once, or two changes could be none.
        chosen = random.sample(chunks, min(count, len(chunks) // 2))
        for id, first, many in chosen:
            (body,) = connection.execute("SELECT body FROM bodies WHERE chunk = ?", (id,)).fetchone()
            place, bit = random.randrange(len(body)), random.randrange(8)
            changed = bytearray(body)
            changed[place] ^= 1 << bit
            connection.execute("UPDATE bodies SET body = ? WHERE chunk = ?", (bytes(changed), id))
            positions.update(range(first, first + many))
        connection.commit()
    return positions, len(chosen)
