"""A census of the words in the Python standard library, line by line, in which one worker is killed on the way.

Its tables are exact all the same, and this is how:

- What a node keeps in memory dies with its worker, and an item may be processed more than once. So the counting nodes
  keep nothing: they write what they count in one item to an output, together with the key of the item.
- An item has the same key whenever it comes again, and `Table`, in the process that you have started, adds each key
  once. The keys take about 80 bytes a line; in a database they would be the primary key of a table.
- An item is done only after what was written for it has been appended, so each is added at least once, too.
"""

import argparse
import itertools
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

from consecutiond import ConsecutiondError, Consecutor, Node, Summary

#: an identifier, or what looks like one in a comment or a string
WORD = re.compile(r"\b[A-Za-z_]\w*")
KEYWORDS = frozenset(keyword.kwlist)
#: the worker that is killed, and the share of the lines that are done by then
VICTIM, KILL_AT = "node-tokenise.0", 0.3

#: how often each word occurs, for each kind of word
Totals = dict[str, Counter[str]]


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
        self.write(self.name, (self.item_key, {word: words.count(word) for word in words}))


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
            for word, count in counts.items():
                self.totals[word] += count


def source_files(limit: int | None = None) -> list[Path]:
    """Find the source of the standard library, its tests included, without what was installed beside it."""
    files = Path(sysconfig.get_path("stdlib")).rglob("*.py")
    return sorted(file for file in files if not {"site-packages", "dist-packages"} & set(file.parts))[:limit]


def lines_of(files: Iterable[Path]) -> Iterator[str]:
    """Read all files line by line; some of Python's own tests are wrongly encoded on purpose."""
    for file in files:
        with file.open(encoding="utf-8", errors="replace") as lines:
            yield from lines


def plain_count(lines: Iterable[str]) -> tuple[int, Totals]:
    """Count in one plain loop, without a graph: the number of lines, and what the tables have to come to."""
    number, totals = 0, {"keywords": Counter[str](), "names": Counter[str]()}
    for line in lines:
        number += 1
        for total, words in zip(totals.values(), tokenise(line), strict=True):
            for word in words:
                total[word] += 1
    return number, totals


class Watcher(threading.Thread):
    """Shows how a run gets on, kills one worker, and tells when it is back."""

    def __init__(self, consecutor: Consecutor, total: int, console: Console, kill: bool) -> None:
        super().__init__(name="watcher", daemon=True)
        self.consecutor, self.total, self.console = consecutor, total, console
        self.waits_for = "its time" if kill else "the end"
        self.victim_pid = 0

    def run(self) -> None:
        """Look at the status until there is none any more."""
        began = printed = time.monotonic()
        with self.console.status("starting") as shown:
            while (status := self.status()) is not None:
                now = time.monotonic()
                text = self.text(status, now - began)
                shown.update(text)
                if not self.console.is_terminal and now - printed > 5:
                    self.console.print(text)
                    printed = now
                self.strike(status["completed"], status["parts"][VICTIM])
                time.sleep(0.1)

    def status(self) -> dict[str, Any] | None:
        """Ask for the status; None when the run is over."""
        try:
            return self.consecutor.status()
        except ConsecutiondError:
            return None

    def text(self, status: Mapping[str, Any], seconds: float) -> str:
        """Say how far the run is, and which process runs which worker."""
        done, still_open = status["completed"], status["open"]
        pids = [
            f"{name[5:]} {part['pid']}" for name, part in status["parts"].items() if name.startswith("node-")
        ]
        speed = done / max(seconds, 0.1)
        return (
            f"{done:,} of {self.total:,} lines, {speed:,.0f}/s, {still_open:,} open; pids: {', '.join(pids)}"
        )

    def strike(self, done: int, victim: Mapping[str, Any]) -> None:
        """Kill the victim when its time has come, then wait for its successor."""
        if self.waits_for == "its time" and done >= KILL_AT * self.total:
            self.victim_pid = victim["pid"]
            os.kill(self.victim_pid, signal.SIGKILL)
            self.console.print(f"{VICTIM} (pid {self.victim_pid}) killed with SIGKILL after {done:,} lines")
            self.waits_for = "its successor"
        elif (
            self.waits_for == "its successor"
            and victim["state"] == "ready"
            and victim["pid"] != self.victim_pid
        ):
            self.console.print(f"{VICTIM} is back: pid {victim['pid']}, restarts: {victim['restarts']}")
            self.waits_for = "the end"


def top_words(tables: Mapping[str, Table], rows: int = 15) -> rich.table.Table:
    """Lay out the most frequent words of each table side by side."""
    shown = rich.table.Table(*(column for name in tables for column in (name, "")))
    ranked = [table.totals.most_common(rows) for table in tables.values()]
    for row in itertools.zip_longest(*ranked, fillvalue=("", 0)):
        shown.add_row(*(text for word, count in row for text in (word, f"{count:,}")))
    return shown


def differences(summary: Summary, lines: int, tables: Mapping[str, Table], expected: Totals) -> list[str]:
    """Compare a run with the plain count: every root is accounted for, and every word counted exactly."""
    found = {"accepted": summary.accepted, "completed": summary.completed, "failed": summary.failed}
    right = {"accepted": lines, "completed": lines, "failed": 0, "open": 0}
    wrong = _unequal("roots", found | {"open": summary.open}, right)
    for name, table in tables.items():
        wrong += _unequal(name, table.totals, expected[name])
    return wrong


def _unequal(what: str, found: Mapping[str, int], right: Mapping[str, int]) -> list[str]:
    pairs = {key: (found.get(key, 0), right.get(key, 0)) for key in found.keys() | right.keys()}
    return [
        f"{what}: {key} {is_:,}, expected {be:,}" for key, (is_, be) in sorted(pairs.items()) if is_ != be
    ]


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N files")
    parser.add_argument("--no-kill", action="store_true", help="kill no worker")
    parser.add_argument("--dir", type=Path, help="where the directory of the run is kept (default: not kept)")
    return parser.parse_args()


def main() -> int:
    """Count plainly, run the graph, and compare."""
    options, console = parse(), Console()
    files = source_files(options.limit)
    began = time.perf_counter()
    total, expected = plain_count(lines_of(files))
    console.print(
        f"plain loop: {total:,} lines of {len(files):,} files in {time.perf_counter() - began:.1f} s"
    )
    tables = {"keywords": Table(), "names": Table()}
    with tempfile.TemporaryDirectory(prefix="census-") as scratch:
        consecutor = Consecutor(graph, id="census", dir=options.dir or scratch)
        for name, table in tables.items():
            consecutor.register_output(name, table)
        consecutor.up()
        watcher = Watcher(consecutor, total, console, kill=not options.no_kill)
        watcher.start()
        summary = consecutor.produce_from_iterable(lines_of(files), progress=False)
        watcher.join()
    return report(console, summary, tables, differences(summary, total, tables, expected))


def report(console: Console, summary: Summary, tables: Mapping[str, Table], wrong: list[str]) -> int:
    """Show what came out; return the exit code."""
    console.print(top_words(tables))
    items = summary.accepted + 2 * sum(len(table.keys) for table in tables.values())
    console.print(
        f"{summary.accepted:,} lines in {summary.seconds:.1f} s: {summary.accepted / summary.seconds:,.0f} lines/s, "
        f"{items / summary.seconds:,.0f} items/s (lines, what was pushed for them, and what was written)\n"
        f"roots: {summary.accepted:,} accepted = {summary.completed:,} completed + {summary.failed:,} failed "
        f"+ {summary.open:,} open\n"
        f"rows that came again, and were added once: {sum(table.repeats for table in tables.values()):,}"
    )
    console.print("\n".join(["census wrong", *wrong[:20]]) if wrong else "census correct")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
