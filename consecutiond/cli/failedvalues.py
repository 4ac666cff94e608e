"""How a failed item is shown: values as JSON, times as people read them, and the whole as an object for machines."""

import time
from typing import Any, Final

import msgspec

from consecutiond.acker.stores.base import Failed
from consecutiond_broker import codec

#: characters of a value in a table
_PREVIEW: Final = 60
_UNREADABLE: Final = (msgspec.DecodeError, TypeError, ValueError, RecursionError)


def value_of(body: bytes) -> Any:
    """Return the one value of a batch of one; None where it was not kept.

    Raises:
        CodecError: it cannot be decoded.
    """
    return codec.decode(body)[0] if body else None


def json_of(value: Any) -> bytes:
    """Return a value as JSON; what JSON has no form for, as a text that tells of it."""
    try:
        return msgspec.json.encode(value)
    except _UNREADABLE:
        return msgspec.json.encode(repr(value))


def survives_json(value: Any) -> bool:
    """Tell whether a value comes out of JSON as it went in: bytes and times do not."""
    try:
        return bool(msgspec.json.decode(msgspec.json.encode(value)) == value)
    except _UNREADABLE:
        return False


def preview(body: bytes) -> str:
    """Return the beginning of the value of a batch of one, on one line."""
    text = json_of(value_of(body)).decode() if body else "(not kept)"
    return text if len(text) <= _PREVIEW else f"{text[: _PREVIEW - 1]}…"


def moment(seconds: float) -> str:
    """Return a time for people, in their time zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def first_line(text: str) -> str:
    """Return the first line of a text."""
    return text.strip().partition("\n")[0]


def summary_of(letter: Failed) -> dict[str, Any]:
    """Return what JSON says of a failed item in a list."""
    return {
        "position": letter.position, "node": letter.node, "kind": letter.kind, "error": letter.error,
        "attempts": letter.attempts, "handed_out": letter.handed_out, "accepted_at": letter.accepted_at,
        "failed_at": letter.failed_at, "edge": letter.edge, "path": letter.path,
        "value": msgspec.Raw(json_of(value_of(letter.body))), "value_kept": bool(letter.body),
    }  # fmt: skip


def everything_of(letter: Failed) -> dict[str, Any]:
    """Return all that JSON says of a failed item."""
    item = msgspec.Raw(json_of(value_of(letter.failed_item)) if letter.failed_item else b"null")
    more = {"item": item, "item_known": bool(letter.failed_item), "entry": letter.entry, "traceback": letter.traceback}
    return summary_of(letter) | more


def pretty(value: object) -> str:
    """Return JSON to be read by people and machines."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def plural(count: int, noun: str = "failed item") -> str:
    """Return a number with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
