"""The configuration carries anything to a child unharmed, and the client says clearly what went wrong."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from consecutiond.rundir import RunDir
from consecutiond.supervision.root import spawn_root
from consecutiond.supervision.states import Program, RootOptions
from consecutiond.supervision.supervisord import SupervisorClient, SupervisorError, render
from consecutiond_broker.child import start_time

PATIENCE_S = 20.0
TOLD = "import json, os, sys; json.dump([sys.argv[2:], dict(os.environ), os.getcwd()], open(sys.argv[1], 'w'))"
SLEEP = (sys.executable, "-c", "import time; time.sleep(600)")

#: what each way of quoting gets wrong first
AWKWARD = (
    "100%", "%(here)s", "%s %%", "two words", " led and trailed ", "tab\tbed", "ünïcödé → 漢字 🎉", "",
    "semi ;colon", " ;", "hash #tag", "#first", "'single'", '"double"', "it's", '"it\'s"', "'", '"', "\\",
    "back\\slash\\",
    "$HOME `id` $(id)", "a=b,c=d", "-dash", "--", "~", "*", "[section]", "\u00a0#nbsp", "é ;", "{x!r}", "a\\nb",
)  # fmt: skip


def eventually(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"never came true: {what}"
        time.sleep(0.005)


class Running:
    """A root over some programs."""

    def __init__(self, rundir: RunDir, directory: Path) -> None:
        self.rundir = rundir
        self.directory = directory
        self.process: subprocess.Popen[bytes] | None = None
        rundir.create()
        self.client = SupervisorClient(rundir.supervisor_socket)

    def configure(self, *programs: Program) -> None:
        text = render(programs, self.rundir, RootOptions(directory=str(self.directory)))
        self.rundir.conf.write_text(text, encoding="utf-8")

    def start(self, *programs: Program) -> None:
        self.configure(*programs)
        self.process = spawn_root(self.rundir.conf, lock_fd=None, die_with_parent=True, detach=False)
        eventually(self.answers, "the root answers")

    def answers(self) -> bool:
        try:
            return self.client.root_pid() > 0
        except SupervisorError:
            return False

    def states(self) -> dict[str, str]:
        return {info.name: info.state for info in self.client.info()}

    def close(self) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            self.client.shutdown()
            self.process.wait(PATIENCE_S)
        self.rundir.release_links()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = Running(RunDir(tmp_path / "base", "ours"), tmp_path)
    yield running
    running.close()


def told(path: Path) -> tuple[list[str], dict[str, str], str]:
    """Wait for what a child wrote about itself."""
    found: list[tuple[list[str], dict[str, str], str]] = []

    def read() -> bool:
        try:
            found.append(json.loads(path.read_text()))
        except (OSError, json.JSONDecodeError):
            return False
        return True

    eventually(read, "the child says what it was given")
    return found[0]


def test_any_argument_variable_and_directory_reaches_the_child_unharmed(tmp_path: Path) -> None:
    """Percent signs, blanks, quotes, comment signs, unicode: as arguments, as values, and in every path."""
    directory = tmp_path / " a #dir ; 100% 'q' \"d\" ü "
    directory.mkdir()
    out = directory / "told %s.json"
    env = {f"AWKWARD_{k}": value for k, value in enumerate(AWKWARD)} | {"odd.name-%": "odd", "ünï": "x"}
    running = Running(RunDir(directory, "ours"), directory)
    try:
        running.start(Program("told-a->b.0", (sys.executable, "-c", TOLD, str(out), *AWKWARD), env=env))
        argv, environ, cwd = told(out)
    finally:
        running.close()
    assert argv == list(AWKWARD)
    assert {key: environ.get(key) for key in env} == env
    assert cwd == str(directory)
    assert (running.rundir.log_dir / "told-a->b.0.log").exists()


def test_an_awkward_value_alone_is_carried_too(running: Running) -> None:
    """Each one in a program of its own: no value may lean on what another one made necessary."""
    outs = [running.directory / f"{k}.json" for k in range(len(AWKWARD))]
    running.start(
        *(
            Program(f"p{k}", (sys.executable, "-c", TOLD, str(outs[k]), value), env={"VALUE": value})
            for k, value in enumerate(AWKWARD)
        )
    )
    for value, out in zip(AWKWARD, outs, strict=True):
        argv, environ, cwd = told(out)
        assert (argv, environ["VALUE"], cwd) == ([value], value, str(running.directory))


def test_the_locale_does_not_matter(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration is UTF-8 whatever the machine says, and the children get no mode of Python forced on them."""
    monkeypatch.setenv("LC_ALL", "POSIX")
    out = running.directory / "told.json"
    running.start(Program("p", (sys.executable, "-c", TOLD, str(out), "ünï → 漢字"), env={"KEY": "ä"}))
    argv, environ, _ = told(out)
    assert (argv, environ["KEY"]) == (["ünï → 漢字"], "ä")
    assert "PYTHONUTF8" not in environ


@pytest.mark.parametrize("bad", ["line\nbreak", "return\r", "nul\0"])
@pytest.mark.parametrize("where", ["argument", "value", "key", "directory"])
def test_a_line_break_is_refused_before_anything_is_written(tmp_path: Path, bad: str, where: str) -> None:
    """An ini file cannot carry it, and would silently carry something else."""
    program = Program(
        "p",
        ("prog", bad if where == "argument" else "x"),
        env={bad if where == "key" else "K": bad if where == "value" else "x"},
    )
    options = RootOptions(directory=bad if where == "directory" else "/")
    with pytest.raises(SupervisorError, match="line break"):
        render([program], RunDir(tmp_path, "ours"), options)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a/b", "a]", "a%b", "a\nb"])
def test_a_name_that_means_something_else_to_supervisord_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SupervisorError, match="cannot name a program"):
        render([Program(name, ("prog",))], RunDir(tmp_path, "ours"), RootOptions("/"))


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    """Supervisord would take the later one and say nothing."""
    with pytest.raises(SupervisorError, match="twin"):
        render([Program("twin", ("x",)), Program("twin", ("y",))], RunDir(tmp_path, "ours"), RootOptions("/"))


def test_the_configuration_opens_no_port_and_has_no_groups(tmp_path: Path) -> None:
    text = render([Program("a", ("x",)), Program("b", ("y",))], RunDir(tmp_path, "ours"), RootOptions("/"))
    sections = [line for line in text.splitlines() if line.startswith("[")]
    assert sections == [
        "[unix_http_server]", "[rpcinterface:supervisor]", "[supervisord]", "[program:a]", "[program:b]",
    ]  # fmt: skip
    assert "chmod = 0600" in text


def test_info_says_what_runs_what_ended_and_what_cannot_start(running: Running) -> None:
    running.start(
        Program("runs", SLEEP, priority=1),
        Program("ends", (sys.executable, "-c", "raise SystemExit(7)"), priority=2),
        Program("cannot", ("/nowhere/prog",), priority=3),
    )
    eventually(lambda: running.states()["ends"] == "EXITED", "it ends")
    cannot, ends, runs = running.client.info()
    assert (runs.name, runs.state, runs.exit_status) == ("runs", "RUNNING", 0)
    assert runs.pid is not None
    assert start_time(runs.pid) is not None
    assert abs(runs.started_at - time.time()) < PATIENCE_S
    assert running.client.pid("runs") == runs.pid
    assert (ends.name, ends.state, ends.pid, ends.exit_status) == ("ends", "EXITED", None, 7)
    assert running.client.pid("ends") is None
    assert cannot.state in {"BACKOFF", "FATAL"}
    assert "/nowhere/prog" in cannot.spawn_error


def test_start_right_after_a_death_that_supervisord_has_not_noticed(running: Running) -> None:
    """The heart learns of a death by itself and is often faster than the root's reaping."""
    running.start(Program("p", SLEEP))
    for _ in range(10):
        pid = running.client.pid("p")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        running.client.start("p")
        assert running.client.pid("p") not in {None, pid}


def test_starting_what_runs_is_refused(running: Running) -> None:
    running.start(Program("p", SLEEP))
    eventually(lambda: running.states() == {"p": "RUNNING"}, "it runs")
    pid = running.client.pid("p")
    with pytest.raises(SupervisorError, match="ALREADY_STARTED") as caught:
        running.client.start("p")
    assert caught.value.code == 60
    assert running.client.pid("p") == pid


def test_stop_ends_a_program_and_start_brings_it_back(running: Running) -> None:
    """A program that was stopped is not restarted by itself; stopping it again is no error."""
    running.start(Program("p", SLEEP))
    old = running.client.pid("p")
    running.client.stop("p")
    eventually(lambda: running.states() == {"p": "STOPPED"}, "it stops")
    running.client.stop("p")
    running.client.start("p")
    assert running.client.pid("p") not in {None, old}


def test_a_program_is_added_while_others_run_and_taken_away_again(running: Running) -> None:
    """Nobody else is touched; saying it twice is fine."""
    first, second = Program("first", SLEEP), Program("second", SLEEP)
    running.start(first)
    pid = running.client.pid("first")
    running.configure(first, second)
    running.client.add(second)
    running.client.add(second)
    eventually(lambda: running.states() == {"first": "RUNNING", "second": "RUNNING"}, "both run")
    assert running.client.pid("first") == pid
    with pytest.raises(SupervisorError, match="STILL_RUNNING"):
        running.client.remove("second")
    running.client.stop("second")
    eventually(lambda: running.states()["second"] == "STOPPED", "it stops")
    running.client.remove("second")
    running.client.remove("second")
    assert running.states() == {"first": "RUNNING"}


def test_a_name_that_supervisord_does_not_know_is_an_error(running: Running) -> None:
    running.start(Program("p", SLEEP))
    for call in (running.client.start, running.client.stop, running.client.pid):
        with pytest.raises(SupervisorError, match="BAD_NAME: nobody"):
            call("nobody")


def test_a_client_outlives_its_root(running: Running) -> None:
    """Requests fail clearly while no root is there, and work with the next one: nothing broken is kept."""
    with pytest.raises(SupervisorError, match="does not answer"):
        running.client.info()
    for _ in range(2):
        running.start(Program("p", SLEEP))
        assert set(running.states()) == {"p"}
        running.client.shutdown()
        assert running.process is not None
        assert running.process.wait(PATIENCE_S) == 0
        with pytest.raises(SupervisorError, match=r"does not answer.*supervisord\.log"):
            running.client.info()


@pytest.mark.parametrize("answer", [b"", b"rubbish\r\n\r\n", b"HTTP/1.0 500 no\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n<x>"])
def test_an_answer_that_is_none_is_an_error_of_ours(tmp_path: Path, answer: bytes) -> None:
    """Whatever listens there, no exception of the libraries gets out, and no socket is left open."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        answering = subprocess.Popen(
            [sys.executable, "-c", ANSWER, str(listener.fileno()), answer.hex()],
            pass_fds=(listener.fileno(),),
        )
        with pytest.raises(SupervisorError, match="does not answer"):
            SupervisorClient(tmp_path / "s").info()
        answering.kill()
        answering.wait()


ANSWER = """
import socket, sys
listener = socket.socket(fileno=int(sys.argv[1]))
while True:
    peer, _ = listener.accept()
    peer.recv(65536)
    peer.sendall(bytes.fromhex(sys.argv[2]))
    peer.close()
"""


def test_a_root_that_hangs_is_given_up_after_the_time_out(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with pytest.raises(SupervisorError, match="timed out"):
            SupervisorClient(tmp_path / "s", timeout_s=0.05).info()


def test_what_a_program_prints_is_kept_and_bounded(running: Running) -> None:
    """Standard output and error go to one file, which is rotated."""
    code = "import sys; print('out', flush=True); print('err', file=sys.stderr); sys.stdout.write('x' * 300_000)"
    text = render(
        [Program("p", (sys.executable, "-c", code))],
        running.rundir,
        RootOptions(directory=str(running.directory), log_max_bytes=50_000, log_backups=1),
    )
    running.configure(Program("p", SLEEP))
    running.rundir.conf.write_text(text, encoding="utf-8")
    running.process = spawn_root(running.rundir.conf, lock_fd=None, die_with_parent=True, detach=False)
    eventually(lambda: running.answers() and running.states() == {"p": "EXITED"}, "it ends")
    logs = list(running.rundir.log_dir.glob("p.log*"))
    assert {path.name for path in logs} == {"p.log", "p.log.1"}
    assert sum(path.stat().st_size for path in logs) < 300_000
