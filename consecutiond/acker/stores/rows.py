"""How stores of keys and values write rows down: msgpack with names, so that a later field finds its default."""

from typing import Final, TypeVar

import msgspec
from msgspec.structs import replace

from consecutiond.acker.stores.base import Audit, Chunk, Failed, Retained, StoreError, printable

#: bytes of a number as a key; most significant first, so that keys are in the order of their numbers
NUMBER_BYTES: Final = 8

_encoder: Final = msgspec.msgpack.Encoder()
_chunks: Final = msgspec.msgpack.Decoder(Chunk)
_failed: Final = msgspec.msgpack.Decoder(Failed)
_audits: Final = msgspec.msgpack.Decoder(Audit)
_retained: Final = msgspec.msgpack.Decoder(Retained)

Row = TypeVar("Row")


def number_key(number: int) -> bytes:
    """Return the key of a chunk id, a position or another number."""
    return number.to_bytes(NUMBER_BYTES, "big")


def number(key: bytes) -> int:
    """Return the number that a key stands for."""
    return int.from_bytes(key, "big")


def chunk_row(chunk: Chunk) -> bytes:
    """Write a chunk without its body, which has a row of its own."""
    return _encoder.encode(replace(chunk, body=b""))


def failed_row(failed: Failed) -> bytes:
    """Write a failed root, its texts made printable."""
    return _encoder.encode(printable(failed))


def audit_row(audit: Audit) -> bytes:
    """Write what an operator has done."""
    return _encoder.encode(audit)


def retained_row(batch: Retained) -> bytes:
    """Write a batch that is kept, without its body."""
    return _encoder.encode(replace(batch, chunk=replace(batch.chunk, body=b"")))


def chunk(row: bytes) -> Chunk:
    """Read a chunk, its body empty."""
    return _read(_chunks, row)


def failed(row: bytes) -> Failed:
    """Read a failed root."""
    return _read(_failed, row)


def audit(row: bytes) -> Audit:
    """Read what an operator has done."""
    return _read(_audits, row)


def retained(row: bytes) -> Retained:
    """Read a batch that is kept, its body empty."""
    return _read(_retained, row)


def _read(decoder: "msgspec.msgpack.Decoder[Row]", row: bytes) -> Row:
    try:
        return decoder.decode(row)
    except msgspec.DecodeError as error:
        raise StoreError(
            f"a row of the store cannot be understood ({error}). Probably another program wrote over it: stop the "
            "consecutor, and restore a copy or give the store another place."
        ) from error
