"""What the shell offers on Tab: the ids of consecutors that have a directory, their nodes, and fixed words."""

from collections.abc import Iterator
from pathlib import Path

import typer

from consecutiond.config import ConfigError
from consecutiond.effective import Given, resolve
from consecutiond.rundir import RunDir, RunDirError


def ids(context: typer.Context, incomplete: str) -> Iterator[str]:
    """Yield the ids that begin with what was typed, in the directory that the line so far, or the environment, names.

    Args:
        context: the line so far.
        incomplete: the word at the cursor.
    """
    try:
        directories = RunDir.all(_base(context))
    except (ConfigError, OSError):
        # Nothing to offer: what is wrong is said when the line is entered.
        return
    written = context.params.get("ids") or ()
    yield from (each.id for each in directories if each.id.startswith(incomplete) and each.id not in written)


def _base(context: typer.Context) -> Path:
    found, config = context.params.get("dir"), context.params.get("config")
    given = Given({"dir": found} if found else {}, Path(config) if config else None)
    return resolve(given=given).settings.dir


def nodes(context: typer.Context, incomplete: str) -> Iterator[str]:
    """Yield the nodes of the consecutor that the line so far names.

    Args:
        context: the line so far.
        incomplete: the word at the cursor.
    """
    from consecutiond.operator import read_plan

    try:
        # Behind an option without its value, what was typed before it is not taken for arguments yet.
        id = context.params.get("id") or next(iter(context.args), "")
        parts = read_plan(RunDir(_base(context), id))
    except (ConfigError, RunDirError, OSError):
        # As above.
        return
    yield from (node for node in parts.get("acker", {}).get("nodes", ()) if node.startswith(incomplete))


def kinds() -> list[str]:
    """Return the ways in which an item fails."""
    return ["raised", "crashed", "unserialisable", "expired", "lost", "damaged"]


def starts() -> list[str]:
    """Return where a replay may begin."""
    return ["root", "node"]


def export_formats() -> list[str]:
    """Return the formats of exported items."""
    return ["ndjson", "msgpack"]


def formats() -> list[str]:
    """Return the formats of pictures."""
    from consecutiond.cli.graph import FORMATS

    return list(FORMATS)
