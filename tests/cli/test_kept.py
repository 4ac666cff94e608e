"""Accounts and values apart, as an operator sees them: failed items without a value, logs that are taken over."""

from typing import Any

import msgspec
import pytest

from consecutiond.cli import exits
from tests.system.shell import Shell, wait_for

FLOW = """
    from pathlib import Path

    from consecutiond import Node

    MENDED = Path("mended").absolute()


    class Picky(Node):
        def process(self, value):
            if value == "bad" and not MENDED.exists():
                raise ValueError("this is bad")
            self.write("out", value)


    graph = Picky("picky")
"""
LINES = "good\nbad\nbetter\n"
QUICK = ("--retry-backoff-s", "0")


@pytest.fixture
def flow(shell: Shell) -> Shell:
    shell.write("flow.py", FLOW)
    return shell


def run(shell: Shell, accounts: str, values: str, *words: object, stdin: str = LINES) -> str:
    places = ("--acker-store", accounts, "--input-store", values)
    done = shell.run("run", "flow.py", *places, *QUICK, *words, stdin=stdin)
    assert done.returncode in (exits.OK, exits.SOME_FAILED), done.stderr
    return done.stderr


def failed(shell: Shell, *words: object, code: int = exits.OK) -> str:
    done = shell.run("failed", words[0], "flow", *words[1:])
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout + done.stderr


def counts(shell: Shell) -> tuple[int, ...]:
    state = shell.status("flow")
    found = tuple(state[name] for name in ("accepted", "completed", "failed", "discarded", "open"))
    assert found[0] == sum(found[1:])
    return found


# --- failed items without a value ------------------------------------------------------------------------------------


@pytest.fixture
def valueless(flow: Shell) -> Shell:
    run(flow, "disk", "off")
    return flow


def test_it_is_listed_and_shown_without_a_value(valueless: Shell) -> None:
    [line] = failed(valueless, "list", "--each", "--json").splitlines()
    letter: dict[str, Any] = msgspec.json.decode(line)
    assert (letter["position"], letter["attempts"], letter["value"], letter["value_kept"]) == (2, 1, None, False)
    assert "(not kept)" in failed(valueless, "list", "--each")
    shown = failed(valueless, "show", "2")
    assert "not kept (option input_store)" in shown
    assert 'raise ValueError("this is bad")' in shown
    assert "replay" not in shown


def test_a_replay_leaves_it_and_says_why(valueless: Shell) -> None:
    for start in ("root", "node"):
        assert "its value was not kept" in failed(valueless, "replay", "2", "--from", start, code=exits.SOME_FAILED)
    assert "its value was not kept" in failed(valueless, "replay", "2", "--debug", code=exits.USAGE)
    assert counts(valueless) == (3, 2, 1, 0, 0)


def test_an_export_of_values_leaves_it_out_and_says_so(valueless: Shell) -> None:
    done = valueless.run("failed", "export", "flow", "--values")
    assert (done.returncode, done.stdout) == (exits.OK, "")
    assert "1 failed item left out" in done.stderr
    for form in ("ndjson", "msgpack"):
        assert valueless.run("failed", "export", "flow", "--format", form, "--output", form).returncode == exits.OK
    assert msgspec.json.decode((valueless.directory / "ndjson").read_bytes())["value"] is None
    assert msgspec.msgpack.decode((valueless.directory / "msgpack").read_bytes())["value"] is None


def test_it_can_be_discarded(valueless: Shell) -> None:
    failed(valueless, "discard", "2")
    assert counts(valueless) == (3, 2, 0, 1, 0)


def test_with_a_value_from_the_operator_it_is_tried_again(valueless: Shell) -> None:
    failed(valueless, "edit", "2", "--value", '"mended"', "--replay")
    assert counts(valueless) == (3, 2, 0, 0, 1)
    done = valueless.run("run", "flow.py", "--input-store", "off", stdin="")
    assert done.stdout == 'out\t"mended"\n'
    assert counts(valueless) == (3, 3, 0, 0, 0)


# --- accounts in memory ----------------------------------------------------------------------------------------------


def open_alone(shell: Shell) -> int:
    """Return how many are open in a log that knows of no failed ones: the whole batch of what had failed."""
    accepted, _, failed, discarded, still_open = counts(shell)
    assert (accepted, failed, discarded) == (3, 0, 0)
    assert 1 <= still_open <= 3
    return still_open


def test_a_live_one_is_operated_through_its_acker(flow: Shell) -> None:
    start = flow.run("start", "flow.py", "--detach", "--acker-store", "memory", *QUICK)
    assert start.returncode == exits.OK, start.stderr
    flow.run("push", "flow", stdin=LINES)
    wait_for(lambda: flow.status("flow")["failed"] == 1, "the failed item")
    assert "this is bad" in failed(flow, "list", "--each")
    assert "tried again as a whole" in flow.status("flow")["guarantee"]
    (flow.directory / "mended").touch()
    assert "1 completed, 0 failed again" in failed(flow, "replay", "2", "--wait")
    flow.run("stop", "flow")
    assert counts(flow) == (3, 3, 0, 0, 0)


def test_once_stopped_what_had_failed_is_open_and_tried_at_the_next_start(flow: Shell) -> None:
    run(flow, "memory", "disk")
    left = open_alone(flow)
    assert "open again, and tried when it is started" in failed(flow, "list", code=exits.NOT_RUNNING)
    (flow.directory / "mended").touch()
    assert f"{left} open item(s) of an earlier run are taken over" in run(flow, "memory", "disk", stdin="")
    assert counts(flow) == (3, 3, 0, 0, 0)


def test_a_log_with_failed_items_is_not_taken_over_by_accounts_in_memory(flow: Shell) -> None:
    run(flow, "disk", "disk")
    done = flow.run("run", "flow.py", "--acker-store", "memory", stdin="")
    assert done.returncode == exits.START_FAILED
    assert "1 failed items" in done.stderr
    assert counts(flow) == (3, 2, 1, 0, 0)


def test_in_threads_it_is_the_same(flow: Shell) -> None:
    run(flow, "memory", "disk", "--architecture", "thread")
    open_alone(flow)
    run(flow, "disk", "off", "--architecture", "thread", stdin="")
    assert counts(flow) == (3, 2, 1, 0, 0)


# --- one place and another -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accounts", "values", "then"), [("disk", "off", (3, 2, 1, 0, 0)), ("memory", "disk", (3, 2, 1, 0, 0))]
)
def test_a_copy_of_its_log_goes_on_with_everything_on_the_disk(
    flow: Shell, accounts: str, values: str, then: tuple[int, ...]
) -> None:
    run(flow, accounts, values)
    assert flow.run("store", "copy", "flow", "sqlite:///moved.sqlite").returncode == exits.OK
    run(flow, "disk", "disk", "--store", "sqlite:///moved.sqlite", stdin="")
    assert counts(flow) == then
    assert ("not kept" in failed(flow, "show", "2")) == (values == "off")


@pytest.mark.parametrize("values", ["off", "memory"])
def test_with_nothing_on_the_disk_there_is_nothing_to_copy_and_a_log_of_before_is_left_alone(
    flow: Shell, values: str
) -> None:
    run(flow, "memory", "disk")
    assert "stay in its log" in run(flow, "memory", values, stdin="more\n")
    assert "gone" in failed(flow, "list", code=exits.NOT_RUNNING)
    assert flow.run("store", "copy", "flow", "sqlite:///moved.sqlite").returncode == exits.NOT_RUNNING
    run(flow, "disk", "disk", stdin="")
    assert counts(flow) == (3, 2, 1, 0, 0)
