"""The files that take the outputs of a daemon: one JSON value a line, and never half a line that counts."""

from pathlib import Path

import pytest

from consecutiond.outputs.jsonlines import _LOOK_BYTES, JsonLinesDirectory


def put_and_close(lines: JsonLinesDirectory, *pairs: tuple[str, object], first: int = 1) -> None:
    for key, pair in enumerate(pairs, first):
        lines.put(key, pair)
    lines.flush()
    lines.close()


def test_a_name_becomes_a_file_with_a_line_for_each_value(tmp_path: Path) -> None:
    put_and_close(JsonLinesDirectory(tmp_path / "out"), ("a", {"k": 1}), ("a", "é"), ("../b", None))
    assert (tmp_path / "out" / "a.jsonl").read_text() == '{"k":1}\n"é"\n'
    assert (tmp_path / "out" / "_b.jsonl").read_text() == "null\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_names_that_come_to_one_file_share_it_whole(tmp_path: Path) -> None:
    value = "x" * 100_000
    put_and_close(JsonLinesDirectory(tmp_path), ("a", 1), ("a", value), ("a", 2), (".a", 3), ("a", 4))
    assert (tmp_path / "a.jsonl").read_text() == f'1\n"{value}"\n2\n3\n4\n'


def test_a_batch_for_several_files_goes_to_each_in_order(tmp_path: Path) -> None:
    lines = JsonLinesDirectory(tmp_path)
    lines.put_many([1, 2, 3, 4, 2], [("a", 1), ("b", 2), ("a", 3), ("a", 4), ("b", 2)])
    lines.flush()
    lines.close()
    assert (tmp_path / "a.jsonl").read_text() == "1\n3\n4\n"
    assert (tmp_path / "b.jsonl").read_text() == "2\n"


@pytest.mark.parametrize("before", [b"", b"1\n2\n", b"1\n" * _LOOK_BYTES])
@pytest.mark.parametrize("piece", [b"", b'{"torn', b"x" * _LOOK_BYTES, b"x" * (_LOOK_BYTES + 1)])
def test_the_piece_of_a_line_that_a_killed_process_left_spoils_no_other(
    tmp_path: Path, before: bytes, piece: bytes
) -> None:
    """The file is of an older version, without a file of keys."""
    file = tmp_path / "a.jsonl"
    file.write_bytes(before + piece)
    put_and_close(JsonLinesDirectory(tmp_path), ("a", 3), ("a", 4))
    put_and_close(JsonLinesDirectory(tmp_path), ("a", 4), ("a", 5), first=2)
    assert file.read_bytes() == before + b"3\n4\n5\n"
