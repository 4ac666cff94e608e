"""``consecutiond failed export``: failed items as a file, to be kept or fed in again."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import msgspec

from consecutiond.acker.stores.base import Failed
from consecutiond.cli import exits
from consecutiond.cli.choosing import ChoiceError
from consecutiond.cli.failedchoice import Choice
from consecutiond.cli.failedvalues import everything_of, plural, survives_json, value_of
from consecutiond.operator import Operator
from consecutiond_broker import codec

Format = Literal["ndjson", "msgpack"]

FORMATS: Final = ("ndjson", "msgpack")


def export_failed(operator: Operator, choice: Choice, output: Path | None, format: Format, *, values: bool) -> int:
    """Write failed items one after the other; return the exit code.

    Args:
        operator: the consecutor's.
        choice: which.
        output: the file; None is stdout.
        format: a JSON object on each line, or msgpack maps one behind the other.
        values: only the roots' values, as input for a consecutor.
    """
    if format == "msgpack" and output is None and sys.stdout.isatty():
        raise ChoiceError("a terminal cannot show msgpack: name a file with --output")
    count = unfaithful = valueless = 0
    encode = _ENCODERS[format, values]
    with _opened(output) as file:
        for page in choice.pages(operator):
            for letter in page:
                if values and not letter.body:
                    valueless += 1
                    continue
                file.write(encode(letter))
                count += 1
                unfaithful += format == "ndjson" and not survives_json(value_of(letter.body))
    if output is not None:
        print(f"{plural(count)} of {operator.id} written to {output}")
    if valueless:
        print(
            f"consecutiond: warning: {plural(valueless)} left out, whose value was not kept (option input_store)",
            file=sys.stderr,
        )
    if unfaithful:
        print(
            f"consecutiond: warning: {plural(unfaithful, 'value')} of them, with bytes or times say, became text in "
            "JSON; --format msgpack keeps them as they are",
            file=sys.stderr,
        )
    return exits.OK


def _ndjson(letter: Failed) -> bytes:
    return msgspec.json.encode(everything_of(letter)) + b"\n"


def _ndjson_value(letter: Failed) -> bytes:
    return bytes(everything_of(letter)["value"]) + b"\n"


def _msgpack(letter: Failed) -> bytes:
    item = _raw(letter.failed_item) if letter.failed_item else None
    known: dict[str, Any] = {"value": _raw(letter.body) if letter.body else None, "item": item}
    return msgspec.msgpack.encode(everything_of(letter) | known)


def _msgpack_value(letter: Failed) -> bytes:
    return bytes(_raw(letter.body))


def _raw(body: bytes) -> msgspec.Raw:
    return codec.split(body)[0]


_ENCODERS: Final[dict[tuple[str, bool], Callable[[Failed], bytes]]] = {
    ("ndjson", False): _ndjson,
    ("ndjson", True): _ndjson_value,
    ("msgpack", False): _msgpack,
    ("msgpack", True): _msgpack_value,
}


@contextmanager
def _opened(output: Path | None) -> Iterator[BinaryIO]:
    """Open what is written to; a file gets its name when it is whole, and only this user can read it."""
    if output is None:
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    draft = output.with_name(f"{output.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            yield file
        draft.replace(output)
    except OSError as error:
        raise ChoiceError(f"{output} cannot be written: {error.strerror}") from None
    finally:
        draft.unlink(missing_ok=True)
