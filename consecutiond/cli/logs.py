"""``consecutiond logs``: what the parts of a consecutor say, in one place."""

import os
import sys
import time
from collections import deque
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from consecutiond.cli import exits
from consecutiond.cli.choosing import ChoiceError, moment_of
from consecutiond.effective import Given, resolve
from consecutiond.logreader import LEVELS, Choice, Event, Logs
from consecutiond.rundir import RunDir

#: escape sequences for terminals, by level
_COLOURS: Final = {"debug": "2", "warning": "33", "error": "31", "critical": "1;31"}
#: fields that are shown below the line, since they have lines of their own
_BLOCKS: Final = ("exception", "stack", "stacks", "traceback")
#: what every event of a part says
_PLAIN: Final = frozenset({"role", "epoch"})


def show(
    id: str, node: str, given: Given, *, since: str, level: str, last: int | None, follow: bool, as_json: bool
) -> int:
    """Print what the parts have said.

    Raises:
        ChoiceError: `since` or `level` cannot be understood, or no part is called so.
    """
    directory = RunDir(resolve(given=given).settings.dir, id)
    if not directory.log_dir.is_dir():
        print(
            f"consecutiond: error: there are no logs of {id!r} in {directory.base}: nothing of that id was ever "
            "started there; `consecutiond ls` lists what is there, --dir names another directory",
            file=sys.stderr,
        )
        return exits.NOT_RUNNING
    if level not in LEVELS:
        raise ChoiceError(f"--level {level!r} is none: write {', '.join(LEVELS)}")
    choice = Choice(node, moment_of(since, "--since", time.time()) if since else 0.0, level)
    logs = Logs(directory.log_dir, choice)
    if not any(map(choice.wants_part, logs.parts())):
        raise ChoiceError(f"no part or node is called {node!r}; there are logs of {', '.join(logs.parts())}")
    printer = _Printer(as_json=as_json)
    try:
        _print(logs, printer, last)
        if follow:
            printer.all(logs.follow(directory.is_live))
    except KeyboardInterrupt:
        # It is how following ends.
        pass
    finally:
        logs.close()
    return exits.OK


def _print(logs: Logs, printer: "_Printer", last: int | None) -> None:
    # Without a limit nothing is kept: logs may be larger than memory.
    printer.all(logs.past() if last is None else deque(logs.past(), maxlen=last))


class _Printer:
    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self._today = datetime.now().date()

    def all(self, events: Iterable[Event]) -> None:
        for event in events:
            print(event.as_json().decode() if self._as_json else self._line(event), flush=True)

    def _line(self, event: Event) -> str:
        when = datetime.fromtimestamp(event.at)
        day = "" if when.date() == self._today else f"{when:%Y-%m-%d} "
        fields = {name: value for name, value in event.fields.items() if name not in _PLAIN and value != event.part}
        blocks = [_block(fields.pop(name)) for name in _BLOCKS if fields.get(name)]
        said = " ".join(f"{name}={_short(value)}" for name, value in fields.items() if name not in _BLOCKS)
        level, clock = event.level.upper(), f"{day}{when:%H:%M:%S}.{when.microsecond // 1000:03d}"
        head = f"{clock} {level:<8} {event.part}"
        if self._colours:
            code = _COLOURS.get(event.level, "0")
            head = f"\033[2m{clock}\033[0m \033[{code}m{level:<8}\033[0m \033[36m{event.part}\033[0m"
        text = f"{event.text} {said}".rstrip()
        return "\n".join([f"{head} {text}", *blocks])


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return repr(text) if " " in text or "\n" in text or not text else text


def _block(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"    {name}:\n{_block(text)}" for name, text in value.items())
    return "\n".join(f"    {line}" for line in str(value).rstrip().splitlines())
