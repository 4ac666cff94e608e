"""kill -9 of a worker, a broker and the acker, again and again, under load: nothing that had a receipt is lost."""

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from consecutiond import Consecutor
from tests.chaos.oracle import Oracle
from tests.graphs import line

GRAPH = Path(line.__file__)


class Killer(threading.Thread):
    """Kills parts by name, in turn, each only once it has come back from its last death."""

    def __init__(self, consecutor: Consecutor, victims: list[str]) -> None:
        super().__init__(daemon=True)
        self.consecutor, self.victims = consecutor, victims
        self.killed: list[str] = []
        self.error: BaseException | None = None
        self.over = threading.Event()

    def run(self) -> None:
        try:
            for name in self.victims:
                pid = self._pid_when_ready(name)
                # Let it get some work in hand; when exactly is left to chance.
                self.over.wait(random.uniform(0.02, 0.15))
                if self.over.is_set():
                    return
                os.kill(pid, signal.SIGKILL)
                self.killed.append(name)
        except BaseException as error:
            self.error = error

    def _pid_when_ready(self, name: str) -> int:
        while not self.over.is_set():
            part = self.consecutor.status()["parts"][name]
            if part["state"] == "ready" and Path(f"/proc/{part['pid']}").exists():
                return int(part["pid"])
            time.sleep(0.01)
        return 0


def feed_until(consecutor: Consecutor, killer: Killer, least: int) -> Oracle:
    """Push batches until at least `least` items have receipts and the killer is done."""
    oracle = Oracle()
    while oracle.sent < least or killer.is_alive():
        ids = oracle.draw(500)
        consecutor.push_many([line.item(number) for number in ids])
        oracle.receipt(ids)
    return oracle


VICTIMS: dict[str, list[str]] = {
    "worker": ["node-enrich.0", "node-parse.0", "node-load.0", "node-enrich.1"],
    "broker": ["broker-input-parse", "broker-parse-enrich", "broker-enrich-load", "broker-any-output"],
    "acker": ["acker"] * 4,
    "all": ["node-enrich.0", "broker-parse-enrich", "acker", "node-parse.0", "broker-input-parse", "acker",
            "node-load.0", "broker-any-output", "acker", "node-enrich.1", "broker-enrich-load"],
}  # fmt: skip


@pytest.mark.chaos
@pytest.mark.parametrize("who", VICTIMS)
def test_receipted_is_sink_or_failed_whoever_is_killed(tmp_path: Path, who: str) -> None:
    sink: list[int] = []
    consecutor = Consecutor(line.graph, target=f"{GRAPH}:graph", id=who, dir=tmp_path)
    consecutor.register_output("ids", sink)
    least = 100_000 if who == "all" else 20_000
    consecutor.up()
    killer = Killer(consecutor, VICTIMS[who])
    killer.start()
    try:
        oracle = feed_until(consecutor, killer, least)
    finally:
        killer.over.set()
        killer.join()
    summary: Any = consecutor.down()
    assert killer.error is None
    assert killer.killed == VICTIMS[who]
    assert summary.open == 0
    assert summary.stats["lost"] == 0, "the backstop had to help: a root was lost on the way"
    verdict = oracle.judge(tmp_path / who / "acker_db.sqlite", sink)
    assert not verdict.open
    print(verdict)
