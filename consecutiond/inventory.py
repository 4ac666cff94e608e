"""What the directory of a consecutor says about it, alive or not: for `ls` and `clean`; no process is asked."""

from typing import Any, Final

import msgspec

from consecutiond.acker.stores import NoStoreError, StoreError, Totals, guarantee, read_only
from consecutiond.rundir import RunDir
from consecutiond.storeurls import resolved

#: a live process holds the lock
RUNNING: Final = "running"
#: nobody does, and pid or socket files are left: it was killed
DEAD: Final = "dead"
#: it ended in order; its log and its outputs are there
FINISHED: Final = "finished"

#: how the target of a graph begins that was sent to its workers
_SHIPPED: Final = "shipped:"


class Entry(msgspec.Struct, kw_only=True):
    """One consecutor."""

    id: str
    state: str
    #: what workers import; empty for a graph that was sent to them, or that runs in threads
    target: str = ""
    #: of the root; 0 when it is not running
    pid: int = 0
    #: seconds since 1970 when it was last started; 0 when nobody knows
    started_at: int = 0
    #: "process" or "thread"; empty when it never came to a plan
    architecture: str = ""
    #: the URL of its log, with the password that may be in it
    store: str = ""
    #: the counts of its log; None when it cannot be read from here
    accepted: int | None = None
    completed: int | None = None
    failed: int | None = None
    open: int | None = None
    guarantee: str = ""
    #: why something is not known
    error: str = ""


def look(directory: RunDir) -> Entry:
    """Say what is known of a consecutor, from files only."""
    entry = Entry(id=directory.id, state=_state(directory))
    signature = directory.signature()
    if signature is not None:
        entry.started_at = signature.since
        entry.pid = signature.pid if entry.state == RUNNING else 0
    _add_plan(entry, directory)
    if not entry.error and not in_memory(entry.store):
        try:
            counts = totals_of(entry.store)
        except StoreError as error:
            entry.error = str(error)
        else:
            entry.accepted, entry.completed = counts.accepted, counts.completed
            entry.failed, entry.open = counts.failed, counts.open
    return entry


def in_memory(store: str) -> bool:
    """Return whether a log, by its URL, is in the memory of its acker, and gone with it."""
    return store.startswith("memory:")


def totals_of(store: str) -> Totals:
    """Return the counts of a log, all zero when it was never made.

    Raises:
        StoreError: it cannot be read from here, or not now.
    """
    try:
        reader = read_only(store)
    except NoStoreError:
        return Totals(0, 0, 0, 0, 0)
    try:
        return reader.totals()
    finally:
        reader.close()


def _state(directory: RunDir) -> str:
    if directory.is_live():
        return RUNNING
    return DEAD if directory.leftovers() is not None else FINISHED


def _add_plan(entry: Entry, directory: RunDir) -> None:
    try:
        parts: dict[str, dict[str, Any]] = msgspec.json.decode(directory.plan.read_bytes())["parts"]
        acker, heart = parts["acker"], parts["heart"]
        # In threads all parts are local ones.
        entry.architecture = "thread" if "acker" in heart["local_parts"] else "process"
        target = next((part["target"] for part in parts.values() if part.get("target")), "")
        entry.target = "" if target.startswith(_SHIPPED) else target
        entry.store = acker["store"]
        entry.guarantee = guarantee(
            entry.store, acker["durability"], acker.get("acker_store", "disk"), acker.get("input_store", "disk")
        )  # fmt: skip
    except FileNotFoundError:
        # It never came that far; what there may be of a log is the default one.
        entry.store = resolved("sqlite", directory.path, directory.id)
    except (OSError, KeyError, TypeError, msgspec.DecodeError, StoreError) as error:
        entry.store = entry.store or resolved("sqlite", directory.path, directory.id)
        entry.error = f"{directory.plan} cannot be read: {error}"
