"""A million open roots: ``python -m tests.benchmarks.backlog``; the acker's memory, and how soon it goes on if killed.

Goals: the acker stays under 300 MiB, and 5 s after a kill -9 of it the first item is emitted again. Batches of 500
are what an iterable or NDJSON brings, batches of 1 what single pushes bring.
"""

import argparse
import os
import signal
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from consecutiond import Consecutor
from consecutiond_nodes import importer
from tests.benchmarks import backlogged

MEMORY_GOAL_MIB, RESTART_GOAL_S = 300, 5.0
GRAPH = f"{backlogged.__file__}:graph"


def rss_mib(pid: int) -> tuple[float, float]:
    """Return a process's resident memory, now and at its peak."""
    status = Path(f"/proc/{pid}/status").read_text()
    now, peak = (int(status.partition(f"{name}:")[2].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return now, peak


def lives(seen: Path) -> list[tuple[int, float]]:
    """Return the epochs of the acker that reached the node, and when."""
    lines = seen.read_text().splitlines() if seen.exists() else []
    return [(int(line.split()[0]), float(line.split()[1])) for line in lines]


def measure(roots: int, batch: int, size: int, store: str) -> tuple[float, float, float, float, float]:
    """Return the rate of intake, the acker's memory (now, peak, after the restart), and the seconds to its return."""
    with tempfile.TemporaryDirectory() as directory:
        seen = Path(directory, "seen")
        os.environ[backlogged.SEEN] = str(seen)
        consecutor = Consecutor(
            importer.load(GRAPH), target=GRAPH, id="backlog", dir=directory, store=store,
            max_pending=roots, max_backlog=1 << 40, stop_timeout_s=1,
        )  # fmt: skip
        consecutor.up()
        try:
            value = {"id": 0, "text": "x" * size}
            started = time.perf_counter()
            for _ in range(0, roots, batch):
                consecutor.push_many([value] * batch)
            rate = roots / (time.perf_counter() - started)
            acker = consecutor.status()["parts"]["acker"]["pid"]
            now, peak = rss_mib(acker)
            before = len(lives(seen))
            killed = time.time()
            os.kill(acker, signal.SIGKILL)
            while len(lives(seen)) == before:
                time.sleep(0.01)
            back_s = lives(seen)[-1][1] - killed
            after = rss_mib(consecutor.status()["parts"]["acker"]["pid"])[0]
        finally:
            consecutor.stop(timeout_s=0.5)
    return rate, now, peak, after, back_s


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--roots", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=100, help="bytes of text in each value")
    parser.add_argument("--batches", type=int, nargs="*", default=[500, 1])
    parser.add_argument("--store", default="sqlite")
    given = parser.parse_args()
    table = Table("roots", "a batch", "accepted/s", "acker MiB", "peak", "after restart", "first item again after s")
    for batch in given.batches:
        rate, now, peak, after, back_s = measure(given.roots, batch, given.size, given.store)
        table.add_row(
            f"{given.roots:,}", str(batch), f"{rate:,.0f}", f"{now:.0f}", f"{peak:.0f}", f"{after:.0f}", f"{back_s:.2f}"
        )
    console = Console()
    console.print(table)
    console.print(f"goals: {MEMORY_GOAL_MIB} MiB, {RESTART_GOAL_S:g} s")


if __name__ == "__main__":
    main()
