"""How the heart knows its parts: beats, deaths and restarts; the time is the test's, the processes are real."""

from pathlib import Path

import msgspec
import pytest

from consecutiond_broker import child, wire
from consecutiond_broker.cell import INDEX, Cell
from consecutiond_broker.pulse import Pulse
from tests.supervision.harness import PATIENCE_S, SHUTDOWN_STATE, Harness, identity, refusal


@pytest.fixture(autouse=True)
def _no_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delays are the policy's longest: 0.1 s, 0.2 s, 0.4 s …"""
    monkeypatch.setattr("consecutiond.supervision.parts.random.random", lambda: 0.0)


def die(harness: Harness, name: str, epoch: int) -> float:
    """Have an incarnation of a part beat and be killed; return the delay before its restart."""
    process = harness.process()
    harness.beat(name, epoch=epoch, identity=identity(process))
    harness.until(lambda: harness.part(name).epoch == epoch, "it beats")
    process.kill()
    harness.until(lambda: harness.part(name).state == "dead", "its death is seen")
    due = harness.part(name).due
    assert due is not None
    return due - harness.clock.now()


# --- deaths --------------------------------------------------------------------------------------------------


def test_a_death_wakes_the_heart_by_itself(harness: Harness) -> None:
    """The descriptor of the process does it: no clock moves, no beat comes, and the root is not asked."""
    harness.start_ready()
    process = harness.process()
    harness.beat("one", epoch=2, identity=identity(process))
    harness.settle()
    looks = harness.root.looks
    process.kill()
    assert harness.heart.poller.poll(1000 * PATIENCE_S)
    harness.turn()
    assert harness.part("one").state == "dead"
    assert harness.root.looks == looks


def test_the_descriptor_of_a_dead_part_does_not_keep_the_loop_awake(harness: Harness) -> None:
    harness.start_ready()
    die(harness, "one", 2)
    harness.settle()
    assert harness.heart.poller.poll(50) == []


def test_a_newer_incarnation_is_watched_instead_of_the_older(harness: Harness) -> None:
    harness.start_ready()
    old, new = harness.process(), harness.process()
    harness.beat("one", epoch=2, identity=identity(old))
    harness.beat("one", epoch=3, identity=identity(new))
    harness.settle()
    old.kill()
    old.wait()
    harness.turn(3)
    assert harness.part("one").state == "ready"
    new.kill()
    harness.until(lambda: harness.part("one").state == "dead", "the death of the newer one is seen")


def test_a_part_that_was_dead_before_its_first_beat_was_read_is_restarted(harness: Harness) -> None:
    harness.start_ready()
    process = harness.process()
    who = identity(process)
    process.kill()
    process.wait()
    harness.beat("one", epoch=2, identity=who)
    harness.settle()
    assert harness.part("one").state == "dead"
    harness.clock.advance(1.0)
    harness.turn()
    assert harness.root.started == ["one"]


def test_the_descriptor_of_an_older_incarnation_is_let_go_even_when_the_newer_is_dead(harness: Harness) -> None:
    """A closed descriptor in the poller would end the loop, or, its number in other use, keep it awake."""
    harness.start_ready()
    harness.beat("one", epoch=2, identity=identity(harness.process()))
    harness.beat("one", epoch=3, identity=(1 << 21, 1))
    harness.settle()
    assert harness.part("one").state == "dead"
    assert harness.heart.poller.poll(50) == []


def test_a_pid_that_is_somebody_elses_by_now_is_a_death(harness: Harness) -> None:
    harness.start_ready()
    pid, started = identity(harness.process())
    harness.beat("one", epoch=2, identity=(pid, started - 1))
    harness.settle()
    assert harness.part("one").state == "dead"


def test_parts_of_the_calling_process_are_not_watched_and_leave_no_pid_file(harness: Harness) -> None:
    """Nobody may start or kill them on the strength of it: they are the user's own script."""
    harness.start(local_parts=("two",))
    process = harness.process()
    harness.beat("two", identity=identity(process))
    harness.settle()
    process.kill()
    process.wait()
    harness.turn(3)
    assert harness.part("two").state == "ready"
    assert not (harness.directory / "two.pid").exists()


def test_pid_and_start_time_are_on_disk_for_whoever_cleans_up(harness: Harness) -> None:
    harness.start()
    harness.beat("one")
    harness.settle()
    assert (harness.directory / "one.pid").read_text() == "{} {}\n".format(*child.identity())
    assert [path.name for path in harness.directory.glob("*.pid*")] == ["one.pid"]


def test_a_pid_file_that_cannot_be_written_does_not_end_the_heart(harness: Harness, tmp_path: Path) -> None:
    harness.start(pid_dir=str(tmp_path / "gone"))
    harness.beat("one")
    harness.settle()
    assert harness.part("one").state == "ready"


# --- beats ---------------------------------------------------------------------------------------------------


def test_a_pulse_is_heard_with_its_state_and_counters(harness: Harness) -> None:
    harness.start()
    pulse = Pulse(harness.context, harness.options.alive_uri, "one", child.identity(), 7, 0.01, lambda: {"items": 3})
    harness.until(lambda: harness.part("one").stats == {"items": 3}, "it beats")
    assert harness.part("one").state == "starting"
    pulse.say("ready")
    harness.until(lambda: harness.part("one").state == "ready", "its change is heard")
    pulse.close()
    shown = harness.part("one").show(harness.clock.now())
    assert (shown["pid"], shown["epoch"], shown["stats"]) == (child.identity()[0], 7, {"items": 3})


def test_a_pulse_whose_counters_cannot_be_read_beats_all_the_same(harness: Harness) -> None:
    def broken() -> dict[str, object]:
        raise RuntimeError("dictionary changed size during iteration")

    harness.start()
    pulse = Pulse(harness.context, harness.options.alive_uri, "one", child.identity(), 7, 0.01, broken)
    pulse.say("ready")
    harness.until(lambda: harness.part("one").state == "ready", "it beats")
    pulse.close()


def test_beats_of_older_epochs_are_ignored(harness: Harness) -> None:
    harness.start_ready()
    harness.beat("one", epoch=5)
    harness.settle()
    harness.beat("one", "failed", epoch=4, detail="old", identity=identity(harness.process()), stats=b'{"items":1}')
    harness.settle()
    part = harness.part("one")
    assert (part.epoch, part.state, part.pid, part.stats) == (5, "ready", child.identity()[0], {})


def test_a_beat_that_is_read_after_the_proof_of_death_does_not_raise_the_dead(harness: Harness) -> None:
    """Else a successor that dies without a word would never be missed."""
    harness.start_ready()
    die(harness, "one", 2)
    harness.beat("one", epoch=2)
    harness.settle()
    assert harness.part("one").state == "dead"
    harness.clock.advance(1.0)
    harness.turn()
    harness.beat("one", epoch=2)
    harness.settle()
    assert harness.part("one").state == "starting"


def test_the_last_words_of_the_dead_still_say_why(harness: Harness) -> None:
    """They may be read after the proof of death; the start is given up with the user's traceback all the same."""
    harness.start()
    process = harness.process()
    who = identity(process)
    process.kill()
    process.wait()
    harness.beat("one", "failed", identity=who, detail="Traceback: begin raised")
    harness.until(lambda: harness.heart.failed, "the start is given up")
    assert "begin raised" in harness.heart.failed
    assert harness.part("one").state == "dead"


ALIVE = wire.Alive(wire.VERSION, "one", *child.identity(), 2, "ready", "", b"{}")


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"\xc1"],
        [b"rubbish", b"more"],
        [wire.pack(ALIVE), b"a frame too many"],
        [wire.pack(wire.Drain("not here"))],
        [wire.pack(wire.Ask(1, "stop", b""))],
        [wire.pack([60, 1, "one", "not a pid", 1, 2, "ready", "", b"{}"])],
        *(
            [wire.pack(wire.Alive(*{**msgspec.structs.asdict(ALIVE), **change}.values()))]
            for change in (
                {"version": wire.VERSION + 1}, {"name": "nobody"}, {"state": "dead"}, {"state": ""}, {"pid": 0},
                {"pid": -1}, {"pid": 1 << 60}, {"stats": b""}, {"stats": b"[1]"}, {"stats": b"[" * 100_000},
                {"stats": b'{"a":"\xff"}'},
            )
        ),
    ],
)  # fmt: skip
def test_a_malformed_beat_is_dropped_and_changes_nothing(harness: Harness, frames: list[bytes]) -> None:
    harness.start_ready()
    before = harness.heart.parts.show()
    harness.push.send_multipart(frames)
    harness.until(lambda: harness.heart._malformed == 1, "it is counted")
    assert harness.heart.parts.show() == before
    harness.beat("one", epoch=3)
    harness.until(lambda: harness.part("one").epoch == 3, "beats are still heard")


# --- restarts ------------------------------------------------------------------------------------------------


def test_a_dead_part_is_started_again_after_the_delay_and_not_before(harness: Harness) -> None:
    harness.start_ready()
    delay = die(harness, "one", 2)
    assert delay == pytest.approx(0.1)
    harness.clock.advance(0.09)
    harness.turn(3)
    assert harness.root.started == []
    harness.clock.advance(0.02)
    harness.turn(3)
    assert harness.root.started == ["one"]
    assert harness.part("one").restarts == 1


def test_a_part_that_dies_at_once_always_waits_longer_each_time_and_holds_up_nobody(harness: Harness) -> None:
    harness.start_ready()
    delays = []
    for epoch in range(2, 7):
        delays.append(die(harness, "one", epoch))
        harness.clock.advance(delays[-1])
        harness.until(lambda: harness.part("one").state == "starting", "it is started again")
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6])
    assert die(harness, "two", 2) == pytest.approx(0.1)


def test_a_part_that_lived_for_long_is_started_again_at_once(harness: Harness) -> None:
    harness.start_ready()
    process = harness.process()
    harness.beat("one", epoch=2, identity=identity(process))
    harness.settle()
    harness.clock.advance(60.0)
    process.kill()
    harness.until(lambda: harness.root.started == ["one"], "it is started again")


def test_a_part_that_starts_for_long_and_is_never_up_waits_longer_each_time(harness: Harness) -> None:
    """A slow `begin` that fails in the end is no stable life."""
    harness.start_ready()
    process = harness.process()
    harness.beat("one", "starting", epoch=2, identity=identity(process))
    harness.until(lambda: harness.part("one").epoch == 2, "it beats")
    harness.clock.advance(60.0)
    process.kill()
    harness.until(lambda: harness.part("one").state == "dead", "its death is seen")
    due = harness.part("one").due
    assert due is not None
    assert due - harness.clock.now() == pytest.approx(0.1)


def test_the_loop_sleeps_no_longer_than_until_the_next_restart(harness: Harness) -> None:
    harness.start_ready()
    assert harness.heart.parts.wait_ms(200) == 200
    die(harness, "one", 2)
    assert harness.heart.parts.wait_ms(200) <= 101
    harness.clock.advance(9.0)
    assert harness.heart.parts.wait_ms(200) == 0


def test_a_restart_that_the_root_refuses_is_tried_again_ever_later(harness: Harness) -> None:
    harness.start_ready()
    harness.clock.advance(die(harness, "one", 2))
    harness.root.refuse = refusal()
    harness.turn()
    pauses = []
    for _ in range(3):
        due = harness.part("one").due
        assert due is not None
        pauses.append(due - harness.clock.now())
        harness.clock.advance(pauses[-1])
        harness.turn()
    assert pauses == sorted(set(pauses))
    harness.root.refuse = None
    harness.clock.advance(10.0)
    harness.turn()
    assert harness.root.started == ["one"] * 5
    assert harness.part("one").state == "starting"


def test_nothing_is_started_again_once_the_root_stops_everything(harness: Harness) -> None:
    harness.start_ready()
    harness.clock.advance(die(harness, "one", 2))
    harness.root.refuse = refusal(SHUTDOWN_STATE)
    harness.turn()
    assert harness.root.started == ["one"]
    harness.clock.advance(100.0)
    harness.turn(3)
    assert harness.root.started == ["one"]


def test_a_part_that_somebody_else_has_started_is_not_started_twice(harness: Harness) -> None:
    harness.start_ready()
    die(harness, "one", 2)
    harness.beat("one", epoch=3)
    harness.settle()
    harness.clock.advance(100.0)
    harness.turn(3)
    assert harness.root.started == []
    assert harness.part("one").state == "ready"


def test_a_part_that_dies_without_a_word_is_found_on_the_roots_list(harness: Harness) -> None:
    """A restarted part that crashes while Python itself starts never beats, so nothing watches it."""
    harness.start_ready()
    harness.clock.advance(die(harness, "one", 2))
    harness.root.programs = {"one": "RUNNING", "two": "RUNNING"}
    harness.until(lambda: harness.root.started == ["one"], "it is started again")
    harness.clock.advance(1.1)
    harness.turn(2)
    assert harness.root.started == ["one"]
    harness.root.programs["one"] = "EXITED"
    for _ in range(2):
        harness.clock.advance(1.1)
        harness.turn()
    harness.clock.advance(1.0)
    harness.turn()
    assert harness.root.started == ["one", "one"]


def test_a_part_that_is_watched_is_left_to_its_descriptor(harness: Harness) -> None:
    """Between its death and the look at the root's list it would be counted twice."""
    harness.start()
    process = harness.process()
    harness.beat("one", "starting", identity=identity(process))
    harness.settle()
    harness.root.programs = {"one": "EXITED"}
    harness.clock.advance(1.1)
    harness.turn()
    assert harness.root.looks == 1
    assert harness.part("one").state == "starting"


# --- a heart that comes back ------------------------------------------------------------------------------------


def test_a_new_heart_knows_every_part_again_from_its_beats(harness: Harness) -> None:
    harness.start_ready()
    process = harness.process()
    harness.beat("one", epoch=2, identity=identity(process))
    harness.settle()
    harness.replace()
    assert harness.part("one").pid == 0
    harness.beat("one", epoch=2, identity=identity(process), stats=b'{"items":9}')
    harness.settle()
    assert (harness.part("one").pid, harness.part("one").state) == (process.pid, "ready")
    assert harness.part("one").stats == {"items": 9}
    process.kill()
    harness.until(lambda: harness.part("one").state == "dead", "its death is seen by the new heart")
    harness.clock.advance(1.0)
    harness.turn()
    assert harness.root.started == ["one"]


def test_a_part_that_died_while_the_heart_was_away_is_started_again(harness: Harness) -> None:
    """The graph was up once, so this is no failed start."""
    harness.start_ready()
    harness.replace()
    harness.root.programs = {"one": "EXITED", "two": "RUNNING"}
    for _ in range(2):
        harness.clock.advance(1.1)
        harness.turn()
    harness.clock.advance(1.0)
    harness.turn()
    assert harness.root.started == ["one"]
    assert not harness.heart.failed


# --- giving up -----------------------------------------------------------------------------------------------


def die_often(harness: Harness, name: str, times: int, first: int = 2) -> None:
    """Have a part say why and die, as many times, each time when it is due."""
    for epoch in range(first, first + times):
        process = harness.process()
        harness.beat(name, "failed", epoch=epoch, identity=identity(process), detail=f"ValueError: life {epoch}")
        harness.until(lambda epoch=epoch: harness.part(name).epoch == epoch, "it beats")
        process.kill()
        harness.until(lambda: not harness.heart.parts.lives(name), "its death is seen")
        harness.clock.advance(15.0)
        harness.turn()


def test_a_part_that_cannot_live_is_given_up_and_status_says_why(harness: Harness) -> None:
    harness.start_ready(restartable={"node": ("one",)}, restart_limit=4, restart_window_s=300.0)
    die_often(harness, "one", 4)
    status = harness.heart.status()
    assert status["state"] == "degraded"
    assert "one died 4 times" in status["error"]
    assert "ValueError: life 5" in status["error"]
    assert (status["parts"]["one"]["state"], status["parts"]["one"]["detail"]) == ("failed", "ValueError: life 5")
    assert status["parts"]["two"]["state"] == "ready"
    assert harness.heart.parts.count() == "1 of 2 parts up, given up: one"
    harness.clock.advance(10_000.0)
    harness.turn()
    assert harness.root.started == ["one"] * 3


def test_brokers_and_acker_are_never_given_up(harness: Harness) -> None:
    """Without them nothing flows, so there is nothing to spare by waiting for somebody."""
    harness.start_ready(restartable={"node": ("one",)}, restart_limit=2)
    die_often(harness, "two", 5)
    assert harness.root.started == ["two"] * 5
    assert harness.heart.status()["state"] == "running"


def test_an_input_that_was_given_up_does_not_hold_up_a_stop(harness: Harness) -> None:
    harness.start_ready(restartable={"input": ("one",)}, input_part="one", restart_limit=1)
    die_often(harness, "one", 1)
    harness.ask("stop")
    harness.until(lambda: harness.heard_of(wire.Drain), "the acker is told to drain")


def test_what_an_item_has_killed_is_not_given_up(harness: Harness) -> None:
    """The item runs out of attempts; other items still want the worker."""
    harness.start_ready(restartable={"node": ("one",)}, worker_parts=("one",), restart_limit=2)
    for epoch in (2, 3, 4):
        cell = Cell(harness.directory / f"one-{epoch}.cell", epoch, 1)
        cell.start(0, 1)
        cell.words[INDEX] = 1
        die(harness, "one", epoch)
        cell.close(keep=True)
        harness.clock.advance(15.0)
        harness.turn()
    assert harness.root.started == ["one"] * 3
