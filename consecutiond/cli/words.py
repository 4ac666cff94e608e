"""What the verbs of the command line have in common: arguments, options, and what stands below them in the help."""

from typing import Annotated

import typer

from consecutiond.cli import complete, exits

Id = Annotated[str, typer.Argument(metavar="ID", help="The consecutor.", autocompletion=complete.ids)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def epilog(examples: str, *codes: int) -> str:
    """Return what stands below the options: examples, and the exit codes that the verb can have."""
    lines = [f"  {code}  {exits.TABLE[code]}" for code in codes]
    # A backspace alone in a line keeps the line breaks of the paragraph that it begins.
    return "\n".join(
        ["\b", "Examples:", *(f"  {line}" for line in examples.splitlines()), "", "\b", "Exit codes:", *lines]
    )
