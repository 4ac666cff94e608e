"""`begin` and `end`: when they run, and what becomes of what they push."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from consecutiond_broker import wire
from consecutiond_broker.errors import CodecError, FencedError
from consecutiond_broker.recorder import WINDOW, RefusedError
from consecutiond_broker.wake import Wake
from consecutiond_nodes.node import Node
from tests.nodes.bench import WORKER, Bench, benches, node


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from benches(tmp_path)


class Log(Node):
    """Notes what runs; pushes and writes in every method."""

    name = "a"

    def __init__(self) -> None:
        self.ran: list[Any] = []

    def begin(self) -> None:
        self.ran.append("begin")
        self.push("from begin")

    def process(self, value: Any) -> None:
        self.ran.append(value)
        self.push(value)

    def end(self) -> None:
        self.ran.append("end")
        self.push("from end")
        self.write("tables", "written at end")


def done(bench: Bench, count: int = 1) -> list[wire.TurnDone]:
    bench.until(lambda: len(bench.acker.of(wire.TurnDone)) >= count)
    return bench.acker.of(wire.TurnDone)


def begin(bench: Bench) -> None:
    """Run the worker's `begin` while the acker answers."""
    wait = bench.worker.wait

    def waiting() -> None:
        bench.pump()
        bench.worker._pump(5)

    bench.worker.wait = waiting  # type: ignore[method-assign]
    bench.worker.begin()
    bench.worker.wait = wait  # type: ignore[method-assign]


def end(bench: Bench, round: int = 1) -> None:
    """Ask for `end`, with an acker that answers while the worker waits."""
    bench.worker.wait = lambda: (bench.pump(), bench.worker._pump(5))  # type: ignore[method-assign,assignment,return-value]
    bench.acker.turn("end", round)


class TestOrder:
    def test_begin_runs_before_the_first_item_and_end_after_the_last(self, bench: Bench) -> None:
        log = Log()
        bench.start(log, "b", output=True, joined=False)
        begin(bench)
        bench.join()
        bench.up.deliver(1, 2)
        bench.up.deliver(3)
        bench.settle(2)
        end(bench)
        done(bench)
        assert log.ran == ["begin", 1, 2, 3, "end"]

    def test_a_worker_is_not_known_to_its_brokers_before_begin_is_over(self, bench: Bench) -> None:
        known: list[int] = []

        def begin_(self: Node) -> None:
            bench.pump()
            known.append(len(bench.up.of(wire.Join)))

        bench.start(node(lambda _self, _value: None, begin=begin_), joined=False)
        bench.worker.begin()
        assert known == [0]
        bench.join()

    def test_an_ended_worker_takes_nothing_until_it_begins_again(self, bench: Bench) -> None:
        log = Log()
        bench.start(log, "b", output=True)
        end(bench)
        done(bench)
        bench.up.deliver("late")
        bench.idle()
        assert log.ran == ["end"]
        bench.acker.turn("begin", 2)
        bench.settle()
        assert log.ran == ["end", "begin", "late"]

    def test_a_turn_waits_for_no_poll(self, bench: Bench) -> None:
        """It may have been read in the middle of a batch, where nothing would wake the loop for it."""
        log = Log()
        bench.start(log, "b", output=True)
        bench.worker.turns.asked = wire.Turn("end", 1)
        polled: list[int] = []
        pump = bench.worker._pump
        bench.worker._pump = lambda ms: (polled.append(ms), pump(0))  # type: ignore[method-assign,assignment]
        bench.worker.turns.record_all = lambda _buffers: None  # type: ignore[method-assign]
        bench.worker._turn(1000)
        assert polled == [0]
        assert log.ran == ["end"]


class TestRecording:
    def test_what_begin_and_end_push_is_recorded_as_roots_at_the_edges_after_the_node(self, bench: Bench) -> None:
        bench.start(Log(), "b", "c", output=True, joined=False)
        begin(bench)
        bench.join()
        end(bench)
        done(bench)
        assert bench.acker.roots() == [
            (("a->b", "a->c"), "from begin"),
            (("a->b", "a->c"), "from end"),
            (("*->output",), ["tables", "written at end"]),
        ]
        assert [head.inside for head in bench.acker.of(wire.ProducerJoin)] == [True]
        assert bench.edge("a->b").items() == [], "they travel when the acker emits them"

    def test_the_acker_hears_of_the_end_only_when_all_is_recorded(self, bench: Bench) -> None:
        bench.start(Log(), "b", output=True)
        bench.acker.recording = False
        waited: list[int] = []

        def waiting() -> None:
            bench.pump()
            bench.worker._pump(5)
            waited.append(len(bench.acker.of(wire.TurnDone)))
            if len(waited) > 5 and len(bench.acker.of(wire.Append)) == 2:
                bench.acker.give_receipts(2)

        bench.worker.wait = waiting  # type: ignore[method-assign]
        bench.acker.turn("end")
        [turn] = done(bench)
        assert len(waited) > 5
        assert not any(waited)
        assert turn == wire.TurnDone("end", 1, "a", "a.0", WORKER, "")

    def test_a_long_end_never_runs_far_ahead_of_its_receipts(self, bench: Bench) -> None:
        most: list[int] = []

        def end_(self: Node) -> None:
            for number in range(5000):
                self.push(number)
                recorder = bench.worker.turns._recorder
                most.append(recorder.outstanding if recorder is not None else 0)

        bench.start(node(lambda _self, _value: None, end=end_), "b", batch_bytes=100)
        end(bench)
        done(bench)
        assert [value for _, value in bench.acker.roots()] == list(range(5000))
        assert max(most) <= WINDOW

    def test_a_worker_that_is_stopped_before_all_is_recorded_does_not_say_that_it_has_ended(self, bench: Bench) -> None:
        wake = Wake()
        bench.start(Log(), "b", output=True)
        bench.worker.listen(wake)
        bench.acker.recording = False

        def waiting() -> None:
            bench.pump()
            if len(bench.acker.of(wire.Append)) == 2:
                wake.call()
            bench.worker._pump(5)

        bench.worker.wait = waiting  # type: ignore[method-assign]
        bench.acker.turn("end")
        bench.until(lambda: bench.worker.stopping)
        bench.worker.turns.acker.send([wire.pack(wire.NodeJoin(wire.VERSION, "mark", "", 0, 0))])
        bench.until(lambda: any(head.node == "mark" for head in bench.acker.of(wire.NodeJoin)))
        assert bench.acker.of(wire.TurnDone) == []
        wake.close()

    def test_an_acker_that_takes_nothing_any_more_is_an_error_and_no_hang(self, bench: Bench) -> None:
        bench.start(Log(), "b", joined=False)

        def waiting() -> None:
            bench.pump()
            if bench.acker.producer:
                bench.acker.socket.send_multipart([bench.acker.producer, wire.pack(wire.Refused("no such edge"))])
            bench.worker._pump(5)

        bench.acker.recording = False
        bench.worker.wait = waiting  # type: ignore[method-assign]
        with pytest.raises(RefusedError, match="no such edge"):
            bench.worker.begin()

    def test_a_value_that_cannot_be_carried_is_an_error_of_begin(self, bench: Bench) -> None:
        bench.start(node(lambda _self, _value: None, begin=lambda self: self.push(object())), "b", joined=False)
        with pytest.raises(CodecError, match="node a pushed object, which msgpack cannot carry"):
            bench.worker.begin()


class TestErrors:
    def test_an_end_that_raises_is_done_and_its_traceback_reaches_the_acker(self, bench: Bench) -> None:
        def end_(self: Node) -> None:
            self.push("half of it")
            raise ValueError("no tables")

        bench.start(node(lambda _self, _value: None, end=end_), "b")
        end(bench)
        [turn] = done(bench)
        assert turn.traceback.endswith("ValueError: no tables\n")
        assert 'raise ValueError("no tables")' in turn.traceback
        assert bench.acker.roots() == []

    def test_what_it_had_pushed_does_not_come_out_of_the_next_round(self, bench: Bench) -> None:
        def end_(self: Node) -> None:
            self.push("half of it")
            raise ValueError("no tables")

        bench.start(node(lambda self, value: self.push(value), end=end_), "b")
        end(bench)
        done(bench)
        bench.acker.turn("begin", 2)
        done(bench, 2)
        bench.up.deliver("x")
        bench.settle()
        assert bench.edge("a->b").values == ["x"]
        assert bench.acker.roots() == []

    def test_a_worker_that_is_fenced_while_it_records_ends(self, bench: Bench) -> None:
        bench.start(Log(), "b", output=True)
        bench.acker.recording = False

        def waiting() -> None:
            bench.pump()
            bench.up.send(wire.Fenced(WORKER))
            bench.worker._pump(5)

        bench.worker.wait = waiting  # type: ignore[method-assign]
        bench.acker.turn("end")
        with pytest.raises(FencedError):
            bench.until(lambda: False)
        assert bench.acker.of(wire.TurnDone) == []


class TestAcker:
    def test_it_is_greeted_with_the_round_and_with_whether_the_node_has_ended(self, bench: Bench) -> None:
        bench.start(Log(), "b", output=True)
        end(bench, 1)
        done(bench)
        bench.acker.turn("begin", 2)
        done(bench, 2)
        for number, state in enumerate([2, -2], 2):
            bench.acker.socket.close()
            bench.acker.open()
            bench.until(lambda number=number: len(bench.acker.of(wire.NodeJoin)) == number)
            assert bench.acker.of(wire.NodeJoin)[-1] == wire.NodeJoin(wire.VERSION, "a", "a.0", WORKER, state)
            if state > 0:
                end(bench, 2)
                done(bench, 3)
        assert bench.acker.of(wire.NodeJoin)[0].round == 0

    def test_an_end_that_is_asked_for_twice_runs_once_and_is_answered_twice(self, bench: Bench) -> None:
        log = Log()
        bench.start(log, "b", output=True)
        end(bench)
        [first] = done(bench)
        bench.acker.turn("end")
        assert done(bench, 2) == [first, first]
        assert log.ran == ["end"]

    def test_rounds_run_again_and_again(self, bench: Bench) -> None:
        log = Log()
        bench.start(log, "b", output=True)
        for round in (1, 2, 3):
            if round > 1:
                bench.acker.turn("begin", round)
                done(bench, 2 * round - 2)
            end(bench, round)
            done(bench, 2 * round - 1)
        assert log.ran == ["end", "begin", "end", "begin", "end"]
        assert [(turn.what, turn.round) for turn in done(bench, 5)] == [
            ("end", 1), ("begin", 2), ("end", 2), ("begin", 3), ("end", 3),
        ]  # fmt: skip

    def test_one_that_comes_back_in_the_middle_of_an_end_is_told_of_it(self, bench: Bench) -> None:
        """A new acker was greeted by a node that had not ended yet, and would wait for it to work."""
        bench.start(Log(), "b", output=True)
        bench.acker.recording = False
        replaced: list[bool] = []

        def waiting() -> None:
            bench.pump()
            if len(bench.acker.of(wire.Append)) == 2 and not replaced:
                replaced.append(True)
                bench.acker.socket.close()
                bench.acker.open()
            elif len(bench.acker.of(wire.NodeJoin)) == 2 and len(bench.acker.of(wire.ProducerJoin)) == 2:
                bench.acker.give_receipts(2)
            bench.worker._pump(5)

        bench.worker.wait = waiting  # type: ignore[method-assign]
        bench.acker.turn("end")
        bench.until(lambda: len(bench.acker.of(wire.NodeJoin)) == 3)
        assert [head.round for head in bench.acker.of(wire.NodeJoin)] == [0, 0, -1]
