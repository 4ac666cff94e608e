"""``consecutiond log``: completed inputs that were kept are listed, and entered again."""

from typing import Annotated

import typer

from consecutiond.cli import exits
from consecutiond.cli.choosing import ChoiceError, rate_of
from consecutiond.cli.logchoice import Filters, choose
from consecutiond.cli.options import with_options
from consecutiond.cli.words import Id, Json, epilog
from consecutiond.effective import Given, resolve
from consecutiond.operator import Operator
from consecutiond.rundir import RunDir, check_id

_CODES = (exits.OK, exits.USAGE, exits.NOT_RUNNING, exits.START_FAILED)

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List completed inputs, and enter them again.\n\n"
    "A consecutor that runs with retain_s keeps each input for so many seconds after its completion. Both verbs work "
    "on a running consecutor and on a stopped one.",
    epilog=epilog(
        "consecutiond start flow.py --retain-s 86400 --detach     keep them for a day\n"
        "consecutiond log list flow --since 2h\n"
        "consecutiond log replay flow --since 2026-03-01T14:00 --until 2026-03-01T15:00 --dry-run",
        *_CODES,
        exits.STOPPED,
        exits.REFUSED,
    ),
)

Since = Annotated[
    str,
    typer.Option("--since", metavar="TIME", help="Completed then or later: 2026-03-01T14:30, or 90s, 2h, 3d ago."),
]
Until = Annotated[str, typer.Option("--until", metavar="TIME", help="Completed before, likewise.")]
Where = Annotated[
    str,
    typer.Option("--where", metavar="EXPR", help="A Python expression on value and root; it runs with your rights."),
]


def _operator(id: str, given: Given) -> Operator:
    return Operator(RunDir(resolve(given=given).settings.dir, check_id(id)))


@app.command(
    name="list",
    short_help="List completed inputs that were kept.",
    epilog=epilog(
        "consecutiond log list flow --since 2h\n"
        "consecutiond log list flow --where 'value[\"price\"] < 0' --limit 0 --json | jq .value",
        *_CODES,
    ),
)
@with_options("dir")
def list_(
    given: Given,
    id: Id,
    since: Since = "",
    until: Until = "",
    where: Where = "",
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=0, help="So many at the utmost; 0: all.")] = 100,
    json: Json = False,
) -> None:
    """List completed inputs, in the order in which their batches were over: position, times and value.

    With --json it prints one object a line.
    """
    from consecutiond.cli.loglist import list_completed

    with _operator(id, given) as operator:
        code = list_completed(operator, choose(operator, Filters(since, until, where)), limit or None, as_json=json)
    raise typer.Exit(code)


@app.command(
    short_help="Enter completed inputs again, as new ones.",
    epilog=epilog(
        "consecutiond log replay flow --since 2h --dry-run\n"
        "consecutiond log replay flow --since 2026-03-01T14:00 --until 2026-03-01T15:00 --yes\n"
        "consecutiond log replay flow --all --rate 100/s",
        *_CODES,
        exits.STOPPED,
        exits.REFUSED,
    ),
)
@with_options("dir")
def replay(
    given: Given,
    id: Id,
    since: Since = "",
    until: Until = "",
    where: Where = "",
    all: Annotated[bool, typer.Option("--all", help="All that were kept.")] = False,
    rate: Annotated[
        str, typer.Option("--rate", metavar="N/s", help="So many a second at the utmost.  [default: no limit]")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only say what would be done.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Enter completed inputs again: as new inputs with new positions, so all that they bring about happens again.

    They wait their turn like any input. A stopped consecutor takes them up at its next start. On a terminal it asks;
    elsewhere it wants --yes.
    """
    from consecutiond.cli.logreplay import Order, replay_completed

    filters = Filters(since, until, where)
    _check_chosen(filters, all=all)
    order = Order(rate=rate_of(rate), dry_run=dry_run, yes=yes, as_json=json)
    with _operator(id, given) as operator:
        code = replay_completed(operator, choose(operator, filters), order)
    raise typer.Exit(code)


def _check_chosen(filters: Filters, *, all: bool) -> None:
    if all and filters != Filters():
        raise ChoiceError("--all means all of them: leave it out, or the filters")
    if not all and filters == Filters():
        raise ChoiceError("which ones? Give --since, --until or --where, or --all to replay all that were kept")
