"""What the parts of a consecutor have said: their files read as one, in the order of time, and followed."""

import heapq
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO

import msgspec

#: levels in rising order
LEVELS: Final = ("debug", "info", "warning", "error", "critical")
#: a line of supervisord: time of this place, milliseconds, level, text
_SUPERVISORD: Final = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) (\w+) (.*)", re.DOTALL)
_SHORT: Final = {
    "warn": "warning",
    "crit": "critical",
    "trac": "debug",
    "blat": "debug",
    "debg": "debug",
}
#: seconds between looks at the files that are followed
_LOOK_S: Final = 0.2


class Event(NamedTuple):
    """One line of one part."""

    #: wall clock, seconds since 1970
    at: float
    part: str
    level: str
    text: str
    #: everything else that it says
    fields: dict[str, Any]

    def as_json(self) -> bytes:
        """Return it as one JSON object."""
        when = datetime.fromtimestamp(self.at).astimezone().isoformat(timespec="milliseconds")
        known = {"timestamp": when, "level": self.level, "part": self.part, "event": self.text}
        return msgspec.json.encode({**known, **{name: v for name, v in self.fields.items() if name not in known}})


def parse(part: str, line: str, before: float) -> Event:
    """Read a line; one of no known form is what somebody has printed.

    Args:
        part: whose file it is in.
        line: without its end.
        before: when the line before it was written; that is when one was that does not say, and none was earlier.
    """
    if line.startswith("{"):
        try:
            fields = msgspec.json.decode(line, type=dict[str, Any])
            at = datetime.fromisoformat(fields.pop("timestamp")).timestamp()
            return Event(max(at, before), part, str(fields.pop("level")), str(fields.pop("event")), fields)
        except (msgspec.DecodeError, KeyError, TypeError, ValueError):
            # Somebody has printed what looks like ours.
            return Event(before, part, "info", line, {})
    found = _SUPERVISORD.match(line)
    if found is not None:
        whole, milliseconds, level, text = found.groups()
        at = datetime.strptime(whole, "%Y-%m-%d %H:%M:%S").timestamp() + int(milliseconds) / 1000
        level = _SHORT.get(level.lower(), level.lower())
        return Event(max(at, before), part, level if level in LEVELS else "info", text, {})
    return Event(before, part, "info", line, {})


class Choice(NamedTuple):
    """Which events are meant.

    Attributes:
        node: a part, a node, or a worker; "" for all.
        since: not before that, wall clock.
        level: at least that.

    """

    node: str = ""
    since: float = 0.0
    level: str = "debug"

    def wants(self, event: Event) -> bool:
        """Tell whether an event is meant."""
        return event.at >= self.since and _rank(event.level) >= LEVELS.index(self.level)

    def wants_part(self, part: str) -> bool:
        """Tell whether a part's file is to be read."""
        if not self.node:
            return part != "supervisord"
        return part in (self.node, f"node-{self.node}") or part.startswith(f"node-{self.node}.")


def _rank(level: str) -> int:
    return LEVELS.index(level) if level in LEVELS else 1


class Logs:
    """The log files of one consecutor.

    Args:
        directory: where they are.
        choice: which events are meant.
    """

    def __init__(self, directory: Path, choice: Choice) -> None:
        self._directory, self._choice = directory, choice
        #: of each part: the file that is read now, and when the newest line was written that said so
        self._open: dict[str, TextIO] = {}
        self._newest: dict[str, float] = {}

    def parts(self) -> list[str]:
        """Return whose files there are."""
        return sorted(path.stem for path in self._directory.glob("*.log"))

    def _wanted(self) -> list[str]:
        return [part for part in self.parts() if self._choice.wants_part(part)]

    def past(self) -> Iterator[Event]:
        """Yield what is in the files, rotated ones included, in the order of time."""
        yield from heapq.merge(*map(self._of, self._wanted()), key=lambda event: event.at)

    def _of(self, part: str) -> Iterator[Event]:
        path = self._directory / f"{part}.log"
        for older in sorted(self._directory.glob(f"{part}.log.*"), key=lambda path: -_number(path)):
            with older.open(errors="replace") as lines:
                yield from self._dated(part, (line.rstrip("\n") for line in lines), older.stat().st_mtime)
        try:
            self._open[part] = path.open(errors="replace")
        except FileNotFoundError:
            return
        yield from self._dated(part, self._new(part), path.stat().st_mtime)

    def _dated(self, part: str, lines: Iterable[str], otherwise: float) -> Iterator[Event]:
        """Yield the events of lines; those that do not say when have the time of the nearest that does."""
        undated: list[Event] = []
        for line in lines:
            event = parse(part, line, self._newest.get(part, 0.0))
            if event.at == 0.0:
                undated.append(event)
                continue
            self._newest[part] = event.at
            yield from filter(self._choice.wants, (each._replace(at=event.at) for each in undated))
            undated.clear()
            if self._choice.wants(event):
                yield event
        yield from filter(self._choice.wants, (each._replace(at=otherwise) for each in undated))

    def _new(self, part: str) -> Iterator[str]:
        """Yield whole lines that have come since."""
        file = self._open[part]
        while True:
            place = file.tell()
            line = file.readline()
            if not line.endswith("\n"):
                # The rest of it is being written.
                file.seek(place)
                return
            yield line.rstrip("\n")

    def follow(self, goes_on: Callable[[], bool]) -> Iterator[Event]:
        """Yield what comes, behind `past`, until `goes_on` says no."""
        while True:
            last = not goes_on()
            yield from sorted(self._arrived(), key=lambda event: event.at)
            if last:
                return
            time.sleep(_LOOK_S)

    def _arrived(self) -> Iterator[Event]:
        for part in self._wanted():
            path, now = self._directory / f"{part}.log", time.time()
            if part not in self._open:
                self._open[part] = path.open(errors="replace")
            yield from self._dated(part, self._new(part), now)
            if _was_rotated(self._open[part], path):
                self._open[part].close()
                self._open[part] = path.open(errors="replace")
                yield from self._dated(part, self._new(part), now)

    def close(self) -> None:
        """Let go of the files."""
        for file in self._open.values():
            file.close()
        self._open.clear()


def _number(path: Path) -> int:
    return int(path.suffix[1:]) if path.suffix[1:].isdigit() else 0


def _was_rotated(file: TextIO, path: Path) -> bool:
    try:
        now = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(file.fileno())
    return (mine.st_dev, mine.st_ino) != (now.st_dev, now.st_ino) or now.st_size < file.tell()
