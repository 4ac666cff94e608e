"""The codec: what values survive, and that everything it cannot carry is a `CodecError` that names the value."""

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from consecutiond_broker import codec
from consecutiond_broker.errors import CodecError

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)  # fmt: skip


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@settings(max_examples=50)
@given(st.lists(plain, max_size=5))
def test_plain_values_come_out_as_they_went_in(values: list[Any]) -> None:
    assert codec.decode(codec.encode(values)) == values


@settings(max_examples=50)
@given(st.lists(plain, max_size=5), st.data())
def test_a_batch_can_be_cut_and_joined_without_decoding(values: list[Any], data: st.DataObject) -> None:
    pieces = codec.split(codec.encode(values))
    kept = data.draw(st.sets(st.integers(0, len(values) - 1))) if values else set()
    body = codec.join([pieces[place] for place in sorted(kept)])
    assert codec.decode(body) == [values[place] for place in sorted(kept)]


@pytest.mark.parametrize("value", [object(), 2**64, -(2**63) - 1, "\ud800", nested(100_000), {1: {2: print}}])
def test_a_value_that_cannot_be_carried_is_named_with_its_place_and_type(value: Any) -> None:
    values = ["fine", value, 3]
    with pytest.raises(CodecError):
        codec.encode(values)
    [(place, reason)] = codec.faults(values)
    assert place == 1
    assert reason.startswith(f"{type(value).__name__}, which msgpack cannot carry")


@pytest.mark.parametrize("depth", range(960, 1000))
def test_whatever_depth_cannot_be_encoded_is_found_as_a_fault(depth: int) -> None:
    """A fault that is not found could neither be told nor left out, and would be looked for for ever."""
    values = [nested(depth)]
    try:
        codec.encode(values)
    except CodecError:
        assert codec.faults(values)
    else:
        assert codec.faults(values) == []


def test_a_type_outside_the_builtins_is_named_with_its_module() -> None:
    class Socket:
        pass

    [(_, reason)] = codec.faults([Socket()])
    assert reason.startswith(f"{__name__}.test_a_type_outside_the_builtins")
    assert "Socket, which" in reason


@pytest.mark.parametrize("read", [codec.decode, codec.split])
@given(body=st.binary(max_size=200))
@example(body=b"\xa1x")
@example(body=b"\x91\xa1\x80")
@example(body=b"\x91\xc7\x0c\xff" + b"\xff" * 12)
def test_bytes_that_are_no_batch_only_ever_raise_a_codec_error(read: Any, body: bytes) -> None:
    try:
        batch = read(body)
    except CodecError as error:
        batch = [str(error)]
        said = str(len(body)) in batch[0]
    else:
        said = True
    assert isinstance(batch, list)
    assert said


@pytest.mark.parametrize("read", [codec.decode, codec.split])
def test_a_batch_nested_too_deep_is_a_codec_error(read: Any) -> None:
    """The sender's stack may have been shallower than the reader's."""
    with pytest.raises(CodecError):
        read(b"\x91" * 100_000 + b"\x01")
