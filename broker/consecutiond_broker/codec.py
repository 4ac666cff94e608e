"""How values become bytes: one msgpack array a batch."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from consecutiond_broker.errors import CodecError

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[list[Any]] = msgspec.msgpack.Decoder(list[Any])
_raw: msgspec.msgpack.Decoder[list[msgspec.Raw]] = msgspec.msgpack.Decoder(list[msgspec.Raw])
#: What decoding raises: ValueError for text that is not UTF-8, RecursionError for values nested too deep.
_UNREADABLE: Final = (msgspec.DecodeError, ValueError, RecursionError)


def encode(values: Sequence[Any]) -> bytes:
    """Encode a batch of values.

    Raises:
        CodecError: one of them cannot be carried; :func:`faults` tells which.
    """
    try:
        return _encoder.encode(values)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise CodecError(str(error)) from None


def faults(values: Sequence[Any]) -> list[tuple[int, str]]:
    """Return ``(position, reason)`` for every value that cannot be carried; the slow path after an error."""
    bad = []
    for position, value in enumerate(values):
        try:
            _encoder.encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            bad.append((position, f"{_type_name(value)}, which msgpack cannot carry: {error}"))
    return bad


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
