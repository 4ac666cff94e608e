"""What the tests of whole consecutors share: a shell to type commands in, and eyes for processes."""

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from consecutiond import Consecutor
from consecutiond.acker.stores import read_only
from consecutiond_nodes import importer

REPOSITORY = Path(__file__).parents[2]
#: seconds after which a condition that a test waits for is not coming any more
PATIENCE_S = 60

#: run a test in both architectures
both_architectures = pytest.mark.usefixtures("architecture")
#: in modules that run everything in both architectures: what only processes can do
process_only = pytest.mark.parametrize("architecture", ["process"], indirect=True)

#: one node that writes every value in capitals
CAPITALS = """
    from consecutiond import Node

    class Up(Node):
        def process(self, text):
            self.write("capitals", text.upper())

    graph = Up("up")
"""


class Shell:
    """A directory in which `consecutiond` commands are typed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._spawned: list[subprocess.Popen[str]] = []
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("CONSECUTIOND_")}
        self.environment.pop("NO_COLOR", None)
        self.environment.pop("FORCE_COLOR", None)
        paths = [str(REPOSITORY / floor) for floor in ("", "broker", "nodes")]
        # The mark by which `living` finds whatever we start, however it calls itself.
        self.environment |= {"PYTHONPATH": os.pathsep.join(paths), "TERM": "xterm", "TEST_MARK": str(directory)}

    def write(self, name: str, text: str) -> Path:
        """Write a file, its text without the indentation it has in a test."""
        path = self.directory / name
        path.write_text(textwrap.dedent(text))
        return path

    def argv(self, *words: object) -> list[str]:
        return [sys.executable, "-m", "consecutiond", *map(str, words)]

    def run(self, *words: object, stdin: str = "", **options: Any) -> "subprocess.CompletedProcess[str]":
        """Type a command and wait for its end."""
        return subprocess.run(
            self.argv(*words), cwd=self.directory, env=self.environment, input=stdin, capture_output=True, text=True,
            timeout=PATIENCE_S, check=False, **options,
        )  # fmt: skip

    def spawn(self, *words: object, **options: Any) -> "subprocess.Popen[str]":
        """Type a command and leave it running."""
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        return self._spawn(self.argv(*words), options)

    def python(self, script: str) -> "subprocess.Popen[str]":
        """Leave a script of the directory running."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return self._spawn([sys.executable, script], pipes)

    def _spawn(self, argv: list[str], options: dict[str, Any]) -> "subprocess.Popen[str]":
        process = subprocess.Popen(argv, cwd=self.directory, env=self.environment, text=True, **options)
        self._spawned.append(process)
        return process

    def status(self, id: str) -> dict[str, Any]:
        """Return what `status --json` says."""
        found: dict[str, Any] = msgspec.json.decode(self.run("status", id, "--json").stdout)
        return found

    def home(self, id: str) -> Path:
        """Return the directory of a consecutor."""
        return self.directory / ".consecution" / id

    def written(self, id: str, name: str) -> list[Any]:
        """Return what a daemon has written to an output."""
        path = self.home(id) / "output_files" / f"{name}.jsonl"
        return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()] if path.exists() else []

    def living(self) -> dict[int, str]:
        """Return every process that was started from here, with its command line."""
        return living(self.directory)

    def end(self) -> None:
        """Kill whatever a failed test has left."""
        for pid in self.living():
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                pass
        for process in self._spawned:
            process.wait(PATIENCE_S)
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    try:
                        pipe.close()
                    except BrokenPipeError:
                        pass


def living(mark: Path) -> dict[int, str]:
    """Return the processes with a path in their command line or environment; zombies have neither."""
    found = {}
    needle = os.fsencode(mark)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
        except OSError:
            # Gone, or somebody else's.
            continue
        if needle in command or needle in environment:
            found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace")
    return found


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Wait for a condition and return what it returned."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.01)
    return found


def wait_gone(directory: Path) -> None:
    """Wait until no process of a test's directory is left."""
    wait_for(lambda: not living(directory), "the end of every process")


def make(directory: Path, source: str, id: str = "it", **options: Any) -> tuple[Consecutor, list[Any]]:
    """Return a consecutor of the graph in a source text, and what its output `out` will hold."""
    path = directory / f"{id}.py"
    path.write_text(textwrap.dedent(source))
    target = f"{path}:graph"
    consecutor = Consecutor(importer.load(target), target=target, id=id, dir=directory / "base", **options)
    out: list[Any] = []
    consecutor.register_output("out", out)
    return consecutor, out


def logged(home: Path) -> dict[str, int]:
    """Return the counts of a log, read from the store itself."""
    store = read_only(home / "acker_db.sqlite")
    try:
        totals = store.totals()
    finally:
        store.close()
    return {name: getattr(totals, name) for name in ("accepted", "completed", "failed", "open")}
