"""kill -9 under load with accounts and values in each place: each input ends as what the table of guarantees says.

One producer gives ids in order, so the input with id n is at position n + 1 of the log. That tells which inputs the
failed items are that have no value.
"""

import os
import signal
from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any

import pytest

from consecutiond.acker.stores import read_only
from consecutiond.acker.stores.base import Failed, Totals
from tests.chaos.daemon import Daemon, alive, eventually
from tests.chaos.oracle import lines

pytestmark = pytest.mark.chaos

BROKER, WORKER = "broker-parse-enrich", "node-enrich.0"


@pytest.fixture
def daemon(tmp_path: Path, places: tuple[str, str]) -> Iterator[Daemon]:
    """A daemon whose accounts and values are at these places; it is up."""
    daemon = Daemon(tmp_path, CONSECUTIOND_ACKER_STORE=places[0], CONSECUTIOND_INPUT_STORE=places[1])
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.close()


def storm(daemon: Daemon, name: str, times: int = 3) -> None:
    """Kill a part again and again while inputs come as fast as they are taken, each time with open ones."""
    load = daemon.load(rate=inf)
    for _ in range(times):
        pids = daemon.pids()
        # The last node stands still, so that what comes stays open.
        os.kill(pids["node-load.0"], signal.SIGSTOP)
        eventually(lambda: daemon.ask("status").get("open") or load.error, "some inputs are open")
        os.kill(pids[name], signal.SIGKILL)
        eventually(lambda pid=pids[name]: not alive(pid), f"{name} is dead")
        os.kill(pids["node-load.0"], signal.SIGCONT)
        eventually(lambda pid=pids[name]: daemon.known_pids()[name] != pid, f"{name} is started again")
        eventually(daemon.is_up, "all are up")
        load.check()
    load.end()


def everything(daemon: Daemon) -> tuple[Totals, list[Failed]]:
    """Read the log, which must have nothing open, and check that each accepted input is in the sink or has failed."""
    store = read_only(daemon.store)
    try:
        totals, letters = store.totals(), store.dead_letters(limit=10**6)
        assert (store.open_chunks(), store.waiting()) == ([], [])
    finally:
        store.close()
    assert (totals.open, totals.discarded, totals.failed) == (0, 0, len(letters))
    assert totals.accepted == totals.completed + totals.failed
    sink, failed = set(lines(daemon.sink)), {letter.position - 1 for letter in letters}
    assert len(failed) == len(letters)
    assert daemon.oracle.receipted <= set(range(totals.accepted)) <= set(range(daemon.oracle.sent))
    # What was done when the acker died, and had not been counted, is both: that is said, not judged.
    assert set(range(totals.accepted)) == sink | failed
    assert totals.completed <= len(sink)
    print(f"accepted {totals.accepted}, completed {totals.completed}, failed {totals.failed}")
    return totals, letters


def settle(daemon: Daemon) -> tuple[Totals, list[Failed]]:
    """Wait until nothing is open, stop, and look."""
    eventually(lambda: daemon.count_open() == 0, "nothing is open")
    assert daemon.stop() == 0
    assert "bug.roots_lost" not in (daemon.dir.log_dir / "acker.log").read_text(), "a root was lost on the way"
    return everything(daemon)


@pytest.mark.parametrize(
    ("places", "victim"),
    [(("disk", "memory"), "acker"), (("disk", "off"), "acker"), (("disk", "off"), BROKER), (("disk", "off"), WORKER)],
)
def test_what_was_open_without_a_value_becomes_a_failed_item_that_says_so(daemon: Daemon, victim: str) -> None:
    storm(daemon, victim)
    _, letters = settle(daemon)
    assert letters
    assert not any(letter.body or letter.item for letter in letters)
    # The item that a worker was in is charged, and cannot be tried again.
    kinds = {"lost", "crashed", "between"} if victim == WORKER else {"lost"}
    assert {letter.kind for letter in letters} <= kinds
    assert all("its value was not kept" in letter.error for letter in letters if letter.kind == "lost")


@pytest.mark.parametrize("places", [("disk", "memory")])
@pytest.mark.parametrize("victim", [BROKER, WORKER])
def test_values_in_memory_outlive_everybody_but_the_acker(daemon: Daemon, victim: str) -> None:
    storm(daemon, victim)
    assert settle(daemon)[1] == []


@pytest.mark.parametrize("places", [("disk", "disk"), ("memory", "disk")])
@pytest.mark.parametrize("victim", ["acker", BROKER])
def test_values_on_the_disk_outlive_everybody(daemon: Daemon, victim: str) -> None:
    storm(daemon, victim)
    assert settle(daemon)[1] == []


@pytest.mark.parametrize("places", [("memory", "disk")])
def test_after_a_kill_of_everything_the_next_start_tries_all_that_is_not_over(daemon: Daemon) -> None:
    load = daemon.load(rate=inf)
    eventually(lambda: daemon.ask("status").get("completed", 0) > 1000, "some are done")
    os.kill(daemon.pids()["node-load.0"], signal.SIGSTOP)
    eventually(lambda: daemon.count_open() > 0, "some are open")
    daemon.process.kill()
    daemon.process.wait()
    load.join()
    eventually(lambda: not daemon.mentions(), "everything is gone")
    open_then = daemon.count_open()
    daemon.start()
    assert daemon.ask("status")["accepted"] >= open_then > 0
    settle(daemon)


@pytest.mark.parametrize("places", [("memory", "memory"), ("memory", "off")])
def test_with_nothing_on_the_disk_a_kill_of_the_acker_loses_what_was_open_and_nothing_later(daemon: Daemon) -> None:
    storm(daemon, "acker")
    before = set(daemon.oracle.receipted)
    daemon.feed(lambda: True)

    def counts() -> dict[str, Any]:
        return daemon.ask("status")

    eventually(lambda: counts()["open"] == 0, "nothing is open")
    known = counts()
    assert known["accepted"] == known["completed"] + known["failed"]
    assert daemon.stop() == 0
    assert daemon.oracle.receipted - before <= set(lines(daemon.sink)) <= set(range(daemon.oracle.sent))
    assert not daemon.dir.store.exists()
