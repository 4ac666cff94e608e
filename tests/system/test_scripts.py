"""Scripts that are programs: `up()` with an input of its own, in a pipe, and interrupted at every stage."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from consecutiond import Consecutor, Node
from consecutiond.cli import exits
from consecutiond.consecutor import StateError
from consecutiond.inputs.errors import InputError
from tests.system.shell import Shell, logged, wait_for, wait_gone

ARCHITECTURES = ["process", "thread"]
FILTER = """
    import sys
    from consecutiond import Consecutor, Node

    class Echo(Node):
        def process(self, line):
            self.write("out", line)

    class Lines:
        def append(self, line):
            print(line)

    graph = Echo("echo")

    if __name__ == "__main__":
        consecutor = Consecutor(graph, sys.argv[1], input="stdin", id="filter")
        consecutor.register_output("out", Lines())
        consecutor.up()
        print(consecutor.down().completed, "completed", file=sys.stderr)
"""
#: holds where the environment says, while there is a file `held`
STAGES = """
    import os, sys, time
    from consecutiond import Consecutor, Node

    def at(stage):
        if os.environ["STAGE"] == stage:
            open("reached", "w").close()
            while os.path.exists("held"):
                time.sleep(0.01)

    class Stages(Node):
        def begin(self):
            at("start")

        def process(self, value):
            at("drain")
            self.write("out", value)

        def end(self):
            at("end")

    def values():
        for value in range(10):
            if value == 5:
                at("feed")
            yield value

    graph = Stages("stages")

    if __name__ == "__main__":
        consecutor = Consecutor(graph, sys.argv[1], id="stages")
        consecutor.register_output("out", [])
        consecutor.produce_from_iterable(values(), progress=False)
"""


def script(shell: Shell, name: str, *words: str, **pipes: int) -> "subprocess.Popen[str]":
    standard = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | pipes
    return shell._spawn([sys.executable, name, *words], standard)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_up_with_stdin_returns_at_its_end_and_works_in_a_pipe(shell: Shell, architecture: str) -> None:
    shell.write("filter.py", FILTER)
    line = f"seq 2000 | {sys.executable} filter.py {architecture} | sort -n | uniq"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], cwd=shell.directory, env=shell.environment, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (exits.OK, "2000 completed\n")
    assert done.stdout.split() == [str(number) for number in range(1, 2001)]
    wait_gone(shell.directory)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_reader_that_leaves_ends_the_script_with_exit_code_7_and_no_traceback(
    shell: Shell, architecture: str
) -> None:
    """However much there still is to come: `yes` never ends."""
    shell.write("filter.py", FILTER)
    line = f"yes | {sys.executable} filter.py {architecture} | head -n 1; echo ${{PIPESTATUS[1]}}"
    done = subprocess.run(
        ["bash", "-c", line], cwd=shell.directory, env=shell.environment, capture_output=True, text=True, timeout=60,
        check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["y", str(exits.STOPPED)]
    assert done.stderr == "consecutiond: nobody reads the output any more; what is open stays in the log\n"
    wait_gone(shell.directory)
    counts = logged(shell.home("filter"))
    assert counts["accepted"] == counts["completed"] + counts["failed"] + counts["open"]


def test_without_outputs_of_its_own_it_prints_what_is_written(shell: Shell) -> None:
    shell.write("filter.py", FILTER.replace('consecutor.register_output("out", Lines())', "pass"))
    process = script(shell, "filter.py", "process", stdin=subprocess.PIPE)
    out, _ = process.communicate("a\nb\n", 60)
    assert sorted(out.splitlines()) == ['out\t"a"', 'out\t"b"']


@pytest.mark.parametrize("how", ["option", "calls"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_server_as_input_runs_until_it_is_interrupted_and_down_has_the_summary(
    shell: Shell, architecture: str, how: str
) -> None:
    """`up()` with the option, or `up()`, `produce_from_http(uri)`, `down()`."""
    uri = "http://127.0.0.1:0"
    run = (
        f"consecutor = Consecutor(graph, sys.argv[1], input='{uri}', id='filter').register_output('out', []).up()"
        if how == "option"
        else f"""consecutor = Consecutor(graph, sys.argv[1], id="filter").register_output("out", [])
        consecutor.up()
        consecutor.produce_from_http("{uri}")"""
    )
    head = FILTER.partition('if __name__ == "__main__":')[0]
    shell.write("serve.py", f"""{head}
    if __name__ == "__main__":
        {run}
        print(consecutor.down().completed)
    """)  # fmt: skip
    process = script(shell, "serve.py", architecture)
    assert process.stderr is not None
    told = process.stderr.readline()
    found = re.search(r"takes input at (\S+)", told)
    assert found, told
    assert httpx.post(f"{found[1]}/items?each=1", json=[1, 2, 3]).status_code == 202
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "3\n"), err
    assert "Traceback" not in err
    wait_gone(shell.directory)


def test_an_input_that_cannot_be_read_is_an_error_before_anything_starts(tmp_path: Path) -> None:
    consecutor = Consecutor(Node("one"), "thread", id="x", dir=tmp_path, input=str(tmp_path / "missing"))
    with pytest.raises(InputError, match="missing: No such file"):
        consecutor.up()
    assert not (tmp_path / "x").exists()


def test_down_returns_what_an_input_has_ended_once(tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("a\nb\n")
    consecutor = Consecutor(Node("one"), "thread", id="x", dir=tmp_path, input=str(tmp_path / "lines"))
    assert consecutor.up().last is not None
    assert consecutor.down().completed == 2
    with pytest.raises(StateError, match="call up"):
        consecutor.down()


@pytest.mark.parametrize("stage", ["start", "feed", "drain", "end"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_interrupt_at_any_stage_leaves_no_process_and_loses_no_item(
    shell: Shell, architecture: str, stage: str
) -> None:
    shell.write("stages.py", STAGES)
    (shell.directory / "held").touch()
    shell.environment["STAGE"] = stage
    process = script(shell, "stages.py", architecture)
    wait_for((shell.directory / "reached").exists, f"the stage {stage}")
    process.send_signal(signal.SIGINT)
    (shell.directory / "held").unlink()
    _, err = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 128 + signal.SIGINT, 1), err
    assert err.rstrip().endswith("KeyboardInterrupt"), err
    wait_gone(shell.directory)
    store = shell.home("stages") / "acker_db.sqlite"
    before = logged(shell.home("stages")) if store.exists() else dict.fromkeys(("accepted", "open"), 0)
    assert before["accepted"] == before["open"] + before.get("completed", 0) + before.get("failed", 0)
    shell.environment["STAGE"] = ""
    again = script(shell, "stages.py", architecture)
    _, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
    after = logged(shell.home("stages"))
    assert after["accepted"] == after["completed"] == before["accepted"] + 10
    assert os.listdir(shell.home("stages") / "socket_files") == []
