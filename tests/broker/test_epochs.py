"""Epochs count up from 1, on disk, and never repeat."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from consecutiond_broker.epochs import EpochError, next_epoch

FLOOR = Path(__file__).parents[2] / "broker"
#: prints what it is given until it is killed or has had enough
TAKER = """
import sys
from pathlib import Path
from consecutiond_broker.epochs import next_epoch
for _ in range(int(sys.argv[2])):
    print(next_epoch(Path(sys.argv[1]), "part"), flush=True)
"""


def taker(directory: Path, times: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", TAKER, str(directory), str(times)],
        env=os.environ | {"PYTHONPATH": str(FLOOR)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_the_first_epoch_is_one_and_each_later_one_is_one_more(tmp_path: Path) -> None:
    assert [next_epoch(tmp_path, "part") for _ in range(12)] == list(range(1, 13))


def test_each_name_has_its_own_counter(tmp_path: Path) -> None:
    assert [next_epoch(tmp_path, name) for name in ("a", "b->c", "a", "node-x.0")] == [1, 1, 2, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.epoch", "b->c.epoch", "node-x.0.epoch"]


def test_many_processes_at_once_never_get_the_same_epoch(tmp_path: Path) -> None:
    """Six processes race, for the making of the file as well; nothing is given twice and nothing left out."""
    takers = [taker(tmp_path, 40) for _ in range(6)]
    taken = [int(line) for process in takers for line in process.communicate(timeout=60)[0].split()]
    assert sorted(taken) == list(range(1, 241))
    assert [path.name for path in tmp_path.iterdir()] == ["part.epoch"]


def test_killed_processes_never_make_an_epoch_repeat(tmp_path: Path) -> None:
    """One that was counted may never be seen, but none is seen twice, and the file stays whole."""
    seen: list[int] = []
    for _ in range(8):
        with taker(tmp_path, 1_000_000) as process:
            assert process.stdout is not None
            seen += [int(process.stdout.readline()) for _ in range(3)]
            process.send_signal(signal.SIGKILL)
            rest = process.stdout.read()
        seen += [int(line) for line in rest.split("\n")[:-1]]
        seen.append(next_epoch(tmp_path, "part"))
    assert len(set(seen)) == len(seen)
    assert seen == sorted(seen)


@pytest.mark.parametrize(
    "content",
    [b"", b"7", b"7\n", b"0000000000000000000", b"rubbish of twenty by\n", b"\0" * 21, b"0" * 20 + b"\n1"],
)
def test_a_damaged_counter_is_an_error_that_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    """Starting anew in silence would repeat epochs; the file is left as it is."""
    path = tmp_path / "part.epoch"
    path.write_bytes(content)
    with pytest.raises(EpochError, match="must never repeat") as caught:
        next_epoch(tmp_path, "part")
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content


def test_the_repair_that_the_error_names_works(tmp_path: Path) -> None:
    (tmp_path / "part.epoch").write_bytes(b"?")
    with pytest.raises(EpochError) as caught:
        next_epoch(tmp_path, "part")
    command = str(caught.value).split("`")[1]
    subprocess.run(["sh", "-c", command], check=True)
    assert next_epoch(tmp_path, "part") == 1_000_001


def test_a_missing_directory_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(EpochError, match="No such file"):
        next_epoch(tmp_path / "missing", "part")
