"""A census of the words in the Python standard library, line by line; one worker is killed on the way.

Its tables are exact all the same, and this is how:

- What a node keeps in memory dies with its worker, and an item may be processed more than once. So the
  counting nodes keep nothing: they write what they count in an item to an output, with the item's key.
- An item has the same key whenever it comes again, and `Table`, in the process that you have started, adds
  each key once. Its keys take 80 bytes each; in a database they would be the primary key of a table.
- A line is done only after all that was written for it has been appended, so nothing is missing either.
"""

import argparse
import keyword
import os
import re
import signal
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Columns

from consecutiond import ConsecutiondError, Consecutor, Node, Summary

#: an identifier, or what looks like one in a comment or a string
WORD = re.compile(r"\b[A-Za-z_]\w*")
KEYWORDS = frozenset(keyword.kwlist)
#: the worker that is killed, and the share of the lines that are done by then
VICTIM, KILL_AT = "node-tokenise.0", 0.3


def tokenise(line: str) -> tuple[list[str], list[str]]:
    """Find the keywords and the names in one line."""
    words = WORD.findall(line)
    return [word for word in words if word in KEYWORDS], [word for word in words if word not in KEYWORDS]


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
    """Find the standard library's source, its tests included, without what was installed beside it."""
    files = filter(Path.is_file, Path(sysconfig.get_path("stdlib")).rglob("*.py"))
    return sorted(file for file in files if not {"site-packages", "dist-packages"} & set(file.parts))[:limit]


def lines_of(files: Iterable[Path]) -> Iterator[str]:
    """Read all files line by line; some of Python's own tests are wrongly encoded on purpose."""
    for file in files:
        with file.open(encoding="utf-8", errors="replace") as lines:
            yield from lines


def plain_count(lines: Iterable[str]) -> tuple[int, dict[str, Counter[str]]]:
    """Count in one plain loop, without a graph: how many lines, and what the tables have to come to."""
    number, totals = 0, {"keywords": Counter[str](), "names": Counter[str]()}
    for line in lines:
        number += 1
        for total, words in zip(totals.values(), tokenise(line), strict=True):
            for word in words:
                total[word] += 1
    return number, totals


def watch(consecutor: Consecutor, lines: int, console: Console, kill: bool) -> None:
    """Show how a run gets on until it has no status any more; kill one worker, and tell when it is back."""
    began, printed, killed = time.monotonic(), 0.0, 0
    with console.status("starting") as shown, suppress(ConsecutiondError):
        while True:
            status, now = consecutor.status(), time.monotonic()
            shown.update(text := progress(status, lines, now - began))
            if not console.is_terminal and now - printed > 5:
                console.print(text, soft_wrap=True)
                printed = now
            victim = status["parts"][VICTIM]
            if kill and victim["state"] == "ready":
                if not killed and status["completed"] >= KILL_AT * lines:
                    os.kill(killed := victim["pid"], signal.SIGKILL)
                    console.print(f"{VICTIM}, pid {killed}, killed after {status['completed']:,} lines")
                elif killed and victim["pid"] != killed:
                    console.print(f"{VICTIM} is back: pid {victim['pid']}, restarts: {victim['restarts']}")
                    kill = False
            time.sleep(0.2)
    if kill:
        console.print(f"the run was over before {VICTIM} {'was back' if killed else 'could be killed'}")


def progress(status: Mapping[str, Any], lines: int, seconds: float) -> str:
    """Say how far a run is, and which process runs which worker."""
    done, parts = status["completed"], status["parts"]
    pids = " ".join(f"{name[5:]}={parts[name]['pid']}" for name in parts if name.startswith("node-"))
    return f"{done:,} of {lines:,} lines, {done / seconds:,.0f}/s, {status['open']:,} open; {pids}"


def report(console: Console, ran: Summary, tables: dict[str, Table]) -> None:
    """Show the most frequent words, the speed in items (lines, children, rows), and what became of the lines."""
    top = Columns("keywords", "", "names", "")
    most = [table.totals.most_common(15) for table in tables.values()]
    for (word, count), (name, uses) in zip(*most, strict=False):
        top.add_row(word, f"{count:,}", name, f"{uses:,}")
    console.print(top)
    items = ran.accepted + 2 * sum(len(table.keys) for table in tables.values())
    repeats = sum(table.repeats for table in tables.values())
    console.print(f"{ran.seconds:.1f} s, {items / ran.seconds:,.0f} items/s; {repeats:,} rows came twice")
    done = f"{ran.completed:,} completed + {ran.failed:,} failed + {ran.open:,} open"
    console.print(f"roots: {ran.accepted:,} accepted = {done}")


def differences(tables: dict[str, Table], right: dict[str, Counter[str]]) -> list[str]:
    """Compare the tables with the plain count, word by word; say how often each was counted too much."""
    surplus = {kind: Counter(table.totals) for kind, table in tables.items()}
    for kind, counts in surplus.items():
        counts.subtract(right[kind])
    return [f"{kind}: {word} {n:+,}" for kind, counts in surplus.items() for word, n in counts.items() if n]


def main() -> int:
    """Count plainly, run the graph, and compare."""
    parser = argparse.ArgumentParser(description="A census of the words in the Python standard library.")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N files")
    parser.add_argument("--no-kill", action="store_true", help="kill no worker")
    parser.add_argument("--dir", help="a directory in which the run is kept (default: a temporary one)")
    options, console = parser.parse_args(), Console()
    files, began = source_files(options.limit), time.monotonic()
    lines, right = plain_count(lines_of(files))
    console.print(f"{lines:,} lines in {len(files):,} files; a plain loop: {time.monotonic() - began:.1f} s")
    tables = {"keywords": Table(), "names": Table()}
    with tempfile.TemporaryDirectory(prefix="census-") as scratch:
        consecutor = Consecutor(graph, id="census", dir=options.dir or scratch)
        for kind, table in tables.items():
            consecutor.register_output(kind, table)
        consecutor.up()
        with ThreadPoolExecutor() as pool:
            watching = pool.submit(watch, consecutor, lines, console, not options.no_kill)
            ran = consecutor.produce_from_iterable(lines_of(files), progress=False)
        watching.result()
    report(console, ran, tables)
    wrong = differences(tables, right)
    if [ran.accepted, ran.completed, ran.failed, ran.open] != [lines, lines, 0, 0]:
        wrong.insert(0, f"not each of {lines:,} lines was accepted once and completed")
    console.print("\n".join(["census wrong", *wrong[:20]]) if wrong else "census correct")
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except ConsecutiondError as error:
        raise SystemExit(f"census: {error}") from None
