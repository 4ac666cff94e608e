"""A census of the words in the Python standard library, line by line, in which one worker is killed on the way.

Its tables are exact all the same, and this is how:

- What a node keeps in memory dies with its worker, and an item may be processed more than once. So the counting nodes
  keep nothing: they write what they count in one item to an output, together with the key of the item.
- An item has the same key whenever it comes again, and `Table`, in the process that you have started, adds each key
  once. The keys take about 80 bytes a line; in a database they would be the primary key of a table.
- An item is done only after what was written for it has been appended, so each is added at least once, too.
"""

import argparse
import keyword
import os
import re
import signal
import sys
import sysconfig
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import rich.table
from rich.console import Console

from consecutiond import Consecutor, Node

#: an identifier, or what looks like one in a comment or a string
WORD = re.compile(r"\b[^\W\d]\w*")
KEYWORDS = frozenset(keyword.kwlist)
#: the worker that is killed, and the share of the lines that are done by then
VICTIM, KILL_AT = "node-tokenise.0", 0.3


def tokenise(line: str) -> tuple[list[str], list[str]]:
    """Find the keywords and the names in one line."""
    keywords: list[str] = []
    names: list[str] = []
    for word in WORD.findall(line):
        (keywords if word in KEYWORDS else names).append(word)
    return keywords, names


class Tokenise(Node):
    """Push the keywords of a line and its names: at most two children for each line."""

    def process(self, line: str) -> None:
        """Split one line."""
        for words in tokenise(line):
            if words:
                self.push(words)


class Count(Node):
    """Write the counts of each item, with its key, to the output that has the name of the node."""

    def process(self, words: list[str]) -> None:
        """Count one item."""
        self.write(self.name, (self.item_key, Counter(words)))


def route(words: list[str]) -> str:
    """Name the node that counts these words; no item has both kinds."""
    return "keywords" if words[0] in KEYWORDS else "names"


tokeniser = Tokenise("tokenise")
tokeniser.set_num_workers(2)
graph = tokeniser | [Count("keywords"), Count("names"), route]


class Table:
    """An output that adds each key once, however often it is appended."""

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self.keys: set[int] = set()
        self.repeats = 0

    def append(self, row: tuple[int, Mapping[str, int]]) -> None:
        """Add the counts of one item, unless they have been added before."""
        key, counts = row
        if key in self.keys:
            self.repeats += 1
        else:
            self.keys.add(key)
            self.totals.update(counts)


def source_files(limit: int | None = None) -> list[Path]:
    """Find the source of the standard library, its tests included, without what was installed beside it."""
    files = Path(sysconfig.get_path("stdlib")).rglob("*.py")
    return sorted(file for file in files if not {"site-packages", "dist-packages"} & set(file.parts))[:limit]


def lines_of(files: Iterable[Path]) -> Iterator[str]:
    """Read all files line by line; some of Python's own tests are wrongly encoded on purpose."""
    for file in files:
        with file.open(encoding="utf-8", errors="replace") as lines:
            yield from lines


def plain_count(lines: Iterable[str]) -> tuple[int, dict[str, Counter[str]]]:
    """Count in one plain loop, without a graph: the number of lines, and what the tables have to come to."""
    number, keywords, names = 0, Counter[str](), Counter[str]()
    for line in lines:
        found = tokenise(line)
        keywords.update(found[0])
        names.update(found[1])
        number += 1
    return number, {"keywords": keywords, "names": names}


class Watcher(threading.Thread):
    """Shows how a run gets on, kills one worker, and tells when it is back."""

    def __init__(self, consecutor: Consecutor, total: int, console: Console, kill: bool) -> None:
        super().__init__(name="watcher", daemon=True)
        self.consecutor, self.total, self.console = consecutor, total, console
        self.waits_for = "its time" if kill else "the end"
        self.victim_pid = 0
        self.ended = threading.Event()

    def run(self) -> None:
        """Look at the status until the run has ended."""
        began = printed = time.monotonic()
        with self.console.status("starting") as shown:
            while not self.ended.wait(0.1):
                status = self.consecutor.status()
                now = time.monotonic()
                text = self.text(status, now - began)
                shown.update(text)
                if not self.console.is_terminal and now - printed > 5:
                    self.console.print(text)
                    printed = now
                self.strike(status["completed"], status["parts"][VICTIM])

    def text(self, status: Mapping[str, Any], seconds: float) -> str:
        """Say how far the run is, and which process runs which worker."""
        parts = {name.removeprefix("node-"): part for name, part in status["parts"].items() if "node-" in name}
        pids = ", ".join(f"{name} {part['pid']}" for name, part in parts.items())
        speed = status["completed"] / seconds
        done = f"{status['completed']:,} of {self.total:,} lines, {speed:,.0f} a second"
        return f"{done}, {status['open']:,} open; pids: {pids}"

    def strike(self, done: int, victim: Mapping[str, Any]) -> None:
        """Kill the victim when its time has come, then wait for its successor."""
        if self.waits_for == "its time" and victim["pid"] and done >= KILL_AT * self.total:
            self.victim_pid = victim["pid"]
            os.kill(self.victim_pid, signal.SIGKILL)
            self.console.print(f"{VICTIM} (pid {self.victim_pid}) killed with SIGKILL after {done:,} lines")
            self.waits_for = "its successor"
        elif self.waits_for == "its successor" and victim["state"] == "ready":
            if victim["pid"] != self.victim_pid:
                self.console.print(f"{VICTIM} is back: pid {victim['pid']}, restarts: {victim['restarts']}")
                self.waits_for = "the end"
