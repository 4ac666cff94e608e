"""Finds where one msgpack value ends and the next begins, without decoding either."""

from typing import Final

#: bytes of a whole value by its first byte; 0: it is a container or carries its length
_WHOLE: Final = bytes(
    1 if first < 0x80 or first >= 0xE0 or first in (0xC0, 0xC2, 0xC3)
    else 1 + (first & 0x1F) if 0xA0 <= first < 0xC0
    else {0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9,
          0xD4: 3, 0xD5: 4, 0xD6: 6, 0xD7: 10, 0xD8: 18}.get(first, 0)
    for first in range(256)
)  # fmt: skip
#: bytes of the length that follows, and bytes of an extension's type behind it
_SIZED: Final = {
    0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1),
    0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0),
}  # fmt: skip
#: bytes of the count that follows, and values to an entry
_COUNTED: Final = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


class NotMsgpackError(ValueError):
    """No msgpack value has this byte at this place."""


class Cutter:
    """Walks over values that arrive in pieces; it remembers where it stopped.

    Args:
        max_depth: containers in each other at the utmost.
    """

    def __init__(self, max_depth: int) -> None:
        self._max_depth = max_depth
        self._at = 0
        self._left = 1
        self._stack: list[int] = []

    def end(self, data: bytes | bytearray, start: int) -> int:
        """Return where the value that begins at `start` ends, or -1 while it is incomplete.

        Whoever gets -1 calls again with more data behind the same data.

        Raises:
            NotMsgpackError: it is no msgpack, or nested too deep.
        """
        at, left, stack, size = max(self._at, start), self._left, self._stack, len(data)
        while True:
            while left == 0:
                if not stack:
                    self._at, self._left = 0, 1
                    return at
                left = stack.pop()
            step, entries = self._token(data, at)
            if step < 0 or at + step > size:
                self._at, self._left = at, left
                return -1
            at += step
            left -= 1
            if entries:
                stack.append(left)
                left = entries
                if len(stack) > self._max_depth:
                    raise NotMsgpackError(f"it is nested deeper than {self._max_depth}")

    def moved(self, by: int) -> None:
        """So many bytes were taken off the front of the data, all of them before the value at hand."""
        self._at = max(0, self._at - by)

    def _token(self, data: bytes | bytearray, at: int) -> tuple[int, int]:
        """Return the bytes to step over and the values inside; -1 when not even the head is there."""
        if at >= len(data):
            return -1, 0
        first = data[at]
        if step := _WHOLE[first]:
            return step, 0
        if 0x80 <= first < 0xA0:
            return 1, (first & 0x0F) * (2 if first < 0x90 else 1)
        if first in _COUNTED:
            width, each = _COUNTED[first]
            return 1 + width, each * self._number(data, at, width)
        if first in _SIZED:
            width, kind = _SIZED[first]
            return 1 + width + kind + self._number(data, at, width), 0
        raise NotMsgpackError(f"no msgpack value begins with the byte 0x{first:02x}")

    @staticmethod
    def _number(data: bytes | bytearray, at: int, width: int) -> int:
        return int.from_bytes(data[at + 1 : at + 1 + width], "big")
