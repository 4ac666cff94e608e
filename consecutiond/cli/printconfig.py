"""``--print-config``: the effective options, and where each came from."""

import math
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from consecutiond.effective import Effective, unsecret


def print_config(effective: Effective, *, as_json: bool) -> None:
    """Print a table on a terminal; otherwise TOML that can be used as a configuration file, or JSON."""
    dumped = effective.settings.model_dump(mode="json")
    values: Mapping[str, Any] = {name: unsecret(value) for name, value in dumped.items()}
    if as_json:
        print(_json(effective, values))
    elif sys.stdout.isatty():
        _table(effective, values)
    else:
        for name, value in values.items():
            shown = f"# {name} is not set" if value is None else f"{name} = {toml(value)}"
            print(f"{shown}  # {effective.origins[name]}")


def toml(value: Any) -> str:
    """Write a value as TOML."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{toml(str(key))} = {toml(each)}" for key, each in value.items()) + "}"
    if value == math.inf:
        return "inf"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    # JSON's texts, numbers and booleans are TOML's, but for one character.
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")


def _json(effective: Effective, values: Mapping[str, Any]) -> str:
    shown = {
        # JSON has no infinity; this is how the option is written elsewhere.
        name: {
            "value": "inf" if value == math.inf else value,
            "origin": effective.origins[name].kind,
            "place": effective.origins[name].place,
        }
        for name, value in values.items()
    }
    return msgspec.json.format(msgspec.json.encode(shown), indent=2).decode()


def _table(effective: Effective, values: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1))
    for column in ("option", "value", "from"):
        # A path must not be cut off.
        table.add_column(column, overflow="fold")
    for name, value in values.items():
        style = "dim" if effective.origins[name].kind == "default" else ""
        # Text, because a value may look like markup.
        table.add_row(*(Text(str(cell), style) for cell in (name, _shown(value), effective.origins[name])))
    Console(highlight=False).print(table)


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else toml(value)
