"""`consecutiond failed`: an operator finds, inspects, mends and replays what failed, whether it runs or not."""

import os
import re
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from consecutiond.acker.stores.base import Where
from consecutiond.cli import exits
from consecutiond.deadletters import Request
from consecutiond.operator import Operator, OperatorError
from consecutiond.rundir import RunDir
from tests import needs
from tests.cli.buried import bury, letter
from tests.cli.terminal import terminal
from tests.system.shell import Shell, wait_for

#: fails on what is no number, and, until a file says that it is mended, on odd numbers
FLOW = """
    from pathlib import Path

    from consecutiond import Node

    MENDED = Path("mended").absolute()


    class Parse(Node):
        def process(self, line):
            number = int(line)
            self.push({"number": number})


    class Halve(Node):
        def process(self, item):
            number = item["number"]
            if number % 2 and not MENDED.exists():
                raise ValueError(f"{number} is odd")
            self.write("halves", number / 2)


    graph = Parse("parse") | Halve("halve")
"""
#: positions 2 and 5 fail in parse, 1, 4 and 6 in halve
LINES = "1\ntwo\n4\n5\nsix\n7\n"


@pytest.fixture
def flow(shell: Shell) -> Shell:
    shell.write("flow.py", FLOW)
    return shell


@pytest.fixture
def stopped(flow: Shell) -> Shell:
    """A consecutor that has ended and left failed items."""
    done = flow.run("run", "flow.py", "--max-attempts", "2", "--retry-backoff-s", "0", stdin=LINES)
    assert done.returncode == exits.SOME_FAILED, done.stderr
    return flow


@pytest.fixture
def live(flow: Shell) -> Iterator[Shell]:
    """A daemon with failed items."""
    start(flow)
    assert flow.run("push", "flow", stdin=LINES).returncode == exits.OK
    wait_for(lambda: flow.status("flow")["failed"] == 5, "five failed items")
    yield flow
    flow.run("stop", "flow")


@pytest.fixture(params=["live", "stopped"])
def either(request: pytest.FixtureRequest) -> Shell:
    shell: Shell = request.getfixturevalue(request.param)
    return shell


def start(shell: Shell) -> None:
    done = shell.run("start", "flow.py", "--detach", "--max-attempts", "2", "--retry-backoff-s", "0")
    assert done.returncode == exits.OK, done.stderr


def failed(shell: Shell, verb: str, *words: object, code: int = exits.OK, id: str = "flow", **options: Any) -> str:
    """Type a command of `failed`; return what it prints, on stderr if that is where it has something to say."""
    done = shell.run("failed", verb, id, *words, **options)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr or "--debug" in words
    return done.stdout if code == exits.OK else done.stdout + done.stderr


def objects(shell: Shell, *words: object) -> list[dict[str, Any]]:
    lines = failed(shell, "list", "--each", "--json", *words).splitlines()
    return [msgspec.json.decode(line) for line in lines]


def positions(shell: Shell, *words: object) -> list[int]:
    return [each["position"] for each in objects(shell, *words)]


def counts(shell: Shell) -> tuple[int, ...]:
    state = shell.status("flow")
    found = tuple(state[name] for name in ("accepted", "completed", "failed", "discarded", "open"))
    assert found[0] == sum(found[1:])
    return found


def hint(text: str, start: str) -> list[str]:
    """Return the words of a command that was printed for the operator to type."""
    return re.findall(rf"{start} consecutiond (.*)", text)[0].split()


# --- the story -------------------------------------------------------------------------------------------------------


def test_an_operator_who_types_what_is_printed_mends_an_item_of_a_daemon(live: Shell) -> None:
    shown = live.run("status", "flow").stdout
    assert "6 accepted = 1 completed + 5 failed + 0 open" in shown
    listed = live.run(*hint(shown, "failed and kept:")).stdout
    assert re.search(r"^ +1  [a-z]+ +3  halve  raised  ValueError: # is odd ", listed, re.MULTILINE)
    assert re.search(r"^ +2  [a-z]+ +2  parse  raised  ValueError: invalid literal for int", listed, re.MULTILINE)
    one = live.run(*hint(listed, "See one:")).stdout
    assert "ValueError: 1 is odd" in one
    edit = live.run(*hint(one, "Change its value:"), "--value", '"10"', "--replay", "--wait")
    assert edit.returncode == exits.OK, edit.stderr
    assert edit.stdout.endswith("1 completed, 0 failed again\n")
    (live.directory / "mended").touch()
    again = live.run(*hint(listed, "Try them again:"), "--wait", "--yes")
    assert again.returncode == exits.OK, again.stderr
    # Group 1 is another one by now; what was printed has its name.
    assert "2 failed items of flow replayed from their roots" in again.stdout


def test_what_is_mended_while_it_is_stopped_is_tried_at_the_next_start(stopped: Shell) -> None:
    assert counts(stopped) == (6, 1, 5, 0, 0)
    failed(stopped, "edit", 2, "--value", '"2"')
    (stopped.directory / "mended").touch()
    done = failed(stopped, "replay", "--all")
    assert (
        done == "5 failed items of flow replayed from their roots\nflow does not run: tried when it is started again\n"
    )
    assert counts(stopped) == (6, 1, 0, 0, 5)
    start(stopped)
    wait_for(lambda: stopped.status("flow")["open"] == 0, "the end of every attempt")
    assert counts(stopped) == (6, 5, 1, 0, 0)
    assert [(each["position"], each["value"], each["handed_out"]) for each in objects(stopped)] == [(5, "six", 4)]
    assert sorted(stopped.written("flow", "halves")) == [0.5, 1.0, 2.5, 3.5]
    stopped.run("stop", "flow")


def test_a_command_of_help_is_enough_to_know_every_verb(shell: Shell) -> None:
    shown = shell.run("failed", "--help").stdout
    for verb in ("list", "show", "replay", "edit", "discard", "export", "audit"):
        assert re.search(rf"^  {verb} ", shown, re.MULTILINE)
        text = shell.run("failed", verb, "--help").stdout
        assert f"consecutiond failed {verb} flow" in text
        assert "Exit codes:" in text


# --- list and show ---------------------------------------------------------------------------------------------------


def test_groups_are_told_to_machines(either: Shell) -> None:
    groups = msgspec.json.decode(failed(either, "list", "--json"))
    assert [(each["group"], each["node"], each["kind"], each["count"], each["example"]) for each in groups] == [
        (1, "halve", "raised", 3, 1), (2, "parse", "raised", 2, 2),
    ]  # fmt: skip
    assert groups[0]["shape"] == "ValueError: # is odd"


def test_single_ones_are_paged(either: Shell) -> None:
    assert positions(either) == [1, 2, 4, 5, 6]
    assert positions(either, "--limit", 2) == [1, 2]
    assert positions(either, "--limit", 2, "--after", 2) == [4, 5]
    assert positions(either, "--limit", 2, "--after", 5) == [6]
    done = either.run("failed", "list", "flow", "--each", "--limit", 2)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["position", "1", "2"]
    assert done.stderr == "\nThere are more: --after 2\n"
    assert either.run("failed", "list", "flow", "--each", "--limit", 5).stderr == ""


def test_filters_choose_single_ones(either: Shell) -> None:
    assert positions(either, "--node", "parse") == [2, 5]
    assert positions(either, "--group", 1, "--where", "int(value) > 4") == [4, 6]
    assert positions(either, "2-5", "--since", "1h") == [2, 4, 5]
    assert positions(either, "--until", "1h") == []
    groups = msgspec.json.decode(failed(either, "list", "--where", "item == value", "--json"))
    assert [(each["node"], each["count"]) for each in groups] == [("parse", 2)]


def test_all_of_one_is_shown(either: Shell) -> None:
    found = msgspec.json.decode(failed(either, "show", 4, "--json"))
    assert {name: found[name] for name in ("position", "node", "kind", "error", "value", "item", "edge", "path")} == {
        "position": 4, "node": "halve", "kind": "raised", "error": "ValueError: 5 is odd", "value": "5",
        "item": {"number": 5}, "edge": "parse->halve", "path": ["parse", "halve"],
    }  # fmt: skip
    assert (found["attempts"], found["handed_out"], found["item_known"]) == (2, 2, True)
    assert found["accepted_at"] <= found["failed_at"]
    assert found["traceback"].rstrip().endswith("ValueError: 5 is odd")
    text = failed(either, "show", 4)
    for part in ('"5"', '"number": 5', "parse -> halve", "2 failed, 2 handed out", "flow.py", "raised: ValueError"):
        assert part in text


def test_a_table_on_a_terminal_is_as_wide_as_the_terminal(stopped: Shell) -> None:
    with terminal(stopped, "failed", "list", "flow", COLUMNS="80", TERM="xterm") as screen:
        assert screen.end() == exits.OK
    [row] = [line for line in screen.seen.splitlines() if " halve " in line]
    assert len(row) <= 80


def test_a_look_at_a_running_one_needs_no_acker(live: Shell) -> None:
    """Whoever looks does not hold up what flows, and sees something when nothing flows."""
    [acker] = [pid for pid, command in live.living().items() if "consecutiond.acker" in command]
    os.kill(acker, signal.SIGSTOP)
    try:
        assert positions(live) == [1, 2, 4, 5, 6]
    finally:
        os.kill(acker, signal.SIGCONT)


# --- replay ----------------------------------------------------------------------------------------------------------


def test_a_replay_is_tried_and_waited_for(live: Shell) -> None:
    (live.directory / "mended").touch()
    done = live.run("failed", "replay", "flow", "--all", "--wait")
    assert done.returncode == exits.SOME_FAILED
    assert done.stdout == "5 failed items of flow replayed from their roots\n3 completed, 2 failed again\n"
    assert counts(live) == (6, 4, 2, 0, 0)
    assert sorted(live.written("flow", "halves")) == [0.5, 2.0, 2.5, 3.5]


def test_from_the_node_only_what_comes_after_is_repeated(live: Shell) -> None:
    (live.directory / "mended").touch()
    found = msgspec.json.decode(failed(live, "replay", "--group", 1, "--from", "node", "--wait", "--json"))
    assert found == {
        "id": "flow", "dry_run": False, "replayed": 3, "left": [], "completed": 3, "failed_again": 0, "open": 0,
    }  # fmt: skip
    assert counts(live) == (6, 4, 2, 0, 0)


def test_what_cannot_be_replayed_from_its_node_is_left_and_said(either: Shell) -> None:
    failed(either, "edit", 4, "--value", '"8"')
    for more in ([], ["--dry-run"]):
        done = failed(either, "replay", 4, "--from", "node", *more, code=exits.SOME_FAILED)
        assert re.search(r"1 left: .*its root was edited; replay it from its root \(position 4\)", done)
    assert positions(either) == [1, 2, 4, 5, 6]


def test_a_dry_run_changes_nothing(either: Shell) -> None:
    assert (
        failed(either, "replay", "--node", "halve", "-n")
        == "3 failed items of flow would be replayed from their roots\n"
    )
    assert failed(either, "discard", "--all", "-n") == "5 failed items of flow would be discarded\n"
    assert positions(either) == [1, 2, 4, 5, 6]
    assert failed(either, "audit") == "flow: no operator has done anything yet\n"


def test_replaying_twice_does_not_double(stopped: Shell) -> None:
    failed(stopped, "replay", "1", "4")
    said = failed(stopped, "replay", "1", "4", code=exits.USAGE)
    assert "no failed item at position 1, 4: 1, 4 is open: it is being tried, or will be" in said
    assert failed(stopped, "replay", "--node", "halve") == (
        "1 failed item of flow replayed from its root\nflow does not run: tried when it is started again\n"
    )
    assert failed(stopped, "replay", "--node", "halve") == "0 failed items of flow replayed\n"
    (stopped.directory / "mended").touch()
    start(stopped)
    wait_for(lambda: stopped.status("flow")["open"] == 0, "the end of every attempt")
    assert sorted(stopped.written("flow", "halves")) == [0.5, 2.5, 3.5]
    stopped.run("stop", "flow")


def test_several_are_asked_about_on_a_terminal(stopped: Shell) -> None:
    with terminal(stopped, "failed", "replay", "flow", "--group", 1) as screen:
        screen.expect(
            "replay 3 failed items of flow from their roots: --group 1 (node halve, raised, ValueError: # is odd)."
        )
        screen.expect("Go on? [y/N] ")
        screen.type("")
        assert screen.end() == exits.REFUSED
    assert "nothing was changed" in screen.seen
    assert positions(stopped) == [1, 2, 4, 5, 6]
    with terminal(stopped, "failed", "replay", "flow", "--group", 1) as screen:
        screen.expect("Go on? [y/N] ")
        screen.type("y")
        assert screen.end() == exits.OK
    assert positions(stopped) == [2, 5]


def test_one_alone_is_not_asked_about(stopped: Shell) -> None:
    with terminal(stopped, "failed", "discard", "flow", 1) as screen:
        assert screen.end() == exits.OK
    assert "[y/N]" not in screen.seen


def test_a_rate_spreads_a_replay_over_requests(stopped: Shell) -> None:
    failed(stopped, "replay", "--all", "--rate", "40/s")
    audits = msgspec.json.decode(failed(stopped, "audit", "--json"))
    # A quarter of a second's worth would be ten at a time; all five come in one.
    assert [each["count"] for each in audits] == [5]


def test_a_wait_that_the_end_of_the_consecutor_cuts_short_says_so(live: Shell) -> None:
    [worker] = [pid for pid, command in live.living().items() if command.rstrip().endswith("node-halve.0")]
    os.kill(worker, signal.SIGSTOP)
    waiting = live.spawn("failed", "replay", "flow", "1", "--wait")
    wait_for(lambda: live.status("flow")["open"] == 1, "the replay")
    live.run("stop", "flow", "--timeout", 0)
    out, error = waiting.communicate(timeout=60)
    assert waiting.returncode == exits.STOPPED, error
    assert "1 failed item of flow replayed from its root" in out
    assert error == "1 still open\n"


# --- debug -----------------------------------------------------------------------------------------------------------


def test_without_a_terminal_a_debug_run_prints_the_traceback_and_changes_nothing(either: Shell) -> None:
    done = either.run("failed", "replay", "flow", 4, "--debug", "--break")
    assert done.returncode == exits.SOME_FAILED
    assert done.stdout == 'process of halve gets {"number":5} (position 4); nothing is sent or recorded\n'
    assert done.stderr.startswith("Traceback (most recent call last):\n  File ")
    assert done.stderr.endswith("ValueError: 5 is odd\n")
    assert "consecutiond/" not in done.stderr
    assert positions(either) == [1, 2, 4, 5, 6]


def test_a_debug_run_that_goes_well_prints_what_comes_out(stopped: Shell) -> None:
    (stopped.directory / "mended").touch()
    done = stopped.run("failed", "replay", "flow", 4, "--debug", "--end")
    assert done.returncode == exits.OK, done.stderr
    assert "write to halves: 2.5\nprocess returned; it pushed 0 and wrote 1, and did not fail\n" in done.stdout
    assert stopped.written("flow", "halves") == []


def test_at_a_terminal_the_debugger_opens_at_the_exception(stopped: Shell) -> None:
    with terminal(stopped, "failed", "replay", "flow", 4, "--debug") as screen:
        screen.expect("ValueError: 5 is odd")
        screen.expect("(Pdb) ")
        screen.type("p number, item")
        screen.expect("(5, {'number': 5})")
        screen.type("q")
        assert screen.end() == exits.SOME_FAILED


def test_at_a_terminal_it_stops_at_the_first_line_of_process_if_asked(stopped: Shell) -> None:
    with terminal(stopped, "failed", "replay", "flow", 4, "--debug", "--break") as screen:
        screen.expect('number = item["number"]')
        screen.expect("(Pdb) ")
        screen.type("item['number'] = 6")
        screen.expect("(Pdb) ")
        screen.type("c")
        assert screen.end() == exits.OK
    assert "write to halves: 3.0" in screen.seen


def test_a_debugger_that_is_left_is_no_failure(stopped: Shell) -> None:
    with terminal(stopped, "failed", "replay", "flow", 4, "--debug", "--break") as screen:
        screen.expect("(Pdb) ")
        screen.type("q")
        assert screen.end() == exits.OK
    assert "the debugger was left" in screen.seen


def test_breakpoint_in_a_node_opens_the_users_own_debugger(stopped: Shell) -> None:
    stopped.write("flow.py", FLOW.replace("number = int(line)", "breakpoint(); number = int(line)"))
    stopped.write("mydebugger.py", "def stop(*arguments):\n    print('here is mine')\n")
    with terminal(stopped, "failed", "replay", "flow", 2, "--debug", PYTHONBREAKPOINT="mydebugger.stop") as screen:
        screen.expect("here is mine")
        screen.expect("(Pdb) ")
        screen.type("q")
        assert screen.end() == exits.SOME_FAILED


def test_the_graph_is_found_from_anywhere(stopped: Shell, tmp_path_factory: pytest.TempPathFactory) -> None:
    home = stopped.directory
    stopped.directory = tmp_path_factory.mktemp("elsewhere")
    try:
        said = failed(stopped, "replay", 4, "--debug", "--dir", home / ".consecution", code=exits.SOME_FAILED)
    finally:
        stopped.directory = home
    assert "ValueError: 5 is odd" in said


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["4", "5", "--debug"], exits.USAGE, "--debug takes one POSITION and no filter"),
        (["--node", "halve", "--debug"], exits.USAGE, "--debug takes one POSITION and no filter"),
        (["3", "--debug"], exits.USAGE, "no failed item at position 3"),
        (["4", "--debug", "--target", "nothere.py"], exits.BAD_TARGET, "there is no file"),
        (
            ["4", "--debug", "--target", "other.py"],
            exits.USAGE,
            "'halve', which is no node of other.py (there are parse)",
        ),
    ],
)
def test_what_cannot_be_debugged_is_said(stopped: Shell, words: list[str], code: int, said: str) -> None:
    stopped.write("other.py", "from consecutiond import Node\ngraph = Node('parse')\n")
    assert said in failed(stopped, "replay", *words, code=code)


# --- edit ------------------------------------------------------------------------------------------------------------


def test_a_value_comes_from_the_line_a_file_or_stdin(either: Shell) -> None:
    either.write("new.json", '{"a": [1, null]}')
    (either.directory / "new.msgpack").write_bytes(msgspec.msgpack.encode(b"\x00\xff"))
    for words, stdin, value in (
        (["--value", '"8"'], "", "8"), (["--file", "new.json"], "", {"a": [1, None]}),
        (["--file", "-"], "[2]", [2]), (["--file", "new.msgpack"], "", "AP8="),
    ):  # fmt: skip
        assert failed(either, "edit", 4, *words, stdin=stdin) == "flow: the root at position 4 has a new value\n"
        assert objects(either, 4)[0]["value"] == value
    assert failed(either, "edit", 5, "--value", '"six"').endswith("is what it was; nothing was changed\n")


def editor(shell: Shell, body: str) -> str:
    path = shell.write("editor.sh", f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_an_editor_gets_a_private_file_which_is_gone_afterwards(stopped: Shell) -> None:
    stopped.environment["EDITOR"] = editor(stopped, 'stat -c %a "$1" > mode; echo "$1" > name; echo "[1, 2]" > "$1"')
    failed(stopped, "edit", 4, "--editor")
    assert (stopped.directory / "mode").read_text() == "600\n"
    assert not Path((stopped.directory / "name").read_text().strip()).exists()
    assert objects(stopped, 4)[0]["value"] == [1, 2]


def test_an_editor_is_opened_again_when_it_left_no_json(stopped: Shell) -> None:
    body = 'if [ -e once ]; then echo \'"good"\' > "$1"; else touch once; echo "no, json" > "$1"; fi'
    with terminal(stopped, "failed", "edit", "flow", 4, VISUAL=editor(stopped, body)) as screen:
        screen.expect("the edited value is no JSON")
        screen.expect("Edit it again? [Y/n] ")
        screen.type("")
        assert screen.end() == exits.OK
    assert objects(stopped, 4)[0]["value"] == "good"


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        (
            ["--value", "eight"],
            {},
            "--value is no JSON; for text write it in quotes: '",
        ),
        (["--file", "nothere"], {}, "--file nothere: No such file or directory"),
        (["--file", "bad.msgpack"], {}, "bad.msgpack: this is no msgpack"),
        (["--value", "[" * 200 + "]" * 200], {}, "this is nested deeper than 100"),
        (["--value", "1", "--editor"], {}, "give one of --value, --editor and --file"),
        (["--value", "1", "--wait"], {}, "--wait needs --replay"),
        ([], {}, "there is no terminal for an editor: give the new value with --value JSON or --file NAME"),
        ([], {"EDITOR": "false"}, "the editor ended with exit code 1, so nothing was changed"),
        ([], {"EDITOR": "nosucheditor"}, "the editor 'nosucheditor' cannot be run: No such file or directory"),
        ([], {"EDITOR": "sh -c 'echo x > \"$0\"'"}, "the edited value is no JSON"),
    ],
)
def test_a_value_that_cannot_be_taken_changes_nothing(
    stopped: Shell, words: list[str], environment: dict[str, str], said: str
) -> None:
    (stopped.directory / "bad.msgpack").write_bytes(b"\xc1")
    for name in ("EDITOR", "VISUAL"):
        stopped.environment.pop(name, None)
    stopped.environment |= environment
    assert said in failed(stopped, "edit", 4, *words, code=exits.USAGE)
    assert objects(stopped, 4)[0]["value"] == "5"


def test_a_value_that_json_would_change_is_not_edited_as_text(shell: Shell) -> None:
    bury(RunDir(shell.directory / ".consecution", "flow"), [letter(1, {"raw": b"\x00"})])
    assert "holds what JSON has no form for" in failed(shell, "edit", 1, "--editor", code=exits.USAGE)


# --- discard, export, audit ------------------------------------------------------------------------------------------


def test_discarded_ones_are_gone_and_counted(either: Shell) -> None:
    said = failed(either, "discard", "--node", "halve", code=exits.REFUSED)
    assert "3 failed items of flow would be thrown away for good; --yes does it" in said
    assert positions(either) == [1, 2, 4, 5, 6]
    assert failed(either, "discard", "--node", "halve", "--yes") == "3 failed items of flow discarded\n"
    assert positions(either) == [2, 5]
    assert counts(either) == (6, 1, 2, 3, 0)
    assert "+ 2 failed + 3 discarded + 0 open" in either.run("status", "flow").stdout


def test_exported_values_can_be_fed_in_again(either: Shell) -> None:
    (either.directory / "mended").touch()
    for format in ("ndjson", "msgpack"):
        file = f"again.{format}"
        words = ("--group", 1, "--values", "--format", format, "--output", file)
        assert failed(either, "export", *words) == f"3 failed items of flow written to {file}\n"
        assert stat.S_IMODE((either.directory / file).stat().st_mode) == 0o600
        done = either.run("run", "flow.py", "--id", "again", "--input", file, "--input-format", format)
        assert done.returncode == exits.OK, done.stderr
        assert sorted(done.stdout.splitlines()) == ["halves\t0.5", "halves\t2.5", "halves\t3.5"]
    assert positions(either) == [1, 2, 4, 5, 6]


def test_an_export_has_everything(stopped: Shell) -> None:
    exported = [msgspec.json.decode(line) for line in failed(stopped, "export").splitlines()]
    shown = [msgspec.json.decode(failed(stopped, "show", each, "--json")) for each in (1, 2, 4, 5, 6)]
    assert exported == shown


def test_values_that_json_would_change_are_warned_of(shell: Shell) -> None:
    bury(RunDir(shell.directory / ".consecution", "flow"), [letter(1, b"\x00"), letter(2, "text")])
    done = shell.run("failed", "export", "flow", "--values")
    assert done.stdout == '"AA=="\n"text"\n'
    assert "1 value of them, with bytes or times say, became text" in done.stderr
    assert shell.run("failed", "export", "flow", "--values", "--format", "msgpack", "-o", "all").stderr == ""
    assert (shell.directory / "all").read_bytes() == msgspec.msgpack.encode(b"\x00") + msgspec.msgpack.encode("text")


def test_every_deed_is_in_the_audit_trail(either: Shell) -> None:
    failed(either, "edit", 4, "--value", '"8"')
    failed(either, "replay", "4", "5")
    failed(either, "discard", 1)
    audits = msgspec.json.decode(failed(either, "audit", "--json"))
    assert [(each["number"], each["what"], each["count"]) for each in audits] == [
        (1, "edit", 1), (2, "replay from root", 2), (3, "discard", 1),
    ]  # fmt: skip
    assert re.fullmatch(r"4: .+ -> '8'", audits[0]["which"]), "what an edit has changed can be seen nowhere else"
    assert [each["which"] for each in audits[1:]] == ["4 5", "1"]
    assert all(re.fullmatch(r".+@.+", each["who"]) and each["at"] > 1.7e9 for each in audits)
    assert re.search(r"^\d{4}-.*@.* +replay from root +2  4 5$", failed(either, "audit"), re.MULTILINE)


# --- what cannot be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["list", "flwo"], exits.NOT_RUNNING, "there is no consecutor 'flwo' in"),
        (["list", "../flow"], exits.BAD_DIRECTORY, "cannot be the id"),
        (["show", "flow", "3"], exits.USAGE, "no failed item at position 3"),
        (["show", "flow", "x"], exits.USAGE, "'x' is no position"),
        (["show", "flow", "1-2"], exits.USAGE, "takes one at a time"),
        (["list", "flow", "--node", "halv"], exits.USAGE, "no node 'halv'; did you mean halve?"),
        (["list", "flow", "--since", "then"], exits.USAGE, "is no time"),
        (["list", "flow", "--where", "int(value)"], exits.USAGE, "ValueError: invalid literal for int() with base 10: "
         "'two', for the value 'two' at position 2"),
        (["replay", "flow"], exits.USAGE, "which ones? Give positions or filters, or --all to replay all of them"),
        (["discard", "flow"], exits.USAGE, "or --all to discard all of them"),
        (["replay", "flow", "--all", "1"], exits.USAGE, "--all means all of them"),
        (["replay", "flow", "1", "--from", "start"], exits.USAGE, "--from 'start': it is root or node"),
        (["replay", "flow", "1", "--rate", "fast"], exits.USAGE, "is no number of items a second: write 100 or 100/s"),
        (["replay", "flow", "1", "--wait"], exits.NOT_RUNNING, "--wait needs a running consecutor"),
        (["export", "flow", "--format", "xml"], exits.USAGE, "there are ndjson and msgpack"),
        (["export", "flow", "--output", "no/where"], exits.USAGE, "no/where cannot be written: No such file"),
    ],
)  # fmt: skip
def test_mistakes_are_said_without_a_traceback_of_ours(stopped: Shell, words: list[str], code: int, said: str) -> None:
    done = stopped.run("failed", *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert done.stderr.startswith("consecutiond: error: ")
    assert "Traceback" not in done.stderr
    assert positions(stopped) == [1, 2, 4, 5, 6]


def test_an_expression_that_raises_late_has_changed_nothing(stopped: Shell) -> None:
    failed(stopped, "replay", "--where", "value[1] if value == 'six' and 1/0 else True", code=exits.USAGE)
    assert positions(stopped) == [1, 2, 4, 5, 6]


def test_nothing_is_changed_while_it_is_being_stopped(live: Shell) -> None:
    [worker] = [pid for pid, command in live.living().items() if command.rstrip().endswith("node-halve.0")]
    os.kill(worker, signal.SIGSTOP)
    assert live.run("push", "flow", stdin="2\n").returncode == exits.OK
    stopping = live.spawn("stop", "flow")
    wait_for(lambda: live.status("flow")["state"] == "draining", "the stop")
    said = failed(live, "replay", 1, code=exits.STOPPED)
    assert "nothing is changed any more; ask again when it is stopped" in said
    assert positions(live) == [1, 2, 4, 5, 6]
    os.kill(worker, signal.SIGCONT)
    assert stopping.wait(60) == exits.OK
    failed(live, "replay", 1)


def test_an_acker_that_does_not_answer_is_said(live: Shell) -> None:
    directory = RunDir(live.directory / ".consecution", "flow")
    [acker] = [pid for pid, command in live.living().items() if "consecutiond.acker" in command]
    os.kill(acker, signal.SIGSTOP)
    try:
        with (
            Operator(directory, patience_s=0.3) as operator,
            pytest.raises(OperatorError, match="did not answer within"),
        ):
            operator.act(Request("replay"))
    finally:
        os.kill(acker, signal.SIGCONT)


def test_a_replay_survives_the_acker_that_was_asked(live: Shell) -> None:
    (live.directory / "mended").touch()
    [acker] = [pid for pid, command in live.living().items() if "consecutiond.acker" in command]
    os.kill(acker, signal.SIGSTOP)
    asking = live.spawn("failed", "replay", "flow", "4", "--wait")
    os.kill(acker, signal.SIGKILL)
    out, error = asking.communicate(timeout=60)
    assert asking.returncode == exits.OK, error
    assert out == "1 failed item of flow replayed from its root\n1 completed, 0 failed again\n"


def test_who_changes_a_stopped_one_leaves_it_as_it_was(stopped: Shell) -> None:
    before = stopped.run("ls", "--json").stdout
    failed(stopped, "edit", 4, "--value", "1")
    assert stopped.run("ls", "--json").stdout == before


def test_a_start_meanwhile_is_refused_and_a_live_one_is_not_written_to(stopped: Shell) -> None:
    directory = RunDir(stopped.directory / ".consecution", "flow")
    with Operator(directory) as operator:
        operator.act(Request("discard", Where(positions=(1,))))
        assert stopped.run("start", "flow.py", "--detach").returncode == exits.BAD_DIRECTORY
    with Operator(directory) as operator:
        start(stopped)
        with pytest.raises(OperatorError, match="was started just now"):
            operator.act(Request("discard", Where(positions=(2,))))
    assert positions(stopped) == [2, 4, 5, 6]
    stopped.run("stop", "flow")


@pytest.mark.parametrize("kind", ["kyoto", "redis"])
def test_other_stores_are_operated_alike(flow: Shell, kind: str, request: pytest.FixtureRequest) -> None:
    if kind == "kyoto":
        needs.kyoto()
        store = "kyoto"
    else:
        store = request.getfixturevalue("redis_server").url(f"failed{os.getpid()}")
    done = flow.run("start", "flow.py", "--detach", "--store", store, "--max-attempts", 1)
    assert done.returncode == exits.OK, done.stderr
    flow.run("push", "flow", stdin=LINES)
    wait_for(lambda: flow.status("flow")["failed"] == 5, "five failed items")
    (flow.directory / "mended").touch()
    assert "1 completed, 0 failed again" in failed(flow, "edit", 2, "--value", '"2"', "--replay", "--wait")
    assert positions(flow, "--node", "halve") == [1, 4, 6]
    flow.run("stop", "flow")
    assert "3 failed items of flow replayed" in failed(flow, "replay", "--node", "halve")
    assert failed(flow, "discard", 5) == "1 failed item of flow discarded\n"
    assert counts(flow) == (6, 2, 0, 1, 3)
    assert flow.run("start", "flow.py", "--detach", "--store", store).returncode == exits.OK
    wait_for(lambda: flow.status("flow")["open"] == 0, "the end of every attempt")
    assert counts(flow) == (6, 5, 0, 1, 0)
    flow.run("stop", "flow")


def test_a_log_in_memory_is_its_ackers_alone(flow: Shell) -> None:
    assert flow.run("start", "flow.py", "--detach", "--store", "memory://", "--max-attempts", 1).returncode == exits.OK
    flow.run("push", "flow", stdin=LINES)
    wait_for(lambda: flow.status("flow")["failed"] == 5, "five failed items")
    assert positions(flow) == [1, 2, 4, 5, 6]
    (flow.directory / "mended").touch()
    assert "3 completed, 0 failed again" in failed(flow, "replay", "--node", "halve", "--wait")
    flow.run("stop", "flow")
    assert "kept its log in memory" in failed(flow, "list", code=exits.NOT_RUNNING)


def test_without_tracking_nothing_is_kept(flow: Shell) -> None:
    flow.run("run", "flow.py", "--no-tracking", stdin=LINES)
    assert "runs with tracking = false: failed items are counted and not kept" in failed(
        flow, "list", code=exits.NOT_RUNNING
    )


def test_a_graph_in_threads_is_operated_like_any_other(flow: Shell) -> None:
    flow.write(
        "threads.py",
        """
        from pathlib import Path
        import time
        from consecutiond import Consecutor
        from flow import graph

        if __name__ == "__main__":
            it = Consecutor(graph, architecture="thread", id="flow", max_attempts=1).register_output("halves", [])
            with it:
                it.push_many(["1", "two"])
                while not Path("end").exists():
                    time.sleep(0.01)
        """,
    )
    script = flow.python("threads.py")
    wait_for(lambda: flow.home("flow").exists() and flow.status("flow").get("failed") == 2, "two failed items")
    (flow.directory / "mended").touch()
    assert "1 completed, 0 failed again" in failed(flow, "replay", "--node", "halve", "--wait")
    assert "ValueError" in failed(flow, "replay", 2, "--debug", code=exits.SOME_FAILED)
    (flow.directory / "end").touch()
    assert script.wait(60) == 0


def test_a_store_that_cannot_be_opened_is_said(stopped: Shell) -> None:
    (stopped.home("flow") / "acker_db.sqlite").write_bytes(b"no database" * 1000)
    for words in (["list"], ["replay", "--all"]):
        assert "acker_db.sqlite" in failed(stopped, *words, code=exits.START_FAILED)


def test_tab_completes_ids_and_nodes(stopped: Shell) -> None:
    stopped.environment |= {"_CONSECUTIOND_COMPLETE": "complete_bash", "_TYPER_COMPLETE_ARGS": ""}
    for words, offered in (("failed list f", "flow"), ("failed replay flow --node h", "halve")):
        line = f"consecutiond {words}"
        stopped.environment |= {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
        assert stopped.run().stdout.split() == [offered]


def test_a_script_says_what_failed_and_where_to_look(flow: Shell) -> None:
    place = flow.directory / "another place"
    done = flow.run("run", "flow.py", "--max-attempts", 1, "--dir", place, stdin="1\n")
    assert done.stderr.splitlines()[-1] == f"failed and kept: consecutiond failed list flow --dir '{place}'"
    assert "ValueError: # is odd" in failed(flow, "list", "--dir", place)
