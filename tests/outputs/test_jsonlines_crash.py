"""Every item once in the file, wherever a kill has cut the writing of it short."""

import errno
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consecutiond.outputs.jsonlines import JsonLinesOutput
from consecutiond.outputs.keyfile import KeyFileError

Batch = list[tuple[int, Any]]
OLD: Batch = [(11, "one"), (12, {"two": 2})]
NEW: Batch = [(13, "three"), (14, [4]), (15, None)]


def put(path: Path, *batches: Batch, most_keys: int = 1000) -> None:
    """Write batches as one life of a process does."""
    output = JsonLinesOutput(path, most_keys)
    for batch in batches:
        output.put_many([key for key, _ in batch], [value for _, value in batch])
        output.flush()
    output.close()


def lines(path: Path) -> list[str]:
    text = path.read_text()
    assert text == "" or text.endswith("\n")
    return text.split("\n")[:-1]


def keys_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.keys")


EXPECTED = ['"one"', '{"two":2}', '"three"', "[4]", "null"]


def test_what_comes_again_is_left_out_in_the_same_life_and_in_later_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    put(path, OLD, OLD, [*NEW, *NEW])
    put(path, [*OLD, *NEW])
    assert lines(path) == EXPECTED


def written(tmp_path: Path, *batches: Batch) -> tuple[bytes, bytes]:
    path = tmp_path / "scratch" / "a.jsonl"
    put(path, *batches)
    files = path.read_bytes(), keys_of(path).read_bytes()
    shutil.rmtree(path.parent)
    return files


def every_crash(tmp_path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield both files after each byte of the second batch."""
    before, keys_before = written(tmp_path, OLD)
    after, keys_after = written(tmp_path, OLD, NEW)
    yield from ((after[:cut], keys_before) for cut in range(len(before), len(after) + 1))
    yield from ((after, keys_after[:cut]) for cut in range(len(keys_before), len(keys_after) + 1))


def test_after_a_kill_at_any_byte_the_batch_comes_again_and_is_there_once(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    cuts = list(every_crash(tmp_path))
    assert len(cuts) > 60
    for file, keys in cuts:
        path.write_bytes(file)
        keys_of(path).write_bytes(keys)
        put(path, NEW, OLD)
        assert lines(path) == EXPECTED
        put(path, [*NEW, *OLD])
        assert lines(path) == EXPECTED


def test_records_whose_lines_a_lost_disk_took_are_cut_off_and_their_items_written_again(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    after, keys = written(tmp_path, OLD, NEW)
    for cut in range(len(after)):
        path.write_bytes(after[:cut])
        keys_of(path).write_bytes(keys)
        put(path, [*OLD, *NEW])
        assert lines(path) == EXPECTED


@pytest.mark.parametrize("place", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("byte", [0, 7, 8, 11, 12, 15])
def test_a_record_that_is_not_right_ends_what_counts(tmp_path: Path, place: int, byte: int) -> None:
    """A loss of power can leave a hole in the records that were not synchronised."""
    path = tmp_path / "a.jsonl"
    put(path, OLD, NEW)
    keys = bytearray(keys_of(path).read_bytes())
    keys[16 + 16 * place + byte] ^= 1
    keys_of(path).write_bytes(keys)
    put(path, [])
    assert lines(path) == EXPECTED[:place]
    put(path, [*OLD, *NEW])
    assert lines(path) == EXPECTED


def test_a_file_of_an_older_version_is_gone_on_with_from_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('"older"\n"ol')
    put(path, OLD)
    put(path, OLD)
    assert lines(path) == ['"older"', *EXPECTED[:2]]


def test_values_without_keys_are_never_left_out_and_take_no_place(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for _ in range(2):
        output = JsonLinesOutput(path)
        for value in ("free", "free"):
            output.append(value)
        output.put(11, "one")
        output.flush()
        output.close()
    assert lines(path) == ['"free"', '"free"', '"one"', '"free"', '"free"']


def test_what_was_not_flushed_was_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    output = JsonLinesOutput(path)
    output.put_many([11], ["one"])
    output.close()
    output.put_many([11], ["one"])
    output.flush()
    output.close()
    assert lines(path) == ['"one"']


def test_a_value_that_json_does_not_have_takes_none_of_the_batch(tmp_path: Path) -> None:
    output = JsonLinesOutput(tmp_path / "a.jsonl")
    with pytest.raises(TypeError):
        output.put_many([11, 12], ["one", object()])
    output.put(11, "one")
    output.flush()
    output.close()
    assert lines(output.path) == ['"one"']


def test_files_that_are_moved_away_together_begin_anew_and_the_lines_alone_do_too(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    put(path, OLD)
    path.rename(tmp_path / "kept")
    put(path, OLD)
    assert lines(path) == EXPECTED[:2]
    path.unlink()
    keys_of(path).unlink()
    put(path, NEW)
    put(path, NEW)
    assert lines(path) == EXPECTED[2:]


def test_lines_that_were_moved_away_while_keys_were_counted_from_behind_them_begin_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('"older"\n' * 10)
    put(path, OLD)
    path.write_text('"other"\n"oth')
    put(path, OLD)
    put(path, OLD)
    assert lines(path) == ['"other"', *EXPECTED[:2]]


def test_another_file_in_the_place_of_the_lines_is_told_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    put(path, OLD)
    path.write_text("x" * 1000)
    with pytest.raises(KeyFileError, match="another file was put in its place"):
        put(path, NEW)
    assert path.read_text() == "x" * 1000
    keys_of(path).write_text("no keys")
    with pytest.raises(KeyFileError, match="no file of keys: move it away"):
        put(path, NEW)


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    first = JsonLinesOutput(path)
    first.put(11, "one")
    with pytest.raises(KeyFileError, match=r"a\.jsonl\.keys is in use: another process"):
        put(path, NEW)
    first.flush()
    first.close()
    put(path, NEW)
    assert lines(path) == ['"one"', *EXPECTED[2:]]


def test_lines_that_somebody_else_added_are_told_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    output = JsonLinesOutput(path)
    output.put(11, "one")
    path.write_text("mine\n")
    with pytest.raises(KeyFileError, match="changed by somebody else"):
        output.flush()
    assert path.read_text() == "mine\n"


class TestForgetting:
    def test_the_newest_keys_are_kept_and_no_more_than_a_quarter_above_that(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        output = JsonLinesOutput(path, most_keys=100)
        for start in range(1, 1001, 10):
            output.put_many(range(start, start + 10), range(start, start + 10))
            output.flush()
            assert len(output._keys) <= 125
            assert keys_of(path).stat().st_size <= 16 * 126
        output.put_many(range(901, 1001), range(901, 1001))
        output.put_many([1], [1])
        output.flush()
        output.close()
        assert lines(path) == [str(number) for number in [*range(1, 1001), 1]]
        put(path, [(number, number) for number in range(920, 1001)], most_keys=100)
        assert len(lines(path)) == 1001

    def test_less_memory_is_wanted_than_there_are_keys(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        put(path, [(key, key) for key in range(1, 201)])
        put(path, [(201, 201)], [(key, key) for key in range(192, 202)], most_keys=10)
        assert lines(path) == [str(number) for number in range(1, 202)]
        assert keys_of(path).stat().st_size == 16 * 11


class Killed(BaseException):
    """The process ends here."""


@contextmanager
def killed_after(calls: int, share: float, error: type[BaseException] = Killed) -> Iterator[None]:
    """Have one of the system calls that write raise, the calls after it too; of a write, a share is done before."""
    left = calls

    def counted(name: str) -> Any:
        call = getattr(os, name)

        def counting(*arguments: Any) -> Any:
            nonlocal left
            left -= 1
            if left >= 0:
                return call(*arguments)
            if name == "pwrite" and left == -1:
                fd, data, place = arguments
                call(fd, bytes(data)[: int(share * len(data))], place)
            raise error(errno.ENOSPC, "No space left on device")

        return mock.patch.object(os, name, counting)

    with counted("pwrite"), counted("fsync"), counted("ftruncate"), counted("rename"):
        yield


key = st.integers(1, 60)
batches = st.lists(st.lists(key, min_size=1, max_size=8), min_size=1, max_size=8)
crash = st.tuples(st.integers(0, 12), st.floats(0, 1))


@settings(max_examples=300, deadline=None)
@given(batches, st.lists(crash, max_size=6), st.sampled_from([Killed, OSError]))
def test_wherever_the_writing_stops_every_item_is_there_once(
    tmp_path_factory: pytest.TempPathFactory,
    work: list[list[int]],
    crashes: list[tuple[int, float]],
    error: type[BaseException],
) -> None:
    """A batch that was not settled comes again; others may, too, whole or in part."""
    path = tmp_path_factory.mktemp("crash") / "a.jsonl"
    output, stops = JsonLinesOutput(path, 1000), list(crashes)
    for batch in work:
        settled = False
        while not settled:
            try:
                with killed_after(*(stops.pop() if stops else (10**6, 0.0)), error):
                    output.put_many(batch, [f"value {each}" for each in batch])
                    output.flush()
                    settled = True
            except error:
                if error is Killed:
                    output.close()
                    output = JsonLinesOutput(path, 1000)
    output.close()
    assert sorted(lines(path)) == sorted(f'"value {each}"' for each in {each for batch in work for each in batch})


def _write_until_killed(path: Path) -> None:
    output = JsonLinesOutput(path)
    for start in range(1, 10**9, 7):
        output.put_many(range(start, start + 7), range(start, start + 7))
        output.flush()


def test_a_process_that_is_killed_leaves_a_prefix_and_its_lock_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    context = multiprocessing.get_context("spawn")
    for round in range(1, 4):
        process = context.Process(target=_write_until_killed, args=(path,), daemon=True)
        process.start()
        while not path.exists() or path.stat().st_size < 4000 * round:
            assert process.is_alive()
        process.kill()
        process.join()
    put(path, [(1, 1)])
    text = lines(path)
    assert text == [str(number) for number in range(1, len(text) + 1)]
    assert len(text) > 1000
