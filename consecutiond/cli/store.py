"""``consecutiond store``: moving the log of a stopped consecutor into another store."""

import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Annotated

import msgspec
import typer

from consecutiond.acker.stores import NoStoreError, ReadableStore, Store, StoreError, open_store, read_only
from consecutiond.acker.stores.transfer import Copied, copy, is_empty, size
from consecutiond.cli import exits
from consecutiond.cli.options import with_options
from consecutiond.cli.words import Json, epilog
from consecutiond.effective import Given, resolve
from consecutiond.operator import read_plan
from consecutiond.rundir import RunDir, RunDirError, check_id
from consecutiond.storeurls import EMBEDDED, masked, resolved, same

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Move the log of a consecutor into another store.",
    epilog=epilog(
        "consecutiond store copy flow redis://localhost     then: consecutiond start flow.py --store redis://localhost",
        exits.OK,
        exits.USAGE,
        exits.NOT_RUNNING,
        exits.BAD_DIRECTORY,
        exits.START_FAILED,
        exits.REFUSED,
    ),
)


class _RefusalError(Exception):
    """What was asked for is not done; the exit code says why, the text what."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@app.callback()
def _options() -> None:
    """Move the log of a consecutor into another store."""


@app.command(
    name="copy",
    short_help="Copy the log of a stopped consecutor into an empty store.",
    epilog=epilog(
        "consecutiond store copy flow kyoto\n"
        "consecutiond store copy flow redis://localhost:6379/0\n"
        "consecutiond store copy 'redis://localhost?prefix=flow' sqlite:////backup/flow.sqlite",
        exits.OK,
        exits.USAGE,
        exits.NOT_RUNNING,
        exits.BAD_DIRECTORY,
        exits.START_FAILED,
        exits.REFUSED,
    ),
)
@with_options("dir")
def copy_(
    given: Given,
    source: Annotated[str, typer.Argument(metavar="FROM", help="A consecutor's id, or the URL of a store.")],
    target: Annotated[
        str, typer.Argument(metavar="TO", help="A URL; after an id also `sqlite` or `kyoto`, in its directory.")
    ],
    json: Json = False,
) -> None:
    """Copy everything that a log holds into an empty store, and compare the two row by row.

    The consecutor must be stopped, and its log stays as it is. Open and failed items, the audit trail, the keys of
    items and what producers had recorded go along: a start with the other store goes on where this one stopped.
    """
    try:
        urls, copied = _copy(source, target, given)
    except _RefusalError as error:
        print(f"consecutiond: error: {error}", file=sys.stderr)
        raise typer.Exit(error.code) from None
    if json:
        print(msgspec.json.encode({"from": urls[0], "to": urls[1], **msgspec.structs.asdict(copied)}).decode())
    else:
        kept = f"; {copied.retained:,} of the completed are kept" if copied.retained else ""
        print(
            f"copied {urls[0]} to {urls[1]}: {copied.accepted:,} accepted, of which {copied.open:,} open "
            f"({copied.waiting:,} of them wait for a retry) in {copied.chunks:,} chunks, and {copied.failed:,} failed"
            f"{kept}"
        )


def _copy(source: str, target: str, given: Given) -> tuple[tuple[str, str], Copied]:
    directories = RunDir.all(resolve(given=given).settings.dir)
    source, target = _urls(source, target, {each.id: each for each in directories})
    shown = masked(source), masked(target)
    if same(source, target):
        raise _RefusalError(exits.USAGE, f"{shown[0]} and {shown[1]} are one store")
    if target == "memory://":
        raise _RefusalError(exits.USAGE, "a copy in memory would be gone with this command: give another store")
    _refuse_live(directories, source, target)
    try:
        with closing(read_only(source)) as original, closing(open_store(target, "durable")) as empty:
            return shown, _copy_into(original, empty, shown[1])
    except NoStoreError as error:
        raise _RefusalError(exits.NOT_RUNNING, str(error)) from None
    except StoreError as error:
        raise _RefusalError(exits.START_FAILED, str(error)) from None


def _copy_into(original: ReadableStore, empty: Store, shown: str) -> Copied:
    if not is_empty(empty):
        raise _RefusalError(
            exits.REFUSED, f"{shown} holds a log already, which nobody has agreed to overwrite: give an empty place"
        )
    useless = f"What {shown} holds now is a part and of no use: remove it."
    with _progress(2 * size(original)) as step:
        try:
            return copy(original, empty, step)
        except StoreError as error:
            raise StoreError(f"{error} {useless}") from error
        except KeyboardInterrupt:
            raise _RefusalError(exits.STOPPED, f"interrupted. {useless}") from None


def _urls(source: str, target: str, known: dict[str, RunDir]) -> tuple[str, str]:
    """Return the URLs of both stores; that of a consecutor is in its plan."""
    if "://" in source:
        if target in EMBEDDED:
            raise _RefusalError(
                exits.USAGE, f"{target!r} is a file in a consecutor's directory: give its id, not a URL"
            )
        return source, target
    directory = known.get(check_id(source))
    if directory is None:
        there = ", ".join(known) or "none"
        raise _RefusalError(exits.NOT_RUNNING, f"there is no consecutor {source!r} (there is: {there})")
    return _log_of(directory), resolved(target, directory.path, directory.id)


def _log_of(directory: RunDir) -> str:
    acker = read_plan(directory).get("acker", {})
    return str(acker.get("store", f"sqlite:///{directory.store}"))


def _refuse_live(directories: list[RunDir], *stores: str) -> None:
    for directory in directories:
        if not directory.is_live():
            continue
        try:
            log = _log_of(directory)
        except RunDirError as error:
            raise _RefusalError(
                exits.BAD_DIRECTORY, f"{directory.id} runs, and which log it has is not known: {error}"
            ) from None
        if any(same(log, each) for each in stores):
            raise _RefusalError(
                exits.BAD_DIRECTORY,
                f"{directory.id} is running and writes to {masked(log)}: `consecutiond stop {directory.id}` first",
            )


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar where somebody looks, and nothing in a pipe."""
    if not sys.stderr.isatty():
        yield lambda _rows: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("copying and comparing", total=total)
        yield lambda rows: bar.update(task, advance=rows)
