"""``consecutiond failed``: failed items are found, looked into, replayed, edited, discarded and exported."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from consecutiond.cli import complete, exits
from consecutiond.cli.choosing import ChoiceError, rate_of
from consecutiond.cli.failedchoice import Filters, choose, one, one_position
from consecutiond.cli.failedoptions import with_filters
from consecutiond.cli.options import with_options
from consecutiond.cli.words import Id, Json, epilog
from consecutiond.effective import Given, resolve
from consecutiond.operator import Operator
from consecutiond.rundir import RunDir, check_id

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Find, inspect, replay, edit and discard items that have failed for good.\n\n"
    "An item whose attempts ran out is kept with its value, reason and traceback, until somebody acts on it. It has a "
    "position, which is that of its root in the log. All verbs work on a running consecutor and on a stopped one.",
    epilog=epilog(
        "consecutiond failed list flow                            what failed, in groups that look alike\n"
        "consecutiond failed show flow 17                         all of one: value, reason, traceback\n"
        "consecutiond failed replay flow 17 --debug               run it here, and look at the exception in pdb\n"
        "consecutiond failed edit flow 17 --value '{\"n\": 5}' --replay --wait\n"
        "consecutiond failed replay flow --group 1 --wait         once the cause is mended\n"
        "consecutiond failed discard flow --node parse --until 30d\n"
        "consecutiond failed export flow --output failed.ndjson\n"
        "consecutiond failed audit flow                           who did what",
        exits.OK,
        exits.SOME_FAILED,
        exits.USAGE,
        exits.NOT_RUNNING,
        exits.BAD_TARGET,
        exits.START_FAILED,
        exits.STOPPED,
        exits.REFUSED,
    ),
)

Position = Annotated[str, typer.Argument(metavar="POSITION", help="The position of its root, as `list` shows it.")]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Only say what would be done.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
All = Annotated[bool, typer.Option("--all", help="All failed items.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until they are completed or have failed again.")]

_CODES = (exits.OK, exits.USAGE, exits.NOT_RUNNING, exits.START_FAILED)


def _operator(id: str, given: Given) -> Operator:
    return Operator(RunDir(resolve(given=given).settings.dir, check_id(id)))


@app.command(
    name="list",
    short_help="List failed items, in groups that look alike or one by one.",
    epilog=epilog(
        "consecutiond failed list flow\n"
        "consecutiond failed list flow --node parse --since 2h\n"
        "consecutiond failed list flow --group 1 --each\n"
        "consecutiond failed list flow --each --where 'value[\"price\"] < 0' --json | jq .value",
        *_CODES,
    ),
)
@with_options("dir")
@with_filters
def list_(
    given: Given,
    id: Id,
    filters: Filters,
    each: Annotated[bool, typer.Option("--each", help="List single items instead of groups.")] = False,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=0, help="With --each: so many at the utmost; 0: all.")
    ] = 100,
    after: Annotated[
        int, typer.Option("--after", metavar="POSITION", min=0, help="With --each: only those at positions above.")
    ] = 0,
    json: Json = False,
) -> None:
    """List what has failed: groups with the same node, kind and shape of message; or single items, with --each.

    With --json groups are one list, and single items are one object a line.
    """
    from consecutiond.cli.failedlist import list_failed

    with _operator(id, given) as operator:
        code = list_failed(operator, filters, each=each, limit=limit or None, after=after, as_json=json)
    raise typer.Exit(code)


@app.command(
    short_help="Show all that is known of one failed item.",
    epilog=epilog("consecutiond failed show flow 17\nconsecutiond failed show flow 17 --json", *_CODES),
)
@with_options("dir")
def show(given: Given, id: Id, position: Position, json: Json = False) -> None:
    """Show one failed item: value, reason, traceback, attempts, times, and the way that it came."""
    from consecutiond.cli.failedlist import show_failed

    with _operator(id, given) as operator:
        code = show_failed(operator, one_position(position), as_json=json)
    raise typer.Exit(code)


@app.command(
    short_help="Try failed items again, or run one here in the foreground (--debug).",
    epilog=epilog(
        "consecutiond failed replay flow 17 20-25\n"
        "consecutiond failed replay flow --group 1 --wait\n"
        "consecutiond failed replay flow --node parse --since 2h --dry-run\n"
        "consecutiond failed replay flow --all --rate 100/s --yes\n"
        "consecutiond failed replay flow 17 --debug",
        exits.OK,
        exits.SOME_FAILED,
        exits.USAGE,
        exits.NOT_RUNNING,
        exits.BAD_TARGET,
        exits.START_FAILED,
        exits.STOPPED,
        exits.REFUSED,
    ),
)
@with_options("dir")
@with_filters
def replay(
    given: Given,
    id: Id,
    filters: Filters,
    all: All = False,
    start: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="[root|node]",
            help="Begin with the root, or with the item that failed, at the node in which it did.",
            autocompletion=complete.starts,
        ),
    ] = "root",
    rate: Annotated[
        str, typer.Option("--rate", metavar="N/s", help="So many a second at the utmost.  [default: no limit]")
    ] = "",
    wait: Wait = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Run this one item through its node here, in pdb; change nothing.")
    ] = False,
    stop: Annotated[bool, typer.Option("--break", help="With --debug: stop at the first line of process.")] = False,
    end: Annotated[bool, typer.Option("--end", help="With --debug: run `end` of the node, too.")] = False,
    target: Annotated[
        str, typer.Option("--target", metavar="TARGET", help="With --debug: the graph, if it stands elsewhere now.")
    ] = "",
) -> None:
    """Try failed items again, with all their attempts; of a stopped consecutor, at its next start.

    Whoever replays the same item twice does not double it. On a terminal it asks if more than one is meant.

    With --debug nothing is replayed: the node's begin and process run here, what they push and write is printed, and
    pdb opens at the exception. `breakpoint()` in the node works, too.
    """
    if debug:
        from consecutiond.cli.faileddebug import debug_failed

        if len(filters.positions) != 1 or str(filters) != filters.positions[0]:
            raise ChoiceError("--debug takes one POSITION and no filter")
        directory = RunDir(resolve(given=given).settings.dir, check_id(id))
        with Operator(directory) as operator:
            letter, parts = one(operator, one_position(filters.positions[0])), operator.parts
        raise typer.Exit(debug_failed(letter, parts, directory.conf, target or None, stop=stop, end=end))
    _check_chosen("replay", filters, all=all)
    from consecutiond.cli.failedact import Order, carry_out

    order = Order(
        verb="replay", start=_start(start), rate=rate_of(rate), wait=wait, dry_run=dry_run, yes=yes, as_json=json
    )  # fmt: skip
    with _operator(id, given) as operator:
        code = carry_out(operator, choose(operator, filters), order)
    raise typer.Exit(code)


@app.command(
    short_help="Change the value of a failed item's root.",
    epilog=epilog(
        "consecutiond failed edit flow 17\n"
        "consecutiond failed edit flow 17 --value '{\"n\": 5}' --replay --wait\n"
        "consecutiond failed edit flow 17 --file better.json",
        exits.OK,
        exits.SOME_FAILED,
        exits.USAGE,
        exits.NOT_RUNNING,
        exits.START_FAILED,
    ),
)
@with_options("dir")
def edit(
    given: Given,
    id: Id,
    position: Position,
    value: Annotated[
        str | None, typer.Option("--value", metavar="JSON", help="The new value; text in quotes: '\"tea 12\"'.")
    ] = None,
    editor: Annotated[
        bool, typer.Option("--editor", help="Edit it as JSON in $VISUAL or $EDITOR; the default.")
    ] = False,
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE", help="Read it there: JSON, or msgpack in NAME.msgpack; - is stdin."),
    ] = None,
    replay: Annotated[bool, typer.Option("--replay", help="Then try it again.")] = False,
    wait: Wait = False,
) -> None:
    """Change the value of a failed item's root; with --replay it is tried again with it."""
    if sum((value is not None, editor, file is not None)) > 1:
        raise ChoiceError("give one of --value, --editor and --file")
    if wait and not replay:
        raise ChoiceError("--wait needs --replay")
    from consecutiond.cli.failedact import Order, carry_out
    from consecutiond.cli.failededit import edit_failed

    with _operator(id, given) as operator:
        code = edit_failed(operator, one_position(position), value, file)
        if replay and code == exits.OK:
            code = carry_out(
                operator, choose(operator, Filters(positions=(position,))), Order(verb="replay", wait=wait)
            )
    raise typer.Exit(code)


@app.command(
    short_help="Throw failed items away for good.",
    epilog=epilog(
        "consecutiond failed discard flow 17\n"
        "consecutiond failed discard flow --group 2 --dry-run\n"
        "consecutiond failed discard flow --where '\"ham\" in value' --dry-run\n"
        "consecutiond failed discard flow --until 30d --yes",
        *_CODES,
        exits.REFUSED,
    ),
)
@with_options("dir")
@with_filters
def discard(
    given: Given,
    id: Id,
    filters: Filters,
    all: All = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Throw failed items away for good; their number stays in `status`, and the deed in `failed audit`.

    On a terminal it asks if more than one is meant; elsewhere it then wants --yes.
    """
    _check_chosen("discard", filters, all=all)
    from consecutiond.cli.failedact import Order, carry_out

    order = Order(verb="discard", dry_run=dry_run, yes=yes, as_json=json)
    with _operator(id, given) as operator:
        code = carry_out(operator, choose(operator, filters), order)
    raise typer.Exit(code)


@app.command(
    short_help="Write failed items to a file.",
    epilog=epilog(
        "consecutiond failed export flow --output failed.ndjson\n"
        "consecutiond failed export flow --group 1 --values --format msgpack --output again.msgpack\n"
        "consecutiond run flow.py --input again.msgpack --input-format msgpack --id again",
        *_CODES,
    ),
)
@with_options("dir")
@with_filters
def export(
    given: Given,
    id: Id,
    filters: Filters,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write them there and not on stdout.")
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="[ndjson|msgpack]",
            help="A JSON object on each line, or msgpack maps one behind the other.",
            autocompletion=complete.export_formats,
        ),
    ] = "ndjson",
    values: Annotated[
        bool, typer.Option("--values", help="Only the roots' values: input for `consecutiond run`.")
    ] = False,
) -> None:
    """Write failed items with all that is known of them, or their values alone; they stay in the log."""
    from consecutiond.cli.failedexport import FORMATS, export_failed

    if format not in FORMATS:
        raise ChoiceError(f"--format {format!r}: there are {' and '.join(FORMATS)}")
    known: Literal["ndjson", "msgpack"] = "msgpack" if format == "msgpack" else "ndjson"
    with _operator(id, given) as operator:
        code = export_failed(operator, choose(operator, filters), output, known, values=values)
    raise typer.Exit(code)


@app.command(
    short_help="Show what operators have done to failed items.",
    epilog=epilog("consecutiond failed audit flow\nconsecutiond failed audit flow --json", *_CODES),
)
@with_options("dir")
def audit(given: Given, id: Id, json: Json = False) -> None:
    """Show who has replayed, edited or discarded how many failed items, when, and which; the oldest first."""
    from consecutiond.cli.failedlist import show_audit

    with _operator(id, given) as operator:
        code = show_audit(operator, as_json=json)
    raise typer.Exit(code)


def _check_chosen(verb: str, filters: Filters, *, all: bool) -> None:
    if all and filters:
        raise ChoiceError("--all means all of them: leave it out, or the filters")
    if not all and not filters:
        raise ChoiceError(f"which ones? Give positions or filters, or --all to {verb} all of them")


def _start(text: str) -> Literal["root", "node"]:
    if text not in ("root", "node"):
        raise ChoiceError(f"--from {text!r}: it is root or node")
    return "node" if text == "node" else "root"
