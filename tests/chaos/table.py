"""The figures of the chaos rows, and the table that is made of them.

    python -m tests.chaos.table            prints it as Markdown, and puts it between the markers in docs/guarantees.md
    python -m tests.chaos.table --print    only prints it, as `make chaos` does in the end

Each row is one test, which takes the fixtures `row` and `scale` (see conftest.py): ``row.fault``, ``row.how`` and so on
are set by the test, and written down when it has ended, with its outcome. A row that ran in both forms is shown in its
full one. Nothing here is asserted: what must hold, the test asserts.
"""

import argparse
import os
import platform
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from tests.chaos.oracle import Verdict
from tests.chaos.watch import Watch

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "guarantees.md"
#: where each row leaves its figures: NAME.json
RESULTS = Path(os.environ.get("CHAOS_RESULTS", ROOT / "build" / "chaos"))
_BEGIN, _END = "<!-- chaos: rows -->\n", "<!-- chaos: end -->"


@dataclass
class Row:
    """What one row of the table says."""

    #: as pytest takes it, without its parameters
    test: str
    #: "short" or "full", or "full x 0.1"
    form: str
    #: who dies or what goes wrong; the first word is its number, by which the table is sorted
    fault: str = ""
    #: how, and how often
    how: str = ""
    outcome: str = "not run"
    #: inputs that were accepted; that were lost; lines of the sink beyond the first of each
    accepted: int = 0
    lost: int = 0
    repeated: int = 0
    #: seconds from each fault to the next completion of an input that was sent after it
    recovery_s: list[float] = field(default_factory=list)
    #: MiB that the part grew which grew most, and which that was
    grown_mib: float = 0.0
    grown_part: str = ""
    #: whatever else it tells
    notes: list[str] = field(default_factory=list)
    #: processes that wanted to run at its end, as the system counts them; a quiet machine has a few
    busy: float = 0.0

    def judged(self, verdict: Verdict) -> None:
        """Take over what the oracle found; it raises where something is lost."""
        self.accepted, self.repeated = verdict.accepted, verdict.repeated
        if verdict.failed:
            self.notes.append(f"{len(verdict.failed):,} kept as failed")

    def grew(self, watch: Watch, part: str = "") -> None:
        """Note how much memory a part has taken beyond what it had first; without a name the one that grew most."""
        self.grown_part, self.grown_mib = (part, watch.grown(part)) if part else watch.growth()

    def note_pause(self, seconds: float) -> None:
        """Note how long a push had to wait."""
        self.notes.append(f"a push waited up to {seconds:.2f} s")

    def save(self) -> None:
        """Write it down."""
        self.busy = os.getloadavg()[1]
        RESULTS.mkdir(parents=True, exist_ok=True)
        name = self.test.rpartition("/")[2].replace("::", ".").replace(".py", "")
        form = self.form.partition(" ")[0]
        (RESULTS / f"{name}.{form}.json").write_bytes(msgspec.json.encode(self))


def rows() -> list[Row]:
    """Read what rows have left, sorted by the numbers of their faults; of each test one form."""
    found: dict[str, Row] = {}
    # "full" comes before "short".
    for path in sorted(RESULTS.glob("*.json")):
        row = msgspec.json.decode(path.read_bytes(), type=Row)
        found.setdefault(row.test, row)
    return sorted(found.values(), key=lambda row: (row.fault, row.test))


def table(rows: list[Row]) -> Iterator[str]:
    """Return the lines of the table."""
    yield "| fault | how | lost | repeated | recovery: p50, p99, max | memory | seen besides | shown by |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        grown = f"+{row.grown_mib:.0f} MiB ({row.grown_part})" if row.grown_part else ""
        lost, repeated = f"{row.lost} of {row.accepted:,}", f"{row.repeated:,} lines"
        if row.outcome != "passed":
            lost = f"**{row.outcome}**"
        cells = (row.fault, row.how, lost, repeated, times(row.recovery_s), grown, "; ".join(row.notes))
        yield f"| {' | '.join(cell.replace('|', '/') for cell in cells)} | `{row.test}` |"


def times(seconds: list[float]) -> str:
    """Return median, 99th percentile and maximum of durations."""
    if not seconds:
        return ""
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    return f"{statistics.median(ordered):.2f}, {p99:.2f}, {ordered[-1]:.2f} s"


def caption(rows: list[Row]) -> str:
    """Say where the figures come from."""
    forms = ", ".join(f"{sum(row.form == form for row in rows)} {form}" for form in sorted({row.form for row in rows}))
    return (
        f"Measured by `make chaos` (rows: {forms}) on {os.cpu_count()} cores, {platform.machine()}, Linux, "
        f"Python {platform.python_version()}, with a load average of {min(row.busy for row in rows):.0f} to "
        f"{max(row.busy for row in rows):.0f}. *Recovery* runs from the fault to the first completion of an input that "
        "was sent after it and passes through every node; *memory* is the growth of the part that grew most, at its "
        "peak."
    )


def markdown() -> str:
    """Return caption and table."""
    found = rows()
    return "\n".join([caption(found), "", *table(found), ""])


def write() -> None:
    """Put the table into the page."""
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    assert end, f"{PAGE} has lost its markers"
    PAGE.write_text(f"{before}{begin}{markdown()}{end}{after}", encoding="utf-8")


def main() -> int:
    """Print the table, and write it unless told not to; return 1 where there is none, or a row of it failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.table", description="the table of the chaos rows")
    parser.add_argument("--print", action="store_true", help="only print it: docs/guarantees.md stays as it is")
    arguments = parser.parse_args()
    found = rows()
    if not found:
        print(f"no row has left its figures in {RESULTS}: run `make chaos` first", file=sys.stderr)
        return 1
    print(markdown())
    if not arguments.print:
        write()
    return int(any(row.outcome != "passed" for row in found))


if __name__ == "__main__":
    sys.exit(main())
