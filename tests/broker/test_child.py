"""Children bind their lives to their root, and are told apart by pid and start time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from consecutiond_broker.child import EXIT_ORPHAN, ROOT_PID, identity, start_time

FLOOR = Path(__file__).parents[2] / "broker"
ADOPT = "from consecutiond_broker import child; child.adopt(); "


def run_child(code: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    clean = {key: value for key, value in os.environ.items() if key != ROOT_PID}
    return subprocess.run(
        [sys.executable, "-c", ADOPT + code],
        env=clean | {"PYTHONPATH": str(FLOOR)} | environment,
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip


def test_a_child_of_its_root_goes_on_as_the_leader_of_its_group() -> None:
    done = run_child("import os; print(os.getpid(), os.getpgid(0))", **{ROOT_PID: str(os.getpid())})
    pid, group = done.stdout.split()
    assert done.returncode == 0
    assert pid == group


@pytest.mark.parametrize("root", ["1", "0", "", "rubbish"])
def test_a_child_of_anybody_else_exits_without_a_word(root: str) -> None:
    """The root ended before the child could bind itself to it, so the parent is another process."""
    done = run_child("print('alive')", **{ROOT_PID: root})
    assert (done.returncode, done.stdout, done.stderr) == (EXIT_ORPHAN, "", "")


def test_a_part_run_by_hand_needs_no_root() -> None:
    """Without the variable there is no root to be an orphan of."""
    assert run_child("print('alive')").stdout == "alive\n"


def test_adopting_is_harmless_for_a_session_leader() -> None:
    """Setpgid is refused to it, and it leads its group already."""
    done = subprocess.run(
        [sys.executable, "-c", ADOPT + "print('alive')"], start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(FLOOR)}, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("alive\n", 0)


def test_a_child_is_killed_with_its_parent() -> None:
    """The parent is killed, so it can do nothing about it; the kernel does."""
    parent = (
        "import os, subprocess, sys, time\n"
        f"os.environ[{ROOT_PID!r}] = str(os.getpid())\n"
        f"code = {ADOPT + 'import os, time; print(os.getpid(), flush=True); time.sleep(600)'!r}\n"
        "subprocess.Popen([sys.executable, '-c', code])\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent], env=os.environ | {"PYTHONPATH": str(FLOOR)}, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert start_time(pid) is not None
        process.kill()
        # The pipe closes when the last process that can write to it is gone.
        assert process.stdout.read() == b""
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}/stat").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < deadline


def test_what_a_child_imports_first_is_cheap() -> None:
    """Before it is bound, a child should have spent its time on little else."""
    done = run_child("import sys; print(*sys.modules)")
    assert not {"numpy", "zmq", "msgspec", "logging", "pathlib", "consecutiond"} & set(done.stdout.split())


def test_identity_is_pid_and_start_time_of_this_process() -> None:
    assert identity() == (os.getpid(), start_time(os.getpid()))
    assert identity()[1] > 0


def test_a_later_process_has_a_later_or_equal_start_time() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        started = start_time(process.pid)
        process.kill()
    assert started is not None
    assert started >= identity()[1]


@pytest.mark.parametrize("name", ["plain", "a) S 1 (b", "x 1 2 3 )", "((("])
def test_a_command_with_parentheses_and_spaces_does_not_confuse_the_start_time(name: str) -> None:
    """The second field of /proc/PID/stat is free text that may look like the fields after it."""
    code = (
        f"import ctypes; ctypes.CDLL(None).prctl(15, {name.encode()!r}); print(flush=True); "
        "import time; time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        before = start_time(process.pid)
        assert process.stdout is not None
        process.stdout.readline()
        assert Path(f"/proc/{process.pid}/comm").read_text() == f"{name}\n"
        assert start_time(process.pid) == before
        process.kill()


def test_a_zombie_has_a_start_time_and_a_reaped_process_none() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    started = start_time(process.pid)
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert start_time(process.pid) == started
    process.wait()
    assert start_time(process.pid) is None
