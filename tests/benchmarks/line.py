"""Throughput and memory of three nodes in a line: ``make bench``.

One worker each, process architecture, SQLite store, small dict items; every item tracked and logged, but in the row
that says otherwise. Beside it, in the same run, the same three functions in one plain loop, so that the ratio can be
compared between machines. The second
part feeds a graph whose last node is ten times slower than the source and reports the peak memory of every process and
the size of the log.
"""

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from consecutiond import Consecutor

GRAPH = Path(__file__).with_name("linegraph.py")


def items(count: int) -> Iterator[dict[str, Any]]:
    """Yield small dicts."""
    for number in range(count):
        yield {"id": number, "text": "the quick brown fox jumps over the lazy dog"}


def plain(count: int) -> float:
    """Return items/s of the same work in one loop."""
    started = time.perf_counter()
    for item in items(count):
        item["words"] = item["text"].split()
        item["lengths"] = [len(word) for word in item["words"]]
    return count / (time.perf_counter() - started)


def graph(count: int, directory: str, name: str, options: dict[str, Any]) -> float:
    """Return items/s of the graph, from the first push to the end of the last node."""
    consecutor = Consecutor(load("graph"), target=f"{GRAPH}:graph", id=name, dir=directory, **options)
    consecutor.up()
    consecutor.push_many(list(items(2000)))
    started = time.perf_counter()
    consecutor.produce_from_iterable(items(count), progress=False)
    return count / (time.perf_counter() - started)


def load(name: str) -> Any:
    """Return a graph of the benchmark's module, which workers import by path."""
    from consecutiond_nodes import importer

    return importer.load(f"{GRAPH}:{name}")


class Memory(threading.Thread):
    """Samples the resident memory of every part, and the size of the log."""

    def __init__(self, consecutor: Consecutor, store: Path) -> None:
        super().__init__(daemon=True)
        self.consecutor, self.store = consecutor, store
        self.peaks: dict[str, int] = {}
        self.log_bytes = 0
        self.over = threading.Event()

    def run(self) -> None:
        """Sample four times a second."""
        while not self.over.wait(0.25):
            for name, part in self.consecutor.status()["parts"].items():
                self.peaks[name] = max(self.peaks.get(name, 0), peak_kib(part["pid"]))
            size = sum(file.stat().st_size for file in self.store.parent.glob(self.store.name + "*"))
            self.log_bytes = max(self.log_bytes, size)


def peak_kib(pid: int) -> int:
    """Return a process's peak resident memory."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)


def slow_end(count: int, directory: str) -> tuple[dict[str, int], int, float]:
    """Return the peak memory (KiB) by part, the greatest size of the log (bytes) and items/s."""
    consecutor = Consecutor(load("slow"), target=f"{GRAPH}:slow", id="slow", dir=directory)
    consecutor.up()
    memory = Memory(consecutor, Path(directory) / "slow" / "acker_db.sqlite")
    memory.start()
    started = time.perf_counter()
    session = consecutor._up("benchmark")
    session.feed(items(count), None)
    rate = count / (time.perf_counter() - started)
    memory.over.set()
    memory.join()
    consecutor.down()
    return memory.peaks, memory.log_bytes, rate


def main() -> None:
    """Run, print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--items", type=int, default=600_000)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--slow-items", type=int, default=300_000)
    arguments.add_argument("--skip-memory", action="store_true")
    chosen = arguments.parse_args()
    console = Console()
    kinds = {"fast": {"durability": "fast"}, "durable": {"durability": "durable"}, "untracked": {"tracking": False}}
    rates: dict[str, list[float]] = {name: [] for name in ("plain loop", *kinds)}
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(chosen.rounds):
            rates["plain loop"].append(plain(chosen.items))
            for name, options in kinds.items():
                rates[name].append(graph(chosen.items, directory, f"line-{name}", options))
        table = Table("three nodes in a line", "items/s (median)", "min", "max", "of the plain loop")
        base = statistics.median(rates["plain loop"])
        for name, values in rates.items():
            median = statistics.median(values)
            table.add_row(name, f"{median:,.0f}", f"{min(values):,.0f}", f"{max(values):,.0f}", f"{median / base:.3f}")
        console.print(table)
        if chosen.skip_memory:
            return
        peaks, log_bytes, rate = slow_end(chosen.slow_items, directory)
        table = Table("the last node ten times slower", "peak MiB")
        for name, kib in sorted(peaks.items(), key=lambda pair: -pair[1]):
            table.add_row(name + (" (this process)" if name == "output" else ""), f"{kib / 1024:.1f}")
        table.add_row("log on disk", f"{log_bytes / 2**20:.1f}")
        console.print(table, f"{chosen.slow_items:,} items fed at {rate:,.0f} items/s", sep="\n")


if __name__ == "__main__":
    main()
