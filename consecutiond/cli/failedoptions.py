"""The filters of `consecutiond failed`, the same for every verb that means several failed items."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Final

import typer

from consecutiond.cli import complete
from consecutiond.cli.failedchoice import Filters

#: the parameter of a verb that receives them
RECEIVER: Final = "filters"

_OPTIONS: Final[dict[str, tuple[Any, Any]]] = {
    "positions": (
        Annotated[
            list[str] | None,
            typer.Argument(metavar="POSITION", help="Positions, as `list --each` shows them: 17, or a range 20-25."),
        ],
        None,
    ),
    "node": (
        Annotated[
            str,
            typer.Option(
                "--node", metavar="NAME", help="Those that failed in this node.", autocompletion=complete.nodes
            ),
        ],
        "",
    ),
    "kind": (
        Annotated[
            str,
            typer.Option(
                "--kind",
                metavar="KIND",
                help="Those that failed in this way: raised, crashed, unserialisable …",
                autocompletion=complete.kinds,
            ),
        ],
        "",
    ),
    "error": (
        Annotated[str, typer.Option("--error", metavar="TEXT", help="Those whose message has this text in it.")],
        "",
    ),
    "group": (
        Annotated[
            str,
            typer.Option(
                "--group",
                metavar="N|NAME",
                help="One group: its number as `list` with the same filters has it now, or its name, which stays.",
            ),
        ],
        "",
    ),
    "since": (
        Annotated[
            str,
            typer.Option("--since", metavar="TIME", help="Failed then or later: 2026-03-01T14:30, or 90s, 2h, 3d ago."),
        ],
        "",
    ),
    "until": (
        Annotated[str, typer.Option("--until", metavar="TIME", help="Failed before, likewise.")],
        "",
    ),
    "where": (
        Annotated[
            str,
            typer.Option(
                "--where",
                metavar="EXPR",
                help="A Python expression on value (the root's), item (which failed) and letter; it runs with your "
                "rights.",
            ),
        ],
        "",
    ),
}


def with_filters(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a typer command the filters; its parameter ``filters`` receives them."""

    @functools.wraps(function)
    def command(**arguments: Any) -> Any:
        given = {name: arguments.pop(name) for name in _OPTIONS}
        given["positions"] = tuple(given["positions"] or ())
        return function(**arguments, **{RECEIVER: Filters(**given)})

    signature = inspect.signature(function)
    own = [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, each in signature.parameters.items()
        if name != RECEIVER
    ]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in _OPTIONS.items()
    ]
    # The arguments first, then the filters, then the verb's own options; typer looks at both.
    ids = [each for each in own if each.default is inspect.Parameter.empty]
    rest = [each for each in own if each.default is not inspect.Parameter.empty]
    parameters = [*ids, *added, *rest]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command
