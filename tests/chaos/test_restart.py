"""`consecutiond restart` under load: one worker after the other becomes another process; nothing is lost or fails."""

import os
import subprocess
import sys
from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.chaos.daemon import Daemon, eventually, running
from tests.chaos.oracle import lines

pytestmark = pytest.mark.chaos

_COMMAND = (sys.executable, "-c", "from consecutiond.cli import main; main()")


def type_in(daemon: Daemon, verb: str, *words: str) -> "subprocess.CompletedProcess[str]":
    """Type a command about a daemon."""
    return subprocess.run(
        [*_COMMAND, verb, daemon.dir.id, *words, "--dir", str(daemon.dir.base)],
        capture_output=True, text=True, check=False, env=os.environ | daemon.environment,
    )  # fmt: skip


def restarted(daemon: Daemon, *words: str) -> dict[str, Any]:
    done = type_in(daemon, "restart", "--json", *words)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = msgspec.json.decode(done.stdout)
    return found


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    yield from running(Daemon.of_dag(tmp_path))


def test_each_node_in_turn_is_restarted_again_and_again_under_load(daemon: Daemon) -> None:
    """No other process is touched; nothing is lost or fails, and the sink gets every line once."""
    load = daemon.load(rate=inf)
    for _ in range(2):
        for node in ("parse", "split", "left", "right", "load"):
            before = daemon.pids()
            progress = restarted(daemon, node)
            now = daemon.pids()
            changed = sorted(name for name, pid in now.items() if pid != before[name])
            assert changed == sorted(name for name in now if name.startswith(f"node-{node}."))
            assert sorted(progress["restarted"]) == changed
            assert (progress["outcome"], progress["killed"], progress["left"]) == ("done", [], [])
            load.check()
    load.end()
    verdict = daemon.drain()
    assert verdict.accepted == daemon.oracle.sent
    assert (verdict.failed, verdict.repeated) == (set(), 0)


def test_without_a_node_all_of_them_are_restarted_from_the_top_and_the_output_stays(daemon: Daemon) -> None:
    before = daemon.pids()
    load = daemon.load()
    done = type_in(daemon, "restart")
    assert (done.returncode, done.stdout) == (0, "daemon: 6 restarted\n")
    names = [line.split()[0] for line in done.stderr.splitlines()]
    assert [name.partition(".")[0] for name in names] == [
        "node-parse", "node-split", "node-left", "node-left", "node-right", "node-load"
    ]  # fmt: skip
    now = daemon.pids()
    assert {name for name in now if now[name] != before[name]} == set(names)
    load.end()
    assert not daemon.drain().failed


def test_the_output_is_restarted_by_name(daemon: Daemon) -> None:
    before = daemon.pids()
    load = daemon.load()
    assert restarted(daemon, "output")["restarted"] == ["output"]
    now = daemon.pids()
    assert {name for name in now if now[name] != before[name]} == {"output"}
    load.end()
    verdict = daemon.drain()
    assert (verdict.failed, verdict.repeated) == (set(), 0)


#: the line of the other tests, but the middle node does not return from an item while a file is there
HANGING = """
import time
from pathlib import Path
from tests.graphs import line
class Enrich(line.Enrich):
    def process(self, item):
        while (Path(__file__).parent / "hang").exists():
            time.sleep(0.05)
        super().process(item)
graph = line.Parse("parse") | Enrich("enrich") | line.Load("load")
"""

#: the same line, but the workers of the middle node cannot be made while a file is there
RAISING = """
from pathlib import Path
from tests.graphs.line import *
class Enrich(Enrich):
    def __init__(self, *words):
        super().__init__(*words)
        if sys.argv[-1].startswith("node-enrich.") and (Path(__file__).parent / "die").exists():
            raise LookupError("no such table")
def middle():
    node = Enrich("enrich")
    node.set_num_workers(2)
    return node
graph = Parse("parse") | middle() | Load("load")
""".replace("from pathlib", "import sys\nfrom pathlib", 1)


def line_of(directory: Path, monkeypatch: pytest.MonkeyPatch, text: str, **environment: str) -> Daemon:
    repository = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(repository), os.environ.get("PYTHONPATH", "")]))
    target = directory / "flow.py"
    target.write_text(text)
    return Daemon(directory, f"{target}:graph", **environment)


def test_a_worker_that_does_not_end_in_time_is_killed_and_its_item_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for daemon in running(line_of(tmp_path, monkeypatch, HANGING)):
        (tmp_path / "hang").touch()
        load = daemon.load()
        eventually(lambda daemon=daemon: daemon.count_open() > 50, "it hangs")
        before = daemon.pids()
        assert restarted(daemon, "enrich", "--timeout", "0.5")["killed"] == ["node-enrich.0"]
        now = daemon.pids()
        assert {name for name in now if now[name] != before[name]} == {"node-enrich.0"}
        (tmp_path / "hang").unlink()
        load.end()
        assert not daemon.drain().failed


def test_a_restart_into_broken_code_stops_at_the_first_worker_which_is_given_up_until_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other worker has the old code, and does the work alone; status says what is wrong."""
    for daemon in running(line_of(tmp_path, monkeypatch, RAISING, CONSECUTIOND_RESTART_LIMIT="4")):
        before, starts = daemon.pids(), daemon.starts("node-enrich.0")
        (tmp_path / "die").touch()
        broken = type_in(daemon, "restart")
        assert broken.returncode == 6
        assert "node-parse.0 restarted (1 of 4)" in broken.stderr
        assert "node-enrich.0 could not start:" in broken.stderr
        assert "LookupError: no such table" in broken.stderr
        assert "not touched: node-enrich.1, node-load.0" in broken.stderr
        eventually(lambda daemon=daemon: daemon.ask("status")["state"] == "degraded", "it is given up")
        # The end that was asked for is no death.
        assert daemon.starts("node-enrich.0") - starts == 4
        status = daemon.ask("status")
        assert status["parts"]["node-enrich.0"]["state"] == "failed"
        shown = type_in(daemon, "status")
        assert shown.returncode == 0
        assert shown.stdout.startswith("daemon: degraded")
        assert "LookupError: no such table" in shown.stderr
        daemon.feed(lambda: True)
        eventually(lambda daemon=daemon: set(lines(daemon.sink)) >= daemon.oracle.receipted, "the rest flows")
        (tmp_path / "die").unlink()
        assert restarted(daemon, "enrich")["restarted"] == ["node-enrich.0", "node-enrich.1"]
        assert daemon.ask("status")["state"] == "running"
        now = daemon.pids()
        assert {name for name in now if now[name] == before[name]} >= {"node-load.0", "acker", "heart", "output"}
        assert not daemon.drain().failed
