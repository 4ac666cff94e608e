"""``consecutiond ls``: every consecutor of the directory, from its files alone."""

import time
from collections.abc import Iterable

import msgspec

from consecutiond.cli import exits
from consecutiond.effective import Given, resolve
from consecutiond.inventory import Entry, look
from consecutiond.rundir import RunDir
from consecutiond.storeurls import masked

_HEADINGS = (
    "id", "state", "pid", "since", "architecture", "accepted", "completed", "failed", "open", "target", "guarantee",
)  # fmt: skip
#: columns of numbers
_RIGHT = frozenset({"pid", "accepted", "completed", "failed", "open"})


def list_consecutors(given: Given, *, as_json: bool) -> int:
    """Print what there is; return the exit code."""
    settings = resolve(given=given).settings
    entries = [look(directory) for directory in RunDir.all(settings.dir)]
    if as_json:
        listed = [msgspec.structs.replace(entry, store=masked(entry.store)) for entry in entries]
        print(msgspec.json.format(msgspec.json.encode(listed), indent=2).decode())
    elif not entries:
        print(f"no consecutor in {settings.dir}")
    else:
        print("\n".join(_table(entries)))
    return exits.OK


def _table(entries: list[Entry]) -> Iterable[str]:
    rows = [_HEADINGS, *map(_row, entries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, widths, _HEADINGS, strict=True)
        yield "  ".join(
            cell.rjust(width) if name in _RIGHT else cell.ljust(width) for cell, width, name in cells
        ).rstrip()


def _row(entry: Entry) -> tuple[str, ...]:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.started_at)) if entry.started_at else "-"
    counts = (entry.accepted, entry.completed, entry.failed, entry.open)
    return (
        entry.id, entry.state, str(entry.pid or "-"), since, entry.architecture or "-",
        *("-" if count is None else f"{count:,}" for count in counts),
        entry.target or "-", entry.error or entry.guarantee or "-",
    )  # fmt: skip
