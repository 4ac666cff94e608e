"""``Consecutor.expose_cli``: a script that makes a consecutor becomes a program with a command line."""

import inspect
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from consecutiond import __version__
from consecutiond.cli import exits
from consecutiond.cli.failures import explain
from consecutiond.cli.feed import produce_of
from consecutiond.cli.foreground import run_foreground
from consecutiond.cli.options import with_options
from consecutiond.cli.printconfig import print_config
from consecutiond.effective import Given
from consecutiond.runtime import default_id
from consecutiond_nodes import importer

if TYPE_CHECKING:
    from consecutiond.consecutor import Consecutor

_CODES = (
    exits.OK, exits.SOME_FAILED, exits.USAGE, exits.BAD_TARGET, exits.BAD_DIRECTORY, exits.START_FAILED, exits.STOPPED,
)  # fmt: skip


def expose(consecutor: "Consecutor", argv: Sequence[str] | None = None) -> NoReturn:
    """Read the command line, run, and end the process with an exit code.

    Args:
        consecutor: what the script has made.
        argv: the arguments; default: those of the process.
    """
    program = Path(sys.argv[0]).name or "script"
    app = typer.Typer(
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.command(help=_help(consecutor), epilog=_epilog(program))(_command(consecutor, program))
    try:
        # The name that `--show-completion` writes; click and typer do not agree on one for names with a dot.
        variable = f"_{program}_COMPLETE".replace("-", "_").upper()
        app(args=None if argv is None else list(argv), prog_name=program, complete_var=variable)
    except Exception as error:
        code = explain(error)
        if code is None:
            raise
        sys.exit(code)
    sys.exit(exits.OK)


def is_imported() -> bool:
    """Say whether a module other than the program itself is being executed: its user wants its nodes, not its run."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") != "__main__":
            return True
        frame = frame.f_back
    return False


def _command(consecutor: "Consecutor", program: str) -> Callable[..., None]:
    def print_version(wanted: bool) -> None:
        if wanted:
            own = getattr(sys.modules["__main__"], "__version__", "")
            print(f"{program} {own} (consecutiond {__version__})" if own else f"consecutiond {__version__}")
            raise typer.Exit

    @with_options()
    def command(
        given: Given,
        inputs: Annotated[
            list[str] | None, typer.Argument(metavar="FILE", help="More of --input, so that --input *.txt works.")
        ] = None,
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no summary.")] = False,
        show: Annotated[
            bool, typer.Option("--print-config", help="Print every option and where its value comes from, and end.")
        ] = False,
        json: Annotated[bool, typer.Option("--json", help="Print the configuration as JSON.")] = False,
        version: Annotated[
            bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version.")
        ] = False,
    ) -> None:
        if json and not show:
            raise typer.BadParameter("it goes with --print-config", param_hint="--json")
        consecutor.configure(given.with_inputs(inputs or ()), {"id": _id(consecutor)})
        if show:
            print_config(consecutor.effective, as_json=json)
            return
        produce = produce_of(consecutor, consecutor.settings, quiet=quiet)
        raise typer.Exit(run_foreground(consecutor, produce, quiet=quiet))

    return command


def _id(consecutor: "Consecutor") -> str:
    """Return the id of a script that gives none."""
    target = consecutor.target or importer.find_target(consecutor.graph)
    return default_id(target or os.path.abspath(sys.argv[0]))


def _help(consecutor: "Consecutor") -> str:
    """Return what the script says about itself, else what it runs."""
    own = inspect.cleandoc(getattr(sys.modules["__main__"], "__doc__", None) or "")
    names = ", ".join(str(vertex.name) for vertex in consecutor.graph.order)
    about = own or f"Run the graph of the nodes {names}: every item of the input goes through it."
    more = "What nodes `write` is printed as NAME<TAB>JSON, unless the script registers outputs of its own."
    return f"{about}\n\n{more} Options may also come from the environment or a file; the command line wins over both."


def _epilog(program: str) -> str:
    script = sys.argv[0]
    runs = os.access(script, os.X_OK) and not script.endswith(("__main__.py",))
    call = shlex.quote(script) if runs else f"python {shlex.quote(program)}"
    stem = Path(program).stem
    lines = (
        "\b",
        "Examples:",
        f"  cat lines.txt | {call} | sort",
        f"  {call} --input *.ndjson --input-format ndjson",
        f"  {call} --input http://127.0.0.1:8080",
        f"  {call} --print-config > {stem}.toml",
        f"  {call} --config {stem}.toml --quiet < lines.txt",
        "",
        "\b",
        "Exit codes:",
        *(f"  {code}  {exits.TABLE[code]}" for code in _CODES),
    )
    return "\n".join(lines)
