"""What the model says about each option, in the words of the command line and of the reference page."""

import inspect
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from consecutiond.config import Settings

_WORDS: dict[Any, str] = {int: "integer", float: "number", str: "string", bool: "boolean", Path: "path"}
_BOUNDS: tuple[tuple[type[Any], str, str], ...] = (
    (annotated_types.Gt, "gt", ">"),
    (annotated_types.Ge, "ge", "≥"),
    (annotated_types.Lt, "lt", "<"),
    (annotated_types.Le, "le", "≤"),
    (annotated_types.MultipleOf, "multiple_of", "a multiple of"),
    (annotated_types.MinLen, "min_length", "length ≥"),
    (annotated_types.MaxLen, "max_length", "length ≤"),
)


@dataclass(frozen=True)
class Option:
    """One option, as people read it."""

    #: as in code and in the configuration file
    name: str
    #: as on the command line
    flag: str
    #: as in the environment
    variable: str
    #: ``integer``, ``durable | fast`` …
    type: str
    #: every legal value, if they are few
    choices: tuple[str, ...]
    #: ``≥ 1, ≤ 4096``, or nothing
    range: str
    default: str
    #: what it means, with the unit
    meaning: str
    boolean: bool
    #: may be given several times
    many: bool


def flag(name: str) -> str:
    """Return the command line's name of an option."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """Return the environment's name of an option."""
    return f"{Settings.model_config.get('env_prefix', '')}{name}".upper()


def all_options() -> tuple[Option, ...]:
    """Return every option, in the order of the model."""
    return tuple(_option(name, field) for name, field in Settings.model_fields.items())


def _option(name: str, field: FieldInfo) -> Option:
    members = _members(field.annotation)
    default = field.get_default(call_default_factory=True, validated_data={})
    return Option(
        name, flag(name), variable(name), type=" | ".join(dict.fromkeys(_word(member) for member in members)),
        choices=tuple(str(choice) for kind in members if get_origin(kind) is Literal for choice in get_args(kind)),
        range=_range(field), default=_text(default), meaning=inspect.cleandoc(field.description or ""),
        boolean=members == [bool],
        many=any(get_origin(member) in (list, tuple, set, frozenset) for member in members),
    )  # fmt: skip


def _members(annotation: Any) -> list[Any]:
    """Take a union apart; None is not among what a user can write."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for part in get_args(annotation) for member in _members(part)]
    return [] if annotation is type(None) else [annotation]


def _word(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " | ".join(str(choice) for choice in get_args(annotation))
    if get_origin(annotation) in (list, tuple, set, frozenset):
        return f"list of {_word(get_args(annotation)[0])}s"
    return _WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _range(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {getattr(given, name)}"
        for kind, name, sign in _BOUNDS
        for given in field.metadata
        if isinstance(given, kind)
    ]
    return ", ".join(bounds)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else str(value)
