"""The command line as a user meets it: verbs, texts, exit codes."""

import os
import pty
import re
import signal
import subprocess
import threading
from pathlib import Path

import pytest

import consecutiond
from consecutiond.cli import exits
from tests.system.shell import CAPITALS, Shell, both_architectures, living, wait_for, wait_gone

VERBS = ("run", "start", "push", "status", "stop", "restart", "graph", "ls", "clean")

#: one node that is slow enough to be met at work
SLOW = """
    import time
    from consecutiond import Node

    class Slow(Node):
        def process(self, text):
            time.sleep(0.02)
            self.write("out", text)

    graph = Slow("slow")
"""


# --- help ----------------------------------------------------------------------------------------------------


def test_help_names_every_verb_with_a_whole_sentence(shell: Shell) -> None:
    done = shell.run("--help")
    assert done.returncode == exits.OK
    for verb in VERBS:
        assert re.search(rf"^  {verb} +[A-Z].*[.]$", done.stdout, re.MULTILINE), verb
    assert "..." not in done.stdout.partition("Commands:")[2]


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_shows_examples_as_they_are_typed_and_its_exit_codes(shell: Shell, verb: str) -> None:
    done = shell.run(verb, "--help")
    assert done.returncode == exits.OK
    assert done.stdout.startswith(f"Usage: consecutiond {verb} ")
    examples, _, codes = done.stdout.partition("Examples:\n")[2].partition("Exit codes:\n")
    assert re.search(rf"^ +(\S.* \| )?consecutiond {verb} ", examples, re.MULTILINE)
    assert all("consecutiond" in line for line in examples.splitlines() if line.strip())
    assert re.match(rf" +0  {exits.TABLE[0]}\n", codes)
    assert "\\b" not in done.stdout


def test_without_a_verb_the_help_is_shown_and_it_is_a_usage_error(shell: Shell) -> None:
    done = shell.run()
    assert done.returncode == exits.USAGE
    assert "Usage: consecutiond" in done.stderr


def test_version(shell: Shell) -> None:
    done = shell.run("--version")
    assert (done.returncode, done.stdout) == (exits.OK, f"consecutiond {consecutiond.__version__}\n")


@pytest.mark.parametrize("words", [("fly",), ("run",), ("stop",), ("run", "flow.py", "--fast")])
def test_a_wrong_command_line_is_a_usage_error_without_a_traceback(shell: Shell, words: tuple[str, ...]) -> None:
    done = shell.run(*words)
    assert done.returncode == exits.USAGE
    assert "Usage: consecutiond" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_exit_code_has_one_meaning() -> None:
    named = {value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}
    assert named == set(exits.TABLE)


def test_completion_can_be_installed_and_completes_verbs(shell: Shell) -> None:
    script = subprocess.run(
        ["bash", "-c", f"{' '.join(shell.argv('--show-completion'))}; exit $?"], env=shell.environment,
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "complete -o default -F _consecutiond_completion consecutiond" in script.stdout
    shell.environment |= {"_CONSECUTIOND_COMPLETE": "complete_bash", "COMP_WORDS": "consecutiond st", "COMP_CWORD": "1"}
    assert shell.run().stdout.split() == ["start", "status", "stop", "store"]


# --- run -----------------------------------------------------------------------------------------------------


@both_architectures
def test_run_prints_what_was_written_and_a_summary_and_leaves_nothing_behind(shell: Shell) -> None:
    shell.write("flow.py", CAPITALS)
    shell.write("in.txt", "a\nb\n")
    done = shell.run("run", "flow.py", "in.txt", "in.txt")
    assert done.returncode == exits.OK
    assert sorted(done.stdout.splitlines()) == ['capitals\t"A"'] * 2 + ['capitals\t"B"'] * 2
    assert done.stderr.startswith("4 accepted = 4 completed + 0 failed and kept + 0 open; ")
    assert len(done.stderr.splitlines()) == 1
    assert not shell.living()
    again = shell.run("run", "flow.py", "in.txt", "--quiet")
    assert again.stderr == "", "what a run leaves that ended in order is nothing to warn of"


@both_architectures
@pytest.mark.parametrize("words", [("-",), ()])
def test_run_reads_a_pipe_when_told_to_and_when_there_is_nothing_else(shell: Shell, words: tuple[str, ...]) -> None:
    shell.write("flow.py", CAPITALS)
    done = shell.run("run", "flow.py:graph", *words, stdin="x\n")
    assert (done.returncode, done.stdout) == (exits.OK, 'capitals\t"X"\n')


@both_architectures
def test_lines_end_at_line_feeds_alone_and_keep_everything_else(shell: Shell) -> None:
    """The same from a file, a named pipe and stdin: no other line end splits, and no byte stops the run."""
    shell.write("flow.py", CAPITALS)
    raw = b"one\r\ntwo\rhalf\nb\xffd\n\nlast"
    (shell.directory / "file").write_bytes(raw)
    os.mkfifo(shell.directory / "pipe")
    writer = threading.Thread(target=(shell.directory / "pipe").write_bytes, args=(raw,))
    writer.start()
    shell.environment["LC_ALL"] = "C"
    with (shell.directory / "file").open("rb") as stdin:
        process = shell.spawn("run", "flow.py", "file", "pipe", "-", "--quiet", stdin=stdin)
        printed, complaint = process.communicate(timeout=60)
    writer.join()
    assert complaint == ""
    expected = [r'"ONE"', r'"TWO\rHALF"', '"B\N{REPLACEMENT CHARACTER}D"', '""', '"LAST"']
    assert sorted(printed.splitlines()) == sorted(f"capitals\t{text}" for text in 3 * expected)


def test_an_input_that_cannot_be_read_is_named_before_anything_is_started(shell: Shell) -> None:
    shell.write("flow.py", CAPITALS)
    done = shell.run("run", "flow.py", "missing.txt", ".", "flow.py")
    assert done.returncode == exits.USAGE
    assert "missing.txt: No such file or directory" in done.stderr
    assert ".: Is a directory" in done.stderr
    assert "flow.py:" not in done.stderr
    assert not shell.home("flow").exists()


@both_architectures
def test_run_prints_the_lists_of_a_targets_own_outputs(shell: Shell) -> None:
    source = CAPITALS + '\n    from consecutiond import Consecutor\n    c = Consecutor(graph, id="own")\n'
    shell.write("flow.py", source + '    c.register_output("capitals", [])\n')
    done = shell.run("run", "flow.py", stdin="x\n")
    assert (done.returncode, done.stdout) == (exits.OK, 'capitals\t"X"\n')
    assert shell.home("own").is_dir()


def in_terminal(shell: Shell, *words: object) -> str:
    """Type a command whose stdout and stderr are a terminal; return what appears there."""
    master, slave = pty.openpty()
    process = shell.spawn(*words, stdout=slave, stderr=slave)
    os.close(slave)
    seen = b""
    while True:
        try:
            seen += os.read(master, 4096)
        except OSError:
            # This is how a terminal says that nobody has it open any more.
            break
    os.close(master)
    process.wait(60)
    return seen.decode(errors="replace")


@both_architectures
def test_a_progress_bar_is_shown_on_a_terminal_and_only_there(shell: Shell) -> None:
    shell.write("flow.py", SLOW)
    shell.write("in.txt", "x\n" * 20)
    assert "feeding" in in_terminal(shell, "run", "flow.py", "in.txt")
    quiet = in_terminal(shell, "run", "flow.py", "in.txt", "--quiet")
    assert quiet.splitlines() == ['out\t"x"'] * 20
    piped = shell.run("run", "flow.py", "in.txt")
    assert "\x1b" not in piped.stdout + piped.stderr
    assert "feeding" not in piped.stderr


def test_status_has_colours_on_a_terminal_and_only_there(shell: Shell) -> None:
    shell.write("flow.py", CAPITALS)
    assert shell.run("run", "flow.py", stdin="x\n").returncode == exits.OK
    assert "\x1b[1mflow\x1b[0m: stopped" in in_terminal(shell, "status")
    assert shell.run("status").stdout.startswith("flow: stopped\n")


# --- exit codes of run ---------------------------------------------------------------------------------------


@both_architectures
def test_run_says_with_exit_code_1_that_items_failed(shell: Shell) -> None:
    shell.write("flow.py", CAPITALS.replace("text.upper()", "int(text)"))
    done = shell.run("run", "flow.py", stdin="7\nseven\n")
    assert (done.returncode, done.stdout) == (exits.SOME_FAILED, "capitals\t7\n")
    assert "1 item(s) failed in node up (raised): ValueError: invalid literal for int()" in done.stderr
    assert 'flow.py", line 6, in process' in done.stderr
    assert "consecutiond_nodes" not in done.stderr, "the traceback is the user's own part"
    assert "2 accepted = 1 completed + 1 failed and kept + 0 open" in done.stderr


@both_architectures
def test_run_says_with_exit_code_1_that_an_end_raised(shell: Shell) -> None:
    shell.write("flow.py", CAPITALS.replace("graph =", "    def end(self):\n            1 / 0\n\n    graph ="))
    done = shell.run("run", "flow.py", stdin="x\n")
    assert (done.returncode, done.stdout) == (exits.SOME_FAILED, 'capitals\t"X"\n')
    assert re.search(r"end of up.0 raised:\nTraceback .*\n  File \".*flow.py\".*\n.*1 / 0\n", done.stderr)


def interrupted(shell: Shell, numbers: list[int]) -> tuple[int, str, str]:
    """Run a slow graph and send it signals, each when the last has shown; return exit code, outputs and complaints."""
    shell.write("flow.py", SLOW)
    shell.write("in.txt", "x\n" * 100)
    printed, complaint = shell.directory / "printed", shell.directory / "complaint"
    with printed.open("w") as stdout, complaint.open("w") as stderr:
        process = shell.spawn("run", "flow.py", "in.txt", stdout=stdout, stderr=stderr)
    wait_for(printed.read_text, "the first output")
    for number in numbers:
        process.send_signal(number)
        wait_for(complaint.read_text, "the answer to the interrupt")
    return process.wait(60), printed.read_text(), complaint.read_text()


@both_architectures
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_finishes_what_is_open_and_says_so_with_exit_code_7(shell: Shell, number: int) -> None:
    code, printed, complaint = interrupted(shell, [number])
    assert code == exits.STOPPED
    assert "interrupted; finishing what is open (again to stop at once)" in complaint
    assert "100 accepted = 100 completed + 0 failed and kept + 0 open" in complaint
    assert printed.splitlines() == ['out\t"x"'] * 100
    assert not shell.living()


@both_architectures
def test_a_second_interrupt_stops_at_once_and_the_next_run_takes_over_what_was_open(shell: Shell) -> None:
    code, printed, complaint = interrupted(shell, [signal.SIGINT, signal.SIGINT])
    assert code == exits.STOPPED
    found = re.search(r"100 accepted = (\d+) completed \+ 0 failed and kept \+ (\d+) open", complaint)
    assert found is not None, complaint
    completed, still_open = map(int, found.groups())
    assert completed + still_open == 100
    assert 0 < still_open < 100
    assert completed <= len(printed.splitlines()) < 100
    assert not shell.living()
    after = shell.run("run", "flow.py")
    assert f"{still_open} open item(s) of an earlier run are taken over" in after.stderr
    assert f"0 accepted + {still_open} taken over = {still_open} completed" in after.stderr
    assert len(after.stdout.splitlines()) == still_open


@both_architectures
def test_a_run_that_is_stopped_from_elsewhere_says_so_with_exit_code_7(shell: Shell) -> None:
    shell.write("flow.py", SLOW)
    process = shell.spawn("run", "flow.py", stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("x\n")
    process.stdin.flush()
    assert process.stdout.readline() == 'out\t"x"\n'
    stopped = shell.spawn("stop", "flow")
    # The run waits for a line, and finds out with one of the next.
    wait_for(lambda: process.poll() is not None or not _more(process), "the refusal")
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == exits.STOPPED, complaint
    assert stopped.wait(60) == exits.OK
    stopped.communicate()
    assert not shell.living()


def _more(process: "subprocess.Popen[str]") -> bool:
    """Type one more line; return whether there is anybody to read it."""
    assert process.stdin is not None
    try:
        process.stdin.write("y\n")
        process.stdin.flush()
    except BrokenPipeError:
        return False
    return True


# --- the daemon ----------------------------------------------------------------------------------------------


def test_a_detached_daemon_is_fed_watched_and_stopped(shell: Shell) -> None:
    shell.write("flow.py", CAPITALS)
    up = shell.run("start", "flow.py", "--detach")
    assert up.returncode == exits.OK
    assert re.fullmatch(r"flow is up \(pid \d+\); stop it with: consecutiond stop flow\n", up.stdout)
    pushed = shell.run("push", "flow", stdin="a\nb\n")
    assert (pushed.returncode, pushed.stderr) == (exits.OK, "2 recorded\n")
    wait_for(lambda: shell.status("flow")["completed"] == 2, "the two items")
    shown = shell.run("status")
    assert shown.returncode == exits.OK
    assert shown.stdout.startswith("flow: running, up ")
    assert "2 accepted = 2 completed + 0 failed + 0 open" in shown.stdout
    assert re.search(r"broker-input-up +ready +\d+", shown.stdout)
    stopped = shell.run("stop", "flow")
    assert (stopped.returncode, stopped.stdout) == (exits.OK, "flow has stopped\n")
    assert not shell.living()
    assert sorted(shell.written("flow", "capitals")) == ["A", "B"]
    assert shell.status("flow") == {
        "state": "stopped", "accepted": 2, "completed": 2, "failed": 0, "discarded": 0, "open": 0, "waiting": 0,
        "retained": 0, "retained_bytes": 0,
        "guarantee": f"SQLite file {shell.home('flow')}/acker_db.sqlite: a receipted item is on the disk and survives "
        "a power cut.",
    }  # fmt: skip
    assert shell.run("status", "flow").returncode == exits.NOT_RUNNING
    assert list((shell.home("flow") / "socket_files").iterdir()) == []
    assert list((shell.home("flow") / "pid_files").glob("*.pid")) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_daemon_in_the_foreground_is_the_root_and_drains_on_a_signal(shell: Shell, number: int) -> None:
    shell.write("flow.py", SLOW)
    process = shell.spawn("start", "flow.py", "--id", "front")
    assert process.stderr is not None
    assert "starting front in the foreground; Ctrl-C or `consecutiond stop front`" in process.stderr.readline()
    wait_for(lambda: shell.run("push", "front", stdin="x\n" * 50).returncode == exits.OK, "somebody who takes lines")
    root = int((shell.home("front") / "pid_files" / "root.pid").read_text().split()[0])
    assert root == process.pid
    # Before that, a stop leaves in the log what has been recorded.
    wait_for(lambda: shell.status("front")["state"] == "running", "the graph to be up")
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == exits.OK
    assert not shell.living()
    assert shell.written("front", "out") == ["x"] * 50


@pytest.mark.parametrize("words", [("status", "flow"), ("stop", "flow"), ("restart", "flow"), ("push", "flow")])
def test_a_consecutor_that_does_not_run_is_named_with_exit_code_3(shell: Shell, words: tuple[str, ...]) -> None:
    done = shell.run(*words)
    assert done.returncode == exits.NOT_RUNNING
    assert "'flow'" in done.stderr
    assert str(shell.directory / ".consecution") in done.stderr


def test_status_without_any_consecutor_says_where_it_looked(shell: Shell) -> None:
    done = shell.run("status", "--dir", "elsewhere")
    assert done.returncode == exits.OK
    assert done.stdout == f"no consecutor in {shell.directory / 'elsewhere'}\n"


def test_a_start_whose_begin_raises_shows_the_users_traceback_and_leaves_nothing(shell: Shell, tmp_path: Path) -> None:
    shell.write("flow.py", CAPITALS.replace("graph =", "    def begin(self):\n            1 / 0\n\n    graph ="))
    for words in (("run", "flow.py"), ("start", "flow.py", "--detach"), ("start", "flow.py")):
        done = shell.run(*words)
        assert done.returncode == exits.START_FAILED
        assert "node-up.0 could not start" in done.stderr
        assert re.search(r"Traceback .*\n  File \".*flow.py\", line \d+, in begin\n.*1 / 0\n", done.stderr)
        assert "consecutiond_nodes" not in done.stderr
        wait_gone(tmp_path)
        assert living(tmp_path) == {}
