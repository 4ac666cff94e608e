"""Items of several roots on the wire: which entries of the columns `roots` and `ids` belong to which item.

Nearly every item has one root, and then a batch has one entry for each item and its spans are no bytes at all.
A batch with an item that joins several roots has as many entries as its items have roots; its spans are one
little-endian u32 for each item, the number of its entries.
"""

import struct
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final

_WIDTH: Final = 4


def _lengths(spans: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(spans) // _WIDTH}I", spans)


def entries(spans: bytes, count: int) -> int | None:
    """Return the number of entries of a batch; None when the spans do not fit the number of items."""
    if not spans:
        return count
    lengths = _lengths(spans) if len(spans) == _WIDTH * count else ()
    return sum(lengths) if lengths and all(lengths) else None


def pack(lengths: Sequence[int]) -> bytes:
    """Return the spans of items with so many entries each; no bytes when each has one."""
    if all(length == 1 for length in lengths):
        return b""
    return struct.pack(f"<{len(lengths)}I", *lengths)


def offsets(spans: bytes) -> list[int]:
    """Return where the entries of each item begin, and at last where they end."""
    return list(accumulate(_lengths(spans), initial=0))


def of_items(column: bytes, spans: bytes, positions: Iterable[int], count: int) -> bytes:
    """Return the entries of a column that belong to some of the items."""
    bounds = offsets(spans) if spans else range(count + 1)
    return b"".join(column[8 * bounds[place] : 8 * bounds[place + 1]] for place in sorted(positions) if place < count)
