"""What an earlier run has left alive is killed, if it is proven to be of that run; and nothing else is."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from consecutiond.eviction import Eviction
from consecutiond.rundir import RunDir, RunDirError
from consecutiond_broker import child
from consecutiond_broker.epochs import next_epoch

#: says the pid of a child of its own, and waits for the end
PARENT = "import subprocess, sys; print(subprocess.Popen(['sleep', '600']).pid, flush=True); sys.stdin.read()"


@pytest.fixture
def rundir(tmp_path: Path) -> RunDir:
    rundir = RunDir(tmp_path, "ours")
    rundir.create()
    return rundir


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["sleep", "600"], process_group=0) as process:
        yield process
        process.kill()


def record(rundir: RunDir, name: str, pid: int, started: int | None = None) -> None:
    started = child.start_time(pid) if started is None else started
    (rundir.pid_dir / f"{name}.pid").write_text(f"{pid} {started}\n")


def left(rundir: RunDir) -> list[str]:
    """Kill what is left, and return the names."""
    return [each.name for each in Eviction(rundir, threads=False).kill_left()]


def test_a_part_that_still_lives_is_killed_with_its_group(rundir: RunDir) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], process_group=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as part:
        assert part.stdout is not None
        part.stdout.readline()
        record(rundir, "node-a.0", part.pid)
        assert left(rundir) == ["node-a.0"]
        # The pipe closes when the last process that can write to it is gone: the child of the part, too.
        assert part.stdout.read() == b""


def test_a_pid_that_is_somebody_elses_by_now_is_left_alone(rundir: RunDir, sleeper: "subprocess.Popen[bytes]") -> None:
    started = child.start_time(sleeper.pid)
    assert started is not None
    record(rundir, "node-a.0", sleeper.pid, started - 1)
    assert left(rundir) == []
    assert sleeper.poll() is None


def test_the_root_is_judged_by_its_lock_and_not_by_its_pid(rundir: RunDir, sleeper: "subprocess.Popen[bytes]") -> None:
    """A script that runs its graph in threads is its own root, and may have begun something else by now."""
    record(rundir, "root", sleeper.pid)
    assert left(rundir) == []
    assert sleeper.poll() is None


def test_nobody_kills_himself(rundir: RunDir) -> None:
    record(rundir, "output", os.getpid())
    assert left(rundir) == []


def test_a_part_that_is_dead_already_is_none(rundir: RunDir, sleeper: "subprocess.Popen[bytes]") -> None:
    """Also one that nobody has reaped yet."""
    record(rundir, "node-a.0", sleeper.pid)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert left(rundir) == []


def test_a_part_that_does_not_die_holds_up_the_start_with_its_name(
    rundir: RunDir, sleeper: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two acker processes over one store would be the end of every promise."""
    record(rundir, "acker", sleeper.pid)
    monkeypatch.setattr("consecutiond.eviction.kill_if_ours", lambda *_, **__: True)
    monkeypatch.setattr("consecutiond.eviction._PATIENCE_S", 0.05)
    with pytest.raises(RunDirError, match=r"acker \(pid \d+\) of ours was killed and does not die"):
        left(rundir)


@pytest.mark.parametrize("part", ["node-x.pid.0", "node-x.epoch.0", "node-x.cell.0", "node-x.start.0", "node-a.0"])
def test_no_sweep_takes_a_counter_of_epochs_whatever_the_name_of_the_node(rundir: RunDir, part: str) -> None:
    """An epoch that came twice would let a dead worker settle what a living one has."""
    assert next_epoch(rundir.pid_dir, part) == 1
    for stale in (f"{part}.pid", f"{part}.pid.123", f"{part}-1.cell", f"{part}.epoch.123", "graph.start"):
        (rundir.pid_dir / stale).touch()
    rundir.sweep()
    assert [path.name for path in rundir.pid_dir.iterdir()] == [f"{part}.epoch"]
    assert next_epoch(rundir.pid_dir, part) == 2


def test_what_a_dead_part_has_left_in_its_group_is_known_by_the_address_of_its_root(
    rundir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No pid file names it; that of another consecutor, or one that leads a group of its own, is left alone."""
    ours, other = f"unix://{rundir.supervisor_address}", f"unix://{RunDir(rundir.base, 'other').supervisor_address}"
    leaves = "import os, subprocess; print(subprocess.Popen(['sleep', '600'], start_new_session={}).pid)"

    def orphan(address: str, *, own_group: bool = False) -> int:
        """Start a process whose parent leads a group and ends."""
        monkeypatch.setenv("SUPERVISOR_SERVER_URL", address)
        argv = [sys.executable, "-c", leaves.format(own_group)]
        with subprocess.Popen(argv, process_group=0, stdout=subprocess.PIPE) as parent:
            assert parent.stdout is not None
            return int(parent.stdout.readline())

    found, foreign, apart = orphan(ours), orphan(other), orphan(ours, own_group=True)
    try:
        killed = Eviction(rundir, threads=False).kill_left()
        assert [(each.name, each.pid) for each in killed] == [("sleep", found)]
        assert Path(f"/proc/{foreign}/cmdline").read_bytes() == Path(f"/proc/{apart}/cmdline").read_bytes() != b""
    finally:
        for pid in (foreign, apart):
            os.kill(pid, 9)
