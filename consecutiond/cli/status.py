"""``consecutiond status``."""

import sys
from typing import Any

import msgspec

from consecutiond.acker.stores import NoStoreError, StoreError, guarantee, read_only
from consecutiond.cli import exits
from consecutiond.control import ControlError, ask
from consecutiond.effective import Given, resolve
from consecutiond.operator import named, read_plan
from consecutiond.rundir import RunDir, RunDirError

_COUNTS = ("accepted", "completed", "failed", "discarded", "open", "waiting", "retained", "retained_bytes")
#: seconds to wait for a heart
_TIMEOUT_S = 5.0


def show(id: str, given: Given, *, as_json: bool) -> int:
    """Print the state of one consecutor, or of all."""
    settings = resolve(given=given).settings
    directories = [RunDir(settings.dir, id)] if id else RunDir.all(settings.dir)
    found = {directory.id: _state(directory) for directory in directories}
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(found[id] if id else found), indent=2).decode())
    elif not found:
        print(f"no consecutor in {settings.dir}")
    else:
        for name, state in found.items():
            _print(RunDir(settings.dir, name), state)
    running = [state for state in found.values() if state["state"] not in ("stopped", "unknown")]
    return exits.OK if running or (not id and not found) else exits.NOT_RUNNING


def _state(directory: RunDir) -> dict[str, Any]:
    if directory.is_live():
        try:
            return ask(directory.socket_uri("control"), "status", _TIMEOUT_S, directory.is_live)
        except ControlError as error:
            if directory.is_live():
                return {"state": "unresponsive", "error": str(error)}
    if not directory.path.is_dir():
        return {"state": "unknown", "error": f"there is no consecutor {directory.id!r} in {directory.base}"}
    return {"state": "stopped", **_from_store(directory)}


def _from_store(directory: RunDir) -> dict[str, Any]:
    """Read what the log of a stopped consecutor holds, and say what that is worth."""
    said: dict[str, Any] = {}
    try:
        acker = read_plan(directory).get("acker", {})
        if acker:
            said["guarantee"] = guarantee(
                acker["store"], acker["durability"], acker.get("acker_store", "disk"), acker.get("input_store", "disk")
            )
        store = read_only(acker.get("store", f"sqlite:///{directory.store}"))
        try:
            totals = store.totals()
        finally:
            store.close()
    except NoStoreError:
        return said
    except (StoreError, RunDirError) as error:
        return {"error": str(error), **said}
    return {name: getattr(totals, name) for name in _COUNTS} | said


def _print(directory: RunDir, state: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    # In a pipe there is no width to keep to, and programs look for whole names.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 1000)
    uptime = f", up {state['uptime_s']:.0f} s" if "uptime_s" in state else ""
    console.print(f"[bold]{directory.id}[/bold]: {state['state']}{uptime}", soft_wrap=True)
    if state.get("error"):
        print(f"  {state['error']}", file=sys.stderr)
    if state.get("tracking") is False:
        counts = "{accepted:,} accepted, {failed:,} failed, {lost:,} lost".format(**state)
        console.print(f"  {counts} (nothing is tracked)", soft_wrap=True)
    elif state.get("accepted") is not None:
        discarded = " + {discarded:,} discarded".format(**state) if state.get("discarded") else ""
        counts = "{accepted:,} accepted = {completed:,} completed + {failed:,} failed{more} + {open:,} open"
        told = counts.format(**state, more=discarded)
        console.print(f"  {told} ({state['waiting']:,} of them wait for a retry)", soft_wrap=True)
        if state["failed"]:
            console.print(f"  failed and kept: consecutiond failed list {escape(named(directory))}", soft_wrap=True)
        if state.get("retained"):
            kept = "{retained:,} of the completed are kept, {retained_bytes:,} bytes".format(**state)
            console.print(f"  {kept}: consecutiond log list {escape(named(directory))}", soft_wrap=True)
    elif "parts" in state:
        console.print("  how many items there are is not known now: the acker does not answer", soft_wrap=True)
    if state.get("guarantee"):
        console.print(f"  {escape(state['guarantee'])}", soft_wrap=True)
    if state.get("store_trouble"):
        console.print(f"  [red]store: {escape(state['store_trouble'])}[/red]", soft_wrap=True)
    if "parts" not in state:
        return
    for part in state["parts"].values():
        if endpoint := part["stats"].get("endpoint"):
            console.print(f"  takes input at {escape(endpoint)}", soft_wrap=True)
    table = Table(box=None, padding=(0, 1))
    for column in ("part", "state"):
        table.add_column(column, no_wrap=True, overflow="ignore")
    for column in ("pid", "restarts", "items", "failures", "queued"):
        table.add_column(column, no_wrap=True, overflow="ignore", justify="right")
    for part, known in state["parts"].items():
        stats = known["stats"]
        cells = [stats.get(key, "") for key in ("items", "failures", "queued")]
        table.add_row(part, known["state"], str(known["pid"]), str(known["restarts"]), *map(str, cells))
    console.print(table)
