"""How a pushed value leaves a node: to every target of an outlet, or to the one that a router names."""

import difflib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from consecutiond_nodes.errors import RouteError

#: Takes the pushed value and returns the name of the node that it goes to.
Router: TypeAlias = Callable[[Any], str]


class Outlet(NamedTuple):
    """One way out of a node: a pushed value goes to every target, or, with a router, to the one it names."""

    targets: tuple[str, ...]
    router: Router | None = None


def check_route(outlet: Outlet, returned: object, node: str) -> None:
    """Explain a bad answer of a router; call it only after looking the answer up has failed.

    Args:
        outlet: the outlet whose router answered.
        returned: what the router returned.
        node: the name of the node that pushed the value.

    Raises:
        RouteError: `returned` is not the name of a target of the outlet.

    """
    if isinstance(returned, str) and returned in outlet.targets:
        return
    allowed = ", ".join(repr(target) for target in outlet.targets)
    raise RouteError(
        f"the router {describe(outlet.router)} after node {node!r} returned {_shown(returned)}, "
        f"which is not one of its targets: {allowed}; {_advice(outlet, returned)}"
    )


def describe(function: object) -> str:
    """Name a user's function with file and line, as in `route (census.py:30)`.

    Args:
        function: any callable; `functools.partial` objects and bound methods are seen through.

    """
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", None) or type(function).__name__
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    if code is None:
        return str(name)
    return f"{name} ({Path(code.co_filename).name}:{code.co_firstlineno})"


def _shown(value: object) -> str:
    text = repr(value)
    # a router that returns the value itself may return a megabyte
    return text if len(text) <= 80 else f"{text[:77]}..."


def _advice(outlet: Outlet, returned: object) -> str:
    name = getattr(returned, "name", None)
    if isinstance(name, str) and name in outlet.targets:
        return f"return the name of the node, {name!r}, not the node"
    if returned is None:
        return "is a return missing on one of its paths?"
    if isinstance(returned, str) and (close := difflib.get_close_matches(returned, outlet.targets, 1)):
        return f"did you mean {close[0]!r}?"
    return "a router returns the name of the first node of one branch of its list"
