"""Which entries belong to which item of a batch."""

import subprocess
import sys
from pathlib import Path

import pytest

from consecutiond_broker import spans, wire
from consecutiond_broker.errors import WireError

COLUMN = b"".join(number.to_bytes(8, "little") for number in range(6))


def numbers(column: bytes) -> list[int]:
    return [int.from_bytes(column[place : place + 8], "little") for place in range(0, len(column), 8)]


def test_items_of_one_root_need_no_spans() -> None:
    assert spans.pack([1, 1, 1]) == b""
    assert spans.entries(b"", 3) == 3
    assert numbers(spans.of_items(COLUMN, b"", {0, 2, 99}, 6)) == [0, 2]


def test_an_item_of_several_roots_has_an_entry_for_each() -> None:
    packed = spans.pack([1, 3, 2])
    assert spans.entries(packed, 3) == 6
    assert spans.offsets(packed) == [0, 1, 4, 6]
    assert numbers(spans.of_items(COLUMN, packed, {1}, 3)) == [1, 2, 3]
    assert numbers(spans.of_items(COLUMN, packed, {2, 0}, 3)) == [0, 4, 5]


@pytest.mark.parametrize(("packed", "count"), [(b"abc", 1), (b"\0" * 4, 1), (b"\1\0\0\0", 2)])
def test_spans_that_do_not_fit_are_refused_at_the_door(packed: bytes, count: int) -> None:
    assert spans.entries(packed, count) is None
    head = wire.pack(wire.Batch(1, 1, 1, count, 1, 0, packed))
    with pytest.raises(WireError):
        wire.unpack([head, COLUMN[: 8 * count], COLUMN[: 8 * count], b""])


def test_a_broker_does_not_import_numpy() -> None:
    """Its start-up time and memory are multiplied by the number of edges."""
    broker = Path(__file__).parents[2] / "broker"
    code = f"""
import sys
sys.path.insert(0, {str(broker)!r})
import consecutiond_broker.router
print('numpy' in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
