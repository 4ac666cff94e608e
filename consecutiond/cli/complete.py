"""What the shell offers on Tab for the id of a consecutor: those that have a directory."""

from collections.abc import Iterator
from pathlib import Path

import typer

from consecutiond.config import ConfigError
from consecutiond.effective import Given, resolve
from consecutiond.rundir import RunDir


def ids(context: typer.Context, incomplete: str) -> Iterator[str]:
    """Yield the ids that begin with what was typed, in the directory that the line so far, or the environment, names.

    Args:
        context: the line so far.
        incomplete: the word at the cursor.
    """
    found = context.params.get("dir")
    config = context.params.get("config")
    given = Given({"dir": found} if found else {}, Path(config) if config else None)
    try:
        directories = RunDir.all(resolve(given=given).settings.dir)
    except (ConfigError, OSError):
        # Nothing to offer: what is wrong is said when the line is entered.
        return
    written = context.params.get("ids") or ()
    yield from (each.id for each in directories if each.id.startswith(incomplete) and each.id not in written)


def formats() -> list[str]:
    """Return the formats of pictures."""
    from consecutiond.cli.graph import FORMATS

    return list(FORMATS)
