"""The values in files, in each input format."""

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from consecutiond.cli.lines import lines
from consecutiond.inputs.errors import InputError
from consecutiond.inputs.msgpackcut import Cutter, NotMsgpackError
from consecutiond.inputs.raw import Wait, open_raw
from consecutiond.inputs.values import MAX_DEPTH, is_too_deep

#: bytes read at a time
_READ: Final = 1 << 20


def file_values(names: Sequence[str], input_format: str, wait: Wait) -> Iterator[Any]:
    """Yield the values of files, one file after the other.

    Args:
        names: of the files; ``-`` is stdin.
        input_format: "lines", "ndjson" or "msgpack".
        wait: called before each read of a pipe or a terminal.

    Raises:
        InputError: something is not in the format; the text says where. Everything before it was yielded.
    """
    if input_format == "lines":
        return lines(names, wait)
    read: Callable[[str, Wait], Iterator[Any]] = {"ndjson": _ndjson, "msgpack": _msgpack}[input_format]
    return (value for name in names for value in read(name, wait))


def _ndjson(name: str, wait: Wait) -> Iterator[Any]:
    with io.BufferedReader(open_raw(name, wait)) as file:
        for number, line in enumerate(file, 1):
            if line.isspace():
                continue
            try:
                value = msgspec.json.decode(line)
            except (msgspec.DecodeError, ValueError, RecursionError) as error:
                raise InputError(f"{name}:{number}: this line is no JSON: {error}") from None
            if is_too_deep(line, value):
                raise InputError(f"{name}:{number}: this line is nested deeper than {MAX_DEPTH}")
            yield value


def _msgpack(name: str, wait: Wait) -> Iterator[Any]:
    cutter, data, at, offset = Cutter(MAX_DEPTH), b"", 0, 0
    # Unbuffered, so that what a pipe has is taken at once.
    with open_raw(name, wait) as file:
        while piece := file.read(_READ):
            cutter.moved(at)
            data, offset, at = data[at:] + piece, offset + at, 0
            try:
                while (end := cutter.end(data, at)) >= 0:
                    value = msgspec.msgpack.decode(data[at:end])
                    at = end
                    yield value
            except (NotMsgpackError, msgspec.DecodeError, ValueError) as error:
                raise InputError(f"{name}: at byte {offset + at:,}: this is no msgpack: {error}") from None
    if at < len(data):
        raise InputError(f"{name}: at byte {offset + at:,}: the file ends within a msgpack value")
