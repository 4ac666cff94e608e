"""The heart's start, stop and control socket; the acker and the parts are played by the test."""

from pathlib import Path

import msgspec
import pytest
import zmq

from consecutiond.supervision.barrier import read_start
from consecutiond_broker import wire
from consecutiond_broker.wake import Wake
from tests.supervision.harness import ROOT, SHUTDOWN_STATE, Harness, identity, refusal


def finished(harness: Harness) -> bool:
    """Wait for the answer to a stop; return whether the graph had ended by then."""
    return bool(msgspec.json.decode(harness.answer().body)["finished"])


# --- the ready barrier -----------------------------------------------------------------------------------------


def test_the_graph_is_up_when_every_part_and_the_acker_are(harness: Harness) -> None:
    harness.start()
    harness.ask("wait")
    harness.beat("one")
    harness.beat("two", "starting")
    harness.acker()
    harness.until(lambda: harness.heard_of(wire.HeartJoin), "the acker is greeted")
    harness.settle()
    assert [head.ready for head in harness.heard_of(wire.HeartJoin)] == [False]
    assert not harness.answered()
    harness.beat("two")
    harness.until(lambda: harness.heard_of(wire.HeartJoin)[-1].ready, "the barrier is opened")
    answer = harness.answer()
    assert (answer.error, answer.body) == ("", b'{"ready":true}')


def test_no_barrier_opens_without_the_acker(harness: Harness) -> None:
    harness.start()
    harness.beat("one")
    harness.beat("two")
    harness.settle()
    harness.turn(3)
    assert not harness.heart.ready
    harness.acker()
    harness.until(lambda: harness.heart.ready, "the graph is up")


def test_who_waits_for_a_graph_that_is_up_is_answered_at_once(harness: Harness) -> None:
    harness.start_ready()
    harness.ask("wait", 17)
    answer = harness.answer()
    assert (answer.number, answer.error) == (17, "")


def test_a_new_acker_is_told_that_the_graph_is_up(harness: Harness) -> None:
    """Else nothing would flow after its restart."""
    harness.start_ready()
    harness.heard.clear()
    harness.acker()
    harness.until(lambda: harness.heard_of(wire.HeartJoin), "the new acker is greeted")
    assert harness.heard_of(wire.HeartJoin)[-1].ready


@pytest.mark.parametrize("asked", ["before", "after"])
def test_a_part_that_cannot_start_fails_the_start_with_its_own_words(harness: Harness, asked: str) -> None:
    harness.start()
    if asked == "before":
        harness.ask("wait")
    harness.beat("one", "failed", detail="Traceback …\nValueError: in begin\n")
    harness.until(lambda: harness.heart.failed, "the start is given up")
    if asked == "after":
        harness.ask("wait")
    assert harness.answer().error == "one could not start:\nTraceback …\nValueError: in begin"


def test_parts_that_are_not_up_in_time_fail_the_start_by_name(harness: Harness) -> None:
    harness.start(start_timeout_s=60.0)
    harness.ask("wait")
    harness.beat("one")
    harness.settle()
    harness.clock.advance(59.9)
    harness.turn(3)
    assert not harness.answered()
    harness.clock.advance(0.2)
    assert harness.answer().error == "two did not come up within start_timeout_s = 60 s"


def test_a_part_that_ends_before_its_first_word_fails_the_start(harness: Harness) -> None:
    harness.start()
    harness.ask("wait")
    harness.root.programs = {"one": "EXITED", "two": "RUNNING"}
    harness.clock.advance(1.1)
    harness.turn(2)
    assert not harness.answered(), "its last words may still be on their way"
    harness.clock.advance(1.1)
    assert "one ended before it was up (exit status 1)" in harness.answer().error


def test_a_start_that_failed_stops_everything_after_a_while_and_restarts_nothing(harness: Harness) -> None:
    """Whoever waits has time to ask why; a service that nobody asks does not stay half up."""
    harness.start()
    harness.beat("one", "failed", detail="x", identity=(1 << 21, 1))
    harness.until(lambda: harness.heart.failed, "the start is given up")
    harness.clock.advance(4.9)
    harness.turn(3)
    assert harness.root.shutdowns == 0
    harness.clock.advance(0.2)
    harness.turn(3)
    assert harness.root.shutdowns == 1
    assert harness.root.started == []


def test_a_heart_that_follows_a_failed_start_does_not_begin_it_again(harness: Harness) -> None:
    harness.start()
    harness.beat("one", "failed", detail="why")
    harness.until(lambda: harness.heart.failed, "the start is given up")
    harness.replace()
    harness.ask("wait")
    assert "why" in harness.answer().error
    harness.clock.advance(5.1)
    harness.turn()
    assert harness.root.shutdowns == 1


# --- a heart that comes back -------------------------------------------------------------------------------------


def test_a_heart_that_comes_back_does_not_take_a_running_graph_for_one_that_starts(harness: Harness) -> None:
    """A part that is missing just then, or cannot start again, must not fail what flows, nor hold up a new acker."""
    harness.start_ready()
    harness.heard.clear()
    harness.replace()
    harness.acker()
    harness.until(lambda: harness.heard_of(wire.HeartJoin), "the acker is greeted")
    assert harness.heard_of(wire.HeartJoin)[0].ready
    harness.beat("one", "failed", epoch=2, detail="begin raised")
    harness.settle()
    harness.clock.advance(harness.options.start_timeout_s + 1)
    harness.turn(3)
    assert not harness.heart.failed
    assert harness.heart.status()["state"] == "running"


def test_what_another_root_has_left_says_nothing_of_this_start(harness: Harness) -> None:
    harness.start_ready()
    harness.heart.close()
    harness.start(root=(4712, 99))
    assert not harness.heart.ready


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"root":[4711,99],"ready":7,"failed":""}', b"\xff"])
def test_a_damaged_record_of_the_start_is_none(harness: Harness, content: bytes) -> None:
    (harness.directory / "graph.start").write_bytes(content)
    assert not harness.start().ready


def test_a_heart_that_no_other_follows_keeps_no_record(harness: Harness) -> None:
    harness.start(root=None)
    harness.acker()
    for name in harness.options.parts:
        harness.beat(name)
    harness.until(lambda: harness.heart.ready, "the graph is up")
    assert not (harness.directory / "graph.start").exists()


def test_a_record_that_cannot_be_written_does_not_end_the_heart(harness: Harness, tmp_path: Path) -> None:
    harness.start(pid_dir=str(tmp_path / "gone"))
    harness.acker()
    for name in harness.options.parts:
        harness.beat(name)
    harness.until(lambda: harness.heart.ready, "the graph is up")


# --- status ----------------------------------------------------------------------------------------------------


def test_status_has_the_parts_and_the_ackers_counters(harness: Harness) -> None:
    harness.start_ready()
    harness.ask("status")
    harness.until(lambda: harness.heard_of(wire.StatsAsk), "the acker is asked")
    assert not harness.answered()
    harness.tell(wire.Stats(1, b'{"accepted":5}'))
    status = msgspec.json.decode(harness.answer().body)
    assert (status["state"], status["accepted"], status["acker_connected"]) == ("running", 5, True)
    assert set(status["parts"]) == {"one", "two"}


def test_status_does_not_wait_for_ever_for_an_acker_that_is_away(harness: Harness) -> None:
    harness.start()
    harness.ask("status")
    harness.until(lambda: harness.heart._status_asked, "it is heard")
    harness.turn(3)
    assert not harness.answered()
    harness.clock.advance(2.1)
    status = msgspec.json.decode(harness.answer().body)
    assert (status["state"], status["accepted"], status["acker_connected"]) == ("starting", None, False)


@pytest.mark.parametrize("word", [[b"rubbish"], [wire.pack(wire.Stats(1, b"no json"))]])
def test_an_unreadable_word_of_the_acker_is_dropped(harness: Harness, word: list[bytes]) -> None:
    harness.start_ready()
    assert harness._acker is not None
    harness._acker.send_multipart([harness._heart_peer, *word])
    harness.until(lambda: harness.heart._malformed == 1, "it is counted")


# --- stop ------------------------------------------------------------------------------------------------------


def test_stop_drains_the_graph_and_then_stops_everything(harness: Harness) -> None:
    harness.start_ready()
    harness.ask("stop")
    harness.until(lambda: harness.heard_of(wire.Drain), "the acker is told to drain")
    harness.turn(3)
    assert harness.root.shutdowns == 0
    assert not harness.answered()
    assert harness.heart.status()["state"] == "draining"
    harness.tell(wire.Finished(b"{}"))
    assert finished(harness)
    assert harness.root.shutdowns == 1


def test_a_drain_that_takes_too_long_is_cut_off(harness: Harness) -> None:
    harness.start_ready()
    harness.ask("stop")
    harness.until(lambda: harness.heard_of(wire.Drain), "the acker is told to drain")
    harness.clock.advance(harness.options.stop_timeout_s - 0.1)
    harness.turn(3)
    assert harness.root.shutdowns == 0
    harness.clock.advance(0.2)
    cut(harness)
    assert not finished(harness)
    assert harness.root.shutdowns == 1


def cut(harness: Harness) -> None:
    """Wait until the acker hears that the time is over, and have it say that it knows."""
    harness.until(lambda: any(head.cut for head in harness.heard_of(wire.Drain)), "the acker hears of the cut")
    harness.tell(wire.Stats(1, b'{"cut":true}'))


def test_whoever_asks_for_a_stop_says_how_long_it_may_take(harness: Harness) -> None:
    harness.start_ready()
    harness.client.send(wire.pack(wire.Ask(1, "stop", b"3.500")))
    harness.until(lambda: harness.heard_of(wire.Drain), "the acker is told to drain")
    harness.clock.advance(3.4)
    harness.turn(3)
    assert not any(head.cut for head in harness.heard_of(wire.Drain))
    harness.clock.advance(0.2)
    cut(harness)
    assert not finished(harness)


@pytest.mark.parametrize("args", [b"soon", b"-1", b"nan", b"\xff"])
def test_seconds_that_are_none_are_the_hearts_own(harness: Harness, args: bytes) -> None:
    harness.start_ready()
    harness.client.send(wire.pack(wire.Ask(1, "stop", args)))
    harness.until(lambda: harness.heart._draining is not None, "it is to stop")
    assert harness.heart._draining == harness.clock.now() + harness.options.stop_timeout_s


def test_the_workers_are_killed_from_the_top_when_the_time_is_over(harness: Harness) -> None:
    """The lower one is killed only when the upper one is proven dead, and none before the acker knows."""
    harness.start_ready(kill_tiers=(("one",), ("two",)))
    upper, lower = harness.process(), harness.process()
    harness.beat("one", epoch=2, identity=identity(upper))
    harness.beat("two", epoch=2, identity=identity(lower))
    harness.settle()
    order = []
    kill = harness.heart.parts.kill
    lives = harness.heart.parts.lives
    harness.heart.parts.kill = lambda name: (order.append((name, lives("one"), lives("two"))), kill(name))  # type: ignore[method-assign,assignment]
    harness.ask("stop")
    harness.until(lambda: harness.heard_of(wire.Drain), "the acker is told to drain")
    harness.clock.advance(harness.options.stop_timeout_s + 0.1)
    harness.until(lambda: any(head.cut for head in harness.heard_of(wire.Drain)), "the acker hears of the cut")
    harness.turn(3)
    assert (order, upper.poll(), lower.poll()) == ([], None, None)
    harness.tell(wire.Stats(1, b'{"cut":true}'))
    assert not finished(harness)
    assert order == [("one", True, True), ("two", False, True)]
    assert (upper.wait(), lower.wait()) == (-9, -9)
    assert harness.root.shutdowns == 1
    assert harness.root.started == []


def test_a_dead_acker_and_a_process_that_does_not_die_hold_up_no_kill(harness: Harness) -> None:
    harness.start_ready(kill_tiers=(("one",), ("two",)))
    harness.beat("one", epoch=2, identity=identity(harness.process()))
    lower = harness.process()
    harness.beat("two", epoch=2, identity=identity(lower))
    harness.settle()
    harness.heart.parts.lives = lambda _name: True  # type: ignore[method-assign]
    harness.ask("stop")
    harness.until(lambda: harness.heard_of(wire.Drain), "the acker is told to drain")
    harness.clock.advance(harness.options.stop_timeout_s + 0.1)
    for _ in range(4):
        harness.turn(2)
        harness.clock.advance(2.1)
    assert not finished(harness)
    assert lower.wait() == -9


# --- the kill socket -------------------------------------------------------------------------------------------


def test_a_daemons_heart_listens_at_the_kill_socket(harness: Harness) -> None:
    uri = f"ipc://{harness.directory}/kill"
    harness.start_ready(kill_uri=uri)
    with harness.context.socket(zmq.REQ) as client:
        client.connect(uri)
        client.send_multipart([b"CONSECUTIOND/1", b"STOP", b"7.5"])
        harness.until(lambda: client.poll(0), "the answer")
        assert client.recv_multipart() == [b"CONSECUTIOND/1", b"STOPPING", b"7.5"]
    harness.until(lambda: harness.heard_of(wire.Drain), "the acker is told to drain")
    assert harness.heart._draining == harness.clock.now() + 7.5


def test_a_heart_that_follows_in_a_drain_goes_on_with_it(harness: Harness) -> None:
    """Whoever has asked and was answered does not ask again."""
    harness.start_ready()
    harness.ask("stop")
    harness.until(lambda: harness.heard_of(wire.Drain), "the acker is told to drain")
    until = harness.heart._draining
    harness.heard.clear()
    harness.clock.advance(1.0)
    harness.replace()
    assert harness.heart._draining == until
    harness.acker()
    harness.until(lambda: harness.heard_of(wire.Drain), "the acker is told again")
    harness.tell(wire.Finished(b"{}"))
    harness.until(lambda: harness.root.shutdowns, "everything is stopped")


def test_a_stop_before_the_graph_is_up_waits_for_nothing_and_is_no_failed_start(harness: Harness) -> None:
    harness.start()
    harness.acker()
    harness.ask("wait")
    harness.ask("stop", 2)
    assert harness.answer().error == "the consecutor was told to stop before every part was up"
    assert harness.root.shutdowns == 1
    assert read_start(harness.directory, ROOT).failed == ""


def test_an_acker_that_is_new_during_a_drain_hears_of_it(harness: Harness) -> None:
    harness.start_ready()
    harness.ask("stop")
    harness.until(lambda: harness.heard_of(wire.Drain), "the acker is told to drain")
    harness.heard.clear()
    harness.acker()
    harness.until(lambda: harness.heard_of(wire.Drain), "the new acker is told, too")


def test_a_graph_that_has_ended_already_is_stopped_at_once(harness: Harness) -> None:
    harness.start_ready()
    harness.tell(wire.Finished(b"{}"))
    harness.until(lambda: harness.heart._finished, "the end is known")
    assert harness.root.shutdowns == 0
    harness.ask("stop")
    assert finished(harness)


def test_shutdown_drains_nothing(harness: Harness) -> None:
    harness.start_ready()
    harness.ask("shutdown")
    assert not finished(harness)
    assert harness.root.shutdowns == 1
    assert not harness.heard_of(wire.Drain)


@pytest.mark.parametrize("verb", ["stop", "shutdown"])
def test_a_stop_that_is_said_again_is_answered_again(harness: Harness, verb: str) -> None:
    harness.start_ready()
    harness.ask("shutdown", 1)
    assert harness.answer().number == 1
    harness.ask(verb, 2)
    assert harness.answer().number == 2


def test_a_dead_part_is_not_started_again_while_everything_stops(harness: Harness) -> None:
    harness.start_ready()
    process = harness.process()
    harness.beat("one", epoch=2, identity=identity(process))
    harness.settle()
    harness.ask("shutdown")
    harness.answer()
    process.kill()
    harness.until(lambda: harness.part("one").state == "dead", "its death is seen")
    assert harness.part("one").due is None
    harness.clock.advance(100.0)
    harness.turn(3)
    assert harness.root.started == []


def test_nobody_is_looked_for_once_everything_stops(harness: Harness) -> None:
    harness.start()
    harness.ask("shutdown")
    harness.answer()
    harness.clock.advance(1.1)
    harness.turn()
    assert harness.root.looks == 0


def test_a_part_that_dies_during_the_drain_is_started_again(harness: Harness) -> None:
    """What it had in hand is part of what is to be drained."""
    harness.start_ready()
    harness.ask("stop")
    harness.until(lambda: harness.heard_of(wire.Drain), "the acker is told to drain")
    harness.beat("one", epoch=2, identity=(1 << 21, 1))
    harness.settle()
    harness.clock.advance(1.0)
    harness.turn()
    assert harness.root.started == ["one"]


def test_a_root_that_does_not_answer_is_asked_again_to_stop(harness: Harness) -> None:
    harness.start_ready()
    harness.root.refuse = refusal(0)
    harness.ask("shutdown")
    harness.answer()
    harness.turn(3)
    assert harness.root.shutdowns == 1
    harness.clock.advance(1.1)
    harness.turn(3)
    assert harness.root.shutdowns == 2
    harness.root.refuse = refusal(SHUTDOWN_STATE)
    harness.clock.advance(1.1)
    harness.turn()
    harness.clock.advance(100.0)
    harness.turn(3)
    assert harness.root.shutdowns == 3


# --- signals -----------------------------------------------------------------------------------------------------


def test_a_signal_drains_the_graph(harness: Harness) -> None:
    harness.start_ready()
    wake = Wake()
    harness.heart.listen(wake)
    wake.call()
    harness.until(lambda: harness.heard_of(wire.Drain), "the acker is told to drain")
    assert not harness.heart.stopping
    wake.close()


@pytest.mark.parametrize("who", ["the heart asked for it", "the root does it by itself"])
def test_a_signal_while_everything_stops_ends_the_heart(harness: Harness, who: str) -> None:
    """The root stops the heart last; one that began to drain now would only be killed, after a long wait."""
    harness.start_ready()
    wake = Wake()
    harness.heart.listen(wake)
    if who == "the heart asked for it":
        harness.ask("shutdown")
        harness.answer()
    else:
        harness.root.is_stopping = True
    wake.call()
    harness.heart.run()
    assert not harness.heard_of(wire.Drain)
    wake.close()


# --- control -----------------------------------------------------------------------------------------------------


def test_an_unknown_verb_is_answered_with_those_there_are(harness: Harness) -> None:
    harness.start()
    harness.ask("dance")
    assert harness.answer().error == "unknown request 'dance': wait, status, restart, stop, shutdown"


@pytest.mark.parametrize(
    "frames", [[b""], [b"rubbish"], [wire.pack(wire.Drain("no"))], [wire.pack(wire.Ask(1, "stop", b"")), b""]]
)
def test_a_malformed_request_is_dropped_and_changes_nothing(harness: Harness, frames: list[bytes]) -> None:
    harness.start_ready()
    harness.client.send_multipart(frames)
    harness.until(lambda: harness.heart._malformed == 1, "it is counted")
    assert harness.heart.status()["state"] == "running"
    harness.ask("wait")
    assert harness.answer().error == ""


def test_a_client_that_is_gone_holds_nobody_up(harness: Harness) -> None:
    harness.start()
    with harness.context.socket(zmq.DEALER) as gone:
        gone.connect(harness.options.control_uri)
        gone.send(wire.pack(wire.Ask(1, "wait", b"")))
        harness.until(lambda: harness.heart._waiting, "it is heard")
    harness.ask("wait", 2)
    harness.acker()
    harness.beat("one")
    harness.beat("two")
    assert harness.answer().number == 2


# --- the input program -------------------------------------------------------------------------------------------


def test_the_input_is_stopped_before_the_graph_drains_and_not_started_again(harness: Harness) -> None:
    """The acker must not refuse what the input's clients have sent before the input has its receipts."""
    harness.start_ready(input_part="two")
    process = harness.process()
    harness.beat("two", epoch=2, identity=identity(process))
    harness.settle()
    harness.ask("stop")
    harness.until(lambda: harness.root.stopped, "the input is told to end")
    harness.turn(3)
    assert harness.root.stopped == ["two"]
    assert not harness.heard_of(wire.Drain)
    process.kill()
    harness.until(lambda: harness.heard_of(wire.Drain), "the acker is told to drain")
    harness.clock.advance(100.0)
    harness.turn(3)
    assert harness.root.started == []


def test_an_input_that_cannot_be_stopped_holds_no_drain_up(harness: Harness) -> None:
    harness.start_ready(input_part="two")
    harness.root.refuse = refusal()
    harness.ask("stop")
    harness.until(lambda: harness.heard_of(wire.Drain), "the acker is told to drain")
