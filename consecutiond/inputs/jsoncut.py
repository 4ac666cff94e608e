"""Finds the elements of a JSON array that cannot be read as a whole."""

import re
from collections.abc import Iterator
from json import JSONDecoder
from typing import Final

_BLANK: Final = re.compile(r"[ \t\r\n]*")
_raw_decode: Final = JSONDecoder().raw_decode


def elements(raw: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield number, place and text of each element; where the array breaks, a text that no decoder takes comes last.

    This is the slow path after an error. It is laxer than the decoder, to which every element goes in the end.
    """

    def broken() -> tuple[int, int, bytes]:
        return number, at, raw[at:] + b"\x00"

    # Latin-1, so that places in the text are places in the bytes.
    text = raw.decode("latin-1")
    at = _after_blanks(text, 0)
    number, end = 1, len(raw)
    if text[at : at + 1] != "[":
        yield broken()
        return
    at = _after_blanks(text, at + 1)
    if text[at : at + 1] == "]" and _after_blanks(text, at + 1) == end:
        return
    while True:
        try:
            _, stop = _raw_decode(text, at)
        except (ValueError, RecursionError):
            yield broken()
            return
        after = _after_blanks(text, stop)
        if text[after : after + 1] not in (",", "]"):
            # Part of something that is no value, as in [1 2] and [01]; or cut off, as in [1, 2 where 23 was meant.
            yield broken()
            return
        yield number, at, raw[at:stop]
        number += 1
        if text[after] == "]":
            if _after_blanks(text, after + 1) != end:
                at = after
                yield broken()
            return
        at = _after_blanks(text, after + 1)


def _after_blanks(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    return match.end() if match else at
