"""How a graph ends: in topological order, node by node, each worker once, and in rounds."""

import pytest

from consecutiond.acker import ends
from consecutiond.acker.ends import Ends
from consecutiond_broker.wire import Turn, TurnDone

NODES = {"parse": ("parse.0", "parse.1"), "count": ("count.0",)}


def done(worker: str, what: str = "end", round_: int = 1, traceback: str = "") -> TurnDone:
    return TurnDone(what, round_, worker.partition(".")[0], worker, 1, traceback)


@pytest.fixture
def machine() -> Ends:
    return Ends(NODES)


@pytest.fixture
def all_ended(machine: Ends) -> Ends:
    machine.start()
    machine.done(done("parse.0"))
    machine.done(done("parse.1"))
    machine.advance()
    machine.done(done("count.0"))
    assert machine.advance() == []
    assert machine.phase == ends.ENDED
    return machine


def begun_again(machine: Ends) -> Ends:
    machine.again()
    for worker in ("parse.0", "parse.1", "count.0"):
        machine.done(done(worker, "begin", machine.round))
    assert machine.phase == ends.RUNNING
    return machine


def test_nodes_end_in_topological_order_each_after_all_workers_of_the_one_before(machine: Ends) -> None:
    assert machine.current is None
    assert machine.start() == [("parse.0", Turn("end", 1)), ("parse.1", Turn("end", 1))]
    assert (machine.current, machine.current_done()) == ("parse", False)
    machine.done(done("parse.0"))
    assert not machine.current_done()
    machine.done(done("parse.1"))
    assert machine.current_done()
    assert machine.advance() == [("count.0", Turn("end", 1))]
    assert (machine.current, machine.current_done()) == ("count", False)
    machine.done(done("count.0"))
    assert machine.current_done()
    assert machine.advance() == []
    assert (machine.phase, machine.current) == (ends.ENDED, None)


def test_a_root_may_not_enter_a_node_that_ends_or_has_ended_but_those_below(machine: Ends) -> None:
    assert not machine.has_ended("parse")
    machine.start()
    assert (machine.has_ended("parse"), machine.has_ended("count")) == (True, False)
    machine.advance()
    assert (machine.has_ended("parse"), machine.has_ended("count")) == (True, True)


def test_the_output_never_ends(all_ended: Ends) -> None:
    assert all_ended.has_ended("count")
    assert not all_ended.has_ended("output")


def test_the_word_of_another_node_round_or_turn_ends_nothing(machine: Ends) -> None:
    machine.start()
    machine.done(done("count.0"))
    for late in (done("parse.0", round_=0), done("parse.0", "begin"), done("parse.0", round_=2)):
        machine.done(late)
    machine.done(done("parse.1"))
    assert not machine.current_done()
    machine.done(done("parse.0"))
    machine.advance()
    assert not machine.current_done(), "what count.0 said before its turn does not count"


def test_errors_are_kept_with_worker_turn_and_traceback_once_each(machine: Ends) -> None:
    machine.start()
    machine.done(done("parse.0", traceback="ZeroDivisionError"))
    machine.done(done("parse.0", traceback="ZeroDivisionError"))
    machine.done(done("parse.1"))
    assert machine.errors == [("parse.0", "end", "ZeroDivisionError")]
    assert machine.current_done(), "an end that raised is over all the same"


class TestWorkersThatComeBack:
    def test_one_that_died_in_its_end_ends_again(self, machine: Ends) -> None:
        machine.start()
        machine.done(done("parse.1"))
        assert machine.joined("parse", "parse.0", 0) == Turn("end", 1)

    def test_one_that_has_ended_is_not_asked_again(self, machine: Ends) -> None:
        machine.start()
        machine.done(done("parse.1"))
        assert machine.joined("parse", "parse.1", -1) is None

    def test_one_of_another_node_is_not_asked(self, machine: Ends) -> None:
        machine.start()
        assert machine.joined("count", "count.0", 0) is None

    def test_before_the_end_nobody_is_asked(self, machine: Ends) -> None:
        assert machine.joined("parse", "parse.0", 0) is None
        assert machine.joined("parse", "parse.0", 1) is None

    def test_after_an_acker_was_killed_during_the_end_those_that_had_ended_begin_again(self, machine: Ends) -> None:
        """The new acker knows nothing of the end: the next round has a number that nobody has used."""
        assert machine.joined("parse", "parse.0", -4) == Turn("begin", 5)
        assert machine.joined("parse", "parse.1", -4) == Turn("begin", 5)
        assert machine.start()[0] == ("parse.0", Turn("end", 5))

    def test_a_fresh_one_during_a_new_round_has_begun_already(self, all_ended: Ends) -> None:
        all_ended.again()
        all_ended.done(done("parse.0", "begin", 2))
        all_ended.done(done("count.0", "begin", 2))
        assert all_ended.joined("parse", "parse.1", 0) is None
        assert all_ended.phase == ends.RUNNING

    def test_one_that_had_ended_is_asked_to_begin_the_new_round(self, all_ended: Ends) -> None:
        all_ended.again()
        assert all_ended.joined("parse", "parse.1", -1) == Turn("begin", 2)
        all_ended.done(done("parse.1", "begin", 2))
        assert all_ended.joined("parse", "parse.1", 2) is None


class TestRounds:
    def test_in_a_new_round_every_worker_begins_and_nothing_enters_until_all_have(self, all_ended: Ends) -> None:
        turns = all_ended.again()
        assert turns == [
            ("parse.0", Turn("begin", 2)), ("parse.1", Turn("begin", 2)), ("count.0", Turn("begin", 2))
        ]  # fmt: skip
        for worker in ("parse.0", "parse.1"):
            all_ended.done(done(worker, "begin", 2))
            assert all_ended.phase == ends.BEGINNING
            assert all_ended.has_ended("parse")
        all_ended.done(done("count.0", "begin", 2))
        assert all_ended.phase == ends.RUNNING
        assert not all_ended.has_ended("parse")

    def test_a_word_of_the_round_before_does_not_count(self, all_ended: Ends) -> None:
        begun_again(all_ended).start()
        all_ended.done(done("parse.0", round_=1))
        all_ended.done(done("parse.1", round_=1))
        assert not all_ended.current_done()

    def test_a_second_round_ends_like_the_first(self, all_ended: Ends) -> None:
        machine = begun_again(all_ended)
        assert machine.start() == [("parse.0", Turn("end", 2)), ("parse.1", Turn("end", 2))]
        machine.done(done("parse.0", round_=2))
        machine.done(done("parse.1", round_=2))
        assert machine.advance() == [("count.0", Turn("end", 2))]

    def test_the_last_round_finishes(self, all_ended: Ends) -> None:
        all_ended.finish()
        assert all_ended.phase == ends.FINISHED
