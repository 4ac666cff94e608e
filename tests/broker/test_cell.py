"""The cell: what it says of a worker that was killed, and that it says nothing where nothing is proven."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from consecutiond_broker.cell import INDEX, SINCE, TIMEOUT, Cell, Remains, glance, read_remains

BROKER = Path(__file__).parents[2] / "broker"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "parse.0.cell"


@pytest.fixture
def cell(path: Path) -> Iterator[Cell]:
    cell = Cell(path, epoch=5, slots=2)
    yield cell
    cell.words.release()


def test_a_fresh_cell_says_that_nothing_was_in_hand(cell: Cell, path: Path) -> None:
    assert read_remains(path, 5, 0) == Remains(delivery=0, position=-1, outputs=0)


def test_the_item_in_execution_is_the_suspect_of_its_own_edge_only(cell: Cell, path: Path) -> None:
    cell.start(1, 7)
    cell.words[INDEX] = 3 + 1
    assert read_remains(path, 5, 1) == Remains(delivery=7, position=3, outputs=0)
    assert read_remains(path, 5, 0) == Remains(delivery=0, position=-1, outputs=0)


def test_between_two_items_nobody_is_the_suspect(cell: Cell, path: Path) -> None:
    cell.words[INDEX] = 9
    cell.start(0, 7)
    assert read_remains(path, 5, 0) == Remains(delivery=7, position=-1, outputs=0)


def test_outputs_are_remembered_per_edge_beyond_the_end_of_their_batch(cell: Cell, path: Path) -> None:
    cell.start(1, 7)
    cell.outputs_leave(1, 7)
    cell.finish()
    assert read_remains(path, 5, 1) == Remains(delivery=0, position=-1, outputs=7)
    assert read_remains(path, 5, 0) == Remains(delivery=0, position=-1, outputs=0)


@pytest.mark.parametrize(("epoch", "slot"), [(4, 0), (6, 0), (5, 2)])
def test_the_cell_of_another_incarnation_or_edge_proves_nothing(cell: Cell, path: Path, epoch: int, slot: int) -> None:
    assert read_remains(path, epoch, slot) is None


def damaged(whole: bytes) -> list[bytes]:
    return [
        b"",
        whole[:40],
        whole[:-8],
        whole + b"x",
        b"\0" * len(whole),
        whole[:16] + b"\xff" * 8 + whole[24:],
    ]


def test_a_damaged_cell_proves_nothing(cell: Cell, path: Path) -> None:
    for content in damaged(path.read_bytes()):
        path.write_bytes(content)
        assert read_remains(path, 5, 0) is None, content


def test_a_missing_cell_proves_nothing(path: Path) -> None:
    assert read_remains(path, 5, 0) is None


def test_a_cell_closed_in_order_leaves_no_file(path: Path) -> None:
    Cell(path, 1, 1).close()
    assert not path.exists()


def test_a_cell_without_a_file_has_the_same_words() -> None:
    cell = Cell(None, 5, 2)
    cell.start(1, 7)
    cell.words[INDEX] = 1
    assert list(cell.words[3:6]) == [1, 7, 1]
    cell.close()


def test_a_new_incarnation_does_not_inherit_what_the_old_one_had_in_hand(path: Path) -> None:
    old = Cell(path, 5, 1)
    old.start(0, 7)
    old.outputs_leave(0, 7)
    new = Cell(path, 6, 1)
    assert read_remains(path, 6, 0) == Remains(delivery=0, position=-1, outputs=0)
    old.words.release()
    new.words.release()


def test_what_was_written_last_survives_a_kill_9(path: Path) -> None:
    program = f"""
import sys, time
sys.path.insert(0, {str(BROKER)!r})
from pathlib import Path
from consecutiond_broker.cell import Cell, INDEX
cell = Cell(Path({str(path)!r}), 5, 1)
cell.outputs_leave(0, 6)
cell.start(0, 7)
cell.words[INDEX] = 3
print("in hand", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"in hand\n"
        os.kill(worker.pid, signal.SIGKILL)
    assert read_remains(path, 5, 0) == Remains(delivery=7, position=2, outputs=6)


@pytest.mark.parametrize(
    ("since_s", "timeout_s", "stuck", "timed_out"),
    [(0.0, 1.0, False, False), (5.0, 0.0, False, False), (5.0, 10.0, False, False), (5.0, 4.5, False, True),
     (5.0, 3.0, True, True)],
)  # fmt: skip
def test_a_cell_tells_whether_its_item_takes_too_long(
    tmp_path: Path, since_s: float, timeout_s: float, stuck: bool, timed_out: bool
) -> None:
    cell = Cell(tmp_path / "cell", 7, 1)
    cell.start(0, 3)
    cell.words[INDEX] = 1
    cell.words[SINCE] = time.monotonic_ns() - int(1e9 * since_s) if since_s else 0
    cell.words[TIMEOUT] = int(1e9 * timeout_s)
    seen = glance(tmp_path / "cell", 7)
    assert seen is not None
    assert (seen.delivery, seen.item, seen.is_overdue(1.0)) == (3, 1, stuck)
    remains = read_remains(tmp_path / "cell", 7, 0)
    assert remains is not None
    assert remains.timed_out is timed_out
    assert glance(tmp_path / "cell", 8) is None, "the cell of another incarnation says nothing"
    cell.words[INDEX] = 0
    idle = glance(tmp_path / "cell", 7)
    assert idle is not None
    assert not idle.is_overdue(0.0), "no item is in execution"


def test_no_cell_and_garbage_say_nothing(tmp_path: Path) -> None:
    assert glance(tmp_path / "none", 1) is None
    (tmp_path / "garbage").write_bytes(b"x" * 77)
    assert glance(tmp_path / "garbage", 1) is None
    (tmp_path / "short").write_bytes(bytes(8))
    assert glance(tmp_path / "short", 1) is None
