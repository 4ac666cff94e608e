"""Rows of the table: kill -9 of workers, brokers, the acker, and of everything, under load."""

import os
import signal
import time
from collections.abc import Iterator
from math import inf
from pathlib import Path

import pytest

from consecutiond.feeder import GoneError
from tests.chaos.conftest import Scale
from tests.chaos.daemon import Daemon, alive, eventually, running
from tests.chaos.kills import Killer, kill_all, storm
from tests.chaos.table import Row
from tests.chaos.watch import Watch

pytestmark = pytest.mark.chaos


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    yield from running(Daemon.of_dag(tmp_path))


def parts(daemon: Daemon, kind: str) -> list[str]:
    return [name for name in daemon.known_pids() if name.startswith(kind)]


def test_f01_kill_9_of_a_worker(daemon: Daemon, row: Row, scale: Scale) -> None:
    row.fault = "F01 a worker is killed, chosen at random"
    storm(daemon, row, [*parts(daemon, "node-"), "output"], scale.pick(6, 150), 2.0 if scale.full else 0.8)


def test_f02_kill_9_of_a_broker(daemon: Daemon, row: Row, scale: Scale) -> None:
    row.fault = "F02 a broker is killed, chosen at random"
    storm(daemon, row, parts(daemon, "broker-"), scale.pick(4, 100), 3.0 if scale.full else 1.0)


def test_f03_kill_9_of_the_acker(daemon: Daemon, row: Row, scale: Scale) -> None:
    """While it is dead, and nobody starts another, its log is judged as it stands: nothing is completed too early."""
    row.fault = "F03 the acker is killed"

    def judge_the_dead(killer: Killer) -> None:
        daemon.process.send_signal(signal.SIGSTOP)
        pid = daemon.known_pids()["acker"]
        killer.kill()
        eventually(lambda: not alive(pid), "it is dead")
        left = daemon.judge()
        daemon.process.send_signal(signal.SIGCONT)
        row.notes.append(f"{len(left.open):,} open when it died last")

    storm(daemon, row, ["acker"], scale.pick(2, 60), 5.0 if scale.full else 2.0, judge_the_dead)


def test_f06_kill_9_of_every_process_at_once(tmp_path: Path, row: Row, scale: Scale) -> None:
    """Again and again under load; then once with a log full of open roots."""
    times, many = scale.pick(1, 30), scale.pick(5_000, 100_000)
    row.fault = "F06 every process is killed at once, and started again"
    row.how = f"{times} times under load, and once with {many:,} open inputs"
    # All that is fed is recorded, although next to nothing of it is emitted.
    daemon = Daemon.of_dag(tmp_path, CONSECUTIOND_MAX_BACKLOG=str(1 << 30))
    try:
        daemon.start()
        with daemon.watch() as watch:
            load = daemon.load()
            eventually(lambda: watch.complete or load.error, "the load flows")
            for _ in range(times):
                kill_all(daemon)
                load.end(GoneError)
                begun = time.monotonic()
                daemon.start()
                # What was open goes first; whether anything was, is left to chance.
                load = daemon.load()
                row.recovery_s.append(first_completion(watch, begun))
            load.end()
            os.kill(daemon.pids()["node-split.0"], signal.SIGSTOP)
            load, before = daemon.load(rate=inf), len(daemon.oracle.receipted)
            eventually(lambda: len(daemon.oracle.receipted) >= before + many, "everything has its receipt")
            load.end()
            kill_all(daemon)
            left = daemon.judge()
            assert len(left.open) >= many
            begun = time.monotonic()
            daemon.start()
            last = first_completion(watch, begun)
            verdict = daemon.drain()
        row.recovery_s.append(last)
        row.notes.append(f"with {len(left.open):,} open inputs: {last:.2f} s from the start to the first completion")
        row.judged(verdict)
        row.grew(watch)
    finally:
        daemon.close()


def first_completion(watch: Watch, begun: float) -> float:
    """Return how many seconds after a start the first root is complete."""
    eventually(lambda: watch.first_after(begun), "something is completed after the start")
    return (watch.first_after(begun) or inf) - begun
