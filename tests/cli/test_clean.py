"""`consecutiond clean`: everything that is provably of a consecutor goes, by force, and nothing else does."""

import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from consecutiond import eviction, processes
from consecutiond.cli import clean as clean_module
from consecutiond.cli import exits
from consecutiond.effective import Given
from consecutiond.rundir import RunDir, RunDirError
from consecutiond_broker import child
from tests.system.shell import Shell, logged, wait_for

#: a node that starts two processes of its own, one of them in a session of its own, and works when the gate is open
FLOW = """
    import subprocess
    import time
    from pathlib import Path
    from consecutiond import Node

    class Gate(Node):
        def begin(self):
            subprocess.Popen(["sleep", "600"])
            subprocess.Popen(["sleep", "600"], start_new_session=True)

        def process(self, value):
            while value == "wait" and not Path("open").exists():
                time.sleep(0.01)
            if value == "bad":
                raise ValueError("bad")
            self.write("out", value)

    graph = Gate("gate")
"""
CLEAN = "clean"


@pytest.fixture
def flow(shell: Shell) -> Shell:
    shell.write("flow.py", FLOW)
    return shell


@pytest.fixture
def stranger() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that has nothing to do with any of it."""
    with subprocess.Popen(["sleep", "600"], process_group=0) as process:
        yield process
        process.kill()


def start(flow: Shell, *ids: str) -> None:
    for id in ids:
        done = flow.run("start", "flow.py", "--id", id, "--detach")
        assert done.returncode == exits.OK, done.stderr


def push(flow: Shell, id: str, *values: str) -> None:
    assert flow.run("push", id, stdin="\n".join(values)).returncode == exits.OK


def of(flow: Shell, id: str) -> set[int]:
    """Return every process of a consecutor: those that name its directory or have its root's address."""
    home, address = os.fsencode(flow.home(id)) + b"/", RunDir(flow.home(id).parent, id).supervisor_address.encode()
    found = set()
    for pid in flow.living():
        try:
            seen = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if home in seen or address in seen:
            found.add(pid)
    return found


def root_of(flow: Shell, id: str) -> int:
    return int((flow.home(id) / "pid_files" / "root.pid").read_text().split()[0])


def kill_root(flow: Shell, id: str) -> None:
    os.kill(root_of(flow, id), signal.SIGKILL)
    wait_for(lambda: not RunDir(flow.home(id).parent, id).is_live(), "the end of the root")


def shown(flow: Shell, *words: str) -> tuple[int, list[dict[str, Any]]]:
    done = flow.run(CLEAN, "--json", *words)
    return done.returncode, msgspec.json.decode(done.stdout)


# --- who is killed -------------------------------------------------------------------------------------------


def test_a_running_one_goes_with_all_its_processes_and_those_they_started_and_others_stay(flow: Shell) -> None:
    start(flow, "one", "two")
    before, other, root = of(flow, "one"), of(flow, "two"), root_of(flow, "one")
    # root, heart, acker, two brokers, worker, output, and two sleepers
    assert len(before) == len(other) == 9
    done = flow.run(CLEAN, "one")
    assert (done.returncode, done.stderr) == (exits.OK, "")
    assert of(flow, "one") == set()
    assert not flow.home("one").exists()
    assert [path.name for path in flow.home("one").parent.iterdir()] == ["two"]
    killed, removed = done.stdout.splitlines()
    assert {int(pid) for pid in re.findall(r"pid (\d+)", killed)} == before
    assert f"root (pid {root})" in killed
    assert re.search(r"sleep \(pid \d+, started by node-gate\.0\)", killed)
    assert removed == f"one: removed {flow.home('one')}"
    assert of(flow, "two") == other
    assert flow.status("two")["state"] == "running"
    assert all(part["restarts"] == 0 for part in flow.status("two")["parts"].values())


def test_a_root_that_is_stopped_and_answers_nobody_goes_too(flow: Shell) -> None:
    start(flow, "one")
    os.kill(root_of(flow, "one"), signal.SIGSTOP)
    assert flow.run(CLEAN, "one").returncode == exits.OK
    assert of(flow, "one") == set()
    assert not flow.home("one").exists()


def test_of_a_killed_one_what_its_workers_had_started_goes_with_their_groups(flow: Shell) -> None:
    """A process that has made a session of its own and lost its parent is not provably ours any more."""
    start(flow, "one")
    sleepers = {pid for pid, command in flow.living().items() if command.startswith("sleep")}
    kill_root(flow, "one")
    wait_for(lambda: of(flow, "one") == sleepers, "the end of the parts")
    done = flow.run(CLEAN, "one")
    assert done.returncode == exits.OK
    [left] = of(flow, "one")
    assert os.getsid(left) == left
    [killed] = sleepers - {left}
    assert f"one: killed sleep (pid {killed}, started by a part that is gone)" in done.stdout
    assert not flow.home("one").exists()


def test_a_pid_that_somebody_else_has_by_now_is_left_alone(flow: Shell, stranger: "subprocess.Popen[bytes]") -> None:
    """In the pid file of a part, of the root, and in the lock; each with a start time that is not his."""
    start(flow, "one")
    kill_root(flow, "one")
    started = child.start_time(stranger.pid)
    assert started is not None
    for name in ("node-gate.0", "root", "heart"):
        (flow.home("one") / "pid_files" / f"{name}.pid").write_text(f"{stranger.pid} {started - 1}\n")
    (flow.home("one") / "lock").write_text(f"{stranger.pid} {started - 1} 1700000000\n")
    _, [outcome] = shown(flow, "one", "--dry-run")
    assert stranger.pid not in [each["pid"] for each in outcome["killed"]]
    status, [outcome] = shown(flow, "one")
    assert (status, outcome["removed"]) == (exits.OK, str(flow.home("one")))
    assert stranger.pid not in [each["pid"] for each in outcome["killed"]]
    assert stranger.poll() is None


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_PATIENCE_S", "_SETTLE_S", "_TURN_S"):
        monkeypatch.setattr(eviction, name, 0.05)


def test_a_lock_that_somebody_holds_who_cannot_be_told_is_an_error_and_kills_nobody(
    flow: Shell, stranger: "subprocess.Popen[bytes]", impatient: None
) -> None:
    directory = RunDir(flow.home("one").parent, "one")
    directory.create()
    lock = directory.acquire()
    started = child.start_time(stranger.pid)
    assert started is not None
    directory.lock.write_text(f"{stranger.pid} {started - 1} 1700000000\n")
    with pytest.raises(RunDirError, match="held by a process that does not die, or that its content does not tell"):
        eviction.Eviction(directory, threads=False).kill_living()
    os.close(lock)
    assert stranger.poll() is None


#: holds the lock of a consecutor, as its root does, and has a child
HOLDER = """
import subprocess, time
from pathlib import Path
from consecutiond.rundir import RunDir
directory = RunDir(Path(".consecution"), "one")
directory.create()
lock = directory.acquire()
directory.write_pid("root")
print(subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL).pid, flush=True)
time.sleep(600)
"""


def test_an_interrupted_clean_leaves_nobody_stopped(flow: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    flow.write("holder.py", HOLDER)
    holder = flow.python("holder.py")
    assert holder.stdout is not None
    pids = holder.pid, int(holder.stdout.readline())

    def states() -> list[str]:
        return [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in pids]

    directory, table = RunDir(flow.home("one").parent, "one"), processes.table

    asked = []

    def interrupted() -> dict[int, processes.Process]:
        """Everybody has been told to stop when it is asked for the second time."""
        asked.append(1)
        if len(asked) == 2:
            wait_for(lambda: states() == ["T", "T"], "the stop")
            raise KeyboardInterrupt
        return table()

    monkeypatch.setattr(processes, "table", interrupted)
    with pytest.raises(KeyboardInterrupt):
        eviction.Eviction(directory, threads=False).kill_living()
    wait_for(lambda: "T" not in states(), "the end of the stop")
    monkeypatch.undo()
    killed = eviction.Eviction(directory, threads=False).kill_living()
    assert sorted(each.pid for each in killed) == sorted(pids)


def test_the_group_of_whoever_cleans_is_spared_when_a_node_does_it(flow: Shell) -> None:
    """A node that has its own consecutor removed sees the end of the command."""
    flow.write(
        "own.py",
        """
        import subprocess
        import sys
        from consecutiond import Node

        class Own(Node):
            def process(self, value):
                log = open("cleaned", "w")
                argv = [sys.executable, "-m", "consecutiond", "clean", "own", "--force", "--dir", value]
                subprocess.Popen(argv, stdout=log, stderr=log)

        graph = Own("own")
        """,
    )
    assert flow.run("start", "own.py", "--detach").returncode == exits.OK
    push(flow, "own", str(flow.home("own").parent))
    wait_for(lambda: not flow.home("own").exists(), "the removal")
    wait_for(lambda: "removed" in (flow.directory / "cleaned").read_text(), "the end of the command")
    wait_for(lambda: not flow.living(), "the end of all")


# --- what would be lost --------------------------------------------------------------------------------------


def test_accepted_items_are_not_thrown_away_without_force(flow: Shell) -> None:
    start(flow, "one")
    push(flow, "one", "bad")
    wait_for(lambda: flow.status("one")["failed"], "the failure")
    push(flow, "one", "wait", "wait")
    done = flow.run(CLEAN, "one")
    assert (done.returncode, done.stdout) == (exits.REFUSED, "")
    assert done.stderr == (
        "consecutiond: refused: one: 2 accepted item(s) that are not done and 1 failed item(s) would be thrown away; "
        "--force does it\n"
    )
    assert flow.status("one")["state"] == "running"
    assert flow.run(CLEAN, "one", "--force").returncode == exits.OK
    assert of(flow, "one") == set()
    assert not flow.home("one").exists()


def test_failed_items_of_one_that_has_finished_are_not_thrown_away_either(flow: Shell) -> None:
    assert flow.run("run", "flow.py", "--id", "one", stdin="bad\ngood\n").returncode == exits.SOME_FAILED
    status, [outcome] = shown(flow, "one")
    assert (status, outcome["open"], outcome["failed"], outcome["removed"]) == (exits.REFUSED, 0, 1, "")
    assert outcome["refused"] == "1 failed item(s) would be thrown away"
    assert logged(flow.home("one"))["failed"] == 1
    status, [outcome] = shown(flow, "one", "--force")
    assert (status, outcome["killed"], outcome["removed"]) == (exits.OK, [], str(flow.home("one")))


def test_a_log_in_memory_is_asked_for(flow: Shell) -> None:
    assert flow.run("start", "flow.py", "--id", "one", "--detach", "--store", "memory://").returncode == exits.OK
    push(flow, "one", "wait", "wait")
    status, [outcome] = shown(flow, "one")
    assert (status, outcome["open"]) == (exits.REFUSED, 2)
    heart = int((flow.home("one") / "pid_files" / "heart.pid").read_text().split()[0])
    os.kill(heart, signal.SIGSTOP)
    status, [outcome] = shown(flow, "one")
    assert (status, outcome["refused"]) == (
        exits.REFUSED, "whatever it holds (it does not answer) would be thrown away",
    )  # fmt: skip
    assert flow.run(CLEAN, "one", "--force").returncode == exits.OK
    assert of(flow, "one") == set()


def test_a_log_that_cannot_be_read_may_hold_anything(flow: Shell) -> None:
    assert flow.run("run", "flow.py", "--id", "one", stdin="x\n").returncode == exits.OK
    (flow.home("one") / "acker_db.sqlite").write_bytes(b"no database" * 1000)
    done = flow.run(CLEAN, "one")
    assert done.returncode == exits.REFUSED
    assert f"whatever is in {flow.home('one') / 'acker_db.sqlite'}" in done.stderr
    assert flow.run(CLEAN, "one", "--force").returncode == exits.OK


def test_what_comes_in_between_the_look_and_the_kill_is_not_thrown_away(
    flow: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start(flow, "one")
    push(flow, "one", "wait")
    monkeypatch.setattr(clean_module, "_loss", lambda *_: clean_module.Loss())
    given = Given({"dir": str(flow.home("one").parent)})
    code = clean_module.clean(["one"], given, everything=False, force=False, dry_run=False, as_json=False)
    assert code == exits.REFUSED
    assert "1 accepted item(s) that are not done came in meanwhile; it was killed" in capsys.readouterr().err
    assert of(flow, "one") == set()
    assert logged(flow.home("one"))["open"] == 1


def test_a_log_elsewhere_stays_and_so_nothing_is_lost(flow: Shell) -> None:
    log = flow.directory / "elsewhere.sqlite"
    done = flow.run("run", "flow.py", "--id", "one", "--store", f"sqlite:///{log}", stdin="bad\n")
    assert done.returncode == exits.SOME_FAILED
    done = flow.run(CLEAN, "one")
    assert done.returncode == exits.OK
    assert f"one: its log is elsewhere and stays: sqlite:///{log}" in done.stdout
    assert log.exists()
    assert not flow.home("one").exists()


def at_terminal(flow: Shell, answer: str, *words: str) -> tuple[int, str]:
    master, slave = pty.openpty()
    process = flow.spawn(CLEAN, *words, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    seen = b""
    while b"[y/N]" not in seen:
        seen += os.read(master, 4096)
    os.write(master, answer.encode())
    while True:
        try:
            seen += os.read(master, 4096)
        except OSError:
            # This is how a terminal says that nobody has it open any more.
            break
    os.close(master)
    return process.wait(60), seen.decode()


def test_on_a_terminal_it_asks(flow: Shell) -> None:
    assert flow.run("run", "flow.py", "--id", "one", stdin="bad\n").returncode == exits.SOME_FAILED
    status, seen = at_terminal(flow, "\n", "one")
    assert status == exits.REFUSED
    assert "one: this throws away 1 failed item(s). Go on? [y/N]" in seen
    assert flow.home("one").exists()
    assert at_terminal(flow, "y\n", "one")[0] == exits.OK
    assert not flow.home("one").exists()


def test_a_script_that_runs_its_graph_in_threads_is_killed_only_with_force(flow: Shell) -> None:
    flow.write(
        "threads.py",
        """
        import subprocess
        import time
        from consecutiond import Consecutor, Node

        sleeper = subprocess.Popen(["sleep", "600"])
        with Consecutor(Node("a"), architecture="thread", id="one"):
            print("up", flush=True)
            while True:
                time.sleep(0.1)
        """,
    )
    script = flow.python("threads.py")
    assert script.stdout is not None
    assert script.stdout.readline() == "up\n"
    done = flow.run(CLEAN, "one")
    assert done.returncode == exits.REFUSED
    assert f"the script that runs it in threads (pid {script.pid}) would be thrown away" in done.stderr
    assert script.poll() is None
    done = flow.run(CLEAN, "one", "--force")
    assert done.returncode == exits.OK
    assert f"one: killed the script (pid {script.pid})\n" in done.stdout
    assert script.wait(60) == -signal.SIGKILL
    assert not flow.home("one").exists()
    assert [command for command in flow.living().values() if command.startswith("sleep")], "what is the script's stays"


# --- the command line ----------------------------------------------------------------------------------------


def test_all_of_a_directory_go_but_those_that_hold_something(flow: Shell) -> None:
    start(flow, "running", "killed")
    kill_root(flow, "killed")
    assert flow.run("run", "flow.py", "--id", "failed", stdin="bad\n").returncode == exits.SOME_FAILED
    status, outcomes = shown(flow, "--all")
    assert status == exits.REFUSED
    assert {each["id"]: bool(each["removed"]) for each in outcomes} == {
        "failed": False, "killed": True, "running": True,
    }  # fmt: skip
    assert [path.name for path in (flow.directory / ".consecution").iterdir()] == ["failed"]
    assert flow.run(CLEAN, "--all", "--force").returncode == exits.OK
    done = flow.run(CLEAN, "--all")
    assert (done.returncode, done.stdout) == (exits.OK, f"no consecutor in {flow.directory / '.consecution'}\n")


def test_a_dry_run_says_who_and_touches_nobody(flow: Shell) -> None:
    start(flow, "one")
    before = of(flow, "one")
    done = flow.run(CLEAN, "one", "--dry-run")
    assert done.returncode == exits.OK
    would, removed = done.stdout.splitlines()
    assert would.startswith("one: would kill root (pid ")
    assert {int(pid) for pid in re.findall(r"pid (\d+)", would)} == before
    assert removed == f"one: would remove {flow.home('one')}"
    assert of(flow, "one") == before
    push(flow, "one", "wait")
    done = flow.run(CLEAN, "one", "--dry-run")
    assert done.returncode == exits.REFUSED
    assert "1 accepted item(s)" in done.stderr
    assert flow.status("one")["state"] == "running"


def test_one_that_cannot_be_removed_holds_up_no_other(flow: Shell) -> None:
    for id in ("one", "two"):
        assert flow.run("run", "flow.py", "--id", id, stdin="x\n").returncode == exits.OK
    real = flow.home("one").rename(flow.directory / "moved")
    flow.home("one").symlink_to(real)
    done = flow.run(CLEAN, "--all")
    assert done.returncode == exits.BAD_DIRECTORY
    assert f"{flow.home('one')} is a link to {real}" in done.stderr
    assert (real / "acker_db.sqlite").exists()
    assert "Traceback" not in done.stderr
    assert done.stdout == f"two: removed {flow.home('two')}\n"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ((), exits.USAGE, "either IDs or --all"),
        (("one", "--all"), exits.USAGE, "either IDs or --all"),
        (("../one",), exits.BAD_DIRECTORY, "cannot be the id of a consecutor"),
        (("one", "typo"), exits.NOT_RUNNING, "there is no consecutor 'typo' in "),
        (("notes",), exits.NOT_RUNNING, "/notes is no consecutor's directory"),
    ],
)
def test_a_mistake_is_explained_and_nothing_is_removed(
    flow: Shell, words: tuple[str, ...], code: int, says: str
) -> None:
    assert flow.run("run", "flow.py", "--id", "one", stdin="x\n").returncode == exits.OK
    (flow.directory / ".consecution" / "notes").mkdir()
    (flow.directory / ".consecution" / "notes" / "diary").touch()
    done = flow.run(CLEAN, *words)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert flow.home("one").exists()
    assert (flow.directory / ".consecution" / "notes" / "diary").exists()


def test_a_start_over_leftovers_names_clean_and_kills_what_is_left_alive(flow: Shell) -> None:
    start(flow, "one")
    kill_root(flow, "one")
    again = flow.run("start", "flow.py", "--id", "one", "--detach")
    assert again.returncode == exits.OK
    assert "killed what was still alive of it: sleep (pid " in again.stderr
    assert "To begin anew instead: `consecutiond clean one`" in again.stderr


def test_ids_are_completed_and_each_is_offered_once(flow: Shell) -> None:
    for id in ("one", "only", "two"):
        (flow.home(id)).mkdir(parents=True)
        (flow.home(id) / "lock").touch()
    line = "consecutiond clean only o"
    flow.environment |= {"_CONSECUTIOND_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": "3"}
    assert flow.run().stdout.split() == ["one"]
