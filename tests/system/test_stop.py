"""Stopping: the kill socket, who notices it, and the order in which things end; real processes and signals."""

import os
import re
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import zmq

from consecutiond import Consecutor
from consecutiond.cli import exits
from consecutiond.consecutor import StateError
from consecutiond.inputs.killsocket import request_stop
from consecutiond.rundir import RunDir
from consecutiond_broker.recorder import RefusedError
from tests.system.shell import Shell, logged, make, wait_for, wait_gone

BOTH = pytest.mark.parametrize("architecture", ["process", "thread"])

#: two nodes that say when they end; the first takes a while if there is a file `slow`
FLOW = """
    import time
    from pathlib import Path
    from consecutiond import Consecutor, Node

    HERE = Path(__file__).parent

    def note(text):
        with (HERE / "notes").open("a") as file:
            print(text, file=file)

    class Upper(Node):
        def process(self, value):
            while (HERE / "slow").exists():
                time.sleep(0.01)
            self.push(value)

        def end(self):
            note("upper ends")

    class Lower(Node):
        def process(self, value):
            self.write("out", value)

        def end(self):
            note("lower ends")

    graph = Upper("upper") | Lower("lower")
"""

#: each of three nodes hangs, deaf to TERM, at its own item: the lowest at 1
HANGING = """
    import signal, time
    from pathlib import Path
    from consecutiond import Node

    HERE = Path(__file__).parent

    class Stage(Node):
        number = 0

        def process(self, value):
            if int(value) == self.number:
                (HERE / f"hangs-{self.number}").touch()
                while not (HERE / "go").exists():
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)
                    time.sleep(0.01)
            self.push(value)

    class One(Stage):
        number = 3

    class Two(Stage):
        number = 2

    class Three(Stage):
        number = 1

    graph = One("one") | Two("two") | Three("three") | Node("last")
"""


def notes(directory: Path) -> list[str]:
    path = directory / "notes"
    return path.read_text().splitlines() if path.exists() else []


def stop_thread(directory: Path, seconds: float = 60.0) -> threading.Thread:
    """Ask for a stop from another thread, as another process would."""
    uri = RunDir(directory / "base", "it").socket_uri("kill")
    thread = threading.Thread(target=request_stop, args=(uri, seconds, 60.0))
    thread.start()
    return thread


# --- scripts -------------------------------------------------------------------------------------------------


@BOTH
def test_a_stop_of_a_script_drains_ends_the_nodes_in_order_and_keeps_the_summary(
    tmp_path: Path, architecture: str
) -> None:
    """Plain up, push, down; the script does nothing while it is stopped, and finds out afterwards."""
    (tmp_path / "slow").touch()
    consecutor, out = make(tmp_path, FLOW, architecture=architecture)
    consecutor.up()
    consecutor.push_many(list(range(50)))
    directory = RunDir(tmp_path / "base", "it")
    kill = Path(directory.socket_uri("kill").removeprefix("ipc://"))
    assert stat.S_IMODE(kill.stat().st_mode) == 0o600
    assert request_stop(directory.socket_uri("kill"), None) == 60.0
    wait_for(lambda: consecutor.status()["state"] == "draining", "the drain")
    assert out == []
    (tmp_path / "slow").unlink()
    wait_for(lambda: not directory.is_live(), "the end of every part")
    with pytest.raises(RefusedError, match="told to stop"):
        consecutor.push(50)
    summary = consecutor.down()
    assert (summary.accepted, summary.completed, summary.open) == (50, 50, 0)
    assert sorted(out) == list(range(50))
    assert notes(tmp_path) == ["upper ends", "lower ends"]
    assert consecutor.last == summary
    assert not kill.exists()


@BOTH
def test_an_iterable_is_not_read_further_when_it_has_something_again(tmp_path: Path, architecture: str) -> None:
    consecutor, out = make(tmp_path, FLOW, architecture=architecture)
    asked = []

    def values() -> Iterator[int]:
        yield from range(10)
        wait_for(lambda: len(out) == 10, "the outputs")
        stop_thread(tmp_path).join()
        wait_for(lambda: not RunDir(tmp_path / "base", "it").is_live(), "the end of every part")
        for number in range(10, 20):
            asked.append(number)
            yield number

    with pytest.raises(RefusedError, match="told to stop"):
        consecutor.produce_from_iterable(values())
    assert asked == [10]
    assert consecutor.last is not None
    assert (consecutor.last.completed, consecutor.last.open) == (10, 0)
    assert sorted(out) == list(range(10))


@BOTH
def test_a_push_that_waits_for_room_is_told(tmp_path: Path, architecture: str) -> None:
    (tmp_path / "slow").touch()
    consecutor, out = make(
        tmp_path, FLOW, architecture=architecture, max_pending=1, max_backlog=1024, batch_items=1, stop_timeout_s=60
    )
    consecutor.up()
    pushed = []
    stopper: list[threading.Thread] = []

    def stop_when_it_waits() -> None:
        before = -1
        while before != len(pushed):
            before = len(pushed)
            time.sleep(0.3)
        stopper.append(stop_thread(tmp_path))
        wait_for(lambda: consecutor.status()["state"] == "draining", "the drain")
        (tmp_path / "slow").unlink()

    watcher = threading.Thread(target=stop_when_it_waits)
    watcher.start()

    def push_for_ever() -> None:
        while True:
            consecutor.push("x" * 100 + str(len(pushed)))
            pushed.append(len(pushed))

    with pytest.raises(RefusedError, match="told to stop"):
        push_for_ever()
    watcher.join()
    stopper[0].join()
    summary = consecutor.down()
    assert summary.open == 0
    assert len(pushed) <= summary.accepted == len(out) <= len(pushed) + 1


@BOTH
@pytest.mark.parametrize("kind", ["http", "tcp"])
def test_a_server_finishes_what_has_come_and_returns_the_summary(tmp_path: Path, architecture: str, kind: str) -> None:
    consecutor, out = make(tmp_path, FLOW, architecture=architecture)
    uri = f"ipc://{tmp_path}/in?format=json"

    def client() -> None:
        if kind == "tcp":
            with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
                socket.connect(f"ipc://{tmp_path}/in")
                for number in range(5):
                    socket.send(b"[%d]" % number)
            wait_for(lambda: len(out) == 5, "the outputs")
        else:
            wait_for(lambda: consecutor._session is not None and consecutor._session.server is not None, "the server")
        stop_thread(tmp_path).join()

    thread = threading.Thread(target=client)
    thread.start()
    summary = consecutor.produce_from_tcp(uri) if kind == "tcp" else consecutor.produce_from_http("http://127.0.0.1:0")
    thread.join()
    assert summary is not None
    assert summary.completed == len(out) == (5 if kind == "tcp" else 0)
    assert notes(tmp_path) == ["upper ends", "lower ends"]


@BOTH
def test_a_stop_that_is_asked_twice_and_waited_for_twice_ends_once(tmp_path: Path, architecture: str) -> None:
    (tmp_path / "slow").touch()
    consecutor, _ = make(tmp_path, FLOW, architecture=architecture)
    consecutor.up()
    consecutor.push(1)
    summaries: list[Any] = []
    threads = [threading.Thread(target=lambda: summaries.append(consecutor.stop())) for _ in range(2)]
    for thread in threads:
        thread.start()
    uri = RunDir(tmp_path / "base", "it").socket_uri("kill")
    assert [request_stop(uri, 7.0), request_stop(uri, 9.0)] == [7.0, 7.0]
    (tmp_path / "slow").unlink()
    for thread in threads:
        thread.join()
    assert [(summary.completed, summary.open) for summary in summaries] == [(1, 0), (1, 0)]
    assert notes(tmp_path) == ["upper ends", "lower ends"]
    with pytest.raises(StateError, match="stop needs a running consecutor"):
        consecutor.stop()


@BOTH
def test_another_process_stops_a_script_by_id_and_directory(shell: Shell, architecture: str) -> None:
    shell.write("flow.py", FLOW)
    run = shell.spawn(
        "run", "flow.py:graph", "--id", "it", "--dir", "base", "--architecture", architecture, stdin=subprocess.PIPE
    )
    assert run.stdin is not None
    run.stdin.write("a\nb\n")
    run.stdin.flush()
    directory = RunDir(shell.directory / "base", "it")
    wait_for(lambda: directory.is_live() and completed(directory.path) == 2, "the items")
    summary = Consecutor(make(shell.directory, FLOW)[0].graph, id="it", dir=shell.directory / "base").stop()
    assert (summary.accepted, summary.open) == (0, 0)
    assert run.wait(60) == exits.STOPPED
    assert run.stdout is not None
    assert run.stdout.read() == 'out\t"a"\nout\t"b"\n'


def completed(home: Path) -> int:
    try:
        return logged(home)["completed"]
    except Exception:
        return 0


# --- run on a silent stdin -----------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("form", ["lines", "ndjson", "msgpack"])
def test_run_on_a_silent_pipe_is_stopped(shell: Shell, architecture: str, form: str) -> None:
    shell.write("flow.py", FLOW)
    run = shell.spawn(
        "run", "flow.py:graph", "--architecture", architecture, "--input-format", form, stdin=subprocess.PIPE
    )
    wait_for(lambda: "running" in shell.run("status", "flow").stdout, "the graph")
    assert shell.run("stop", "flow").returncode == exits.OK
    assert run.wait(60) == exits.STOPPED
    assert run.stderr is not None
    assert "told to stop; what is open stays in the log" in run.stderr.read()
    wait_gone(shell.directory)


def test_run_on_a_silent_terminal_is_stopped(shell: Shell) -> None:
    shell.write("flow.py", FLOW)
    ours, theirs = os.openpty()
    run = shell.spawn("run", "flow.py:graph", stdin=theirs)
    os.close(theirs)
    os.write(ours, b"typed\n")
    wait_for(lambda: completed(shell.home("flow")) == 1, "the line")
    assert shell.run("stop", "flow").returncode == exits.OK
    assert run.wait(60) == exits.STOPPED
    os.close(ours)


def test_run_on_a_named_pipe_without_a_writer_is_stopped(shell: Shell) -> None:
    shell.write("flow.py", FLOW)
    os.mkfifo(shell.directory / "pipe")
    run = shell.spawn("run", "flow.py:graph", "pipe")
    wait_for(lambda: "running" in shell.run("status", "flow").stdout, "the graph")
    with (shell.directory / "pipe").open("w") as pipe:
        pipe.write("x\n")
        pipe.flush()
        wait_for(lambda: completed(shell.home("flow")) == 1, "the line")
        assert shell.run("stop", "flow").returncode == exits.OK
        assert run.wait(60) == exits.STOPPED


def test_a_push_on_a_silent_pipe_ends_with_the_daemon(shell: Shell) -> None:
    shell.write("flow.py", FLOW)
    assert shell.run("start", "flow.py", "--detach").returncode == exits.OK
    push = shell.spawn("push", "flow", stdin=subprocess.PIPE)
    assert push.stdin is not None
    push.stdin.write("a\n")
    push.stdin.flush()
    wait_for(lambda: shell.status("flow")["completed"] == 1, "the line")
    assert shell.run("stop", "flow").returncode == exits.OK
    assert push.wait(60) == exits.STOPPED


def test_what_a_script_has_read_from_stdin_before_is_no_silent_loss(shell: Shell) -> None:
    shell.write("it.py", FLOW)
    shell.write(
        "script.py",
        """
        from it import graph
        from consecutiond import Consecutor
        if __name__ == "__main__":
            input()
            Consecutor(graph, architecture="thread").produce_from_stdin()
        """,
    )
    done = subprocess.run(
        [shell.argv()[0], "script.py"], cwd=shell.directory, env=shell.environment, input="a\nb\n",
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "the program has read from sys.stdin before" in done.stderr


# --- daemons -------------------------------------------------------------------------------------------------


def test_stop_asks_the_daemon_how_long_it_may_take(shell: Shell) -> None:
    """Not the environment of whoever types `stop`."""
    shell.write("flow.py", FLOW)
    assert shell.run("start", "flow.py", "--detach", "--stop-timeout-s", "0.2").returncode == exits.OK
    (shell.directory / "slow").touch()
    assert shell.run("push", "flow", stdin="a\n").returncode == exits.OK
    assert shell.run("stop", "flow").returncode == exits.OK
    assert logged(shell.home("flow")) == {"accepted": 1, "completed": 0, "failed": 0, "open": 1}
    assert notes(shell.directory) == []
    wait_gone(shell.directory)


def test_workers_are_killed_from_the_top_and_what_is_open_stays_uncharged(shell: Shell) -> None:
    shell.write("flow.py", HANGING)
    assert shell.run("start", "flow.py", "--detach", "--max-attempts", "1").returncode == exits.OK
    for value in ("1", "2", "3"):
        assert shell.run("push", "flow", stdin=f"{value}\n").returncode == exits.OK
        wait_for((shell.directory / f"hangs-{value}").exists, f"item {value} to hang")
    parts = shell.status("flow")["parts"]
    lower_first = [parts[f"node-{name}.0"]["pid"] for name in ("last", "three", "two", "one")]
    watch = Deaths(lower_first)
    stop = shell.spawn("stop", "flow", "--timeout", "0.1")
    watch.until_all_are_dead()
    assert stop.wait(60) == exits.OK
    assert watch.inversions == []
    log = (shell.home("flow") / "log_files" / "heart.log").read_text()
    killed = [line for line in log.splitlines() if "part.killed" in line]
    assert re.findall(r"node-(\w+)\.0", "\n".join(killed)) == ["one", "two", "three", "last"]
    assert logged(shell.home("flow")) == {"accepted": 3, "completed": 0, "failed": 0, "open": 3}
    wait_gone(shell.directory)

    (shell.directory / "go").touch()
    assert shell.run("start", "flow.py", "--detach", "--max-attempts", "1").returncode == exits.OK
    wait_for(lambda: shell.status("flow")["completed"] == 3, "what was open")
    assert shell.run("stop", "flow").returncode == exits.OK


class Deaths:
    """Looks at processes from the bottom up: one that is dead while one above it lives is out of order."""

    def __init__(self, lower_first: list[int]) -> None:
        self._fds = [os.pidfd_open(pid) for pid in lower_first]
        self.inversions: list[list[bool]] = []

    def until_all_are_dead(self) -> None:
        def look() -> bool:
            # The lower one is looked at first, so a death in between makes no inversion.
            dead = [self._dead(fd) for fd in self._fds]
            if any(below and not above for below, above in pairwise(dead)):
                self.inversions.append(dead)
            return all(dead)

        deadline = time.monotonic() + 60
        while not look():
            assert time.monotonic() < deadline
        for fd in self._fds:
            os.close(fd)

    @staticmethod
    def _dead(fd: int) -> bool:
        poller = zmq.Poller()
        poller.register(fd, zmq.POLLIN)
        return bool(poller.poll(0))


def test_a_stop_with_a_dead_acker_waits_for_the_next_one(shell: Shell) -> None:
    shell.write("flow.py", FLOW)
    assert shell.run("start", "flow.py", "--detach").returncode == exits.OK
    (shell.directory / "slow").touch()
    assert shell.run("push", "flow", stdin="a\nb\n").returncode == exits.OK
    os.kill(shell.status("flow")["parts"]["acker"]["pid"], signal.SIGKILL)
    stop = shell.spawn("stop", "flow")
    (shell.directory / "slow").unlink()
    assert stop.wait(60) == exits.OK
    assert logged(shell.home("flow")) == {"accepted": 2, "completed": 2, "failed": 0, "open": 0}
    assert notes(shell.directory) == ["upper ends", "lower ends"]
    wait_gone(shell.directory)


def test_a_stop_survives_the_heart_that_was_asked(shell: Shell) -> None:
    """One message, one answer; then its receiver dies, and nobody asks again."""
    shell.write("flow.py", FLOW)
    assert shell.run("start", "flow.py", "--detach").returncode == exits.OK
    (shell.directory / "slow").touch()
    assert shell.run("push", "flow", stdin="a\n").returncode == exits.OK
    heart = int((shell.home("flow") / "pid_files" / "heart.pid").read_text().split()[0])
    request_stop(RunDir(shell.directory / ".consecution", "flow").socket_uri("kill"), None)
    wait_for(lambda: shell.status("flow")["state"] == "draining", "the drain")
    os.kill(heart, signal.SIGKILL)
    (shell.directory / "slow").unlink()
    wait_gone(shell.directory)
    assert logged(shell.home("flow")) == {"accepted": 1, "completed": 1, "failed": 0, "open": 0}
    assert notes(shell.directory) == ["upper ends", "lower ends"]


SLOW_START = FLOW.replace(
    'class Lower(Node):\n',
    'class Lower(Node):\n        def begin(self):\n            (HERE / "begins").touch()\n            '
    'while not (HERE / "go").exists():\n                time.sleep(0.01)\n\n',
)  # fmt: skip


@pytest.mark.parametrize("verb", ["detached", "foreground", "run", "thread"])
def test_a_stop_during_the_start_keeps_what_is_recorded(shell: Shell, verb: str) -> None:
    shell.write("flow.py", SLOW_START)
    words: dict[str, tuple[str, ...]] = {
        "detached": ("start", "flow.py", "--detach"), "foreground": ("start", "flow.py"),
        "run": ("run", "flow.py:graph"), "thread": ("run", "flow.py:graph", "--architecture", "thread"),
    }  # fmt: skip
    process = shell.spawn(*words[verb], stdin=subprocess.PIPE)
    wait_for((shell.directory / "begins").exists, "the start")
    daemon = verb in ("detached", "foreground")
    if daemon:
        assert shell.run("push", "flow", stdin="early\n").returncode == exits.OK
    stop = shell.spawn("stop", "flow")
    log = shell.home("flow") / "log_files" / ("threads.log" if verb == "thread" else "heart.log")
    wait_for(lambda: "graph.draining" in log.read_text(), "the stop")
    # One that does not return would be killed after 10 s, and a thread could not be.
    (shell.directory / "go").touch()
    assert stop.wait(60) == exits.OK
    codes = {"detached": exits.START_FAILED, "foreground": exits.OK}
    assert process.wait(60) == codes.get(verb, exits.STOPPED)
    assert process.stderr is not None
    complaint = process.stderr.read()
    assert "Traceback" not in complaint
    if verb != "foreground":
        assert "told to stop before every part was up" in complaint
    wait_gone(shell.directory)
    if daemon:
        assert logged(shell.home("flow"))["open"] == 1
        assert shell.run("start", "flow.py", "--detach").returncode == exits.OK
        wait_for(lambda: shell.written("flow", "out") == ["early"], "what was recorded")
        assert shell.run("stop", "flow").returncode == exits.OK


def test_hup_is_nothing_to_a_detached_daemon(shell: Shell) -> None:
    shell.write("flow.py", FLOW)
    assert shell.run("start", "flow.py", "--detach").returncode == exits.OK
    root = int((shell.home("flow") / "pid_files" / "root.pid").read_text().split()[0])
    os.kill(root, signal.SIGHUP)
    log = shell.home("flow") / "log_files" / "supervisord.log"
    wait_for(lambda: "received SIGHUP, and ignored it" in log.read_text(), "the signal")
    assert shell.run("push", "flow", stdin="a\n").returncode == exits.OK
    wait_for(lambda: shell.status("flow")["completed"] == 1, "the item")
    assert shell.run("stop", "flow").returncode == exits.OK


def test_a_daemon_that_does_not_answer_is_killed_in_the_end(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its root is frozen, and its heart: nobody answers, nobody acts on TERM."""
    from consecutiond import stopping

    shell.write("flow.py", FLOW)
    assert shell.run("start", "flow.py", "--detach").returncode == exits.OK
    for name in ("root", "heart"):
        os.kill(int((shell.home("flow") / "pid_files" / f"{name}.pid").read_text().split()[0]), signal.SIGSTOP)
    monkeypatch.setattr(stopping, "_ANSWER_S", 0.2)
    monkeypatch.setattr(stopping, "_GONE_S", 10.0)
    directory = RunDir(shell.directory / ".consecution", "flow")
    assert not stopping.stop_running(directory, 0.1)
    assert not directory.is_live()
    wait_gone(shell.directory)


# --- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["script", "daemon"])
def test_garbage_at_the_kill_socket_harms_nobody(shell: Shell, kind: str) -> None:
    shell.write("flow.py", FLOW)
    if kind == "daemon":
        assert shell.run("start", "flow.py", "--detach").returncode == exits.OK
    else:
        run = shell.spawn("run", "flow.py:graph", stdin=subprocess.PIPE)
    wait_for(lambda: "running" in shell.run("status", "flow").stdout, "the graph")
    uri = RunDir(shell.directory / ".consecution", "flow").socket_uri("kill")
    with zmq.Context() as context:
        for frames in ([b""], [b"\xff" * 60], [b"", b"CONSECUTIOND/1", b"STOP", b"soon"], [b"", b"CONSECUTIOND/1"]):
            with context.socket(zmq.DEALER) as socket:
                # It dies before anybody could answer it.
                socket.setsockopt(zmq.LINGER, 1000)
                socket.connect(uri)
                socket.send_multipart(frames)
        with context.socket(zmq.DEALER) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            socket.connect(uri)
            socket.send(os.urandom(1 << 16))
    if kind == "daemon":
        log = shell.home("flow") / "log_files" / "heart.log"
        wait_for(lambda: "stop.not_understood" in log.read_text(), "the log")
        assert log.read_text().count("stop.not_understood") <= 3
    assert shell.run("status", "flow").returncode == exits.OK
    assert shell.run("stop", "flow").returncode == exits.OK
    if kind == "script":
        assert run.wait(60) == exits.STOPPED


# --- what cannot be killed -----------------------------------------------------------------------------------


@BOTH
def test_an_output_that_does_not_return_does_not_hold_up_the_end(
    tmp_path: Path, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consecutiond.outputthread._STUCK_S", 0.2)
    monkeypatch.setattr("consecutiond.threadruntime._STUCK_S", 0.2)
    consecutor, _ = make(tmp_path, FLOW, architecture=architecture)
    entered, leave = threading.Event(), threading.Event()
    consecutor.register_output("out", Stuck(entered, leave))
    consecutor.up()
    consecutor.push(1)
    assert entered.wait(60)
    summary = consecutor.stop(0.1)
    assert (summary.completed, summary.open) == (0, 1)
    leave.set()


class Stuck:
    """A container whose `append` returns when it is told to."""

    def __init__(self, entered: threading.Event, leave: threading.Event) -> None:
        self._entered, self._leave = entered, leave
        self.append: Callable[[Any], None] = self._append

    def _append(self, _value: Any) -> None:
        self._entered.set()
        self._leave.wait()
