"""Logs with failed items in them, made without running anything."""

from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from consecutiond.acker.stores.base import Append, Changes, Chunk, Failed
from consecutiond.acker.stores.sqlite import SqliteStore
from consecutiond.rundir import RunDir
from consecutiond_broker import codec

#: when the first of them failed, seconds since 1970
FIRST_AT = 1_700_000_000.0


def letter(position: int, value: Any, **known: Any) -> Failed:
    """Return a failed item; a minute after the one before it."""
    at = FIRST_AT + 60 * position
    error = "ValueError: no number: 'x'"
    found = Failed(
        position, 3, ("input->parse",), codec.encode([value]), at, "parse", "raised", error, "Traceback: here", at,
        at - 5, 3, "input->parse", b"", ("parse",),
    )  # fmt: skip
    return replace(found, **known)


def bury(directory: RunDir, letters: Iterable[Failed]) -> RunDir:
    """Make a stopped consecutor whose default log has these failed items, and nothing else."""
    directory.create()
    store = SqliteStore(directory.store, "fast")
    store.open()
    dead = list(letters)
    chunk = Chunk(1, 1, max(each.position for each in dead), ("input->parse",), codec.encode([0]))
    store.commit(Changes(appends=[Append(chunk, None)], done={1: None}, completed=chunk.count - len(dead), dead=dead))
    store.close()
    directory.lock.touch(mode=0o600)
    return directory
