"""Checks what comes from outside and makes it values that can be submitted; says which one is bad, where and why."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from operator import itemgetter
from typing import Any, Final, NamedTuple

import msgspec

from consecutiond.feeder import BadValueError
from consecutiond.inputs import jsoncut
from consecutiond.inputs.msgpackcut import Cutter, NotMsgpackError
from consecutiond_broker import codec

#: containers in each other at the utmost: far below what makes a decoder give up, here and in every node
MAX_DEPTH: Final = 100

_JSON_OPENERS: Final = b"[{"
_MSGPACK_OPENERS: Final = bytes(range(0x80, 0xA0)) + b"\xdc\xdd\xde\xdf"
_UNREADABLE: Final = (msgspec.DecodeError, ValueError, RecursionError)

#: what JSON cannot begin with, and a msgpack value of more than one byte does
_NOT_ASCII: Final = 0x80
_FIRST_BYTE: Final = itemgetter(0)

_TOO_DEEP: Final = f"it is nested deeper than {MAX_DEPTH}"
_CONTAINERS: Final = (list, dict, tuple)

_from_json = msgspec.json.Decoder().decode
_from_msgpack = msgspec.msgpack.Decoder().decode

#: encodings of several values one behind the other, and how many they are
Part = tuple[bytes, int]
#: makes parts of values; raises BadValueError
Encode = Callable[[list[Any]], list[Part]]


class Bad(NamedTuple):
    """The first value that cannot be taken."""

    #: its place among the values of its source (or its line), from 1
    number: int
    reason: str
    #: where it begins in what was read; None where that is not known
    offset: int | None = None


class Parsed(NamedTuple):
    """The values before the first bad one."""

    parts: list[Part]
    #: how many they are
    values: int
    bad: Bad | None = None


class _UnfitError(Exception):
    """A value cannot be taken; the text says why."""


def json_value(raw: bytes, encode: Encode) -> Parsed:
    """Read one JSON value."""
    try:
        if len(raw) <= MAX_DEPTH:
            return Parsed(encode([_from_json(raw)]), 1)
    except (*_UNREADABLE, BadValueError):
        pass
    return _each([(1, 0, raw)], _json, encode)


def json_array(raw: bytes, encode: Encode) -> Parsed:
    """Read the elements of a JSON array."""
    try:
        values = _from_json(raw)
        if not isinstance(values, list):
            return Parsed([], 0, Bad(1, "the body is no array, and each=1 asks for the elements of one", 0))
        if not may_be_deep(raw, _JSON_OPENERS):
            return Parsed(encode(values), len(values))
    except (*_UNREADABLE, BadValueError):
        pass
    return _each(jsoncut.elements(raw), _json, encode)


def json_lines(raw: bytes, encode: Encode) -> Parsed:
    """Read one JSON value a line; empty lines are passed over, and numbers in `Bad` are lines."""
    lines = raw.split(b"\n")
    try:
        values = [_from_json(line) for line in lines if line]
        # What is nested d deep and complete takes 2d bytes at least.
        if len(max(lines, key=len)) <= 2 * MAX_DEPTH or not any(may_be_deep(line, _JSON_OPENERS) for line in lines):
            return Parsed(encode(values), len(values))
    except (*_UNREADABLE, BadValueError):
        pass
    return _each(_places(lines), _json, encode)


def text_lines(raw: bytes, encode: Encode) -> Parsed:
    """Read lines of text as they are, without their ends; bytes that are no UTF-8 become U+FFFD."""
    lines = raw.split(b"\n")
    if lines and not lines[-1]:
        del lines[-1]
    values = [line.removesuffix(b"\r").decode(errors="replace") for line in lines]
    try:
        return Parsed(encode(values), len(values))
    except BadValueError as error:
        good = values[: error.index]
        return Parsed(encode(good), len(good), Bad(error.index + 1, f"it {error.reason}"))


def msgpack_value(raw: bytes, encode: Encode) -> Parsed:
    """Read one msgpack value."""
    return _each([(1, 0, raw)], _msgpack, encode)


def msgpack_array(raw: bytes, encode: Encode) -> Parsed:
    """Read the elements of a msgpack array."""
    try:
        if not isinstance(_from_msgpack(raw), list):
            return Parsed([], 0, Bad(1, "the body is no array, and each=1 asks for the elements of one", 0))
        if not may_be_deep(raw, _MSGPACK_OPENERS):
            values = codec.split(raw)
            return Parsed(encode(values), len(values))
    except (*_UNREADABLE, BadValueError):
        pass
    return _each(_msgpack_elements(raw), _msgpack, encode)


def frames(raws: list[bytes], format: str, encode: Encode) -> Parsed:
    """Read one value a frame.

    Args:
        raws: the frames.
        format: "msgpack", "json", or "auto": whatever the first byte says.
        encode: makes parts of values.
    """
    format = _same_format(raws) if format == "auto" else format
    read = _READERS[format]
    try:
        values: list[Any]
        if format == "auto" or len(max(raws, key=len)) > MAX_DEPTH:
            values = [read(raw) for raw in raws]
        else:
            # The same, without what short frames do not need.
            values = list(map(_from_json if format == "json" else _from_msgpack, raws))
            if format == "msgpack":
                values = list(map(msgspec.Raw, raws))
        return Parsed(encode(values), len(values))
    except (*_UNREADABLE, _UnfitError, BadValueError):
        return _each(((number, 0, raw) for number, raw in enumerate(raws, 1)), read, encode)


def _same_format(raws: list[bytes]) -> str:
    """Return the format that all frames clearly have, else "auto": nearly always it is one, and looked at together."""
    if not all(raws):
        return "auto"
    heads = bytes(map(_FIRST_BYTE, raws))
    if min(heads, default=0) >= _NOT_ASCII:
        return "msgpack"
    return "json" if max(heads, default=_NOT_ASCII) < _NOT_ASCII and len(min(raws, key=len)) > 1 else "auto"


# --- one by one: where something is wrong, or may be -----------------------------------------------------------------


def may_be_deep(raw: bytes, openers: bytes) -> bool:
    """Tell cheaply whether a value could be nested too deep; most cannot."""
    return len(raw) > MAX_DEPTH and len(raw) - len(raw.translate(None, openers)) > MAX_DEPTH


def _each(places: Iterable[tuple[int, int, bytes]], read: Callable[[bytes], Any], encode: Encode) -> Parsed:
    good: list[Any] = []
    bad = None
    for number, offset, raw in places:
        try:
            value = read(raw)
            encode([value])
        except (_UnfitError, BadValueError) as error:
            reason = f"it {error.reason}" if isinstance(error, BadValueError) else str(error)
            bad = Bad(number, reason, offset)
            break
        good.append(value)
    return Parsed(encode(good), len(good), bad)


def _json(raw: bytes) -> Any:
    value = _read(_from_json, raw, "JSON")
    if is_too_deep(raw, value):
        raise _UnfitError(_TOO_DEEP)
    return value


def _msgpack(raw: bytes) -> msgspec.Raw:
    value = _read(_from_msgpack, raw, "msgpack")
    if may_be_deep(raw, _MSGPACK_OPENERS) and _depth(value) > MAX_DEPTH:
        raise _UnfitError(_TOO_DEEP)
    return msgspec.Raw(raw)


def _either(raw: bytes) -> Any:
    """Read JSON or msgpack.

    JSON is ASCII where it begins, and a msgpack value that begins so is a whole number of one byte: the only frames
    that are both are single digits.
    """
    if len(raw) == 1 and raw.isdigit():
        raise _UnfitError(
            f"the frame {raw!r} is the JSON number {int(raw)} and the msgpack number {raw[0]} as well; say which with "
            "?format=json or ?format=msgpack"
        )
    return _json(raw) if looks_like_json(raw) else _msgpack(raw)


def looks_like_json(raw: bytes) -> bool:
    """Tell JSON from msgpack."""
    return len(raw) > 1 and raw[0] < _NOT_ASCII


_READERS: Final[dict[str, Callable[[bytes], Any]]] = {"json": _json, "msgpack": _msgpack, "auto": _either}


def _read(decode: Callable[[bytes], Any], raw: bytes, name: str) -> Any:
    if not raw:
        raise _UnfitError("there is nothing where a value should be")
    try:
        return decode(raw)
    except RecursionError:
        raise _UnfitError(_TOO_DEEP) from None
    except UnicodeDecodeError as error:
        raise _UnfitError(f"it holds text that is no UTF-8: {error.reason}") from None
    except (msgspec.DecodeError, ValueError) as error:
        hint = ""
        if name == "msgpack" and looks_like_json(raw) and raw[:1] in b'{["-0123456789tfn \t\r\n':
            hint = "; it looks like JSON, which has to be asked for"
        raise _UnfitError(f"it is no {name}: {error}{hint}") from None


def is_too_deep(raw: bytes, value: Any) -> bool:
    """Tell whether a value read from JSON is nested too deep for those who will have to decode it."""
    return may_be_deep(raw, _JSON_OPENERS) and _depth(value) > MAX_DEPTH


def _depth(value: Any) -> int:
    """Return how many containers are in each other; more than too many are not counted."""
    level = [value] if isinstance(value, _CONTAINERS) else []
    depth = 0
    while level and depth <= MAX_DEPTH:
        depth += 1
        level = [inner for outer in level for inner in _inside(outer) if isinstance(inner, _CONTAINERS)]
    return depth


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return chain(value, value.values())
    return value  # type: ignore[no-any-return]


def _places(lines: list[bytes]) -> Iterator[tuple[int, int, bytes]]:
    offset = 0
    for number, line in enumerate(lines, 1):
        if line and not line.isspace():
            yield number, offset, line
        offset += len(line) + 1


def _msgpack_elements(raw: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield the elements of a msgpack array that cannot be read as a whole; the rest of it as one, which is bad."""
    head = {0xDC: 3, 0xDD: 5}.get(raw[0], 1) if raw else 0
    if not raw or not (0x90 <= raw[0] < 0xA0 or head > 1) or len(raw) < head:
        yield 1, 0, raw
        return
    count = raw[0] & 0x0F if head == 1 else int.from_bytes(raw[1:head], "big")
    cutter, at = Cutter(MAX_DEPTH), head
    for number in range(1, count + 1):
        try:
            end = cutter.end(raw, at)
        except NotMsgpackError:
            end = -1
        if end < 0:
            yield number, at, raw[at:]
            return
        yield number, at, raw[at:end]
        at = end
    if at < len(raw):
        # A byte that no msgpack value has, so that whatever follows is refused.
        yield count + 1, at, b"\xc1" + raw[at:]
