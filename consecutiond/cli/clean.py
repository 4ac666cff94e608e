"""``consecutiond clean``: remove consecutors by force."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec

from consecutiond.acker.stores import StoreError
from consecutiond.cli import exits
from consecutiond.effective import Given, resolve
from consecutiond.eviction import Eviction, Found
from consecutiond.inventory import RUNNING, Entry, in_memory, look, totals_of
from consecutiond.rundir import RunDir, RunDirError
from consecutiond.storeurls import EMBEDDED, file_of, masked, resolved

#: seconds to wait for a heart
_TIMEOUT_S = 5.0


class Loss(msgspec.Struct):
    """What a removal throws away."""

    open: int = 0
    failed: int = 0
    #: what else it costs, in words
    reasons: list[str] = []

    @property
    def words(self) -> list[str]:
        """What is lost, in words; nothing if nothing is."""
        counted = [f"{self.open:,} accepted item(s) that are not done"] * bool(self.open)
        return counted + [f"{self.failed:,} failed item(s)"] * bool(self.failed) + self.reasons


class Outcome(msgspec.Struct):
    """What became of one consecutor."""

    id: str
    state: str
    open: int
    failed: int
    killed: list[Found]
    #: the directory; empty if it stays
    removed: str = ""
    #: why it stays
    refused: str = ""
    #: what else there is to say
    notes: list[str] = []


def clean(ids: list[str], given: Given, *, everything: bool, force: bool, dry_run: bool, as_json: bool) -> int:
    """Remove consecutors; return the exit code."""
    settings = resolve(given=given).settings
    directories = RunDir.all(settings.dir) if everything else [RunDir(settings.dir, id) for id in dict.fromkeys(ids)]
    if unknown := [each for each in directories if not each.is_one()]:
        for each in unknown:
            print(f"consecutiond: error: {_unknown(each)}; nothing was removed", file=sys.stderr)
        return exits.NOT_RUNNING
    for directory in directories:
        directory.check_owner()
    outcomes, failed = [], False
    for directory in directories:
        try:
            outcomes.append(_clean(directory, force=force, dry_run=dry_run))
        except RunDirError as error:
            # The others can be removed all the same.
            print(f"consecutiond: error: {error}", file=sys.stderr)
            failed = True
        else:
            if not as_json:
                _print(outcomes[-1], dry_run=dry_run)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(list(map(_shown, outcomes))), indent=2).decode())
    elif not directories:
        print(f"no consecutor in {settings.dir}")
    if failed:
        return exits.BAD_DIRECTORY
    return exits.REFUSED if any(outcome.refused for outcome in outcomes) else exits.OK


def _unknown(directory: RunDir) -> str:
    if directory.path.exists():
        return f"{directory.path} is no consecutor's directory"
    there = ", ".join(each.id for each in RunDir.all(directory.base)) or "none"
    return f"there is no consecutor {directory.id!r} in {directory.base} (there is: {there})"


def _clean(directory: RunDir, *, force: bool, dry_run: bool) -> Outcome:
    entry = look(directory)
    eviction = Eviction(directory, threads=entry.architecture == "thread")
    loss = _loss(directory, entry)
    outcome = Outcome(entry.id, entry.state, loss.open, loss.failed, [], notes=_notes(directory, entry))
    agreed = force or not loss.words or (not dry_run and _asked(entry.id, loss))
    if not agreed:
        outcome.refused = f"{' and '.join(loss.words)} would be thrown away"
    if dry_run:
        outcome.killed = eviction.look()
        outcome.removed = "" if outcome.refused else str(directory.path)
    elif agreed:
        _remove(directory, eviction, outcome, sure=force or bool(loss.words))
    return outcome


def _remove(directory: RunDir, eviction: Eviction, outcome: Outcome, *, sure: bool) -> None:
    """Kill, and remove unless something has come in meanwhile that nobody was asked about."""
    outcome.killed = eviction.kill_living()
    lock = directory.acquire()
    try:
        outcome.killed += eviction.kill_left()
        outcome.notes += [f"{each} belongs to another user and was not killed" for each in eviction.spared]
        late = Loss() if sure else _logged(directory, look(directory), running=False)
        if late.words:
            outcome.open, outcome.failed = late.open, late.failed
            outcome.refused = f"{' and '.join(late.words)} came in meanwhile; it was killed, and its log stays"
            return
        directory.remove()
        outcome.removed = str(directory.path)
    finally:
        os.close(lock)


def _loss(directory: RunDir, entry: Entry) -> Loss:
    running = entry.state == RUNNING
    loss = _logged(directory, entry, running=running)
    if running and in_memory(entry.store):
        _ask(loss, directory)
    if running and entry.architecture == "thread":
        loss.reasons.append(f"the script that runs it in threads (pid {entry.pid})")
    return loss


def _logged(directory: RunDir, entry: Entry, *, running: bool) -> Loss:
    """Count what the logs hold that are in the directory."""
    loss = Loss()
    # Those of earlier runs, too, which may have had another.
    stores = [resolved(kind, directory.path, directory.id) for kind in EMBEDDED]
    for store in dict.fromkeys((*stores, entry.store)):
        file = _inside(directory, store)
        if file is None or not file.exists():
            continue
        try:
            totals = totals_of(store)
        except StoreError as error:
            if running and store == entry.store:
                # Some can be read by their acker alone.
                _ask(loss, directory)
            else:
                loss.reasons.append(f"whatever is in {file} ({error})")
        else:
            loss.open, loss.failed = loss.open + totals.open, loss.failed + totals.failed
    return loss


def _inside(directory: RunDir, store: str) -> Path | None:
    """Return the file that a log is, if it is in the directory."""
    file = file_of(store)
    return file if file is not None and Path(os.path.abspath(file)).is_relative_to(directory.path) else None


def _ask(loss: Loss, directory: RunDir) -> None:
    """Ask a running one what it holds."""
    from consecutiond.control import ControlError, ask

    try:
        status = ask(directory.socket_uri("control"), "status", _TIMEOUT_S, directory.is_live)
        loss.open, loss.failed = loss.open + status["open"], loss.failed + status["failed"]
    except (ControlError, KeyError, TypeError):
        loss.reasons.append("whatever it holds (it does not answer)")


def _notes(directory: RunDir, entry: Entry) -> list[str]:
    if in_memory(entry.store) or _inside(directory, entry.store) is not None:
        return []
    return [f"its log is elsewhere and stays: {masked(entry.store)}"]


def _asked(id: str, loss: Loss) -> bool:
    """Ask whoever sits at a terminal; elsewhere the answer is no."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print(f"{id}: this throws away {' and '.join(loss.words)}. Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _shown(outcome: Outcome) -> dict[str, object]:
    killed = [{"name": each.name, "pid": each.pid, "part": each.part} for each in outcome.killed]
    return {**msgspec.structs.asdict(outcome), "killed": killed}


def _print(outcome: Outcome, *, dry_run: bool) -> None:
    lines: Iterable[str] = outcome.notes
    if outcome.killed:
        lines = [f"{'would kill' if dry_run else 'killed'} {', '.join(map(str, outcome.killed))}", *lines]
    if outcome.removed:
        lines = [*lines, f"{'would remove' if dry_run else 'removed'} {outcome.removed}"]
    for line in lines:
        print(f"{outcome.id}: {line}")
    if outcome.refused:
        print(f"consecutiond: refused: {outcome.id}: {outcome.refused}; --force does it", file=sys.stderr)
