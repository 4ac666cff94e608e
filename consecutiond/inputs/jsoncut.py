"""Finds the elements of a JSON array that cannot be read as a whole."""

import re
from collections.abc import Iterator
from json import JSONDecoder
from typing import Final

_BLANK: Final = re.compile(r"[ \t\r\n]*")
_raw_decode: Final = JSONDecoder().raw_decode


def elements(raw: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of each element; what cannot be read comes last, up to the end of the text.

    This is the slow path after an error. It is laxer than the decoder, to which every element goes in the end.
    """
    # Latin-1, so that places in the text are places in the bytes.
    text = raw.decode("latin-1")
    at = _after_blanks(text, 0)
    number, end = 1, len(raw)
    if text[at : at + 1] != "[":
        yield number, 0, end
        return
    at = _after_blanks(text, at + 1)
    if text[at : at + 1] == "]" and _after_blanks(text, at + 1) == end:
        return
    while True:
        try:
            _, stop = _raw_decode(text, at)
        except (ValueError, RecursionError):
            yield number, at, end
            return
        yield number, at, stop
        at = _after_blanks(text, stop)
        number += 1
        if text[at : at + 1] == "]":
            if _after_blanks(text, at + 1) != end:
                yield number, at, end
            return
        if text[at : at + 1] != ",":
            yield number, at, end
            return
        at = _after_blanks(text, at + 1)


def _after_blanks(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    return match.end() if match else at
