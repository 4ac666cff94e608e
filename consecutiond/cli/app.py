"""The typer application; each verb is one function here and its work is in a module of its own."""

from pathlib import Path
from typing import Annotated

import typer

from consecutiond import __version__
from consecutiond.cli import complete, exits, failed, log, store
from consecutiond.cli.options import with_options
from consecutiond.cli.words import Id, Json
from consecutiond.cli.words import epilog as _epilog
from consecutiond.effective import Given
from consecutiond.rundir import check_id

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Run a directed graph of Python nodes under supervision, with every input recorded and tracked.",
    epilog=_epilog(
        "consecutiond run wordcount.py book.txt      to the end of the input, in the foreground\n"
        "consecutiond start flow.py --detach         a daemon that is fed with `consecutiond push`",
        *exits.TABLE,
    ),
)

Target = Annotated[
    str, typer.Argument(metavar="TARGET", help="The graph: module:attribute, file.py:attribute or file.py.")
]

app.add_typer(failed.app, name="failed", short_help="Find, inspect, replay, edit and discard failed items.")
app.add_typer(log.app, name="log", short_help="List completed inputs that were kept, and enter them again.")
app.add_typer(store.app, name="store", short_help="Move the log of a consecutor into another store.")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"consecutiond {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(
    short_help="Run a graph in the foreground, to the end of its input.",
    epilog=_epilog(
        "consecutiond run wordcount.py book.txt\n"
        "consecutiond run mypackage.flows:graph *.log --id nightly\n"
        "zcat big.gz | consecutiond run flow.py:graph",
        exits.OK,
        exits.SOME_FAILED,
        exits.USAGE,
        exits.BAD_TARGET,
        exits.BAD_DIRECTORY,
        exits.START_FAILED,
        exits.STOPPED,
    ),
)
@with_options()
def run(
    given: Given,
    target: Target,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT", help="Files that are fed line by line; - is stdin, also the default in a pipe."
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no summary.")] = False,
) -> None:
    """Run a graph in the foreground, to the end of its input; print its outputs, then a summary on stderr.

    Every line of the input files (without its line end) is one item. What nodes `write` to an output is printed as
    NAME<TAB>JSON, unless the target is a Consecutor with outputs of its own.
    """
    from consecutiond.cli.run import run_target

    raise typer.Exit(run_target(target, inputs, given, quiet=quiet))


@app.command(
    short_help="Run a graph as a daemon.",
    epilog=_epilog(
        "consecutiond start flow.py:graph --id flow --detach\n"
        "consecutiond push flow lines.txt\n"
        "consecutiond status flow\n"
        "consecutiond stop flow",
        exits.OK,
        exits.USAGE,
        exits.BAD_TARGET,
        exits.BAD_DIRECTORY,
        exits.START_FAILED,
    ),
)
@with_options()
def start(
    given: Given,
    target: Target,
    detach: Annotated[bool, typer.Option("--detach", help="Return when every part is up.")] = False,
) -> None:
    """Run a graph as a daemon: in the foreground for a service manager, or detached for a shell.

    It takes up what its log holds, is fed with `consecutiond push`, and runs until `consecutiond stop` or a signal.
    Outputs that are not registered by the target are appended to output_files/NAME.jsonl in its directory.
    """
    from consecutiond.cli.start import start_target

    raise typer.Exit(start_target(target, given, detach=detach))


@app.command(
    short_help="Feed lines to a running daemon.",
    epilog=_epilog(
        "consecutiond push flow lines.txt\ntail -n +2 table.csv | consecutiond push flow",
        exits.OK,
        exits.USAGE,
        exits.NOT_RUNNING,
        exits.STOPPED,
    ),
)
@with_options("dir")
def push(
    given: Given,
    id: Annotated[str, typer.Argument(metavar="ID", help="The running consecutor.", autocompletion=complete.ids)],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT", help="Files that are fed line by line; - is stdin, the default."),
    ] = None,
) -> None:
    """Feed lines to a running consecutor; return when all are recorded in its log."""
    from consecutiond.cli.push import push_lines

    raise typer.Exit(push_lines(check_id(id), inputs or ["-"], given))


@app.command(
    short_help="Show what runs, and what became of every item.",
    epilog=_epilog(
        "consecutiond status\nconsecutiond status flow --json",
        exits.OK,
        exits.USAGE,
        exits.NOT_RUNNING,
    ),
)
@with_options("dir")
def status(
    given: Given,
    id: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="One consecutor; default: all in the directory.", autocompletion=complete.ids
        ),
    ] = "",
    json: Json = False,
) -> None:
    """Show what runs, and that accepted = completed + failed + discarded + open."""
    from consecutiond.cli.status import show

    raise typer.Exit(show(check_id(id) if id else id, given, as_json=json))


@app.command(
    short_help="Drain a consecutor and stop it.",
    epilog=_epilog(
        "consecutiond stop flow\nconsecutiond stop flow --timeout 5",
        exits.OK,
        exits.USAGE,
        exits.NOT_RUNNING,
    ),
)
@with_options("dir")
def stop(
    given: Given,
    id: Id,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=9_999_999.0, metavar="SECONDS", help="How long it may take; default: its stop_timeout_s."
        ),
    ] = None,
) -> None:
    """Stop a consecutor: take no more input, finish what is open, end every node in order, then every process.

    Roots that wait for a retry stay in the log for the next start. After the timeout the processes are killed, the
    bottom of the graph last; whatever is open then stays in the log, too.
    """
    from consecutiond.cli.stop import stop_consecutor

    raise typer.Exit(stop_consecutor(check_id(id), given, timeout))


@app.command(
    short_help="Restart workers one after the other.",
    epilog=_epilog(
        "consecutiond restart flow                  every worker of every node\n"
        "consecutiond restart flow parse            those of one node; also one that was given up\n"
        "consecutiond restart flow --timeout 5 --json",
        exits.OK,
        exits.USAGE,
        exits.NOT_RUNNING,
        exits.START_FAILED,
        exits.STOPPED,
        exits.REFUSED,
    ),
)
@with_options("dir")
def restart(
    given: Given,
    id: Id,
    node: Annotated[
        str,
        typer.Argument(
            metavar="NODE", help="Its workers alone; also output, input. Default: all nodes.",
            autocompletion=complete.nodes,
        ),
    ] = "",
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=9_999_999.0, metavar="SECONDS",
            help="How long each may take to end, before it is killed; default: its stop_timeout_s.",
        ),
    ] = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Restart the workers of a node, or of all nodes from the top of the graph, one at a time.

    Each finishes the batch in hand and gives back the rest; the next one's turn is when its successor is up. No other
    process is touched, and nothing is lost or charged. Parts that were given up are started again. It ends at the first
    successor that does not come up, with its traceback; the workers behind it stay as they are.
    """
    from consecutiond.cli.restart import restart_workers

    raise typer.Exit(restart_workers(check_id(id), node, given, timeout, as_json=json))


@app.command(
    short_help="Show a graph, or what flows through a running one.",
    epilog=_epilog(
        "consecutiond graph flow.py:graph\n"
        "consecutiond graph flow.py:graph --output flow.svg\n"
        "consecutiond graph --live flow --uris\n"
        "consecutiond graph --live flow --json",
        exits.OK,
        exits.USAGE,
        exits.NOT_RUNNING,
        exits.BAD_TARGET,
        exits.BAD_DIRECTORY,
    ),
)
@with_options("id", "dir", "architecture")
def graph(
    given: Given,
    target: Annotated[str | None, typer.Argument(metavar="TARGET", help="The graph, as for `run`.")] = None,
    live: Annotated[
        str | None,
        typer.Option("--live", metavar="ID", help="A running consecutor instead.", autocompletion=complete.ids),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="[text|dot|mermaid|svg|png|json]",
            help="By default what the ending of the output file says, else text.",
            autocompletion=complete.formats,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it there and not on stdout.")
    ] = None,
    uris: Annotated[bool, typer.Option("--uris", help="Write the URI of each edge.")] = False,
) -> None:
    """Show a graph without running it: each arrow is one edge, one broker and one socket URI.

    Of a running consecutor, each arrow bears the items that passed it per second, of late, and what waits at it or is
    in the hands of workers; each node tells how many of its workers are up. The target is not imported for it.
    """
    from consecutiond.cli.graph import show_graph

    if (target is None) == (live is None):
        raise typer.BadParameter("give either a TARGET or --live ID")
    if live is not None:
        check_id(live)
    raise typer.Exit(show_graph(target, live, given, "json" if json else format, output, uris=uris))


@app.command(
    short_help="List all consecutors of the directory.",
    epilog=_epilog("consecutiond ls\nconsecutiond ls --json", exits.OK, exits.USAGE),
)
@with_options("dir")
def ls(given: Given, json: Json = False) -> None:
    """List all consecutors of the directory: running, dead (killed, and left files behind) or finished."""
    from consecutiond.cli.ls import list_consecutors

    raise typer.Exit(list_consecutors(given, as_json=json))


@app.command(
    short_help="Say what is really set, and what a receipt is worth.",
    epilog=_epilog(
        "consecutiond doctor\n"
        "consecutiond doctor flow\n"
        "consecutiond doctor flow.py:graph --store redis://localhost\n"
        "consecutiond doctor flow --json --strict",
        exits.OK,
        exits.USAGE,
        exits.BAD_TARGET,
        exits.BAD_DIRECTORY,
        exits.UNSOUND,
        exits.DOUBTFUL,
    ),
)
@with_options()
def doctor(
    given: Given,
    what: Annotated[
        str,
        typer.Argument(
            metavar="ID/TARGET",
            help="A consecutor of the directory, running or not; or a graph, as for `start`.  [default: the options]",
            autocompletion=complete.ids,
            show_default=False,
        ),
    ] = "",
    strict: Annotated[bool, typer.Option("--strict", help="Warnings, too, have an exit code.")] = False,
    json: Json = False,
) -> None:
    """Say what is really set, what of it is wrong, why that matters and what to do; last, what a receipt is worth.

    It looks at the store, its server, files and their rights, disks, limits, the clock and versions, and changes
    nothing. Of a consecutor it reads with which options it was started; of a graph, those that a start would have here.
    """
    from consecutiond.cli.doctor import diagnose

    raise typer.Exit(diagnose(what, given, as_json=json, strict=strict))


@app.command(
    short_help="Remove consecutors by force: kill what lives, then delete.",
    epilog=_epilog(
        "consecutiond clean flow\nconsecutiond clean --all --dry-run\nconsecutiond clean flow other --force",
        exits.OK,
        exits.USAGE,
        exits.NOT_RUNNING,
        exits.BAD_DIRECTORY,
        exits.REFUSED,
    ),
)
@with_options("dir")
def clean(
    given: Given,
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID", help="The consecutors, running or not.", autocompletion=complete.ids),
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="All in the directory.")] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Throw away open and failed items unasked.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only say what would be done.")] = False,
    json: Json = False,
) -> None:
    """Remove consecutors by force: kill every process that is provably theirs, then delete the directory.

    Nothing is drained: `consecutiond stop` does that. Log, outputs and log files in the directory are deleted. Where
    accepted items that are not done, or failed ones, would be thrown away, it asks on a terminal, and elsewhere wants
    --force.
    """
    from consecutiond.cli.clean import clean as clean_up

    if bool(ids) == all:
        raise typer.BadParameter("give either IDs or --all")
    wanted = [check_id(id) for id in ids or ()]
    raise typer.Exit(clean_up(wanted, given, everything=all, force=force, dry_run=dry_run, as_json=json))


@app.command(
    short_help="Show what the parts of a consecutor say.",
    epilog=_epilog(
        "consecutiond logs flow -f\n"
        "consecutiond logs flow parse --since 10m --level warning\n"
        "consecutiond logs flow heart --json | jq .event",
        exits.OK,
        exits.USAGE,
        exits.NOT_RUNNING,
        exits.BAD_DIRECTORY,
    ),
)
@with_options("dir")
def logs(
    given: Given,
    id: Id,
    node: Annotated[
        str, typer.Argument(metavar="NODE", help="A node, a worker (parse.0) or a part (heart, acker, supervisord).")
    ] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the consecutor ends, or Ctrl-C.")] = False,
    since: Annotated[
        str, typer.Option("--since", metavar="TIME", help="Then or later: 2026-03-01T14:30, or 90s, 2h, 3d ago.")
    ] = "",
    level: Annotated[
        str, typer.Option("--level", metavar="LEVEL", help="At least: debug, info, warning, error or critical.")
    ] = "debug",
    lines: Annotated[
        int | None,
        typer.Option("--lines", "-n", metavar="N", min=0, help="The last N of them.  [default: 200; all with --since]"),
    ] = None,
    json: Json = False,
) -> None:
    """Show what all parts say, in the order of time: events, what nodes log and print, tracebacks.

    Every event names its part; one that comes from the processing of an item also its root and attempt. Values of
    items are never among them, unless a node logs or raises them.
    """
    from consecutiond.cli.choosing import ChoiceError
    from consecutiond.cli.logs import show

    try:
        code = show(
            check_id(id), node, given, since=since, level=level, follow=follow, as_json=json,
            last=lines if lines is not None or since else 200,
        )  # fmt: skip
    except ChoiceError as error:
        raise typer.BadParameter(str(error)) from None
    raise typer.Exit(code)


@app.command(
    "install-service",
    short_help="Write the systemd unit of a target.",
    epilog=_epilog(
        "sudo consecutiond install-service /usr/local/share/flow/flow.py --config /etc/consecutiond/flow.toml\n"
        "consecutiond install-service flow.py --print",
        exits.OK,
        exits.USAGE,
        exits.BAD_TARGET,
        exits.BAD_DIRECTORY,
    ),
)
@with_options("id")
def install_service(
    given: Given,
    target: Target,
    user: Annotated[str, typer.Option("--user", metavar="NAME", help="Whose processes they are.")] = "consecutiond",
    group: Annotated[
        list[str] | None,
        typer.Option("--group", metavar="NAME", help="One more group, such as that of a Redis socket."),
    ] = None,
    directory: Annotated[
        Path, typer.Option("--unit-dir", metavar="DIR", help="Where the unit is written.", file_okay=False)
    ] = Path("/etc/systemd/system"),
    only_print: Annotated[bool, typer.Option("--print", help="Print it, and write nothing.")] = False,
) -> None:
    """Write a unit with which systemd runs a target as a daemon: started at boot, watched, hardened.

    The target is loaded once, so that its faults show now. Options belong into the file that --config names.
    """
    from consecutiond.cli.installservice import install

    raise typer.Exit(install(target, given, user=user, directory=directory, groups=group or [], only_print=only_print))


@app.command(
    short_help="Be a worker of a remote node, on another machine.",
    epilog=_epilog(
        "consecutiond worker flow.py heavy --connect connection.json\n"
        "consecutiond worker flow.py heavy --connect tcp://127.0.0.1:7000",
        exits.OK,
        exits.USAGE,
        exits.NOT_RUNNING,
        exits.BAD_TARGET,
        exits.START_FAILED,
        exits.TURNED_AWAY,
    ),
)
def worker(
    target: Target,
    node: Annotated[str, typer.Argument(metavar="NODE", help="The remote node.")],
    connect: Annotated[
        str,
        typer.Option(
            "--connect",
            metavar="FILE|URI",
            help="connection.json of the consecutor, or the uri of one on this machine.",
        ),
    ],
    number: Annotated[
        int | None,
        typer.Option("--worker", metavar="K", min=0, help="Take the place of worker K.  [default: any free one]"),
    ] = None,
    patience: Annotated[
        float, typer.Option("--patience", metavar="S", min=0.1, help="Seconds to wait for a consecutor that is away.")
    ] = 300.0,
) -> None:
    """Run one worker of a remote node in the foreground, until the graph ends or Ctrl-C.

    A broken network is waited for, and so is a consecutor that is started again.
    """
    from consecutiond.cli.worker import work

    raise typer.Exit(work(target, node, connect, number, patience))
