"""Items of several roots on the wire: which entries of the columns `roots` and `ids` belong to which item.

Nearly every item has one root, and then a batch has one entry for each item and its spans are no bytes at all.
A batch with an item that joins several roots has as many entries as its items have roots; its spans are one
little-endian u32 for each item, the number of its entries.
"""

import numpy as np
import numpy.typing as npt

Offsets = npt.NDArray[np.int64]

_WIDTH = 4


def entries(spans: bytes, count: int) -> int | None:
    """Return the number of entries of a batch; None when the spans do not fit the number of items."""
    if not spans:
        return count
    lengths = np.frombuffer(spans, dtype="<u4") if len(spans) == _WIDTH * count else None
    return int(lengths.sum()) if lengths is not None and lengths.all() else None


def pack(lengths: list[int]) -> bytes:
    """Return the spans of items with so many entries each; no bytes when each has one."""
    if all(length == 1 for length in lengths):
        return b""
    return np.array(lengths, dtype="<u4").tobytes()


def offsets(spans: bytes) -> Offsets:
    """Return where the entries of each item begin, and at last where they end."""
    ends = np.cumsum(np.frombuffer(spans, dtype="<u4"), dtype=np.int64)
    return np.concatenate((np.zeros(1, dtype=np.int64), ends))


def of_items(column: bytes, spans: bytes, positions: set[int], count: int) -> bytes:
    """Return the entries of a column that belong to some of the items."""
    if not spans:
        return b"".join(column[8 * place : 8 * place + 8] for place in sorted(positions))
    bounds = offsets(spans).tolist()
    return b"".join(column[8 * bounds[place] : 8 * bounds[place + 1]] for place in sorted(positions) if place < count)
