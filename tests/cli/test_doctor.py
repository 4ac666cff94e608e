"""`consecutiond doctor`: of nothing, of a graph, of a consecutor that runs or does not; it changes nothing."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from consecutiond.cli import exits
from tests.cli.terminal import terminal
from tests.redis_server import RedisServer, free_port
from tests.system.shell import CAPITALS, Shell

SHOUTED = "\x1b["


@pytest.fixture
def flow(shell: Shell) -> Shell:
    shell.write("flow.py", CAPITALS)
    return shell


def report(shell: Shell, *words: object, code: int = exits.OK) -> dict[str, Any]:
    done = shell.run("doctor", *words, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    found: dict[str, Any] = msgspec.json.decode(done.stdout)
    return found


def statuses(found: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["status"] for check in found["checks"]}


def everything(directory: Path) -> dict[str, tuple[int, int, int]]:
    """Return what there is: mode, size and time of change of every file."""
    found = {path: path.lstat() for path in directory.rglob("*") if "__pycache__" not in path.parts}
    return {str(path): (about.st_mode, about.st_size, about.st_mtime_ns) for path, about in found.items()}


def test_without_a_consecutor_it_looks_at_the_options_and_makes_nothing(shell: Shell) -> None:
    before = everything(shell.directory)
    found = report(shell)
    assert found["subject"] == "the options that are used here"
    assert statuses(found)["sqlite.file"] == "ok"
    assert "a receipted item is on the disk and survives a power cut" in found["guarantee"]
    assert "power cut may take the last moments" in report(shell, "--durability", "fast")["guarantee"]
    assert everything(shell.directory) == before


def test_of_a_graph_it_says_what_a_start_would_have_and_makes_nothing(flow: Shell) -> None:
    before = everything(flow.directory)
    found = report(flow, "flow.py", "--id", "one")
    assert found["subject"] == "flow.py, as `start` would run it under the id one"
    seen = {check["name"]: check["seen"] for check in found["checks"]}
    assert "for 6 parts" in seen["limits.files"]
    # In the directory itself, or behind a short link if that is too long.
    assert re.search(r"the longest has \d+: .+/edge-any-output\.sock", seen["files.socket_paths"])
    assert everything(flow.directory) == before
    at_most_once = report(flow, "flow.py", "--no-tracking")["guarantee"]
    assert at_most_once.startswith("At most once: nothing is tracked or recorded")


def test_of_a_consecutor_it_says_what_it_was_started_with(flow: Shell) -> None:
    assert flow.run("start", "flow.py", "--id", "one", "--durability", "fast", "--detach").returncode == exits.OK
    running = report(flow, "one")
    assert "one, running (pid " in running["subject"]
    assert "problem" not in statuses(running).values(), running
    assert "unknown" not in statuses(running).values(), running
    assert "may take the last moments" in running["guarantee"]
    seen = {check["name"]: check["seen"] for check in running["checks"]}
    assert "the running consecutor (pid " in seen["limits.files"]
    assert "synchronous NORMAL" in seen["sqlite.synchronous"]
    assert flow.run("push", "one", stdin="a\n").returncode == exits.OK
    assert flow.run("stop", "one").returncode == exits.OK
    before = everything(flow.directory)
    stopped = report(flow, "one")
    assert stopped["subject"] == "one, stopped"
    assert "1 accepted: 1 completed" in next(each["seen"] for each in stopped["checks"] if each["name"] == "log.counts")
    assert everything(flow.directory) == before
    refused = flow.run("doctor", "one", "--store", "memory://")
    assert refused.returncode == exits.BAD_TARGET
    assert "leave out store, or give its target instead" in refused.stderr


def test_after_a_kill_of_everything_it_looks_and_leaves_all_as_it_is(flow: Shell) -> None:
    assert flow.run("start", "flow.py", "--id", "one", "--detach").returncode == exits.OK
    assert flow.run("push", "one", stdin="a\nb\n").returncode == exits.OK
    while living := flow.living():
        for pid in living:
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                pass
    before = everything(flow.directory)
    found = report(flow, "one")
    assert found["subject"] == "one, stopped"
    assert "2 accepted" in next(check["seen"] for check in found["checks"] if check["name"] == "log.counts")
    assert everything(flow.directory) == before


def test_a_problem_has_an_exit_code_and_a_warning_only_if_it_is_to_be_strict(flow: Shell) -> None:
    assert flow.run("run", "flow.py", "--quiet", stdin="a\n").returncode == exits.OK
    flow.home("flow").chmod(0o755)
    assert statuses(report(flow, "flow"))["files.directory"] == "warning"
    assert report(flow, "flow", "--strict", code=exits.DOUBTFUL)["worst"] == "warning"
    (flow.home("flow") / "acker_db.sqlite").write_bytes(b"no database" * 1000)
    found = report(flow, "flow", code=exits.UNSOUND)
    assert found["worst"] == "problem"
    assert found["guarantee"].endswith("; but the file cannot be used as it is, so nothing is accepted now.")
    done = flow.run("doctor", "flow", "--strict")
    assert done.returncode == exits.UNSOUND
    assert "problem  sqlite.file" in done.stdout
    assert "-> Keep a copy of the file" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("nobody",), exits.BAD_TARGET, "there is no consecutor 'nobody' in"),
        (("nowhere.py",), exits.BAD_TARGET, "nowhere.py"),
        (("--max-pending", "0"), exits.BAD_TARGET, "--max-pending"),
        (("--store", "postgres://x"), exits.UNSOUND, ""),
    ],
)
def test_what_cannot_be_examined_is_told(shell: Shell, words: tuple[str, ...], code: int, said: str) -> None:
    done = shell.run("doctor", *words)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "locked", free_port(), requirepass="s3cret", appendonly="no")
    yield server.start()
    server.close()


def test_of_a_server_it_says_what_is_really_set_and_shows_no_password(flow: Shell, locked: RedisServer) -> None:
    flow.environment["CONSECUTIOND_STORE"] = locked.url(tcp=True, password="s3cret")
    found = report(flow, "flow.py", code=exits.UNSOUND)
    assert statuses(found)["redis.appendonly"] == "problem"
    assert "any end of the server takes all since its last snapshot" in found["guarantee"]
    shown = flow.run("doctor", "flow.py").stdout
    assert "CONFIG SET appendonly yes" in shown
    assert "s3cret" not in repr(found) + shown


def test_colours_are_for_terminals(shell: Shell) -> None:
    assert SHOUTED not in shell.run("doctor").stdout
    with terminal(shell, "doctor", TERM="xterm") as shown:
        assert shown.end() == exits.OK
    assert SHOUTED in shown.seen
    assert "survives a power cut" in shown.seen


def test_help_has_examples_and_exit_codes_and_ids_are_completed(flow: Shell) -> None:
    shown = flow.run("doctor", "--help").stdout
    assert "consecutiond doctor flow --json --strict" in shown
    assert f"{exits.UNSOUND}  doctor found a problem" in shown
    assert flow.run("run", "flow.py", "--id", "one", "--quiet", stdin="").returncode == exits.OK
    flow.environment |= {
        "_CONSECUTIOND_COMPLETE": "complete_bash", "COMP_WORDS": "consecutiond doctor o", "COMP_CWORD": "2"
    }  # fmt: skip
    assert flow.run().stdout.split() == ["one"]
