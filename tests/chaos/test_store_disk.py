"""Rows of the table: the disk under the log, or under everything, is full for a while; under load."""

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path

import httpx
import pytest

from consecutiond.doctor import sqlite
from tests.chaos.conftest import Scale
from tests.chaos.daemon import Daemon, eventually, running
from tests.chaos.table import Row

pytestmark = pytest.mark.chaos

up = contextmanager(running)
_BLOCKS = (1 << 16, 1 << 12)


class SmallDisk:
    """A file system of a few MiB, and a file that fills it."""

    def __init__(self, place: Path) -> None:
        self.place, self._filler = place, place / "filler"

    def fill(self) -> None:
        """Take all the room that there is."""
        with self._filler.open("ab", buffering=0) as file:
            for size in _BLOCKS:
                try:
                    while file.write(bytes(size)):
                        pass
                except OSError:
                    # Smaller ones may still fit.
                    continue

    def free(self) -> None:
        self._filler.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"mounting a file system needs root's rights: {done.stderr.decode().strip()}")
    yield SmallDisk(place)
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def trouble(daemon: Daemon) -> str:
    return str(daemon.ask("status").get("store_trouble") or "")


class Post(threading.Thread):
    """A client that posts one input, and waits for the answer."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__(daemon=True)
        self._url = daemon.parts()["input"]["stats"]["endpoint"] + "/items"
        (self.number,) = daemon.oracle.draw(1)
        self._value = daemon.item(self.number)
        self.status = 0
        self.start()

    def run(self) -> None:
        self.status = httpx.post(self._url, json=self._value, timeout=None).status_code


#: bytes and roots that may be ahead of a new input, few, or the table would tell how long they take
_AHEAD = {
    "CONSECUTIOND_INPUT": "http://127.0.0.1:0", "CONSECUTIOND_MAX_PENDING": "1000",
    "CONSECUTIOND_MAX_BACKLOG": str(64 << 10),
}  # fmt: skip


def test_f11_the_disk_of_the_log_is_full(tmp_path: Path, disk: SmallDisk, row: Row, scale: Scale) -> None:
    log = disk.place / "log.sqlite"
    daemon = Daemon.of_dag(tmp_path, CONSECUTIOND_STORE=f"sqlite:///{log}", **_AHEAD)
    daemon.store = log
    row.fault = "F11 the disk of the log is full"
    fill_and_free(daemon, disk, row, scale)


def test_f11_the_disk_of_everything_is_full(disk: SmallDisk, row: Row, scale: Scale) -> None:
    """The sink and the logs of the parts cannot be written either."""
    row.fault = "F11 the disk of everything is full"
    fill_and_free(Daemon.of_dag(disk.place, **_AHEAD), disk, row, scale)


def fill_and_free(daemon: Daemon, disk: SmallDisk, row: Row, scale: Scale) -> None:
    """What cannot be recorded waits, a client's request too; all goes on by itself, and nothing is damaged."""
    hold_s = scale.pick(1, 60)
    row.how = f"once, held for {hold_s} s; as many inputs as are taken"
    with up(daemon), daemon.watch() as watch:
        before = {name: daemon.starts(name) for name in daemon.pids() if name != "root"}
        load = daemon.load(rate=inf)
        eventually(lambda: watch.complete or load.error, "the load flows")
        disk.fill()
        eventually(lambda: load.error or "the disk is full" in trouble(daemon), "the trouble is told")
        post = Post(daemon)
        time.sleep(hold_s)
        load.check()
        assert post.status == 0, "an answer although nothing can be recorded"
        freed, first, accepted = time.monotonic(), daemon.oracle.sent, len(daemon.oracle.receipted)
        disk.free()
        eventually(lambda: load.error or len(daemon.oracle.receipted) > accepted, "inputs are accepted")
        row.notes.append(f"inputs were accepted {time.monotonic() - freed:.2f} s after there was room")
        eventually(lambda: load.error or watch.recovery_s(freed, first) is not None, "new inputs are completed")
        load.end()
        post.join()
        assert post.status == 202
        daemon.oracle.receipt([post.number])
        eventually(lambda: not trouble(daemon), "the trouble is over")
        after = {name: daemon.starts(name) for name in before}
        verdict = daemon.drain()
    assert after == before, "a part was started again"
    assert sqlite.read(Path(daemon.store), durable=True).fault == "", "the file is damaged"
    row.recovery_s.append(watch.recovery_s(freed, first) or 0.0)
    row.judged(verdict)
    row.grew(watch)
    row.note_pause(load.longest_s)
