"""Every fenced block of the documentation does what its page says: see `blocks.py` for the kinds of blocks."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from consecutiond.rundir import RunDir
from consecutiond_broker.deaths import kill_if_ours
from tests.docs.blocks import PAGES, ROOT, Block, blocks_of, commands_of, matches

#: seconds after which a block hangs
HANGS_S = 150
#: seconds that a consecutor which was told to stop may still be there
ENDS_S = 30
#: blocks that are not run, by page and first line: each needs what a test cannot have
NOT_RUN: set[tuple[str, str]] = {
    # They change the machine. What install-service writes is checked in tests/system/test_service.py.
    ("operations.md", "flow restart flow parse --dir /var/lib/consecutiond"),
    ("operations.md", "sudo apt-get install -y python3-venv redis-server"),
    ("operations.md", "sudo mkdir -p /etc/consecutiond /usr/local/share/flow"),
    ("operations.md", "alias flow='sudo -u consecutiond consecutiond'"),
}
#: what a console block may call
COMMANDS = {"consecutiond", "python", "cat", "printf", "seq", "ls", "echo"}


class Page:
    """Runs the blocks of one page in one directory."""

    def __init__(self, blocks: list[Block], directory: Path) -> None:
        self.blocks, self.directory = blocks, directory
        ours = {name: value for name, value in os.environ.items() if not name.startswith("CONSECUTIOND_")}
        places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**ours, "PATH": places, "COLUMNS": "100", "TERM": "dumb"}

    def run(self) -> None:
        for place, block in enumerate(self.blocks):
            if "norun" not in block.words:
                following = self.blocks[place + 1 : place + 2]
                self._run_one(block, following[0] if following else None)

    def _run_one(self, block: Block, following: Block | None) -> None:
        if block.language == "python":
            name = block.words[0] if block.words else "script.py"
            (self.directory / name).write_text(block.text, encoding="utf-8")
            if "saved" in block.words:
                return
            output = following is not None and following.words == ("output",)
            self._check(block, f"python {name}", following.text if output else "")
        elif block.language == "text":
            if block.words and block.words != ("output",):
                (self.directory / block.words[0]).write_text(block.text, encoding="utf-8")
        elif block.language == "console":
            for command in commands_of(block):
                self._check(block, command.text, command.expected)
        else:
            pytest.fail(f"{block}: a block of kind {block.language!r} proves nothing; see blocks.py")

    def _check(self, block: Block, command: str, expected: str) -> None:
        # behind what is set for this command alone
        words = [word for word in command.split() if not re.match(r"[A-Z_]+=|\\$", word)]
        if words[0] == "make":
            assert set(words[1:]) <= make_targets(), f"{block}: {command}"
            return
        assert words[0] in COMMANDS, f"{block}: {command}"
        # A file, because a daemon that is started here would hold a pipe open.
        printed = self.directory / ".printed"
        with printed.open("wb") as file:
            ended = subprocess.run(
                ["bash", "-o", "pipefail", "-c", command], cwd=self.directory, env=self.environment,
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, timeout=HANGS_S, check=False,
            )  # fmt: skip
        text = printed.read_text(encoding="utf-8")
        assert ended.returncode == 0, f"{block}: {command}\n{text}"
        assert matches(expected, text), f"{block}: {command}\n--- shown\n{expected}\n--- printed\n{text}"

    def live(self) -> list[RunDir]:
        return [found for found in RunDir.all(self.directory / ".consecution") if found.is_live()]

    def ends(self) -> bool:
        """Wait for consecutors that were told to stop; the last of their processes may take a moment."""
        deadline = time.monotonic() + ENDS_S
        while self.live() and time.monotonic() < deadline:
            time.sleep(0.05)
        return not self.live()

    def kill(self) -> None:
        for found in self.live():
            if "root" in (pids := found.read_pids()):
                kill_if_ours(*pids["root"], signal.SIGKILL)


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def run_page(path: Path, directory: Path) -> None:
    page = Page(blocks_of(path), directory)
    try:
        page.run()
        assert page.ends()
    finally:
        page.kill()


@pytest.mark.parametrize("path", PAGES, ids=[page.name for page in PAGES])
def test_the_blocks_of_a_page_do_what_it_shows_and_leave_nothing_running(path: Path, tmp_path: Path) -> None:
    run_page(path, tmp_path)


def test_the_blocks_that_are_not_run_are_few_and_known() -> None:
    blocks = [block for page in PAGES for block in blocks_of(page) if "norun" in block.words]
    assert {(block.page.name, block.text.splitlines()[0]) for block in blocks} == NOT_RUN


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("", "", True),
        ("", "x\n", False),
        ("x\n", "", False),
        ("a … c\n", "a b c  \n", True),
        ("a … c\n", "a b\nc\n", False),
        ("a\n…\nb\n", "a\nb\n", True),
        ("a\n…\nb\n", "a\n1\n2\nb\n", True),
        ("a\nb\n", "a\nb\nc\n", False),
        ("a.c\n", "abc\n", False),
    ],
)
def test_what_is_shown_is_compared_line_by_line_but_for_the_dots(expected: str, printed: str, same: bool) -> None:
    assert matches(expected, printed) is same
