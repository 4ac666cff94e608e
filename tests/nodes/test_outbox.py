"""What is pushed and not yet sent: how values are kept, cut into messages, numbered, and refused."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consecutiond_broker import codec, wire
from consecutiond_broker.errors import CodecError
from consecutiond_nodes.node import Node
from consecutiond_nodes.outbox import Buffer
from tests.nodes.bench import Bench, benches, fanned, node, words


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from benches(tmp_path)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def filled(values: list[Any], *, batch_bytes: int = 1 << 20, max_message: int = 48 << 20) -> Buffer:
    buffer = Buffer("a", (), batch_bytes, max_message)
    push = buffer.appender(memoryview(bytearray(64)).cast("Q"), lambda _buffer: None)
    for value in values:
        push(value)
    return buffer


class TestMessages:
    @settings(max_examples=200)
    @given(st.lists(st.integers(0, 60), max_size=30), st.integers(1, 12), st.integers(1, 100))
    def test_they_hold_every_value_in_order_and_are_bounded_by_number_and_bytes(
        self, sizes: list[int], most: int, batch_bytes: int
    ) -> None:
        values = [f"{place:03}" + "x" * size for place, size in enumerate(sizes)]
        messages = list(filled(values, batch_bytes=batch_bytes).messages(most))
        assert [value for _, _, body in messages for value in codec.decode(body)] == values
        assert [start for start, _, _ in messages] == [0, *(stop for _, stop, _ in messages)][: len(messages)]
        for start, stop, body in messages:
            assert codec.decode(body) == values[start:stop]
            assert stop - start <= most
            assert stop - start == 1 or len(body) <= 2 * batch_bytes + 5

    def test_a_large_value_goes_alone_behind_the_small_ones(self) -> None:
        messages = list(filled(["a", "b", "x" * 500], batch_bytes=100).messages(10))
        assert [codec.decode(body) for _, _, body in messages] == [["a", "b"], ["x" * 500]]

    def test_a_value_that_is_changed_after_its_push_travels_as_it_was(self, bench: Bench) -> None:
        def process(self: Node, value: Any) -> None:
            counts = {}
            for letter in value:
                counts[letter] = counts.get(letter, 0) + 1
                self.push(counts)

        bench.start(node(process), "b", "c")
        bench.up.deliver("aba")
        bench.settle()
        for edge in ("a->b", "a->c"):
            assert bench.edge(edge).values == [{"a": 1}, {"a": 1, "b": 1}, {"a": 2, "b": 1}]


class TestSlices:
    @pytest.mark.parametrize(("batch_bytes", "messages"), [(1, 60), (7, 30), (40, 6), (1 << 20, 4)])
    def test_however_a_fan_out_is_cut_every_copy_has_its_own_id_and_the_report_is_right(
        self, bench: Bench, batch_bytes: int, messages: int
    ) -> None:
        bench.start(node(fanned(20)), "b", "c", batch_bytes=batch_bytes)
        bench.up.deliver("x", "y", "z", roots=(11, 12, 11), ids=(7, 8, 9))
        bench.settle()
        assert len(bench.edge("a->b").of(wire.Batch)) == messages
        for edge in ("a->b", "a->c"):
            assert bench.edge(edge).values == [[value, number] for value in "xyz" for number in range(20)]
        ids = [id for edge in ("a->b", "a->c") for _, id, _ in bench.edge(edge).items()]
        assert len(set(ids)) == 120
        assert bench.up.report() == bench.expected("a->b", "a->c", own={11: 7 ^ 9, 12: 8})

    def test_the_ids_of_a_sliced_fan_out_are_those_of_one_that_leaves_at_once(self, tmp_path: Path) -> None:
        ids = []
        for batch_bytes in (5, 1 << 20):
            (tmp_path / str(batch_bytes)).mkdir()
            bench = Bench(tmp_path / str(batch_bytes))
            bench.start(node(fanned(20)), "b", batch_bytes=batch_bytes)
            bench.up.deliver("x", "y")
            bench.settle()
            ids.append([id for _, id, _ in bench.edge("a->b").items()])
            bench.close()
        assert ids[0] == ids[1]

    def test_the_numbers_begin_anew_with_every_batch(self, bench: Bench) -> None:
        """A slice that ended with the item at a position must not be continued by that position of the next batch."""
        bench.start(node(fanned(3)), "b", batch_bytes=1)
        bench.up.deliver("x", ids=(7,))
        bench.up.deliver("x", ids=(7,))
        bench.settle(2)
        ids = [id for _, id, _ in bench.edge("a->b").items()]
        assert ids[:3] == ids[3:]

    def test_outputs_that_an_item_has_sent_before_it_raises_belong_to_its_failed_root(self, bench: Bench) -> None:
        def process(self: Node, value: Any) -> None:
            for number in range(3):
                self.push([value, number])
            if value == "bad":
                raise ValueError

        bench.start(node(process), "b", batch_bytes=10)
        bench.up.deliver("good", "bad", "fine")
        bench.settle()
        assert [fail.roots for fail in bench.up.fails()] == [words(12)]
        own = {11: 101, 12: 0, 13: 103}
        expected = bench.expected("a->b", own=own)
        del expected[12]
        assert bench.up.report() == expected
        assert [value for value in bench.edge("a->b").values if value[0] != "bad"] == [
            [value, number] for value in ("good", "fine") for number in range(3)
        ]


class TestRefusals:
    def test_a_value_that_cannot_be_carried_fails_only_its_item_and_names_node_type_and_line(
        self, bench: Bench
    ) -> None:
        def process(self: Node, value: Any) -> None:
            self.push(["first", value])
            with socket.socket() as made:
                self.push({"deep": [made]} if value == 2 else value)

        bench.start(node(process), "b", "c")
        bench.up.deliver(1, 2, 3)
        bench.settle()
        [fail] = bench.up.fails()
        assert (fail.kind, fail.charged, fail.roots, fail.node) == ("unserialisable", True, words(12), "a")
        assert fail.error.startswith("node a pushed dict, which msgpack cannot carry")
        assert "socket" in fail.error
        assert 'self.push({"deep": [made]}' in fail.traceback
        for edge in ("a->b", "a->c"):
            assert bench.edge(edge).values == [["first", 1], 1, ["first", 3], 3]
        assert bench.up.report() == bench.expected("a->b", "a->c", own={11: 101, 13: 103})

    def test_what_is_written_names_the_output_and_the_value_s_type(self, bench: Bench) -> None:
        bench.start(node(lambda self, _value: self.write("lines", object())), output=True)
        bench.up.deliver("x")
        bench.settle()
        [fail] = bench.up.fails()
        assert fail.error.startswith("node a wrote to the output 'lines' object, which msgpack cannot carry")

    @pytest.mark.parametrize("depth", [*range(960, 1000), 100_000])
    def test_a_value_nested_too_deep_is_refused_and_never_holds_the_worker_up(self, depth: int) -> None:
        buffer = filled(["before"])
        push = buffer.appender(memoryview(bytearray(64)).cast("Q"), lambda _buffer: None)
        refused = False
        try:
            push(nested(depth))
        except CodecError:
            refused = True
        push("after")
        assert refused or depth < 1000
        middle = b"" if refused else b"\x91" * depth + b"\x01"
        [(_, stop, body)] = buffer.messages(10)
        assert body == codec.head(stop) + b"\xa6before" + middle + b"\xa5after"

    def test_nothing_of_a_refused_value_is_left_behind(self) -> None:
        buffer = filled(["before"])
        push = buffer.appender(memoryview(bytearray(64)).cast("Q"), lambda _buffer: None)
        with pytest.raises(CodecError):
            push(["x" * 1000, object()])
        push("after")
        assert [codec.decode(body) for _, _, body in buffer.messages(10)] == [["before", "after"]]

    @pytest.mark.parametrize("batch_bytes", [10, 1 << 20])
    def test_a_value_that_is_too_large_fails_its_item(self, bench: Bench, batch_bytes: int) -> None:
        bench.start(node(lambda self, value: self.push(value * 100)), "b", max_message=200, batch_bytes=batch_bytes)
        bench.up.deliver("x", "xxx", "y")
        bench.settle()
        [fail] = bench.up.fails()
        assert (fail.kind, fail.roots) == ("unserialisable", words(12))
        assert fail.error == "node a pushed a value of 303 bytes, more than max_message = 200"
        assert bench.edge("a->b").values == ["x" * 100, "y" * 100]
        assert bench.up.report() == bench.expected("a->b", own={11: 101, 13: 103})

    def test_a_refusal_that_the_node_catches_is_its_own_business(self, bench: Bench) -> None:
        def process(self: Node, value: Any) -> None:
            try:
                self.push(object())
            except CodecError:
                self.push("instead of " + value)

        bench.start(node(process), "b")
        bench.up.deliver("x")
        bench.settle()
        assert bench.up.fails() == []
        assert bench.edge("a->b").values == ["instead of x"]
