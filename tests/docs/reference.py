"""The tables of the documentation that the code decides; `python -m tests.docs.reference` writes them anew."""

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import typer.main

from consecutiond.cli import exits
from consecutiond.cli.app import app
from consecutiond.config import Settings
from consecutiond.options import flag
from consecutiond.reference import option_table
from tests.docs.blocks import PAGES

_TABLE: Final = re.compile(r"(<!-- table: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def codes() -> Iterator[str]:
    """Every exit code."""
    yield from ("| code | meaning |", "|---|---|")
    yield from (f"| {code} | {_cell(text)} |" for code, text in exits.TABLE.items())


def verbs() -> dict[str, Any]:
    """Every verb of the command line; those of a group with its name before theirs."""
    return dict(_verbs(typer.main.get_command(app), ""))


def _verbs(group: Any, before: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _verbs(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def verb(name: str) -> Iterator[str]:
    """The arguments and options of one verb."""
    yield from ("| argument, option | meaning |", "|---|---|")
    fields = []
    for parameter in verbs()[name].params:
        if parameter.param_type_name == "option" and parameter.name in Settings.model_fields:
            fields.append(parameter.name)
            continue
        shown = parameter.metavar or parameter.name.upper()
        if parameter.param_type_name == "option":
            shown = ", ".join(parameter.opts)
            shown += "" if getattr(parameter, "is_flag", False) else f" {parameter.name.upper()}"
        yield f"| `{shown}` | {_cell(getattr(parameter, 'help', '') or '')} |"
    if len(fields) == len(Settings.model_fields):
        yield "| `--NAME VALUE` | every option of [configuration.md](configuration.md), with `-` for `_` |"
    else:
        yield from (
            f"| `{flag(field)}` | {_cell(Settings.model_fields[field].description or '')} |" for field in fields
        )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def tables() -> dict[str, Callable[[], Iterator[str]]]:
    """Every table, by the name in its marker."""
    of_verbs = {f"consecutiond {name}": (lambda name=name: verb(name)) for name in verbs()}
    return {"options": option_table, "exit codes": codes, **of_verbs}


def renewed(content: str) -> str:
    """Return the text of a page with its tables as the code has them now."""
    known = tables()
    return _TABLE.sub(lambda found: found[1] + "\n".join(known[found[2]]()) + "\n" + found[3], content)


def names_of(content: str) -> list[str]:
    """Return the names of the tables in the text of a page."""
    return [found[2] for found in _TABLE.finditer(content)]


def main() -> None:
    """Write all tables."""
    for page in PAGES:
        page.write_text(renewed(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
