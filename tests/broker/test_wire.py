"""The wire: every message survives packing, and nothing that is not a message gets past `unpack`."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consecutiond_broker import wire
from consecutiond_broker.errors import WireError

TWO = b"\x01" + bytes(7) + b"\x02" + bytes(7)
CRASH = wire.Fail("crashed", True, TWO, "parse", "parse.0 died", "")

#: one of each kind, with the raw frames that belong to it
MESSAGES: list[tuple[wire.Head, list[bytes]]] = [
    (wire.Join(1, "down", "parse.0", 3, 4711, 99, "/cells/parse.0", 1, 3, 16, (7, 9)), []),
    (wire.Batch(2, 5, 1, 2), [TWO, TWO, b"body"]),
    (wire.Settle(2, 5, 1, 8, 32), [TWO, TWO, b""]),
    (wire.Leave(3), []),
    (wire.Joined(1, 2, 4, 8, 16), []),
    (wire.Grant(2, 4, 8, 16), []),
    (wire.Deliver(2, 5, 1, 2, (1,)), [TWO, TWO, b"body"]),
    (wire.Fenced(3), []),
    (wire.EdgeJoin(1, "parse->count", 2, 8, 16), []),
    (wire.EdgeJoined(1, 40), []),
    (wire.Reports(2, 41, (1, 1)), [TWO, TWO, b"", b"", b"", b"\x90"]),
    (wire.Applied(2, 42), []),
    (wire.Probe(1), []),
    (wire.Idle(1, 2, 3, 4, 5), []),
    (wire.ProducerJoin(1, b"producer", False), []),
    (wire.ProducerJoined(1, 6), []),
    (wire.Append(b"producer", 7, 2, ("in",), ("ann@host", "log replay", "--since 2h")), [b"body"]),
    (wire.Receipt(7), []),
    (wire.Refused("the consecutor is going down"), []),
    (wire.EndOfInput(b"producer", True), []),
    (wire.Finished(b"{}"), []),
    (wire.NodeJoin(1, "parse", "parse.0", 3, -1), []),
    (wire.Turn("end", 1), []),
    (wire.TurnDone("end", 1, "parse", "parse.0", 3, "Traceback …"), []),
    (wire.HeartJoin(1, 2, True), []),
    (wire.Drain("stop"), []),
    (wire.StatsAsk(1), []),
    (wire.Stats(1, b"{}"), []),
    (wire.Alive(1, "acker", 4711, 99, 2, "ready", "", b"{}"), []),
    (wire.End("the graph has ended"), []),
    (wire.Ask(1, "status", b"{}"), []),
    (wire.Answer(1, "", b"{}"), []),
]
KINDS = {type(head) for head, _ in MESSAGES}


@pytest.mark.parametrize(("head", "raw"), MESSAGES, ids=lambda value: type(value).__name__)
def test_every_message_comes_out_as_it_went_in(head: wire.Head, raw: list[bytes]) -> None:
    assert wire.unpack([wire.pack(head), *raw]) == head


def test_the_list_above_has_every_message_of_the_protocol() -> None:
    assert set(wire.Head.__args__) == KINDS


def test_no_two_messages_share_a_tag() -> None:
    tags = [msgspec.msgpack.decode(wire.pack(head))[0] for head, _ in MESSAGES]
    assert len(set(tags)) == len(MESSAGES)


@pytest.mark.parametrize(("head", "raw"), MESSAGES, ids=lambda value: type(value).__name__)
def test_a_message_with_a_frame_too_many_or_too_few_is_refused(head: wire.Head, raw: list[bytes]) -> None:
    with pytest.raises(WireError, match=type(head).__name__):
        wire.unpack([wire.pack(head), *raw, b""])
    if raw:
        with pytest.raises(WireError, match=type(head).__name__):
            wire.unpack([wire.pack(head), *raw[:-1]])


@pytest.mark.parametrize("kind", [wire.Batch(2, 5, 1, 3), wire.Deliver(2, 5, 1, 3, ())])
@pytest.mark.parametrize("columns", [(TWO, TWO), (TWO + TWO[:8], TWO), (TWO, TWO + TWO[:8]), (TWO[:-1], TWO)])
def test_a_batch_whose_columns_do_not_hold_its_count_is_refused(kind: wire.Head, columns: tuple[bytes, bytes]) -> None:
    with pytest.raises(WireError, match="3 items"):
        wire.unpack([wire.pack(kind), *columns, b"body"])


def test_a_head_nested_too_deep_is_refused_and_not_a_recursion_error() -> None:
    """Fields that a newer version may append are skipped, however deep they are."""
    with pytest.raises(WireError):
        wire.unpack([b"\x93\x04\x01" + b"\x91" * 100_000 + b"\x01"])


def test_no_frames_at_all_are_refused() -> None:
    with pytest.raises(WireError):
        wire.unpack([])


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_random_frames_only_ever_raise_a_wire_error(frames: list[bytes]) -> None:
    try:
        assert type(wire.unpack(frames)) in KINDS
    except WireError:
        pass


@settings(max_examples=400)
@given(st.data())
def test_damaged_messages_only_ever_raise_a_wire_error(data: st.DataObject) -> None:
    head, raw = data.draw(st.sampled_from(MESSAGES))
    frames = [bytearray(frame) for frame in (wire.pack(head), *raw)]
    for _ in range(data.draw(st.integers(1, 4))):
        frame = data.draw(st.sampled_from([frame for frame in frames if frame]))
        place = data.draw(st.integers(0, len(frame) - 1))
        match data.draw(st.sampled_from(["change", "insert", "cut"])):
            case "change":
                frame[place] = data.draw(st.integers(0, 255))
            case "insert":
                frame.insert(place, data.draw(st.integers(0, 255)))
            case _:
                del frame[place + 1 :]
    try:
        assert type(wire.unpack([bytes(frame) for frame in frames])) in KINDS
    except WireError:
        pass


def test_failures_come_out_as_they_went_in_and_none_are_no_bytes() -> None:
    assert wire.pack_fails([]) == b""
    assert wire.unpack_fails(b"") == []
    assert wire.unpack_fails(wire.pack_fails([CRASH, CRASH])) == [CRASH, CRASH]


@given(st.binary(min_size=1, max_size=100))
def test_random_failures_only_ever_raise_a_wire_error(frame: bytes) -> None:
    try:
        wire.unpack_fails(frame)
    except WireError:
        pass


def test_failures_nested_too_deep_are_a_wire_error() -> None:
    with pytest.raises(WireError):
        wire.unpack_fails(b"\x91\x97\xa1k\xc3\xc4\x00\xa0\xa0\xa0" + b"\x91" * 100_000)


def test_text_that_is_not_utf_8_is_a_wire_error() -> None:
    head = wire.pack(wire.Refused("full")).replace(b"full", b"\x80ull")
    with pytest.raises(WireError):
        wire.unpack([head])
    with pytest.raises(WireError):
        wire.unpack_fails(wire.pack_fails([CRASH]).replace(b"parse", b"\x80arse"))
