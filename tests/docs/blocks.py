"""The fenced blocks of a page of the documentation, and how each kind is made to prove itself.

What a block is stands behind the opening fence, where readers of the rendered page do not see it:

    python NAME    a complete script, saved as NAME (or as any name) and run
    python NAME saved   a script that a console block runs
    text output    what the script before it prints
    text NAME      a file, saved as NAME
    console        commands, each behind "$ ", and what they print, both streams together
    text           a picture; nothing is done with it
    … norun        anything that cannot be run here; `test_blocks.py` knows each one

In what is printed, "…" stands for any text within a line, and alone on a line for any number of lines. All blocks of a
page share one directory, in which they are run from top to bottom. `make TARGET` is not run: the target must exist.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

_FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)^```$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: Path
    line: int
    language: str
    words: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command of a console block, and what it is said to print."""

    text: str
    expected: str


def blocks_of(page: Path) -> list[Block]:
    """Find the blocks of a page."""
    content = page.read_text(encoding="utf-8")
    assert content.count("\n```") % 2 == 0, f"{page.name}: a fence is not closed, or not at the start of a line"
    found = []
    for match in _FENCE.finditer(content):
        language, *words = match[1].split() or [""]
        line = content.count("\n", 0, match.start()) + 1
        found.append(Block(page, line, language, tuple(words), match[2]))
    return found


def commands_of(block: Block) -> Iterator[Command]:
    """Take a console block apart."""
    first, *parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
    assert not first.strip(), f"{block}: a console block begins with a command behind '$ '"
    for part in parts:
        # a command goes on behind a backslash
        end = re.search(r"(?<!\\)\n", part)
        assert end is not None
        yield Command(part[: end.start()], part[end.end() :])


def prose_of(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def matches(expected: str, printed: str) -> bool:
    """Say whether what was printed is what the page shows."""
    pattern = ""
    for line in expected.rstrip().splitlines():
        if line.strip() == "…":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*?".join(map(re.escape, line.rstrip().split("…"))) + r"[ ]*\n"
    return re.fullmatch(pattern, printed.rstrip() + "\n" if printed.strip() else "") is not None
