"""`consecutiond ls`: every consecutor of the directory, from its files alone."""

import os
import re
import signal
import time
from typing import Any

import msgspec

from consecutiond.cli import exits
from tests.system.shell import CAPITALS, Shell, wait_for

#: what takes long to import, and `ls` has no use for
HEAVY = {"numpy", "zmq", "structlog", "rich.table", "supervisor", "cloudpickle", "consecutiond.plan"}


def listed(shell: Shell, *words: object) -> dict[str, dict[str, Any]]:
    done = shell.run("ls", "--json", *words)
    assert (done.returncode, done.stderr) == (exits.OK, "")
    return {entry["id"]: entry for entry in msgspec.json.decode(done.stdout)}


def start(shell: Shell, id: str, *words: object) -> int:
    done = shell.run("start", "flow.py", "--id", id, "--detach", *words)
    assert done.returncode == exits.OK, done.stderr
    return int(re.findall(r"pid (\d+)", done.stdout)[0])


def counts(entry: dict[str, Any]) -> tuple[int, ...]:
    return tuple(entry[name] for name in ("accepted", "completed", "failed", "open"))


def test_an_empty_directory_is_no_fault(shell: Shell) -> None:
    done = shell.run("ls")
    assert (done.returncode, done.stdout) == (exits.OK, f"no consecutor in {shell.directory / '.consecution'}\n")
    assert listed(shell) == {}


def test_running_dead_and_finished_ones_are_told_apart(shell: Shell) -> None:
    shell.write("flow.py", CAPITALS.replace("text.upper()", "int(text)"))
    before = int(time.time())
    assert shell.run("run", "flow.py", "--id", "done", stdin="7\nseven\n").returncode == exits.SOME_FAILED
    running, dead = start(shell, "running"), start(shell, "dead", "--durability", "fast")
    os.kill(dead, signal.SIGKILL)
    found = wait_for(lambda: (now := listed(shell))["dead"]["state"] == "dead" and now, "the end of the root")
    assert {id: (entry["state"], entry["pid"]) for id, entry in found.items()} == {
        "dead": ("dead", 0), "done": ("finished", 0), "running": ("running", running),
    }  # fmt: skip
    assert counts(found["done"]) == (2, 1, 1, 0)
    assert counts(found["running"]) == (0, 0, 0, 0)
    for entry in found.values():
        assert (entry["target"], entry["architecture"], entry["error"]) == ("flow.py", "process", "")
        assert before <= entry["started_at"] <= time.time()
    assert "survives a power cut" in found["running"]["guarantee"]
    assert "a power cut may take the last moments" in found["dead"]["guarantee"]


def test_the_table_has_a_line_for_each(shell: Shell) -> None:
    shell.write("flow.py", CAPITALS)
    for id in ("one", "two"):
        assert shell.run("run", "flow.py", "--id", id, stdin="x\n" * 1234).returncode == exits.OK
    done = shell.run("ls")
    assert done.returncode == exits.OK
    heading, *lines = done.stdout.splitlines()
    assert heading.split() == [
        "id", "state", "pid", "since", "architecture", "accepted", "completed", "failed", "open", "target", "guarantee",
    ]  # fmt: skip
    assert [line.split()[0] for line in lines] == ["one", "two"]
    assert re.search(r"^one  finished +- +\d{4}-\d\d-\d\d [\d:]{8}  process +1,234 +1,234 +0 +0  flow.py", lines[0])


def test_a_graph_that_runs_in_threads_and_keeps_its_log_in_memory(shell: Shell) -> None:
    shell.write(
        "threads.py",
        """
        import time
        from pathlib import Path
        from consecutiond import Consecutor, Node

        consecutor = Consecutor(Node("a"), architecture="thread", id="threads", store="memory://")
        with consecutor:
            while not Path("end").exists():
                time.sleep(0.01)
        """,
    )
    script = shell.python("threads.py")
    wait_for(lambda: listed(shell).get("threads", {}).get("architecture"), "its plan")
    entry = listed(shell)["threads"]
    (shell.directory / "end").touch()
    assert script.wait(60) == 0
    assert (entry["state"], entry["pid"]) == ("running", script.pid)
    assert (entry["architecture"], entry["accepted"]) == ("thread", None)
    assert "lost when the acker dies" in entry["guarantee"]


def test_what_cannot_be_read_is_said_and_hides_nobody(shell: Shell) -> None:
    shell.write("flow.py", CAPITALS)
    for id in ("bad-log", "bad-plan", "good"):
        assert shell.run("run", "flow.py", "--id", id, stdin="x\n").returncode == exits.OK
    (shell.home("bad-log") / "acker_db.sqlite").write_bytes(b"no database" * 1000)
    (shell.home("bad-plan") / "plan.json").write_text("{}")
    (shell.directory / ".consecution" / "not a consecutor").mkdir()
    found = listed(shell)
    assert sorted(found) == ["bad-log", "bad-plan", "good"]
    assert found["bad-log"]["accepted"] is None
    assert "acker_db.sqlite" in found["bad-log"]["error"]
    assert "plan.json cannot be read" in found["bad-plan"]["error"]
    assert counts(found["good"]) == (1, 1, 0, 0)
    assert "acker_db.sqlite" in shell.run("ls").stdout


def test_nothing_is_imported_that_a_list_has_no_use_for(shell: Shell) -> None:
    shell.write("flow.py", CAPITALS)
    assert shell.run("run", "flow.py", stdin="x\n").returncode == exits.OK
    shell.environment["PYTHONPROFILEIMPORTTIME"] = "1"
    done = shell.run("ls")
    assert "flow  finished" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "consecutiond.cli.ls" in imported
    assert not imported & HEAVY
