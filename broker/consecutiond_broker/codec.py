"""How values become bytes: one msgpack array a batch."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from consecutiond_broker.errors import CodecError

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[list[Any]] = msgspec.msgpack.Decoder(list[Any])
_raw: msgspec.msgpack.Decoder[list[msgspec.Raw]] = msgspec.msgpack.Decoder(list[msgspec.Raw])
#: Append one encoded value to a bytearray, ``encode_into(value, buffer, -1)``: what every push does.
encode_into = _encoder.encode_into
#: What encoding raises for a value that msgpack has no form for.
_UNENCODABLE: Final = (TypeError, ValueError, OverflowError, RecursionError)
#: What decoding raises: ValueError for text that is not UTF-8, RecursionError for values nested too deep.
_UNREADABLE: Final = (msgspec.DecodeError, ValueError, RecursionError)


def encode(values: Sequence[Any]) -> bytes:
    """Encode a batch of values.

    Raises:
        CodecError: one of them cannot be carried; :func:`faults` tells which.
    """
    try:
        return _encoder.encode(values)
    except _UNENCODABLE as error:
        raise CodecError(str(error)) from None


def faults(values: Sequence[Any]) -> list[tuple[int, str]]:
    """Return ``(position, reason)`` for every value that cannot be carried; the slow path after an error."""
    bad = []
    for position, value in enumerate(values):
        try:
            # As one of a batch, whose list counts for the depth that can be carried.
            _encoder.encode([value])
        except _UNENCODABLE as error:
            bad.append((position, fault(value, error)))
    return bad


def fault(value: Any, error: Exception) -> str:
    """Return what is wrong with a value that cannot be carried, its type first."""
    return f"{_type_name(value)}, which msgpack cannot carry: {error}"


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def decode(body: bytes) -> list[Any]:
    """Decode a batch.

    Raises:
        CodecError: the bytes are not one msgpack array.
    """
    try:
        return _decoder.decode(body)
    except _UNREADABLE as error:
        raise CodecError(f"a batch of {len(body)} bytes cannot be decoded: {error}") from None


def split(body: bytes) -> list[msgspec.Raw]:
    """Cut a batch into its encoded values, without decoding them."""
    try:
        return _raw.decode(body)
    except _UNREADABLE as error:
        raise CodecError(f"a batch of {len(body)} bytes cannot be cut: {error}") from None


def join(values: Sequence[msgspec.Raw]) -> bytes:
    """Make one batch of encoded values."""
    return _encoder.encode(values)


def head(count: int) -> bytes:
    """Return what a batch of so many values begins with; their encodings follow, one behind the other."""
    if count < 1 << 4:
        return bytes((0x90 | count,))
    if count < 1 << 16:
        return b"\xdc" + count.to_bytes(2, "big")
    return b"\xdd" + count.to_bytes(4, "big")


def headless(body: bytes, count: int) -> bytes:
    """Return the encodings of a batch's values, one behind the other."""
    return body[len(head(count)) :]
