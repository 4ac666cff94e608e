"""The worker's loop: batches in, outputs out, one settlement with one report."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from consecutiond_broker import codec, wire
from consecutiond_broker.cell import INDEX, read_remains
from consecutiond_nodes.errors import NodeError
from consecutiond_nodes.node import Node
from consecutiond_nodes.routing import Outlet
from tests.nodes.bench import WORKER, Bench, benches, fanned, node, words


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from benches(tmp_path)


def forward(self: Node, value: Any) -> None:
    self.push(value)


def failing_on(*bad: Any) -> Node:
    def process(self: Node, value: Any) -> None:
        self.push(["before", value])
        if value in bad:
            raise ValueError(f"cannot do {value}")
        self.push(["after", value])

    return node(process)


class TestBatch:
    def test_outputs_leave_at_the_end_of_the_batch_in_one_message(self, bench: Bench) -> None:
        below = bench.edge("a->b")
        seen: list[int] = []

        def process(self: Node, value: Any) -> None:
            self.push(value)
            below.pump()
            seen.append(len(below.of(wire.Batch)))

        bench.start(node(process), "b")
        bench.up.deliver("x", "y", "z")
        bench.settle()
        assert seen == [0, 0, 0]
        assert [raw[2] for raw in below.raw(wire.Batch)] == [codec.encode(["x", "y", "z"])]

    def test_one_settlement_with_one_report_follows_when_every_broker_has_accepted(self, bench: Bench) -> None:
        b, c = bench.edge("a->b"), bench.edge("a->c")
        b.accepting = c.accepting = False
        bench.start(node(forward), "b", "c")
        bench.up.deliver("x", "y")
        bench.until(lambda: b.items() and c.items())
        b.grant(1)
        bench.idle()
        assert bench.up.settled == []
        c.grant(1)
        bench.settle()
        bench.idle()
        assert bench.up.settled == [1]

    def test_acceptance_is_no_wait_the_next_batches_run_and_one_grant_settles_them_all(self, bench: Bench) -> None:
        below = bench.edge("a->b")
        below.accepting = False
        bench.start(node(forward), "b")
        for value in "xyz":
            bench.up.deliver(value)
        bench.until(lambda: below.values == ["x", "y", "z"])
        bench.idle()
        assert bench.up.settled == []
        below.grant(3)
        bench.settle(3)
        assert bench.up.settled == [1, 2, 3]

    def test_a_worker_that_ends_settles_what_is_accepted_meanwhile_and_begins_nothing(self, bench: Bench) -> None:
        below = bench.edge("a->b")
        below.accepting = False
        bench.start(node(forward), "b")
        bench.up.deliver("x")
        bench.until(lambda: below.values == ["x"])
        below.grant(1)
        bench.up.deliver("y")
        bench.worker.stopping = True
        bench.worker.run()
        bench.stop()
        deadline = time.monotonic() + 20
        while not bench.up.of(wire.Leave):
            assert time.monotonic() < deadline, "it never left"
            bench.pump()
        assert bench.up.settled == [1]
        bench.pump()
        assert below.values == ["x"]

    def test_a_settlement_says_how_many_more_deliveries_it_takes(self, bench: Bench) -> None:
        bench.start(node(forward), window=4)
        assert [head.limit for head in bench.up.of(wire.Join)] == [4]
        bench.up.deliver("x")
        bench.up.deliver("y")
        bench.settle(2)
        assert [head.limit for head in bench.up.of(wire.Settle)] == [5, 6]

    def test_a_node_that_leads_nowhere_settles_at_once_and_counts_what_it_pushed(self, bench: Bench) -> None:
        bench.start(node(forward))
        bench.up.deliver("x", "y")
        bench.settle()
        assert bench.up.report() == {11: 101, 12: 102}
        assert bench.worker.stats()["dropped"] == 2

    def test_an_item_is_counted_and_the_next_batches_follow_the_time_it_took(self, bench: Bench) -> None:
        bench.start(node(forward), batch_s=1e-9)
        bench.up.deliver("x", "y")
        bench.settle()
        assert (bench.worker.items, bench.worker.batches) == (2, 1)
        assert bench.up.of(wire.Settle)[-1].hint == 1

    def test_a_hint_at_most_doubles_and_stops_at_the_limit(self, bench: Bench) -> None:
        bench.start(node(forward), batch_s=1000.0, batch_items=50)
        for count in range(1, 4):
            bench.up.deliver("x")
            bench.settle(count)
        assert [head.hint for head in bench.up.of(wire.Settle)] == [32, 50, 50]

    @pytest.mark.parametrize(
        ("count", "seconds", "hint"),
        [(1, 0.005, 100), (49, 0.015, 100), (50, 0.015, 66), (100, 0.04, 50), (1, 0.021, 1), (1, 0.0001, 200)],
        ids=["one", "few", "half", "all", "one, longer than a batch may", "one, quick"],
    )
    def test_a_small_batch_makes_the_next_ones_no_smaller(
        self, bench: Bench, count: int, seconds: float, hint: int
    ) -> None:
        """What each batch costs would look like the cost of each item: a few retries, and all batches were tiny."""
        worker = bench.start(node(forward), batch_s=0.02)
        while worker._hint != 100:
            worker._measure(0.02, 100)
        worker._measure(seconds, count)
        assert worker._hint == hint


class TestReport:
    def test_a_line_consumes_the_item_and_produces_its_child(self, bench: Bench) -> None:
        bench.start(node(forward), "b")
        bench.up.deliver("x", "y")
        bench.settle()
        children = {root: id for root, id, _ in bench.edge("a->b").items()}
        assert bench.up.report() == {11: 101 ^ children[11], 12: 102 ^ children[12]}

    def test_every_copy_of_a_broadcast_has_its_own_id(self, bench: Bench) -> None:
        bench.start(node(forward), "b", "c")
        bench.up.deliver("x")
        bench.settle()
        [(_, left, _)], [(_, right, _)] = bench.edge("a->b").items(), bench.edge("a->c").items()
        assert left != right
        assert bench.up.report() == {11: 101 ^ left ^ right}

    def test_a_router_sends_each_value_to_the_node_it_names(self, bench: Bench) -> None:
        bench.start(node(forward), outlets=(Outlet(("b", "c"), lambda value: "b" if value < 3 else "c"),))
        bench.up.deliver(1, 5, 2)
        bench.settle()
        assert (bench.edge("a->b").values, bench.edge("a->c").values) == ([1, 2], [5])
        assert bench.up.report() == bench.expected("a->b", "a->c", own={11: 101, 12: 102, 13: 103})

    def test_a_push_goes_through_every_outlet(self, bench: Bench) -> None:
        bench.start(node(forward), outlets=(Outlet(("d",)), Outlet(("b", "c"), lambda value: value)))
        bench.up.deliver("b", "c")
        bench.settle()
        assert [bench.edge(f"a->{name}").values for name in "bcd"] == [["b"], ["c"], ["b", "c"]]
        assert bench.up.report() == bench.expected("a->b", "a->c", "a->d", own={11: 101, 12: 102})

    def test_a_fan_out_produces_all_of_its_children(self, bench: Bench) -> None:
        bench.start(node(fanned(5)), "b")
        bench.up.deliver("x", "y")
        bench.settle()
        ids = [id for _, id, _ in bench.edge("a->b").items()]
        assert len(set(ids)) == 10
        assert bench.up.report() == bench.expected("a->b", own={11: 101, 12: 102})

    def test_items_of_one_root_side_by_side_and_apart_are_folded_together(self, bench: Bench) -> None:
        bench.start(node(fanned(2)), "b")
        bench.up.deliver(*"abcde", roots=(11, 11, 12, 13, 11), ids=(1, 2, 3, 4, 5))
        bench.settle()
        assert bench.up.report() == bench.expected("a->b", own={11: 1 ^ 2 ^ 5, 12: 3, 13: 4})

    def test_a_write_is_an_item_on_the_edge_to_the_outputs(self, bench: Bench) -> None:
        def process(self: Node, value: Any) -> None:
            self.push(value)
            self.write("lines", value.upper())

        bench.start(node(process), "b", output=True)
        bench.up.deliver("x")
        bench.settle()
        assert bench.edge("*->output").values == [["lines", "X"]]
        assert bench.up.report() == bench.expected("a->b", "*->output", own={11: 101})

    def test_a_batch_filtered_to_nothing_consumes_its_items(self, bench: Bench) -> None:
        bench.start(node(lambda _self, _value: None), "b")
        bench.up.deliver("x", "y")
        bench.settle()
        assert bench.up.report() == {11: 101, 12: 102}
        assert bench.edge("a->b").items() == []

    def test_positions_to_skip_are_neither_processed_nor_reported(self, bench: Bench) -> None:
        seen: list[Any] = []

        def process(self: Node, value: Any) -> None:
            seen.append(value)
            self.push(value)

        bench.start(node(process), "b")
        bench.up.deliver("x", "y", "z", skip=(0, 2))
        bench.settle()
        assert seen == ["y"]
        assert bench.up.report() == bench.expected("a->b", own={12: 102})

    def test_a_settlement_names_the_acker_of_the_batch(self, bench: Bench) -> None:
        bench.start(node(forward), "b")
        bench.up.deliver("x", acker_epoch=42)
        bench.settle()
        assert bench.up.of(wire.Settle)[0].acker_epoch == 42
        assert bench.edge("a->b").of(wire.Batch)[0].acker_epoch == 42


class TestFailure:
    def test_an_item_that_raises_fails_alone_and_its_unsent_outputs_are_dropped(self, bench: Bench) -> None:
        bench.start(failing_on(2), "b", "c", output=True)
        bench.up.deliver(1, 2, 3)
        bench.settle()
        [fail] = bench.up.fails()
        assert (fail.kind, fail.charged, fail.roots, fail.node) == ("raised", True, words(12), "a")
        assert fail.error == "ValueError: cannot do 2"
        assert 'raise ValueError(f"cannot do {value}")' in fail.traceback
        assert "consecutiond_nodes" not in fail.traceback
        for edge in ("a->b", "a->c"):
            assert bench.edge(edge).values == [["before", 1], ["after", 1], ["before", 3], ["after", 3]]
        assert bench.up.report() == bench.expected("a->b", "a->c", own={11: 101, 13: 103})
        assert bench.worker.failures == 1

    def test_what_was_written_by_an_item_that_raises_is_dropped_too(self, bench: Bench) -> None:
        def process(self: Node, value: Any) -> None:
            self.write("lines", value)
            self.push(1 // value)

        bench.start(node(process), "b", output=True)
        bench.up.deliver(0, 1)
        bench.settle()
        assert bench.edge("*->output").values == [["lines", 1]]

    @pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), RecursionError("deep")])
    def test_what_would_end_a_program_fails_the_item_alone(self, bench: Bench, error: BaseException) -> None:
        def process(self: Node, value: Any) -> None:
            if value == "bad":
                raise error
            self.push(value)

        bench.start(node(process), "b")
        bench.up.deliver("bad", "good")
        bench.settle()
        assert [fail.roots for fail in bench.up.fails()] == [words(11)]
        assert bench.edge("a->b").values == ["good"]

    def test_sys_exit_in_process_does_not_end_the_worker(self, bench: Bench) -> None:
        bench.start(node(lambda _self, _value: sys.exit(1)))
        bench.up.deliver("x")
        bench.settle()
        bench.up.deliver("y")
        bench.settle(2)
        assert [fail.error for fail in bench.up.fails()] == ["SystemExit: 1"]

    def test_a_wrong_answer_of_a_router_fails_the_item(self, bench: Bench) -> None:
        bench.start(node(forward), outlets=(Outlet(("b",), lambda value: value),))
        bench.up.deliver("b", "bb", ["b"], "b")
        bench.settle()
        assert [fail.roots for fail in bench.up.fails()] == [words(12), words(13)]
        assert all("RouteError" in fail.error for fail in bench.up.fails())
        assert bench.edge("a->b").values == ["b", "b"]

    @pytest.mark.parametrize("body", [b"\xc1", codec.encode([1]), codec.encode([1, 2, 3]), codec.encode({1: 2})])
    def test_a_body_that_is_not_what_its_head_says_fails_every_item_and_processes_none(
        self, bench: Bench, body: bytes
    ) -> None:
        seen: list[Any] = []
        bench.start(node(lambda _self, value: seen.append(value)))
        bench.up.deliver(roots=(11, 12), body=body)
        bench.settle()
        assert [(fail.kind, fail.roots) for fail in bench.up.fails()] == [("undecodable", words(11, 12))]
        assert bench.up.report() == {}
        assert seen == []

    def test_an_error_whose_text_cannot_be_made_or_carried_is_told_all_the_same(self, bench: Bench) -> None:
        class Mute(Exception):
            def __str__(self) -> str:
                raise RuntimeError("no text")

        errors = [Mute(), ValueError("\udcff"), ValueError("x" * 1_000_000)]

        def process(_self: Node, value: int) -> None:
            raise errors[value]

        bench.start(node(process))
        bench.up.deliver(0, 1, 2)
        bench.settle()
        mute, odd, long = bench.up.fails()
        assert mute.error.endswith("Mute: <its text cannot be made>")
        assert odd.error == "ValueError: \\udcff"
        assert len(long.error) < 5000
        assert len(long.traceback) < 20_000


class TestCell:
    def remains(self, bench: Bench, slot: int = 0) -> Any:
        found = read_remains(Path(bench.worker.who.cell), WORKER, slot)
        assert found is not None
        return found

    def test_it_says_which_item_is_in_execution(self, bench: Bench) -> None:
        seen: list[Any] = []
        bench.start(node(lambda _self, _value: seen.append(self.remains(bench)[:2])))
        bench.up.deliver("x", "y")
        bench.settle()
        assert seen == [(1, 0), (1, 1)]
        assert self.remains(bench)[:2] == (0, -1)

    def test_no_item_is_in_execution_while_outputs_are_sent(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[int] = []
        bench.start(node(forward), "b")
        port = bench.worker.down["b"]
        send = port.send
        monkeypatch.setattr(port, "send", lambda *a, **k: (seen.append(self.remains(bench).position), send(*a, **k)))
        bench.up.deliver("x")
        bench.settle()
        assert seen == [-1]

    def test_it_says_that_outputs_leave_before_the_first_of_a_batch_does(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[int] = []
        bench.start(node(forward), "b")
        dealer = bench.worker.down["b"].dealer
        send = dealer.send
        monkeypatch.setattr(dealer, "send", lambda frames: (seen.append(self.remains(bench).outputs), send(frames)))
        bench.up.deliver("x")
        bench.up.deliver("y")
        bench.settle(2)
        assert seen == [1, 2]

    def test_a_slice_in_the_middle_of_a_batch_says_so_too(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[tuple[int, int]] = []
        bench.start(node(fanned(3)), "b", batch_bytes=1)
        dealer = bench.worker.down["b"].dealer
        send = dealer.send
        monkeypatch.setattr(
            dealer, "send",
            lambda frames: (seen.append((self.remains(bench).outputs, self.remains(bench).position)), send(frames)),
        )  # fmt: skip
        bench.up.deliver("x")
        bench.settle()
        assert seen == [(1, 0)] * 3

    def test_a_batch_without_outputs_can_still_be_given_to_another_worker(self, bench: Bench) -> None:
        bench.start(node(lambda self, value: self.push(value) if value == "x" else None), "b")
        bench.up.deliver("x")
        bench.up.deliver("y")
        bench.settle(2)
        assert self.remains(bench).outputs == 1

    def test_every_incoming_edge_has_its_own_slot(self, bench: Bench) -> None:
        seen: list[Any] = []

        def process(self_: Node, value: Any) -> None:
            self_.push(value)
            seen.append((self.remains(bench, 0)[:3], self.remains(bench, 1)[:3]))

        bench.start(node(process), "b", up=("in->a", "x->a"))
        other = bench.edge("x->a")
        other.deliver("first")
        bench.until(lambda: other.settled)
        bench.up.deliver("second")
        bench.settle()
        assert seen == [((0, -1, 0), (1, 0, 0)), ((1, 0, 0), (0, -1, 1))]
        assert (self.remains(bench, 0).outputs, self.remains(bench, 1).outputs) == (1, 1)

    def test_a_worker_that_has_run_end_leaves_no_cell(self, bench: Bench) -> None:
        bench.start(node(forward))
        bench.up.deliver("x")
        bench.settle()
        bench.acker.turn("end")
        bench.until(lambda: bench.worker.turns.ended)
        bench.stop()
        assert not Path(bench.worker.who.cell).exists()

    def test_one_that_ends_before_leaves_it_for_what_was_on_its_way(self, bench: Bench) -> None:
        bench.start(node(lambda self, value: None))
        bench.up.deliver("x")
        bench.settle()
        bench.stop()
        assert self.remains(bench)[:3] == (0, -1, 0)

    def test_one_that_ends_with_deliveries_in_hand_leaves_it_to_the_broker(self, bench: Bench) -> None:
        bench.edge("a->b").limit = 0
        bench.start(node(forward), "b")
        bench.up.deliver("x")
        bench.up.deliver("y")
        bench.until(lambda: len(bench.worker.up[0].jobs) == 2 and bench.worker.down["b"].unsent)
        bench.stop()
        assert self.remains(bench)[:3] == (0, -1, 1)


class TestItemKey:
    def keys(self, bench: Bench, **options: Any) -> list[int]:
        keys: list[int] = []
        bench.start(node(lambda self, _value: keys.append(self.item_key)), **options)
        bench.up.deliver("x", "y", ids=(7, 8))
        bench.settle()
        return keys

    def test_it_is_the_id_of_the_item_in_hand(self, bench: Bench) -> None:
        assert self.keys(bench) == [7, 8]

    def test_outside_of_process_there_is_none(self, bench: Bench) -> None:
        bench.start(node(forward))
        with pytest.raises(NodeError, match="no item in hand"):
            _ = bench.worker.node.item_key

    def test_between_items_there_is_none(self, bench: Bench) -> None:
        self.keys(bench)
        assert bench.worker.cell.words[INDEX] == 0
        with pytest.raises(NodeError, match="no item in hand"):
            _ = bench.worker.node.item_key

    def children(self, directory: Path, roots: tuple[int, ...], targets: tuple[str, ...]) -> list[list[int]]:
        directory.mkdir()
        bench = Bench(directory)
        bench.start(node(fanned(3)), *targets)
        bench.up.deliver("x", "y", roots=roots, ids=(7, 8))
        bench.settle()
        ids = [[id for _, id, _ in bench.edge(f"a->{name}").items()] for name in targets]
        bench.close()
        return ids

    def test_the_children_of_a_retry_have_the_same_keys_and_no_two_others_have(self, tmp_path: Path) -> None:
        first = self.children(tmp_path / "first", (11, 12), ("b", "c"))
        again = self.children(tmp_path / "again", (91, 92), ("b", "c"))
        assert first == again
        assert len({id for edge in first for id in edge}) == 12

    def test_the_keys_of_children_do_not_depend_on_how_they_were_cut_into_batches(self, bench: Bench) -> None:
        bench.start(node(fanned(3)), "b")
        bench.up.deliver("x", "y", ids=(7, 8))
        bench.up.deliver("y", ids=(8,))
        bench.settle(2)
        ids = [id for _, id, _ in bench.edge("a->b").items()]
        assert ids[3:6] == ids[6:9]
