"""The typer application; each verb is one function here and its work is in a module of its own."""

from pathlib import Path
from typing import Annotated

import typer

from consecutiond import __version__
from consecutiond.cli import exits

_EXITS = "Exit codes: " + "; ".join(f"{code} {text}" for code, text in exits.TABLE.items()) + "."

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Run a directed graph of Python nodes under supervision, with every input recorded and tracked.",
    epilog=_EXITS,
)

Target = Annotated[
    str, typer.Argument(metavar="TARGET", help="The graph: module:attribute, file.py:attribute or file.py.")
]
Id = Annotated[str, typer.Option("--id", help="Name of the consecutor; default: the target's name.")]
Dir = Annotated[
    Path | None, typer.Option("--dir", help="Where consecutors keep their files.  [default: ./.consecution]")
]
Store = Annotated[str, typer.Option(help="Input log: sqlite, sqlite:////path or memory://.  [default: sqlite]")]
Durability = Annotated[str, typer.Option(help="durable or fast.  [default: durable]")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


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


@app.command(epilog=_EXITS)
def run(
    target: Target,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT…", help="Files that are fed line by line; - is stdin, also the default in a pipe."
        ),
    ] = None,
    id: Id = "",
    dir: Dir = None,
    store: Store = "",
    durability: Durability = "",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no summary.")] = False,
) -> None:
    r"""Run a graph in the foreground, to the end of its input; print its outputs, then a summary on stderr.

    Every line of the input files (without its line end) is one item. What nodes `write` to an output is printed as
    NAME<TAB>JSON, unless the target is a Consecutor with outputs of its own.

    \b
    Examples:
      consecutiond run wordcount.py book.txt
      consecutiond run mypackage.flows:graph *.log --id nightly
      zcat big.gz | consecutiond run flow.py:graph -
    """
    from consecutiond.cli.run import run_target

    raise typer.Exit(run_target(target, inputs, _given(id, dir, store, durability), quiet=quiet))


@app.command(epilog=_EXITS)
def start(
    target: Target,
    id: Id = "",
    dir: Dir = None,
    store: Store = "",
    durability: Durability = "",
    detach: Annotated[bool, typer.Option("--detach", help="Return when every part is up.")] = False,
) -> None:
    r"""Run a graph as a daemon: in the foreground for a service manager, or detached for a shell.

    It takes up what its log holds, is fed with `consecutiond push`, and runs until `consecutiond stop` or a signal.
    Outputs that are not registered by the target are appended to output_files/NAME.jsonl in its directory.

    \b
    Examples:
      consecutiond start flow.py:graph --id flow --detach
      consecutiond push flow lines.txt
      consecutiond status flow
      consecutiond stop flow
    """
    from consecutiond.cli.start import start_target

    raise typer.Exit(start_target(target, _given(id, dir, store, durability), detach=detach))


@app.command(epilog=_EXITS)
def push(
    id: Annotated[str, typer.Argument(metavar="ID", help="The running consecutor.")],
    inputs: Annotated[
        list[str] | None, typer.Argument(metavar="INPUT…", help="Files; - is stdin, the default.")
    ] = None,
    dir: Dir = None,
) -> None:
    r"""Feed lines to a running consecutor; return when all are recorded in its log.

    \b
    Example:
      tail -n +2 table.csv | consecutiond push flow
    """
    from consecutiond.cli.push import push_lines

    raise typer.Exit(push_lines(id, inputs or ["-"], _given("", dir, "", "")))


@app.command(epilog=_EXITS)
def status(
    id: Annotated[str, typer.Argument(metavar="[ID]", help="One consecutor; default: all in the directory.")] = "",
    dir: Dir = None,
    json: Json = False,
) -> None:
    r"""Show what runs, and that accepted = completed + failed + open.

    \b
    Examples:
      consecutiond status
      consecutiond status flow --json
    """
    from consecutiond.cli.status import show

    raise typer.Exit(show(id, _given("", dir, "", ""), as_json=json))


@app.command(epilog=_EXITS)
def stop(
    id: Annotated[str, typer.Argument(metavar="ID", help="The consecutor.")],
    dir: Dir = None,
) -> None:
    """Stop a consecutor: take no more input, finish what is open, end every node in order, then every process.

    Roots that wait for a retry stay in the log for the next start. After stop_timeout_s the processes are killed;
    whatever is open then stays in the log, too.
    """
    from consecutiond.cli.stop import stop_consecutor

    raise typer.Exit(stop_consecutor(id, _given("", dir, "", "")))


def _given(id: str, dir: Path | None, store: str, durability: str) -> dict[str, object]:
    """Return the options that were given, so that the others come from the environment or their defaults."""
    options = {"id": id, "dir": dir, "store": store, "durability": durability}
    return {name: value for name, value in options.items() if value}
