"""Kills of the heart and of the root, two at once, and parts that cannot live, under load: receipts are kept."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from consecutiond import Consecutor
from consecutiond.feeder import GoneError
from consecutiond.rundir import LiveError
from consecutiond_broker.recorder import RefusedError
from tests.chaos.daemon import PATIENCE_S, Daemon, alive, eventually, running
from tests.chaos.oracle import lines
from tests.graphs import line

pytestmark = pytest.mark.chaos


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    yield from running(Daemon(tmp_path))


class Meanwhile(threading.Thread):
    """Does something while the test feeds; what goes wrong in it is raised by `over`."""

    def __init__(self, what: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._what = what
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._what()
        except BaseException as error:
            self._error = error

    def over(self) -> bool:
        if not self.is_alive() and self._error is not None:
            raise self._error
        return not self.is_alive()


def test_kill_9_of_the_heart_stops_nothing_that_flows(daemon: Daemon) -> None:
    """It is back by itself, knows every part again, and still restarts what dies. Nobody else is touched."""

    def kill_hearts() -> None:
        before = daemon.pids()
        for _ in range(3):
            old = daemon.heart()
            daemon.kill("heart")
            eventually(lambda old=old: daemon.heart() != old and daemon.is_up(), "a new heart knows all parts")
            now = daemon.pids()
            assert {**now, "heart": 0} == {**before, "heart": 0}
        assert {part["restarts"] for part in daemon.parts().values()} == {0}
        daemon.kill("node-enrich.0")
        eventually(lambda: daemon.parts()["node-enrich.0"]["restarts"] == 1 and daemon.is_up(), "it is restarted")
        changed = {name for name, pid in daemon.pids().items() if pid != now[name]}
        assert changed == {"node-enrich.0"}

    meanwhile = Meanwhile(kill_hearts)
    daemon.feed(meanwhile.over)
    daemon.drain()


def test_kill_9_of_the_root_leaves_no_process_and_the_next_start_completes_every_receipt(daemon: Daemon) -> None:
    pids = daemon.pids()

    def kill_root() -> None:
        eventually(lambda: len(daemon.oracle.receipted) >= 5000, "there is some load")
        daemon.process.kill()

    meanwhile = Meanwhile(kill_root)
    with pytest.raises(GoneError):
        daemon.feed(lambda: False)
    assert meanwhile.over()
    assert daemon.process.wait(PATIENCE_S) == -signal.SIGKILL
    eventually(lambda: not daemon.mentions() and not any(map(alive, pids.values())), "no process of ours is left")
    daemon.start()
    assert set(daemon.pids().values()).isdisjoint(pids.values())
    daemon.feed(lambda: True)
    assert daemon.stop() == 0
    assert "an earlier run left" in daemon.errors.read_text()
    daemon.judge_drained()


def test_term_to_the_root_drains_the_graph(daemon: Daemon) -> None:
    pids = daemon.pids()

    def term() -> None:
        eventually(lambda: len(daemon.oracle.receipted) >= 5000, "there is some load")
        daemon.process.terminate()

    meanwhile = Meanwhile(term)
    with pytest.raises((RefusedError, GoneError)):
        daemon.feed(lambda: False)
    assert meanwhile.over()
    assert daemon.process.wait(PATIENCE_S) == 0
    assert not daemon.mentions()
    assert not any(map(alive, pids.values()))
    daemon.judge_drained()


@pytest.mark.parametrize(
    "names",
    [
        ("node-parse.0", "broker-parse-enrich"),
        ("acker", "node-load.0"),
        ("acker", "broker-enrich-load"),
        ("heart", "node-enrich.0"),
        ("heart", "acker"),
    ],
    ids=" and ".join,
)
def test_two_that_are_killed_at_once_come_both_back(daemon: Daemon, names: tuple[str, ...]) -> None:
    before = daemon.pids()

    def kill_two() -> None:
        daemon.kill(*names)
        eventually(lambda: daemon.heart() != before["heart"] or "heart" not in names, "there is a heart")
        eventually(daemon.is_up, "all are up again")

    meanwhile = Meanwhile(kill_two)
    daemon.feed(meanwhile.over)
    changed = {name for name, pid in daemon.pids().items() if pid != before[name]}
    assert changed == set(names)
    assert daemon.ask("status")["state"] == "running"
    daemon.drain()


#: the line of the other tests, but one worker kills itself whenever it is imported while a file is there
DYING = """
import os, signal, sys
from pathlib import Path
from tests.graphs.line import *
if sys.argv[-1] == "node-enrich.0" and (Path(__file__).parent / "die").exists():
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def dying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    repository = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(repository), os.environ.get("PYTHONPATH", "")]))
    target = tmp_path / "dying.py"
    target.write_text(DYING)
    yield from running(Daemon(tmp_path, f"{target}:graph"))


def test_a_part_that_dies_at_once_always_is_restarted_ever_later_and_takes_nobody_down(dying: Daemon) -> None:
    before = dying.pids()
    die = dying.errors.parent / "die"
    die.touch()
    dying.kill("node-enrich.0")
    eventually(lambda: dying.parts()["node-enrich.0"]["restarts"] >= 5, "it is tried again and again")
    dying.feed(lambda: True)
    eventually(lambda: set(lines(dying.sink)) >= dying.oracle.receipted, "the other worker of the node does the work")
    others = {name: part["pid"] for name, part in dying.parts().items() if name != "node-enrich.0"}
    assert others == {name: before[name] for name in others}
    die.unlink()
    eventually(dying.is_up, "it lives again")
    dying.drain()
    events = [msgspec.json.decode(text) for text in (dying.dir.log_dir / "heart.log").read_text().splitlines()]
    delays = [event["restart_in_s"] for event in events if event["event"] == "part.died"]
    # The first death may have come after a stable life, which is restarted at once.
    delays = delays[delays[0] == 0 :]
    assert len(delays) >= 4
    assert all(0.05 * 2**k <= delay <= 0.1 * 2**k + 0.001 for k, delay in enumerate(delays))


#: the first node says of each item whether the last one had begun by then
SLOW = """
import time
from pathlib import Path
from consecutiond import Node
BEGUN = Path(__file__).parent / "begun"
GO = Path(__file__).parent / "go"
def wait():
    while not GO.exists():
        time.sleep(0.01)
class First(Node):
    def process(self, item):
        self.write("in_time", BEGUN.exists())
        self.push(item)
class Slow(Node):
    def begin(self):
        wait()
        BEGUN.touch()
    def process(self, item):
        self.write("ids", item["id"])
graph = First("first") | Slow("slow")
"""


def test_nothing_is_processed_before_a_node_whose_begin_takes_long_is_up(tmp_path: Path) -> None:
    """What is fed meanwhile is recorded, and waits."""
    target = tmp_path / "slow.py"
    target.write_text(SLOW)
    daemon = Daemon(tmp_path, f"{target}:graph")
    try:
        daemon.launch()
        eventually((daemon.dir.socket_dir / "acker.sock").exists, "the acker is there")
        daemon.feed(lambda: True)
        assert not (tmp_path / "begun").exists()
        assert daemon.ask("status")["state"] == "starting"
        (tmp_path / "go").touch()
        daemon.ask("wait")
        assert (tmp_path / "begun").exists()
        daemon.drain()
    finally:
        daemon.close()
    in_time = (daemon.dir.path / "output_files" / "in_time.jsonl").read_text().split()
    assert set(in_time) == {"true"}
    assert set(lines(daemon.sink)) == daemon.oracle.receipted


def test_a_daemon_that_cannot_come_up_ends_with_the_users_traceback_and_leaves_nothing(tmp_path: Path) -> None:
    """In the foreground nobody waits but the service manager, which only sees the exit code."""
    target = tmp_path / "broken.py"
    target.write_text(SLOW.replace("        wait()", "        raise LookupError('no such table')"))
    daemon = Daemon(tmp_path, f"{target}:graph")
    try:
        daemon.launch()
        assert daemon.process.wait(PATIENCE_S) == 6
        assert not daemon.mentions()
    finally:
        daemon.close()
    said = daemon.errors.read_text()
    assert "consecutiond: error: node-slow.0 could not start:" in said
    assert "LookupError: no such table" in said


def test_a_second_consecutor_of_the_same_id_does_not_touch_the_first(daemon: Daemon) -> None:
    before = daemon.pids()
    second = Consecutor(line.graph, target=daemon.target, id=daemon.dir.id, dir=daemon.dir.base)
    with pytest.raises(LiveError, match=f"pid {daemon.process.pid}"):
        second.up()
    daemon.feed(lambda: True)
    assert daemon.pids() == before
    daemon.drain()
