"""The files that take the outputs of a daemon: one JSON value a line, and never half a line that counts."""

from pathlib import Path

import pytest

from consecutiond.output import _LOOK_BYTES, JsonLines


def append_and_close(lines: JsonLines, *pairs: tuple[str, object]) -> None:
    for pair in pairs:
        lines.append(pair)
    lines.flush()
    for file in lines._files.values():
        file.close()


def test_a_name_becomes_a_file_with_a_line_for_each_value(tmp_path: Path) -> None:
    append_and_close(JsonLines(tmp_path / "out"), ("a", {"k": 1}), ("a", "é"), ("../b", None))
    assert (tmp_path / "out" / "a.jsonl").read_text() == '{"k":1}\n"é"\n'
    assert (tmp_path / "out" / "_b.jsonl").read_text() == "null\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_names_that_come_to_one_file_share_it_whole(tmp_path: Path) -> None:
    value = "x" * 100_000
    append_and_close(JsonLines(tmp_path), ("a", 1), ("a", value), ("a", 2), (".a", 3), ("a", 4))
    assert (tmp_path / "a.jsonl").read_text() == f'1\n"{value}"\n2\n3\n4\n'


@pytest.mark.parametrize("before", [b"", b"1\n2\n", b"1\n" * _LOOK_BYTES])
@pytest.mark.parametrize("piece", [b"", b'{"torn', b"x" * _LOOK_BYTES, b"x" * (_LOOK_BYTES + 1)])
def test_the_piece_of_a_line_that_a_killed_process_left_spoils_no_other(
    tmp_path: Path, before: bytes, piece: bytes
) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(before + piece)
    append_and_close(JsonLines(tmp_path), ("a", 3), ("a", 4))
    assert file.read_bytes() == before + b"3\n4\n"
