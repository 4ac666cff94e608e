"""``consecutiond restart``."""

import os
import sys
import time
from typing import Final

import msgspec

from consecutiond.cli import exits
from consecutiond.control import ask
from consecutiond.effective import Given, resolve
from consecutiond.restart import Outcome, Progress, Request
from consecutiond.rundir import RunDir

#: seconds to wait for a heart, which may just be restarted
_ANSWER_S: Final = 15.0
#: seconds between questions how far it is
_AGAIN_S: Final = 0.2

_CODES: Final[dict[Outcome, int]] = {
    "done": exits.OK,
    "failed": exits.START_FAILED,
    "broken off": exits.STOPPED,
    "busy": exits.REFUSED,
    "unknown": exits.USAGE,
}


def restart_workers(id: str, node: str, given: Given, timeout_s: float | None, *, as_json: bool) -> int:
    """Restart the workers of a node, or of all, one after the other; return when the last successor is up."""
    settings = resolve(given=given).settings
    directory = RunDir(settings.dir, id)
    if not directory.is_live():
        print(f"consecutiond: error: no consecutor {id!r} is running in {settings.dir}", file=sys.stderr)
        return exits.NOT_RUNNING
    request = Request(os.urandom(8).hex(), node, timeout_s)
    told = 0
    while True:
        body = ask(
            directory.socket_uri("control"), "restart", _ANSWER_S, directory.is_live, msgspec.json.encode(request)
        )
        progress = msgspec.convert(body, Progress)
        told = _tell(progress, told)
        if progress.outcome != "under way":
            break
        request = msgspec.structs.replace(request, begin=False)
        time.sleep(_AGAIN_S)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(progress), indent=2).decode())
    if progress.error:
        left = f"; not touched: {', '.join(progress.left)}" if progress.left else ""
        print(f"consecutiond: error: {progress.error}{left}", file=sys.stderr)
    elif not as_json:
        print(f"{id}: {len(progress.restarted)} restarted")
    return _CODES[progress.outcome]


def _tell(progress: Progress, told: int) -> int:
    """Say on stderr who was restarted since the last time; return how many that are by now."""
    known = len(progress.restarted) + len(progress.left) + bool(progress.at)
    for place, part in enumerate(progress.restarted[told:], told + 1):
        how = ", was killed: it did not end in time" if part in progress.killed else ""
        print(f"{part} restarted ({place} of {known}){how}", file=sys.stderr)
    return len(progress.restarted)
