"""What comes from outside becomes values, or is refused by place and reason; what comes before it is taken."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consecutiond.feeder import Feeder
from consecutiond.inputs import values
from consecutiond.inputs.msgpackcut import Cutter, NotMsgpackError
from consecutiond.inputs.values import MAX_DEPTH, Parsed
from consecutiond_broker import codec
from tests.inputs.acker import FakeAcker

pack = msgspec.msgpack.encode

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12,
)  # fmt: skip


class Encoder:
    """The encoding half of a feeder."""

    batch_items, _batch_bytes, _max_message = 1024, 1 << 20, 1 << 20
    encode, _encode, _encode_part = Feeder.encode, Feeder._encode, Feeder._encode_part


encode: values.Encode = Encoder().encode


def taken(parsed: Parsed) -> list[Any]:
    found = [value for payload, count in parsed.parts for value in codec.decode(codec.head(count) + payload)]
    assert len(found) == parsed.values
    return found


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


DEEP_MSGPACK = b"\x91" * MAX_DEPTH + b"\x90"


# --- JSON ---------------------------------------------------------------------------------------------------------


@given(VALUES)
def test_any_json_value_is_taken_as_it_is(value: Any) -> None:
    raw = json.dumps(value).encode()
    assert taken(values.json_value(raw, encode)) == [value]
    assert taken(values.frames([raw], "json", encode)) == [value]


@given(st.lists(VALUES))
def test_the_elements_of_any_json_array_and_the_lines_of_any_text_are_taken(elements: list[Any]) -> None:
    assert taken(values.json_array(json.dumps(elements).encode(), encode)) == elements
    lines = "\n".join(json.dumps(element) for element in elements).encode()
    assert taken(values.json_lines(lines, encode)) == elements


BAD_JSON = [
    b"", b"{", b"[1", b'"half', b"nul", b"1 2", b"01", b"NaN", b"Infinity", b"1e999", b'"\xff"', b'"\\ud800"', b"'a'",
    b"{1:2}", b"[1,]", b"\xef\xbb\xbf1", b"123456789012345678901234567890", nested(MAX_DEPTH + 1), b"[" * 100_000,
    b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), b'"' + b"x" * (1 << 20) + b'"',
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD_JSON, ids=lambda bad: repr(bad[:20]))
def test_bad_json_is_refused_wherever_it_stands_and_what_comes_before_it_is_taken(bad: bytes) -> None:
    parsed = values.json_value(bad, encode)
    assert (taken(parsed), parsed.bad.number) == ([], 1)
    parsed = values.frames([b"1", bad, b"3"], "json", encode)
    assert (taken(parsed), parsed.bad.number) == ([1], 2)
    if bad != b"":
        parsed = values.json_lines(b"1\n \r\n2\n" + bad + b"\n3\n", encode)
        assert (taken(parsed), parsed.bad.number, parsed.bad.offset) == ([1, 2], 4, 7)
        parsed = values.json_array(b' [1, "]", ' + bad + b", 3]", encode)
        assert taken(parsed) == [1, "]"]
        assert parsed.bad.number == len(taken(parsed)) + 1


@pytest.mark.parametrize(
    ("raw", "good", "number"),
    [
        (b"[1,2", [1], 2), (b"[1,2]]", [1, 2], 3), (b"[1,,2]", [1], 2), (b"[1 2]", [], 1), (b"[3,01]", [3], 2),
        (b"[1,2,]", [1, 2], 3),
        (b"[", [], 1), (b"[]]", [], 1), (b"", [], 1), (b'{"a": 1}', [], 1), (b"[1,2] x", [1, 2], 3),
        (b'["\xc3\xa4",{"a":"\xc3\xa4"},x]', ["ä", {"a": "ä"}], 3),
    ],
)  # fmt: skip
def test_a_broken_array_is_taken_up_to_where_it_breaks(raw: bytes, good: list[Any], number: int) -> None:
    parsed = values.json_array(raw, encode)
    assert (taken(parsed), parsed.bad.number) == (good, number)


def test_a_deep_but_bearable_value_is_taken_everywhere() -> None:
    deep = nested(MAX_DEPTH)
    assert values.json_value(deep, encode).bad is None
    assert values.json_lines(deep + b"\n" + deep, encode).bad is None
    assert values.json_array(b"[" + deep + b"]", encode).bad is None
    assert values.frames([pack(json.loads(deep))], "msgpack", encode).bad is None
    assert values.json_lines(b"1\n" + nested(MAX_DEPTH + 1), encode).bad.number == 2
    wide = json.dumps([[number] for number in range(500)]).encode()
    assert values.json_value(wide, encode).bad is None, "wide is not deep"


def test_a_value_spread_over_lines_is_no_line() -> None:
    parsed = values.json_lines(b'1\n{"a":\n2}\n', encode)
    assert (taken(parsed), parsed.bad.number) == ([1], 2)


def test_more_values_than_fit_into_a_batch_become_several_parts() -> None:
    parsed = values.json_array(json.dumps(list(range(5000))).encode(), encode)
    assert [count for _, count in parsed.parts] == [1024] * 4 + [904]
    assert taken(parsed) == list(range(5000))


# --- msgpack ------------------------------------------------------------------------------------------------------

BAD_MSGPACK = [
    b"", b"\xc1", b"\x91", b"\xa5half", b"\x01\x02", b"\xa1\xff", b"\xdd\xff\xff\xff\xff", b"\x81\x01",
    b"\xd7\xff" + b"\xff" * 8, DEEP_MSGPACK, b"\x91" * 100_000, b"\xc6\x00\x10\x00\x00" + b"x" * (1 << 20),
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD_MSGPACK, ids=lambda bad: repr(bad[:20]))
def test_bad_msgpack_is_refused_wherever_it_stands_and_what_comes_before_it_is_taken(bad: bytes) -> None:
    parsed = values.msgpack_value(bad, encode)
    assert (taken(parsed), parsed.bad.number) == ([], 1)
    parsed = values.frames([pack(1), bad, pack(3)], "msgpack", encode)
    assert (taken(parsed), parsed.bad.number) == ([1], 2)
    parsed = values.msgpack_array(b"\x92" + pack("one") + bad, encode)
    assert taken(parsed)[:1] == ["one"]
    assert parsed.bad is not None


@pytest.mark.parametrize("raw", [b"", pack(1), pack({"a": 1}), pack("x"), b"\xdc\x00"])
def test_what_is_no_msgpack_array_has_no_elements(raw: bytes) -> None:
    parsed = values.msgpack_array(raw, encode)
    assert (taken(parsed), parsed.bad.number) == ([], 1)


def test_bytes_behind_a_msgpack_array_are_refused_after_its_elements() -> None:
    parsed = values.msgpack_array(pack([1, 2]) + pack(3), encode)
    assert (taken(parsed), parsed.bad.number) == ([1, 2], 3)


@given(st.lists(VALUES | st.binary() | st.lists(st.binary(max_size=20), max_size=20), max_size=20))
def test_the_elements_of_any_msgpack_array_are_taken(elements: list[Any]) -> None:
    assert taken(values.msgpack_array(pack(elements), encode)) == elements
    assert taken(values.frames([pack(element) for element in elements], "msgpack", encode)) == elements


@given(st.binary(max_size=40))
def test_whatever_bytes_come_what_is_passed_on_can_be_cut_and_decoded(raw: bytes) -> None:
    """One malformed value would spoil the batch of its neighbours."""
    for parsed in (
        values.frames([raw, pack("neighbour")], "msgpack", encode),
        values.msgpack_array(raw, encode),
        values.json_lines(raw, encode),
        values.json_array(raw, encode),
        values.frames([raw], "auto", encode),
    ):
        for payload, count in parsed.parts:
            body = codec.head(count) + payload
            assert len(codec.split(body)) == len(codec.decode(body)) == count


@settings(max_examples=60)
@given(st.lists(VALUES | st.binary(max_size=300), max_size=6), st.data())
def test_the_cutter_finds_every_end_however_the_bytes_arrive(elements: list[Any], data: st.DataObject) -> None:
    raw, cutter, have, at, found = b"".join(map(pack, elements)), Cutter(MAX_DEPTH), 0, 0, []
    while have < len(raw):
        have += data.draw(st.integers(1, len(raw) - have))
        while have > at and (end := cutter.end(raw[:have], at)) >= 0:
            found.append(msgspec.msgpack.decode(raw[at:end]))
            at = end
    assert found == elements


def test_the_cutter_goes_on_when_bytes_are_taken_off_the_front() -> None:
    raw, cutter = pack("first") + pack(["second", "third"]), Cutter(MAX_DEPTH)
    at = cutter.end(raw, 0)
    assert cutter.end(raw[:-2], at) == -1
    cutter.moved(at)
    assert cutter.end(raw[at:], 0) == len(raw) - at


def test_the_cutter_refuses_what_is_nested_too_deep_before_it_is_complete() -> None:
    with pytest.raises(NotMsgpackError, match="deeper"):
        Cutter(MAX_DEPTH).end(b"\x91" * 101, 0)


# --- which of both ------------------------------------------------------------------------------------------------


@given(VALUES)
def test_auto_tells_json_from_msgpack_by_itself(value: Any) -> None:
    raw = json.dumps(value).encode()
    if len(raw) > 1:
        assert taken(values.frames([raw], "auto", encode)) == [value]
    if not raw.isdigit() or len(pack(value)) > 1:
        packed = values.frames([pack(value)], "auto", encode)
        assert packed.bad is not None if pack(value).isdigit() and len(pack(value)) == 1 else taken(packed) == [value]


@pytest.mark.parametrize("digit", range(10))
def test_auto_refuses_the_ten_frames_that_are_both(digit: int) -> None:
    parsed = values.frames([b"%d" % digit], "auto", encode)
    assert parsed.values == 0
    assert "say which" in parsed.bad.reason


def test_json_sent_as_msgpack_is_recognised_in_the_error() -> None:
    assert "looks like JSON" in values.frames([b'{"a": 1}'], "msgpack", encode).bad.reason
    assert "looks like JSON" not in values.frames([b"\xc1"], "msgpack", encode).bad.reason


def test_workers_can_decode_what_is_as_deep_as_allowed(acker: FakeAcker, feeder: Feeder) -> None:
    deep = json.loads(nested(MAX_DEPTH))
    feeder.push_many([deep])
    assert acker.values == [deep]


@pytest.mark.parametrize(
    "raws",
    [
        [], [b""], [b"1"], [b"\x01"], [b"12"], [pack("x")], [b'"x"'], [pack("x"), b'"x"'], [pack(1), pack("x")],
        [b"1", pack("x")], [b"", pack("x")], [b"[1]", b""], [b"\xc1", pack("x")], [b"{]", b"[]"],
        [b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), b"[]"], [b"\x91" * (MAX_DEPTH + 1) + b"\x01", pack([])],
    ],
)  # fmt: skip
def test_frames_that_are_read_together_are_read_as_each_alone(raws: list[bytes]) -> None:
    """With `auto`, whatever the first bytes are."""
    together = values.frames(raws, "auto", encode)
    alone = [values.frames([raw], "auto", encode) for raw in raws]
    good = next((place for place, each in enumerate(alone) if each.bad is not None), len(raws))
    assert together.values == good
    assert b"".join(part for part, _ in together.parts) == b"".join(
        part for each in alone[:good] for part, _ in each.parts
    )
    bad = together.bad
    assert (bad is None) == (good == len(raws))
    assert bad is None or (bad.number, bad.reason) == (good + 1, alone[good].bad.reason)
