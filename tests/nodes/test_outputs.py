"""The end of the graph: what is written is appended, flushed, and only then settled."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from consecutiond_broker import codec, spans, wire
from consecutiond_broker.cell import DELIVERY, INDEX
from consecutiond_nodes import outputworker
from consecutiond_nodes.errors import OutputError
from consecutiond_nodes.node import Node
from consecutiond_nodes.outputs import Container, OutputNode
from consecutiond_nodes.worker import Interrupted
from tests.nodes.bench import Bench, benches, node, words


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from benches(tmp_path)


class File:
    """A container that forgets what was not flushed."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.full = False

    def append(self, value: Any) -> None:
        if value == "bad":
            raise ValueError("no room for bad")
        self.events.append(value)

    def flush(self) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self.events.append("flush")


def start(bench: Bench, containers: dict[str, Container], other: Container | None = None) -> None:
    bench.start(OutputNode(containers, other))


class TestOutputNode:
    def test_each_value_is_appended_to_the_container_of_its_name(self, bench: Bench) -> None:
        words_: list[Any] = []
        lines: list[Any] = []
        start(bench, {"words": words_, "lines": lines})
        bench.up.deliver(["words", 1], ["lines", [2]], ["words", {"three": 3}])
        bench.settle()
        assert (words_, lines) == ([1, {"three": 3}], [[2]])
        assert bench.up.report() == {11: 101, 12: 102, 13: 103}

    def test_the_batch_is_flushed_once_before_it_is_settled(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = File()
        start(bench, {"lines": file})
        dealer = bench.worker.up[0].dealer
        send = dealer.send
        monkeypatch.setattr(
            dealer, "send", lambda frames: (file.events.append(type(wire.unpack(frames))), send(frames))
        )
        bench.up.deliver(["lines", 1], ["lines", 2])
        bench.settle()
        assert file.events == [1, 2, "flush", wire.Settle]

    def test_all_batches_at_hand_are_flushed_together(self, bench: Bench) -> None:
        """A flush may cost a disk's turn: with one for each batch of a single item they would be all that is done."""
        file = File()
        start(bench, {"lines": file})
        for value in range(3):
            bench.up.deliver(["lines", value])
        bench.settle(3)
        assert file.events == [0, 1, 2, "flush"]
        assert len(bench.up.of(wire.Settle)) == 3

    def test_not_more_of_them_than_may_be_done_again(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(outputworker, "_MOST_UNFLUSHED", 2)
        file = File()
        start(bench, {"lines": file})
        for value in range(3):
            bench.up.deliver(["lines", value])
        bench.settle(3)
        assert file.events == [0, 1, "flush", 2, "flush"]

    def test_if_that_raises_none_of_them_is_done(self, bench: Bench) -> None:
        file = File()
        file.full = True
        start(bench, {"lines": file})
        for value in range(3):
            bench.up.deliver(["lines", value])
        bench.settle(3)
        assert [len(bench.up.fails(place)) for place in range(3)] == [1, 1, 1]
        assert [bench.up.report(place) for place in range(3)] == [{}, {}, {}]

    def test_an_append_that_raises_fails_its_root_alone(self, bench: Bench) -> None:
        file = File()
        start(bench, {"lines": file})
        bench.up.deliver(["lines", 1], ["lines", "bad"], ["lines", 3])
        bench.settle()
        [fail] = bench.up.fails()
        assert (fail.charged, fail.roots, fail.node) == (True, words(12), "output")
        assert fail.error == "ValueError: no room for bad"
        assert file.events == [1, 3, "flush"]
        assert bench.up.report() == {11: 101, 13: 103}

    def test_the_time_of_the_flush_makes_the_next_batches_no_smaller(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Or a disk that takes longer than a batch may would get one item after the other, each with its own flush."""
        now = [0.0]
        monkeypatch.setattr("consecutiond_nodes.worker.time.perf_counter", lambda: now[0])

        class Slow(File):
            def append(self, value: Any) -> None:
                now[0] += 0.0001

            def flush(self) -> None:
                now[0] += 1.0

        start(bench, {"lines": Slow()})
        bench.up.deliver(*[["lines", number] for number in range(16)])
        bench.settle()
        assert bench.up.of(wire.Settle)[-1].hint == 32

    def test_a_worker_that_dies_in_a_flush_had_the_batch_in_execution(self, bench: Bench) -> None:
        seen: list[Any] = []

        class Dying:
            def append(self, value: Any) -> None:
                pass

            def flush(self) -> None:
                words = bench.worker.cell.words
                seen.append((words[DELIVERY], words[INDEX]))

        bench.start(OutputNode({"out": Dying()}))
        bench.up.deliver(("out", 1))
        bench.settle()
        assert seen == [(1, 0)]

    def test_a_flush_that_raises_fails_the_whole_batch_with_one_failure(self, bench: Bench) -> None:
        file = File()
        file.full = True
        start(bench, {"lines": file})
        bench.up.deliver(["lines", 1], ["lines", "bad"], ["lines", 3], ["lines", 4], skip=(3,))
        bench.settle()
        bad, rest = bench.up.fails()
        assert (bad.roots, rest.roots) == (words(12), words(11, 13))
        assert "No space left" in rest.error
        assert bench.up.report() == {}
        assert bench.worker.failures == 3
        file.full = False
        bench.up.deliver(["lines", 5])
        bench.settle(2)
        assert bench.up.fails() == []

    def test_a_name_that_nobody_registered_fails_its_root(self, bench: Bench) -> None:
        lines: list[Any] = []
        start(bench, {"lines": lines})
        bench.up.deliver(["linse", 1], ["lines", 2])
        bench.settle()
        assert [(fail.roots, fail.error) for fail in bench.up.fails()] == [(words(11), "KeyError: 'linse'")]
        assert lines == [2]

    def test_or_goes_to_the_container_of_all_other_names_which_is_flushed_too(self, bench: Bench) -> None:
        other = File()
        start(bench, {"lines": []}, other)
        bench.up.deliver(["strange", 1])
        bench.settle()
        assert other.events == [("strange", 1), "flush"]

    def test_only_the_output_node_has_a_say_at_the_end_of_a_batch(self, bench: Bench) -> None:
        """A user's method may have any name."""
        called: list[int] = []
        bench.start(node(lambda _self, _value: None, finish_batch=lambda _self: called.append(1)))
        bench.up.deliver("x")
        bench.settle()
        assert called == []


class Bulk(File):
    """A container that takes the values of a batch together, or none of them."""

    def push_many(self, values: list[Any]) -> None:
        if "bad" in values:
            raise ValueError("one of them is bad")
        self.events.append(values)


class TestSeveralAtOnce:
    def test_a_batch_goes_to_each_container_in_one_call_in_order(self, bench: Bench) -> None:
        bulk, lines = Bulk(), list[Any]()
        start(bench, {"bulk": bulk, "lines": lines})
        bench.up.deliver(["bulk", 1], ["lines", 2], ["bulk", 3], ["bulk", 4], skip=(3,))
        bench.settle()
        assert bulk.events == [[1, 3], "flush"]
        assert lines == [2]
        assert bench.up.report() == {11: 101, 12: 102, 13: 103}

    def test_a_refusal_fails_only_what_is_refused_alone(self, bench: Bench) -> None:
        bulk = Bulk()
        start(bench, {"bulk": bulk})
        bench.up.deliver(["bulk", 1], ["bulk", "bad"], ["bulk", 3])
        bench.settle()
        [fail] = bench.up.fails()
        assert (fail.roots, fail.error) == (words(12), "ValueError: no room for bad")
        assert bulk.events == [1, 3, "flush"]
        assert bench.up.report() == {11: 101, 13: 103}

    def test_a_worker_that_has_to_end_in_the_middle_settles_nothing(self, bench: Bench) -> None:
        class Ends(Bulk):
            def push_many(self, values: list[Any]) -> None:
                raise Interrupted

        start(bench, {"bulk": Ends()})
        bench.up.deliver(["bulk", 1])
        bench.until(lambda: not bench.worker._inbox and bench.worker.up[0].jobs)
        assert bench.up.of(wire.Settle) == []

    def test_extend_is_not_called_since_a_list_that_overrides_append_would_not_see_the_values(
        self, bench: Bench
    ) -> None:
        class Loud(list[Any]):
            def append(self, value: Any) -> None:
                super().append(f"{value}!")

        loud = Loud()
        start(bench, {"lines": loud})
        bench.up.deliver(["lines", 1], ["lines", 2])
        bench.settle()
        assert loud == ["1!", "2!"]


class Keyed(File):
    """A container that takes each key once."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, Any] = {}

    def put(self, key: int, value: Any) -> None:
        if value == "bad":
            raise ValueError("no room for bad")
        self.rows.setdefault(key, value)


class KeyedBulk(Keyed):
    def put_many(self, keys: list[int], values: list[Any]) -> None:
        if "bad" in values:
            raise ValueError("one of them is bad")
        self.events.append((keys, values))
        self.rows.update(zip(keys, values, strict=True))


class TestKeys:
    def test_put_gets_the_id_of_the_item_instead_of_append(self, bench: Bench) -> None:
        keyed, plain = Keyed(), File()
        start(bench, {"keyed": keyed, "plain": plain})
        bench.up.deliver(["keyed", 1], ["plain", 2], ["keyed", 3], ids=(101, 102, 2**64 - 1))
        bench.settle()
        assert keyed.rows == {101: 1, 2**64 - 1: 3}
        assert (keyed.events, plain.events) == (["flush"], [2, "flush"])

    def test_put_many_gets_a_batch_with_its_keys(self, bench: Bench) -> None:
        keyed = KeyedBulk()
        start(bench, {"keyed": keyed})
        bench.up.deliver(["keyed", 1], ["keyed", 2], ["keyed", 3], skip=(1,))
        bench.settle()
        assert keyed.events == [([101, 103], [1, 3]), "flush"]

    def test_what_put_many_refuses_is_put_alone_under_the_same_keys(self, bench: Bench) -> None:
        keyed = KeyedBulk()
        start(bench, {"keyed": keyed})
        bench.up.deliver(["keyed", 1], ["keyed", "bad"], ["keyed", 3])
        bench.settle()
        assert [fail.roots for fail in bench.up.fails()] == [words(12)]
        assert keyed.rows == {101: 1, 103: 3}

    def test_keys_are_worth_more_than_one_call_for_many(self, bench: Bench) -> None:
        class Both(Keyed):
            def push_many(self, values: list[Any]) -> None:
                raise AssertionError

        both = Both()
        start(bench, {"both": both})
        bench.up.deliver(["both", 1])
        bench.settle()
        assert both.rows == {101: 1}

    def test_the_container_of_all_other_names_gets_keys_with_its_pairs(self, bench: Bench) -> None:
        other = Keyed()
        start(bench, {}, other)
        bench.up.deliver(["strange", 1])
        bench.settle()
        assert other.rows == {101: ("strange", 1)}

    def test_without_tracking_there_are_no_keys_and_append_is_called(self, bench: Bench) -> None:
        keyed = KeyedBulk()
        bench.start(OutputNode({"keyed": keyed}), tracking=False)
        bench.up.send(
            wire.Deliver(bench.up.epoch, 1, wire.UNTRACKED, 1, ()), b"", b"", codec.encode([["keyed", 1]])
        )  # fmt: skip
        bench.settle()
        assert (keyed.rows, keyed.events) == ({}, [1, "flush"])

    def test_an_item_that_joins_several_roots_has_the_key_of_the_first(self, bench: Bench) -> None:
        keyed = Keyed()
        start(bench, {"keyed": keyed})
        head = wire.Deliver(bench.up.epoch, 1, 3, 2, (), spans=spans.pack([2, 1]))
        values = codec.encode([["keyed", "joined"], ["keyed", "single"]])
        bench.up.send(head, words(11, 12, 13), words(101, 102, 103), values)
        bench.settle()
        assert keyed.rows == {101: "joined", 103: "single"}


class TestWrite:
    def test_an_unknown_name_fails_the_item_and_says_what_is_registered(self, bench: Bench) -> None:
        def process(self: Node, value: Any) -> None:
            self.write(value, 1)

        bench.start(node(process), output=True, outputs=("lines", "words"))
        bench.up.deliver("linse", "lines")
        bench.settle()
        [fail] = bench.up.fails()
        assert fail.roots == words(11)
        assert "OutputError: node a wrote to the output 'linse', which is not registered" in fail.error
        assert "(registered: lines, words)" in fail.error
        assert bench.edge("*->output").values == [["lines", 1]]

    def test_without_any_output_every_name_is_unknown(self, bench: Bench) -> None:
        bench.start(node(lambda self, value: self.write("lines", value)))
        bench.up.deliver("x")
        bench.settle()
        assert "(registered: none)" in bench.up.fails()[0].error
        with pytest.raises(OutputError):
            bench.worker.node.write("lines", 1)

    def test_when_every_name_is_taken_none_is_unknown(self, bench: Bench) -> None:
        bench.start(node(lambda self, value: self.write(value, 1)), output=True, outputs=None)
        bench.up.deliver("anything")
        bench.settle()
        assert bench.edge("*->output").values == [["anything", 1]]
