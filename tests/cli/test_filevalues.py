"""Values in files: every format, and where something is wrong."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consecutiond.cli import filevalues
from consecutiond.cli.filevalues import file_values
from consecutiond.inputs.errors import InputError

encode = msgspec.msgpack.encode


def no_wait(_fd: int) -> None:
    """These are files, which always have something."""
    raise AssertionError


@pytest.fixture
def file(tmp_path: Path) -> Callable[[bytes], str]:
    def write(content: bytes) -> str:
        path = tmp_path / f"values{len(list(tmp_path.iterdir()))}"
        path.write_bytes(content)
        return str(path)

    return write


def until_bad(values: Iterator[Any]) -> tuple[list[Any], str]:
    """Return what comes before the error, and the error."""
    good: list[Any] = []
    with pytest.raises(InputError) as caught:
        good.extend(iter(lambda: next(values), object()))
    return good, str(caught.value)


def test_each_line_is_a_text(file: Callable[[bytes], str]) -> None:
    assert list(file_values([file(b"a\r\n\nb"), file(b"c\n")], "lines", no_wait)) == ["a", "", "b", "c"]


def test_each_line_is_a_json_value_and_empty_lines_are_passed_over(file: Callable[[bytes], str]) -> None:
    names = [file(b'{"a": null}\r\n \n\n3'), file(b"null\n")]
    assert list(file_values(names, "ndjson", no_wait)) == [{"a": None}, 3, None]


@pytest.mark.parametrize("bad", [b"{", b"nul", b"1 2", b"\xff", b'"\xff"', b"[" * 100_000])
def test_a_line_that_is_no_json_is_told_with_its_number(file: Callable[[bytes], str], bad: bytes) -> None:
    name = file(b"1\n\n" + bad + b"\n4\n")
    good, error = until_bad(file_values([name], "ndjson", no_wait))
    assert good == [1]
    assert error.startswith(f"{name}:3: this line is no JSON: ")


def test_a_line_that_is_nested_deeper_than_every_node_can_decode_is_refused(file: Callable[[bytes], str]) -> None:
    name = file(b"1\n" + b"[" * 101 + b"]" * 101 + b"\n")
    good, error = until_bad(file_values([name], "ndjson", no_wait))
    assert (good, error) == ([1], f"{name}:2: this line is nested deeper than 100")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text()
    | st.binary(max_size=300),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(values=st.lists(VALUES), size=st.integers(1, 9))
def test_msgpack_values_are_found_however_the_reads_cut_them(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], size: int
) -> None:
    path = tmp_path_factory.mktemp("values") / "x"
    path.write_bytes(b"".join(map(encode, values)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filevalues, "_READ", size)
        assert list(file_values([str(path)], "msgpack", no_wait)) == values


def test_half_a_msgpack_value_at_the_end_is_told_with_its_place(file: Callable[[bytes], str]) -> None:
    name = file(encode("one") + encode({"a": [1, 2]})[:-1])
    good, error = until_bad(file_values([name], "msgpack", no_wait))
    assert (good, error) == (["one"], f"{name}: at byte 4: the file ends within a msgpack value")


@pytest.mark.parametrize("bad", [b"\xc1", b"\x91" * 200 + b"\x00", b"\xa2\xff\xff"])
def test_what_is_no_msgpack_is_told_with_its_place(
    file: Callable[[bytes], str], bad: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filevalues, "_READ", 3)
    name = file(encode("one") + encode(2) + bad + encode(3))
    good, error = until_bad(file_values([name], "msgpack", no_wait))
    assert good == ["one", 2]
    assert error.startswith(f"{name}: at byte 5: this is no msgpack: ")
