"""One root with a million children: ``python tests/benchmarks/fanout.py``; speed, and by how much each process grows.

Goal: no process grows by more than 64 MiB.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from rich.console import Console

from consecutiond import Consecutor
from consecutiond_nodes import importer

GRAPHS = Path(__file__).parents[1] / "graphs" / "fan.py"
GOAL_MIB = 64


class Count:
    """A container that keeps nothing of what it counts."""

    count = 0

    def append(self, value: int) -> None:
        """Count one."""
        self.count += 1


def peaks_mib(consecutor: Consecutor) -> dict[str, float]:
    """Return the peak resident memory of every process so far."""
    pids = {name: part["pid"] for name, part in consecutor.status()["parts"].items()} | {"script": os.getpid()}
    status = {name: Path(f"/proc/{pid}/status").read_text() for name, pid in pids.items()}
    return {name: int(text.partition("VmHWM:")[2].split()[0]) / 1024 for name, text in status.items()}


def complete(consecutor: Consecutor, children: int, roots: int) -> float:
    """Push a root and wait for the end of its tree; return the seconds."""
    started = time.perf_counter()
    consecutor.push(children)
    while consecutor.status()["completed"] < roots:
        time.sleep(0.01)
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--children", type=int, default=1_000_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        target = f"{GRAPHS}:graph"
        consecutor = Consecutor(importer.load(target), target=target, id="fanout", dir=directory)
        consecutor.register_output("ids", Count())
        consecutor.up()
        complete(consecutor, 1000, 1)
        before = peaks_mib(consecutor)
        seconds = complete(consecutor, given.children, 2)
        grown = {name: peak - before[name] for name, peak in peaks_mib(consecutor).items()}
        consecutor.down()
    most = max(grown, key=lambda name: grown[name])
    Console().print(
        f"one root, {given.children:,} children: {given.children / seconds:,.0f} items/s; "
        f"{most} grew most, by {grown[most]:.1f} MiB (goal: {GOAL_MIB})"
    )


if __name__ == "__main__":
    main()
