"""The acker on a real socket: how a graph ends, node by node, in rounds, and what a stop leaves in the log."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from consecutiond_broker import wire
from tests.acker.bench import MID, Bench, Edge, Sent, Source, Worker


class Ending:
    """A bench with all brokers and workers, and a producer that waits for the end."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.bench = Bench(directory, **options)
        self.greet()

    def greet(self, state: int = 0) -> None:
        self.entry: Edge = self.bench.up()
        self.parse = [Worker(self.bench, name, state) for name in ("parse.0", "parse.1")]
        self.count = Worker(self.bench, "count.0", state)
        self.producer: Source = self.bench.producer()

    @property
    def workers(self) -> list[Worker]:
        return [*self.parse, self.count]

    def turns(self) -> list[list[tuple[str, int]]]:
        self.bench.settle()
        return [worker.turns for worker in self.workers]

    def end_all(self, round_: int = 1) -> None:
        for worker in self.workers:
            self.bench.until(lambda worker=worker: ("end", round_) in worker.turns)
            worker.done("end", round_)

    def finished(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads(self.producer.expect(wire.Finished)[-1].summary)
        return summary

    def drain(self) -> None:
        self.bench.peers[0].send(wire.Drain("the consecutor was told to stop"))
        self.bench.peers[0].fence()


END = ("end", 1)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Ending]]:
    made: list[Ending] = []

    def make(**options: Any) -> Ending:
        made.append(Ending(tmp_path, **options))
        return made[-1]

    yield make
    for ending in made:
        ending.bench.close()


@pytest.fixture
def ending(make: Callable[..., Ending]) -> Ending:
    return make()


class TestOrder:
    def test_no_node_ends_while_the_input_goes_on(self, ending: Ending) -> None:
        ending.producer.record("a")
        ending.entry.complete(*ending.entry.take())
        assert ending.turns() == [[], [], []]

    def test_no_node_ends_while_a_root_is_open(self, ending: Ending) -> None:
        ending.producer.record("a")
        ending.producer.end()
        [batch] = ending.entry.take()
        assert ending.turns() == [[], [], []]
        ending.entry.complete(batch)
        ending.bench.until(lambda: ending.parse[0].turns == [END])

    def test_nodes_end_in_order_each_when_all_workers_of_the_one_before_have(self, ending: Ending) -> None:
        ending.producer.end()
        assert ending.turns() == [[END], [END], []]
        ending.parse[0].done()
        assert ending.turns() == [[END], [END], []]
        ending.parse[1].done()
        assert ending.turns() == [[END], [END], [END]]
        assert ending.producer.of(wire.Finished) == []
        ending.count.done()
        assert ending.finished()["phase"] == "finished"

    def test_what_end_pushes_enters_after_its_node_and_the_next_waits_for_it(self, ending: Ending) -> None:
        node = ending.bench.producer(b"node", inside=True)
        ending.producer.end()
        ending.turns()
        node.record("last words", entry=(MID,))
        for worker in ending.parse:
            worker.done()
        [batch] = ending.bench.mid.take()
        assert batch.values == ["last words"]
        assert ending.turns()[2] == []
        ending.bench.mid.complete(batch)
        ending.bench.until(lambda: ending.count.turns == [END])

    def test_the_end_is_told_once_everything_is_on_the_disk(self, ending: Ending) -> None:
        ending.producer.record("a")
        ending.producer.end()
        ending.entry.complete(*ending.entry.take())
        ending.end_all()
        summary = ending.finished()
        assert (summary["completed"], summary["open"]) == (1, 0)
        assert ending.bench.chunks() == []
        assert [peer for peer in ending.bench.peers if peer.of(wire.Finished)] == [
            ending.bench.peers[0], ending.producer,
        ]  # fmt: skip

    def test_what_raised_in_end_is_told_at_the_end_and_holds_nothing_up(self, ending: Ending) -> None:
        ending.producer.end()
        ending.parse[0].done(traceback="Traceback …")
        ending.end_all()
        assert ending.finished()["node_errors"] == [["parse.0", "end", "Traceback …"]]

    def test_dead_letters_hold_no_end_up(self, make: Callable[..., Ending]) -> None:
        ending = make(max_attempts=1)
        ending.producer.record("a")
        ending.producer.end()
        ending.entry.fail(*ending.entry.take())
        ending.end_all()
        assert (ending.finished()["failed"], ending.bench.stats()["open"]) == (1, 0)

    def test_a_producer_that_missed_the_word_hears_it_when_it_asks_again(self, ending: Ending) -> None:
        ending.producer.end()
        ending.end_all()
        ending.finished()
        late = ending.bench.producer()
        late.end()
        late.expect(wire.Finished)

    def test_after_the_end_no_input_is_taken(self, ending: Ending) -> None:
        ending.producer.end()
        ending.end_all()
        ending.finished()
        late = ending.bench.producer(b"late")
        late.append("a")
        late.fence()
        assert late.of(wire.Refused)[0].reason == "the graph has ended"
        ending.bench.settle()
        assert ending.bench.stats()["accepted"] == 0


class TestWorkersThatDie:
    def test_one_that_dies_in_its_end_ends_again(self, ending: Ending) -> None:
        ending.producer.end()
        ending.parse[0].done()
        ending.turns()
        again = Worker(ending.bench, "parse.1")
        assert again.turns == [END]
        again.done()
        ending.bench.until(lambda: ending.count.turns == [END])

    def test_one_that_dies_after_its_end_does_not_end_again(self, ending: Ending) -> None:
        ending.producer.end()
        ending.parse[0].done()
        ending.bench.settle()
        assert Worker(ending.bench, "parse.0").turns == []

    def test_one_whose_word_was_lost_is_asked_again(self, ending: Ending) -> None:
        ending.producer.end()
        ending.turns()
        ending.parse[0].join(state=-1)
        assert ending.parse[0].turns == [END, END]


class TestRounds:
    def came_after_the_end_began(self, ending: Ending) -> None:
        """A root is recorded when `parse` is ending already, so it cannot enter any more."""
        late = ending.bench.producer(b"late")
        ending.producer.end()
        late.end()
        ending.bench.until(lambda: ending.parse[0].turns == [END])
        late.append("a")
        ending.bench.settle()

    def test_a_root_that_cannot_enter_any_more_gets_another_round(self, ending: Ending) -> None:
        self.came_after_the_end_began(ending)
        assert ending.entry.values == []
        ending.end_all()
        for worker in ending.workers:
            ending.bench.until(lambda worker=worker: worker.turns[-1] == ("begin", 2))
        assert ending.producer.of(wire.Finished) == []
        for worker in ending.workers:
            worker.done("begin", 2)
        ending.entry.complete(*ending.entry.take())
        ending.end_all(2)
        summary = ending.finished()
        assert (summary["completed"], summary["open"], summary["round"]) == (1, 0, 2)

    def test_nothing_enters_before_every_node_has_begun_anew(self, ending: Ending) -> None:
        self.came_after_the_end_began(ending)
        ending.end_all()
        for worker in ending.parse:
            ending.bench.until(lambda worker=worker: worker.turns[-1] == ("begin", 2))
            worker.done("begin", 2)
        ending.bench.settle()
        assert ending.entry.values == []

    def test_a_retry_that_may_still_enter_is_waited_for(self, make: Callable[..., Ending]) -> None:
        ending = make(retry_backoff_s=0.2)
        ending.producer.record("a")
        ending.producer.end()
        ending.entry.fail(*ending.entry.take())
        assert ending.turns() == [[], [], []]
        ending.entry.complete(*ending.entry.take())
        ending.end_all()
        assert ending.finished()["completed"] == 1

    def test_a_root_that_end_pushed_and_that_fails_is_retried_in_the_same_round(self, ending: Ending) -> None:
        node = ending.bench.producer(b"node", inside=True)
        ending.producer.end()
        ending.turns()
        node.record("pushed by end", entry=(MID,))
        for worker in ending.parse:
            worker.done()
        ending.bench.mid.fail(*ending.bench.mid.take())
        # It enters at `count`, which has not ended.
        ending.bench.mid.complete(*ending.bench.mid.take())
        ending.count.done()
        assert ending.finished()["round"] == 1


class TestStop:
    def test_a_drain_refuses_input_and_finishes_what_is_open(self, ending: Ending) -> None:
        ending.producer.record("a")
        ending.drain()
        assert ending.producer.of(wire.Refused) == [wire.Refused("the consecutor was told to stop")]
        ending.producer.append("b")
        assert ending.turns() == [[], [], []]
        ending.entry.complete(*ending.entry.take())
        ending.end_all()
        ending.bench.peers[0].expect(wire.Finished)
        assert (ending.bench.stats()["accepted"], ending.bench.stats()["completed"]) == (1, 1)

    def test_a_drain_does_not_wait_for_the_input_to_end(self, ending: Ending) -> None:
        ending.drain()
        ending.end_all()
        ending.bench.peers[0].expect(wire.Finished)

    def test_a_drain_leaves_retries_in_the_log_for_the_next_start(self, make: Callable[..., Ending]) -> None:
        ending = make(kind="sqlite", retry_backoff_s=60.0, retry_backoff_max_s=60.0)
        ending.producer.record("a")
        ending.entry.fail(*ending.entry.take())
        ending.drain()
        ending.end_all()
        ending.bench.peers[0].expect(wire.Finished)
        assert (ending.bench.stats()["open"], ending.bench.stats()["waiting"]) == (1, 1)
        ending.bench.restart(retry_backoff_max_s=0.0)
        assert ending.bench.up().take()[0].head.attempt == 2

    def test_what_the_end_pushes_is_taken_during_a_drain(self, ending: Ending) -> None:
        node = ending.bench.producer(b"node", inside=True)
        ending.drain()
        ending.turns()
        node.record("last words", entry=(MID,))
        assert ending.bench.mid.take()[0].values == ["last words"]

    def test_a_producer_that_lost_a_receipt_hears_during_a_drain_what_is_recorded(self, ending: Ending) -> None:
        ending.producer.record("a")
        ending.drain()
        assert ending.producer.join() == 1

    def test_one_that_waits_hears_of_the_end_from_an_acker_that_started_during_the_drain(self, ending: Ending) -> None:
        ending.bench.restart()
        ending.greet()
        ending.drain()
        assert ending.producer.join() == 0
        ending.producer.end()
        ending.end_all()
        ending.finished()


class TestAckersThatDie:
    def test_one_that_is_killed_in_the_end_has_all_that_ended_begin_again(self, ending: Ending) -> None:
        ending.producer.record("a")
        ending.bench.restart()
        ending.greet(state=-1)
        assert [worker.turns for worker in ending.workers] == [[("begin", 2)]] * 3
        ending.producer.end()
        ending.entry.complete(*ending.entry.take())
        ending.end_all(2)
        assert ending.finished()["completed"] == 1

    def test_the_heart_that_comes_back_after_the_end_hears_of_it(self, ending: Ending) -> None:
        ending.producer.end()
        ending.end_all()
        ending.finished()
        ending.bench.heart().expect(wire.Finished)


class TestHeldItems:
    """The input's broker has a batch of which `parse` holds an item; nothing else is anywhere."""

    @pytest.fixture
    def batch(self, ending: Ending) -> Sent:
        ending.producer.record("a")
        ending.producer.end()
        [batch] = ending.entry.take()
        ending.bench.until(lambda: self.answer(ending) >= 0 and ending.parse[0].turns)
        return batch

    def answer(self, ending: Ending) -> int:
        """Answer every probe; return how many the input's broker had."""
        count = len(ending.entry.of(wire.Probe))
        for broker in (ending.bench.mid, ending.bench.out, ending.entry):
            for probe in broker.of(wire.Probe):
                broker.send(wire.Idle(probe.number, 0, 0, 0, activity=1, parked=int(broker is ending.entry)))
            broker.heard = [each for each in broker.heard if not isinstance(each[0], wire.Probe)]
        return count

    def test_they_hold_up_neither_the_nodes_before_their_holder_nor_itself(self, ending: Ending, batch: Sent) -> None:
        assert ending.turns() == [[END], [END], []]

    def test_the_next_node_waits_for_what_was_held(self, ending: Ending, batch: Sent) -> None:
        for worker in ending.parse:
            worker.done()
        assert ending.turns()[2] == []
        ending.entry.complete(batch)
        ending.end_all()
        assert ending.finished()["completed"] == 1

    def test_the_graph_has_not_ended_while_one_is_open(self, ending: Ending, batch: Sent) -> None:
        for worker in ending.parse:
            worker.done()
        ending.bench.until(lambda: self.answer(ending) >= 0 and ending.count.turns)
        ending.count.done()
        for _ in range(4):
            ending.bench.until(lambda: self.answer(ending))
        assert ending.producer.of(wire.Finished) == []
        ending.entry.complete(batch)
        assert ending.finished()["completed"] == 1

    def test_one_that_fails_in_the_end_waits_for_the_next_round(self, ending: Ending, batch: Sent) -> None:
        for worker in ending.parse:
            worker.done()
        ending.entry.fail(batch)
        ending.end_all()
        ending.bench.until(lambda: ending.count.turns[-1] == ("begin", 2))
        assert ending.entry.values == []
        for worker in ending.workers:
            worker.done("begin", 2)
        ending.entry.complete(*ending.entry.take())
        ending.end_all(2)
        assert ending.finished()["completed"] == 1

    def test_a_drain_leaves_one_that_fails_in_the_end_in_the_log(self, ending: Ending, batch: Sent) -> None:
        ending.drain()
        for worker in ending.parse:
            worker.done()
        ending.entry.fail(batch)
        ending.end_all()
        ending.bench.peers[0].expect(wire.Finished)
        assert (ending.bench.stats()["open"], ending.bench.stats()["waiting"]) == (1, 1)
