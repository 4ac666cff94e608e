"""The root as a real process: what becomes of its children, its signals, its lock and its time."""

import os
import pty
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from consecutiond.rundir import RunDir
from consecutiond.supervision.root import root_argv, spawn_root
from consecutiond.supervision.states import EXIT_ORPHAN, HEART, Program, RootOptions
from consecutiond.supervision.supervisord import SupervisorClient, SupervisorError, render
from consecutiond_broker import child
from consecutiond_broker.child import start_time

REPOSITORY = Path(__file__).parents[2]
#: seconds after which a condition that should come true is given up
PATIENCE_S = 20.0

#: a child that binds itself to the root, says who it is, and waits for a signal that ends it
CHILD = """
from consecutiond_broker import child
child.adopt()
import os, signal, sys
open(sys.argv[1], "w").write(f"{os.getpid()} {os.getppid()} {os.getpgid(0)}")
signal.pause()
"""

#: a heart that writes the signals it gets, one a line, and ends at none but KILL
HEART_CODE = """
from consecutiond_broker import child
child.adopt()
import os, signal, sys
def note(number, frame):
    with open(sys.argv[1], "a") as file:
        file.write(signal.Signals(number).name + "\\n")
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, note)
open(sys.argv[1], "a").write(f"pid {os.getpid()}\\n")
while True:
    signal.pause()
"""


def eventually(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"never came true: {what}"
        time.sleep(0.005)


def alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Tree:
    """A run directory with a root over some programs; everything is killed in the end."""

    def __init__(self, rundir: RunDir) -> None:
        self.rundir = rundir
        self.rundir.create()
        self.client = SupervisorClient(rundir.supervisor_socket)
        self.process: subprocess.Popen[bytes] | None = None

    def program(self, name: str, code: str = CHILD, **options: object) -> Program:
        script = self.rundir.path / f"{name}.py"
        script.write_text(code)
        argv = (sys.executable, str(script), str(self.note(name)))
        env = {"PYTHONPATH": f"{REPOSITORY / 'broker'}"}
        return Program(name, argv, env=env, **options)  # type: ignore[arg-type]

    def note(self, name: str) -> Path:
        return self.rundir.path / f"note-{name}"

    def configure(self, *programs: Program) -> None:
        text = render(programs, self.rundir, RootOptions(directory=str(REPOSITORY)))
        self.rundir.conf.write_text(text, encoding="utf-8")

    def start(self, *programs: Program, die_with_parent: bool = False, lock_fd: int | None = None) -> int:
        self.configure(*programs)
        self.process = spawn_root(
            self.rundir.conf, lock_fd=lock_fd, die_with_parent=die_with_parent, detach=not die_with_parent
        )
        eventually(lambda: self.answers() or self.process.poll() is not None, "the root answers")
        assert self.process.poll() is None, self.log()
        return self.process.pid

    def answers(self) -> bool:
        try:
            return self.client.root_pid() > 0
        except SupervisorError:
            return False

    def log(self) -> str:
        return "".join(path.read_text() for path in sorted(self.rundir.log_dir.iterdir()))

    def states(self) -> dict[str, str]:
        return {info.name: info.state for info in self.client.info()}

    def pids(self) -> list[int]:
        return [info.pid for info in self.client.info() if info.pid is not None]

    def noted_pids(self, *names: str) -> list[int]:
        """Wait until these children have adopted; return their pids."""
        eventually(lambda: all(self.note(n).exists() and self.note(n).read_text() for n in names), "notes")
        return [int(self.note(name).read_text().split()[0]) for name in names]

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            pids = self.pids() if self.answers() else []
            # It may be dead already, and reaped just now; this knows.
            self.process.kill()
            self.process.wait()
            for pid in pids:
                eventually(lambda pid=pid: not alive(pid), f"{pid} dies with its root")
        self.rundir.release_links()


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    tree = Tree(RunDir(tmp_path, "tree"))
    yield tree
    tree.close()


def heart_notes(tree: Tree) -> list[str]:
    return tree.note(HEART).read_text().splitlines() if tree.note(HEART).exists() else []


def test_fifteen_programs_run_without_waiting_for_the_ticks_of_supervisord(tree: Tree) -> None:
    """Every program is spawned and RUNNING at the loop's first turns; stock needs two ticks of a second."""
    tree.start(*(tree.program(f"p{k}") for k in range(15)))
    eventually(lambda: set(tree.states().values()) == {"RUNNING"}, "all run")
    log = (tree.rundir.log_dir / "supervisord.log").read_text()
    stamps = [line.split()[1] for line in log.splitlines() if "started with" in line or "RUNNING" in line]
    assert sum("entered RUNNING" in line for line in log.splitlines()) == 15
    seconds = [int(s[:2]) * 3600 + int(s[3:5]) * 60 + float(s[6:].replace(",", ".")) for s in stamps]
    assert (seconds[-1] - seconds[0]) % 86400 < 1.0


def test_shutdown_over_xmlrpc_stops_everything_and_ends_the_root(tree: Tree) -> None:
    """No tick is waited for between one program and the next: nine priorities would take nine seconds."""
    tree.start(*(tree.program(f"p{k}", priority=10 * k) for k in range(9)))
    pids = tree.noted_pids(*(f"p{k}" for k in range(9)))
    began = time.monotonic()
    tree.client.shutdown()
    assert tree.process is not None
    assert tree.process.wait(PATIENCE_S) == 0
    assert time.monotonic() - began < 5.0
    assert not any(alive(pid) for pid in pids)
    assert not tree.rundir.supervisor_socket.exists()
    assert not (tree.rundir.pid_dir / "root.pid").exists()


def test_higher_priority_numbers_stop_first_and_equal_ones_together(tree: Tree) -> None:
    """A program that ignores TERM holds up the lower numbers, but not those of its own."""
    stubborn = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + CHILD
    tree.start(
        tree.program("last", priority=1),
        tree.program("a-stubborn", stubborn, priority=30, stop_wait_s=600),
        tree.program("b-meek", priority=30),
        tree.program("c-meek", priority=30),
    )
    last, stubborn_pid, *meek = tree.noted_pids("last", "a-stubborn", "b-meek", "c-meek")
    tree.client.shutdown()
    eventually(lambda: not any(alive(pid) for pid in meek), "those of the same number end")
    assert alive(stubborn_pid)
    assert alive(last)
    os.kill(stubborn_pid, signal.SIGKILL)
    assert tree.process is not None
    assert tree.process.wait(PATIENCE_S) == 0
    assert not alive(last)


def test_kill_9_of_the_root_leaves_no_child(tree: Tree) -> None:
    root = tree.start(*(tree.program(f"p{k}") for k in range(6)))
    pids = tree.noted_pids(*(f"p{k}" for k in range(6)))
    assert all(alive(pid) for pid in pids)
    os.kill(root, signal.SIGKILL)
    for pid in pids:
        eventually(lambda pid=pid: not alive(pid), f"child {pid} dies")


def test_a_child_whose_root_is_gone_exits_before_it_does_anything(tmp_path: Path) -> None:
    """The race of design: the parent ended between fork and prctl, so getppid is not the pid it was told."""
    note = tmp_path / "note"
    environment = os.environ | {child.ROOT_PID: "1", "PYTHONPATH": str(REPOSITORY / "broker")}
    done = subprocess.run([sys.executable, "-c", CHILD, str(note)], env=environment, check=False)
    assert done.returncode == EXIT_ORPHAN
    assert not note.exists()


def test_children_know_the_root_and_lead_their_own_groups(tree: Tree) -> None:
    root = tree.start(tree.program("p"))
    tree.noted_pids("p")
    pid, parent, group = map(int, tree.note("p").read_text().split())
    assert parent == root
    assert group == pid


def test_term_and_int_go_to_the_heart_and_stop_nobody(tree: Tree) -> None:
    """Both arrive as TERM; the graph runs on until the heart asks for the shutdown."""
    root = tree.start(tree.program(HEART, HEART_CODE, autorestart=True, stop_wait_s=1), tree.program("p"))
    (pid,) = tree.noted_pids("p")
    eventually(lambda: heart_notes(tree), "the heart is up")
    for number, noted in ((signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGTERM")):
        count = len(heart_notes(tree))
        os.kill(root, number)
        eventually(lambda count=count: len(heart_notes(tree)) > count, f"{number!r} arrives")
        assert heart_notes(tree)[-1] == noted
    assert set(tree.states().values()) <= {"RUNNING", "STARTING"}
    assert alive(pid)


def test_the_third_request_stops_everything_without_the_heart(tree: Tree) -> None:
    root = tree.start(tree.program(HEART, HEART_CODE, autorestart=True, stop_wait_s=1), tree.program("p"))
    eventually(lambda: heart_notes(tree), "the heart is up")
    for count in (2, 3):
        os.kill(root, signal.SIGTERM)
        eventually(lambda count=count: len(heart_notes(tree)) == count, "the heart is asked")
    os.kill(root, signal.SIGTERM)
    assert tree.process is not None
    assert tree.process.wait(PATIENCE_S) == 0


def test_without_a_heart_term_stops_everything(tree: Tree) -> None:
    root = tree.start(tree.program("p"))
    (pid,) = tree.noted_pids("p")
    os.kill(root, signal.SIGTERM)
    assert tree.process is not None
    assert tree.process.wait(PATIENCE_S) == 0
    assert not alive(pid)


@pytest.mark.parametrize("with_heart", [True, False])
def test_hup_means_nothing_to_a_root_without_a_terminal(tree: Tree, with_heart: bool) -> None:
    """Stock supervisord would stop and start every program."""
    programs = [tree.program("p")]
    if with_heart:
        programs.append(tree.program(HEART, HEART_CODE, autorestart=True, stop_wait_s=1))
    root = tree.start(*programs)
    (pid,) = tree.noted_pids("p")
    if with_heart:
        eventually(lambda: heart_notes(tree), "the heart is up")
    os.kill(root, signal.SIGHUP)
    eventually(lambda: "received SIGHUP, and ignored it" in tree.log(), "the signal was taken")
    assert alive(pid)
    assert set(tree.states().values()) <= {"RUNNING", "STARTING"}
    assert [note for note in heart_notes(tree) if not note.startswith("pid")] == []


def test_a_terminal_that_hangs_up_asks_the_root_in_it_for_the_end(tree: Tree) -> None:
    tree.configure(tree.program(HEART, HEART_CODE, autorestart=True, stop_wait_s=1))
    argv = root_argv(tree.rundir.conf, lock_fd=None, die_with_parent=False)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(argv[0], argv)
    try:
        eventually(lambda: tree.answers() and heart_notes(tree), "the heart is up")
        os.close(terminal)
        eventually(lambda: heart_notes(tree)[-1] == "SIGTERM", "the heart is asked")
        assert alive(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_heart_that_dies_of_the_request_does_not_lose_it(tree: Tree) -> None:
    """A heart that has no handler yet dies of TERM; then the root stops everything and restarts nothing."""
    root = tree.start(tree.program(HEART, autorestart=True), tree.program("p"))
    _, pid = tree.noted_pids(HEART, "p")
    os.kill(root, signal.SIGTERM)
    assert tree.process is not None
    assert tree.process.wait(PATIENCE_S) == 0
    assert not alive(pid)


def test_the_root_restarts_the_heart_and_nobody_else(tree: Tree) -> None:
    tree.start(tree.program(HEART, autorestart=True), tree.program("p"))
    for pid in tree.noted_pids(HEART, "p"):
        tree.note(HEART).unlink(missing_ok=True)
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: tree.states() == {HEART: "RUNNING", "p": "EXITED"}, "the heart is back")
    (pid,) = tree.noted_pids(HEART)
    assert alive(pid)


def test_a_heart_that_dies_at_once_is_not_restarted_in_a_tight_loop(tree: Tree) -> None:
    """The root waits a second after its first short life, two after the next; thousands of lives otherwise."""
    code = "import sys; open(sys.argv[1], 'a').write('x')"
    tree.start(tree.program(HEART, code, autorestart=True))
    eventually(lambda: tree.states()[HEART] == "BACKOFF", "it waits")
    assert len(tree.note(HEART).read_text()) == 1
    eventually(lambda: len(tree.note(HEART).read_text()) >= 2, "it is tried again")


def test_the_lock_lives_as_long_as_the_root_and_no_child_has_it(tree: Tree) -> None:
    fd = tree.rundir.acquire()
    root = tree.start(tree.program("p"), lock_fd=fd)
    (pid,) = tree.noted_pids("p")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert tree.rundir.is_live()
    held = [os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")]
    assert str(tree.rundir.lock) not in held
    assert tree.rundir.lock.read_text().split()[:2] == [str(root), str(start_time(root))]
    assert tree.rundir.read_pids()["root"] == (root, start_time(root))
    # The child is stopped, so it cannot notice the death of its root before the lock is looked at.
    os.kill(pid, signal.SIGSTOP)
    os.kill(root, signal.SIGKILL)
    eventually(lambda: not tree.rundir.is_live(), "the lock is free")


def test_a_child_has_no_descriptor_of_the_roots(tree: Tree) -> None:
    """Standard input, output and error are all it inherits."""
    tree.start(*(tree.program(f"p{k}") for k in range(20)), lock_fd=tree.rundir.acquire())
    for pid in tree.noted_pids(*(f"p{k}" for k in range(20))):
        assert set(os.listdir(f"/proc/{pid}/fd")) == {"0", "1", "2"}


def test_the_socket_is_for_this_user_only(tree: Tree) -> None:
    tree.start(tree.program("p"))
    found = tree.rundir.supervisor_socket.stat()
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600


def test_a_stale_socket_of_a_dead_root_is_replaced(tree: Tree) -> None:
    first = tree.start(tree.program("p"), lock_fd=tree.rundir.acquire())
    os.kill(first, signal.SIGKILL)
    assert tree.process is not None
    tree.process.wait(PATIENCE_S)
    assert tree.rundir.supervisor_socket.exists()
    second = tree.start(tree.program("p"), lock_fd=tree.rundir.acquire())
    assert tree.client.root_pid() == second
    # Supervisord prints when it removes one itself, and then sleeps.
    assert (tree.rundir.log_dir / "root.log").read_text() == ""


def test_the_root_prints_nothing(tree: Tree) -> None:
    """Not even the warning about running as the superuser, and no line of its log."""
    tree.configure(tree.program("p"))
    argv = [sys.executable, "-m", "consecutiond.supervision.root", str(tree.rundir.conf)]
    path = os.pathsep.join(str(REPOSITORY / floor) for floor in ("", "broker", "nodes"))
    with subprocess.Popen(
        argv, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        tree.noted_pids("p")
        os.kill(process.pid, signal.SIGTERM)
        printed, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert printed == b""
    assert "superuser" not in tree.log()
    assert "root.  " not in tree.log()


SCRIPT = """
import os, sys, threading
from pathlib import Path
from consecutiond.supervision.root import spawn_root
def spawn():
    process = spawn_root(Path(sys.argv[1]), lock_fd=None, die_with_parent=True, detach=False)
    print(process.pid, flush=True)
thread = threading.Thread(target=spawn)
thread.start()
thread.join()
sys.stdin.read()
"""


def test_a_root_dies_with_the_process_that_spawned_it_but_not_with_the_thread(tree: Tree) -> None:
    """PDEATHSIG fires at the end of the spawning thread; the thread that asked for the root ends here."""
    tree.configure(tree.program("p"))
    path = os.pathsep.join(str(REPOSITORY / floor) for floor in ("", "broker", "nodes"))
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tree.rundir.conf)], env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as script:  # fmt: skip
        assert script.stdout is not None
        root = int(script.stdout.readline())
        (pid,) = tree.noted_pids("p")
        eventually(tree.answers, "the root answers")
        assert os.getpgid(root) == root
        script.kill()
    for left in (root, pid):
        eventually(lambda left=left: not alive(left), f"{left} dies")


def test_a_root_whose_parent_is_gone_already_exits(tree: Tree) -> None:
    tree.configure(tree.program("p"))
    path = os.pathsep.join(str(REPOSITORY / floor) for floor in ("", "broker", "nodes"))
    done = subprocess.run(
        [sys.executable, "-m", "consecutiond.supervision.root", str(tree.rundir.conf), "--die-with-parent"],
        env=os.environ | {"PYTHONPATH": path, "CONSECUTIOND_PARENT_PID": "1"},
        check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == EXIT_ORPHAN
    assert not tree.note("p").exists()


def test_a_spawned_root_is_reaped_and_can_be_waited_for_by_anybody(tree: Tree) -> None:
    root = tree.start(tree.program("p"), die_with_parent=True)
    assert tree.process is not None
    codes: list[int] = []
    waiters = [threading.Thread(target=lambda: codes.append(tree.process.wait(PATIENCE_S))) for _ in range(3)]
    for waiter in waiters:
        waiter.start()
    os.kill(root, signal.SIGKILL)
    for waiter in waiters:
        waiter.join()
    assert codes == [-signal.SIGKILL] * 3
    assert start_time(root) is None


def test_an_interpreter_that_is_not_there_is_an_error_here(tree: Tree) -> None:
    """What goes wrong in the spawning thread reaches the caller, and the lock is not kept."""
    tree.configure(tree.program("p"))
    fd = tree.rundir.acquire()
    with pytest.raises(FileNotFoundError):
        spawn_root(tree.rundir.conf, lock_fd=fd, die_with_parent=False, detach=True, python="/nowhere/python")
    assert not tree.rundir.is_live()


def test_a_directory_too_long_for_unix_sockets_simply_works(tmp_path: Path) -> None:
    tree = Tree(RunDir(tmp_path / "long directory % #1" / ("d" * 120), "tree"))
    try:
        root = tree.start(tree.program("p"), lock_fd=tree.rundir.acquire())
        assert len(str(tree.rundir.supervisor_socket)) <= 96
        assert tree.client.root_pid() == root
        tree.noted_pids("p")
        assert (tree.rundir.socket_dir / "supervisor.sock").exists()
        assert (tree.rundir.log_dir / "p.log").exists()
        link = tree.rundir.supervisor_socket.parent
        assert link.is_symlink()
    finally:
        tree.close()
    assert not link.is_symlink()
