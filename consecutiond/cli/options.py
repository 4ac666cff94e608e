"""The configuration as command-line options: made from the model, the same for every verb and every script."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from consecutiond.config import ConfigError
from consecutiond.effective import CONFIG_VARIABLE, Given
from consecutiond.options import Option, all_options
from consecutiond.rundir import check_id

#: the parameter of a verb that receives what was given
RECEIVER = "given"


def with_options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a typer command an option for each field of the configuration, and ``--config``.

    The decorated function has a parameter ``given``: a `Given` with what the command line said, and nothing that
    it did not say. The command line checks no values; they are checked together with the file and the environment.

    Args:
        names: fields; without any, all of them.
    """
    chosen = [option for option in all_options() if not names or option.name in names]
    if missing := set(names) - {option.name for option in chosen}:
        raise ConfigError(f"there is no option {', '.join(sorted(missing))}")
    generated = {option.name: _annotation(option) for option in chosen} | {"config": _config()}

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def command(**arguments: Any) -> Any:
            config = arguments.pop("config")
            values = {option.name: arguments.pop(option.name) for option in chosen}
            given = {name: value for name, value in values.items() if value is not None and value != []}
            if given.get("id"):
                # As for the verbs that take it as an argument: an illegal id has an exit code of its own.
                check_id(given["id"])
            return function(**arguments, **{RECEIVER: Given(given, config)})

        signature = inspect.signature(function)
        own = {name: each for name, each in signature.parameters.items() if name != RECEIVER}
        if both := own.keys() & generated.keys():
            raise ConfigError(f"{function.__name__} has a parameter of its own called {', '.join(sorted(both))}")
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            for name, annotation in generated.items()
        ]
        keyword_only = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own.values()]
        # Typer looks at both.
        command.__signature__ = signature.replace(parameters=[*keyword_only, *added])  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in (*keyword_only, *added)}
        return command

    return decorate


def _annotation(option: Option) -> Any:
    """Return what typer makes the option of."""
    if option.boolean:
        return Annotated[bool | None, typer.Option(f"{option.flag}/--no-{option.flag[2:]}", help=_help(option))]
    metavar = f"[{'|'.join(option.choices)}]" if option.choices else option.type.partition(" ")[0].upper()
    kind = list[str] if option.many else str
    choices = option.choices
    complete = (lambda: list(choices)) if choices else None
    return Annotated[
        kind | None, typer.Option(option.flag, metavar=metavar, help=_help(option), autocompletion=complete)
    ]


def _help(option: Option) -> str:
    default = f"default: {option.default}" if option.default else ""
    again = "may be repeated" if option.many else ""
    # No-break spaces: a sign stays with its number.
    bounds = option.range.replace("≥ ", "≥\N{NO-BREAK SPACE}").replace("≤ ", "≤\N{NO-BREAK SPACE}")
    facts = [fact for fact in (bounds, again, default, f"env: {option.variable}") if fact]
    # What begins with a literal value keeps it as it is.
    meaning = (option.meaning[:1].upper() + option.meaning[1:]).replace("`", "")
    return f"{meaning}.  [{'; '.join(facts)}]"


def _config() -> Any:
    text = f"A TOML file with options, named as in `max_pending = 1000`.  [env: {CONFIG_VARIABLE}]"
    return Annotated[Path | None, typer.Option("--config", metavar="FILE", help=text)]
