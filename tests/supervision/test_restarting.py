"""Restarts that are asked for at the heart's control socket; the parts are real processes that do not listen to us."""

import signal

import msgspec

from consecutiond.restart import Progress, Request
from consecutiond_broker import wire
from tests.supervision.harness import Harness, identity

NODES = {"a": ("one",), "b": ("two",), "output": ("out",)}


def ask(harness: Harness, token: str = "t", node: str = "", *, begin: bool = True, end_s: float | None = None) -> None:
    request = Request(token, node, end_s, begin)
    harness.client.send(wire.pack(wire.Ask(1, "restart", msgspec.json.encode(request))))


def told(harness: Harness) -> Progress:
    answer = harness.answer()
    assert answer.error == ""
    return msgspec.json.decode(answer.body, type=Progress)


def live(harness: Harness, name: str, epoch: int) -> None:
    process = harness.process()
    harness.beat(name, epoch=epoch, identity=identity(process))
    harness.until(lambda: harness.part(name).epoch == epoch and harness.part(name).state == "ready", "it is up")


def up(harness: Harness) -> None:
    harness.start_ready(parts=("one", "two", "out"), restartable=NODES)
    for name in ("one", "two", "out"):
        live(harness, name, 2)


def test_parts_are_ended_and_started_one_after_the_other_without_a_delay(harness: Harness) -> None:
    up(harness)
    ask(harness)
    assert told(harness).outcome == "under way"
    harness.until(lambda: harness.root.started == ["one"], "the first is started again")
    assert harness.heart.parts.lives("two")
    live(harness, "one", 3)
    harness.until(lambda: harness.root.started == ["one", "two"], "then the second")
    live(harness, "two", 3)
    ask(harness, begin=False)
    assert told(harness) == Progress("done", restarted=("one", "two"))
    assert harness.heart.parts.lives("out")


def test_a_request_that_is_heard_again_begins_nothing_again_and_another_has_to_wait(harness: Harness) -> None:
    up(harness)
    ask(harness, node="a")
    told(harness)
    ask(harness, node="a")
    assert told(harness).outcome == "under way"
    ask(harness, "other", "b")
    assert told(harness).outcome == "busy"
    harness.until(lambda: harness.root.started == ["one"], "it is started again")
    live(harness, "one", 3)
    ask(harness, node="a")
    assert told(harness).outcome == "done"
    harness.turn(3)
    assert harness.root.started == ["one"]


def test_one_that_is_deaf_is_killed_after_its_time(harness: Harness) -> None:
    up(harness)
    process = harness.process(deaf=True)
    harness.beat("one", epoch=3, identity=identity(process))
    harness.until(lambda: harness.part("one").epoch == 3, "the deaf one beats")
    ask(harness, node="a", end_s=5.0)
    told(harness)
    harness.turn(3)
    assert process.poll() is None
    harness.clock.advance(5.0)
    harness.until(lambda: harness.root.started == ["one"], "it is dead, and started again")
    assert process.wait() == -signal.SIGKILL
    live(harness, "one", 4)
    ask(harness, begin=False)
    assert told(harness).killed == ("one",)


def test_a_part_that_was_given_up_is_started_again_even_if_no_node_is_named(harness: Harness) -> None:
    harness.start_ready(parts=("one", "out"), restartable={"a": ("one",), "output": ("out",)}, restart_limit=1)
    live(harness, "one", 2)
    process = harness.process()
    harness.beat("out", "failed", epoch=2, identity=identity(process), detail="no disk")
    harness.until(lambda: harness.part("out").epoch == 2, "it says why")
    process.kill()
    harness.until(lambda: harness.part("out").given_up, "it is given up")
    assert harness.heart.status()["state"] == "degraded"
    ask(harness)
    told(harness)
    harness.until(lambda: harness.root.started == ["one"], "the worker is restarted")
    live(harness, "one", 3)
    harness.until(lambda: harness.root.started == ["one", "out"], "the given up one is started")
    live(harness, "out", 3)
    ask(harness, begin=False)
    assert told(harness).outcome == "done"
    assert harness.heart.status()["state"] == "running"


def test_a_new_heart_begins_nothing_before_it_knows_the_parts_and_knows_no_older_restart(harness: Harness) -> None:
    up(harness)
    harness.replace()
    ask(harness, begin=False)
    assert told(harness).outcome == "broken off"
    ask(harness)
    harness.turn(5)
    assert not harness.answered()
    for name in ("one", "two"):
        live(harness, name, 3)
    ask(harness)
    assert told(harness).outcome == "under way"


def test_a_stop_breaks_it_off(harness: Harness) -> None:
    up(harness)
    ask(harness)
    told(harness)
    harness.ask("stop", 2)
    harness.until(lambda: harness.heard_of(wire.Drain), "the stop is begun")
    ask(harness, begin=False)
    assert told(harness).outcome == "broken off"
    ask(harness, "another")
    assert told(harness).outcome == "broken off"
    harness.until(lambda: harness.root.started == ["one"], "who was asked is there again, for what is open")


def test_what_there_is_not_is_named(harness: Harness) -> None:
    up(harness)
    ask(harness, node="c")
    assert told(harness) == Progress("unknown", "there is no node 'c'; there is: a, b, output")


def test_threads_cannot_be_restarted(harness: Harness) -> None:
    harness.start_ready()
    ask(harness)
    assert "threads of one process" in told(harness).error
