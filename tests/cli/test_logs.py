"""``consecutiond logs``: one place to read what all parts say."""

import json
import os
import signal
from datetime import datetime
from pathlib import Path

import pytest

from consecutiond.cli import exits
from consecutiond.logreader import Choice, Logs, parse
from tests.cli.terminal import terminal
from tests.system.shell import Shell, wait_for

CHATTY = """
import logging
import os
import sys
from consecutiond import Node

class Chatty(Node):
    def begin(self):
        os.write(1, b"past python\\n")

    def process(self, value):
        print("printed", value)
        print("to stderr", file=sys.stderr)
        logging.getLogger("mine").warning("warned of %s", value, extra={"size": len(value)})
        if value == "bad":
            try:
                raise ValueError("secret reason")
            except ValueError:
                logging.exception("it went wrong")
        self.push(value)

graph = Chatty("chatty") | Node("quiet")
"""


@pytest.fixture
def flow(shell: Shell) -> Shell:
    shell.write("flow.py", CHATTY)
    assert shell.run("start", "flow.py", "--detach").returncode == exits.OK
    assert shell.run("push", "flow", stdin="good\nbad\n").returncode == exits.OK
    wait_for(lambda: shell.status("flow")["completed"] == 2, "the items")
    return shell


def events(shell: Shell, *words: str) -> list[dict[str, object]]:
    done = shell.run("logs", "flow", "--json", *words)
    assert done.returncode == exits.OK, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_all_parts_speak_in_one_place_in_the_order_of_time(flow: Shell) -> None:
    heard = events(flow)
    times = [datetime.fromisoformat(str(event["timestamp"])) for event in heard]
    assert times == sorted(times)
    parts = {event["part"] for event in heard}
    assert {"heart", "acker", "node-chatty.0", "broker-input-chatty"} <= parts
    assert "supervisord" not in parts
    assert "graph.ready" in {event["event"] for event in heard}


def test_what_a_node_prints_and_logs_carries_its_name_and_the_item_it_is_at(flow: Shell) -> None:
    heard = events(flow, "chatty")
    assert {event["part"] for event in heard} == {"node-chatty.0"}
    said = {str(event["event"]): event for event in heard}
    printed, warned, failed = said["printed bad"], said["warned of bad"], said["it went wrong"]
    assert (printed["logger"], printed["level"], printed["epoch"]) == ("stdout", "info", 1)
    assert said["to stderr"]["logger"] == "stderr"
    assert (warned["logger"], warned["level"], warned["size"]) == ("mine", "warning", 3)
    assert "secret reason" in str(failed["exception"])
    assert printed["root"] == warned["root"] == failed["root"]
    assert printed["attempt"] == 1
    assert printed["root"] != said["printed good"]["root"]
    assert "root" not in said["past python"], "what goes past python is a line all the same"


def test_level_time_number_and_part_choose(flow: Shell) -> None:
    assert {event["level"] for event in events(flow, "--level", "warning")} == {"warning", "error"}
    assert events(flow, "--since", "2100-01-01") == []
    assert events(flow, "--since", "1h")
    assert [event["event"] for event in events(flow, "chatty.0", "--level", "error", "-n", "1")] == ["it went wrong"]
    assert any("spawned" in str(event["event"]) for event in events(flow, "supervisord"))


def test_people_get_short_lines_with_tracebacks_below(flow: Shell) -> None:
    text = flow.run("logs", "flow", "chatty").stdout
    assert "WARNING  node-chatty.0 warned of bad logger=mine size=3 root=" in text
    assert "\n    Traceback (most recent call last):\n" in text
    assert "\033[" not in text


def test_values_are_in_no_event_of_ours(flow: Shell) -> None:
    others = [event for event in events(flow, "-n", "100000") if event["part"] != "node-chatty.0"]
    assert not [event for event in others if "good" in str(event)]


def test_it_follows_until_the_consecutor_ends(flow: Shell) -> None:
    with terminal(flow, "logs", "flow", "-f") as seen:
        seen.expect("printed bad")
        assert flow.run("push", "flow", stdin="later\n").returncode == exits.OK
        seen.expect("printed later")
        assert flow.run("stop", "flow").returncode == exits.OK
        seen.expect("graph.finished")
        assert seen.end() == exits.OK
        assert "\033[36mnode-chatty.0\033[0m" in seen.seen


def test_interrupting_ends_it_without_a_word_of_ours(flow: Shell) -> None:
    process = flow.spawn("logs", "flow", "-f")
    wait_for(lambda: Path(f"/proc/{process.pid}/fd").exists(), "it")
    wait_for(lambda: any("heart.log" in os.readlink(fd) for fd in _fds(process.pid)), "it reads")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == exits.OK


def _fds(pid: int) -> list[str]:
    found = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            os.readlink(fd)
        except FileNotFoundError:
            continue
        found.append(str(fd))
    return found


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("none",), exits.NOT_RUNNING, "there are no logs of 'none'"),
        (("flow", "nobody"), exits.USAGE, "no part or node is called 'nobody'; there are logs of acker"),
        (("flow", "--level", "loud"), exits.USAGE, "write debug, info, warning, error, critical"),
        (("flow", "--since", "whenever"), exits.USAGE, "is no time"),
    ],
)
def test_mistakes_are_said(shell: Shell, words: tuple[str, ...], code: int, said: str) -> None:
    log_files = shell.home("flow") / "log_files"
    log_files.mkdir(parents=True)
    (log_files / "acker.log").touch()
    done = shell.run("logs", *words)
    assert done.returncode == code
    assert said in " ".join(done.stderr.replace("│", " ").split())


# --- the files --------------------------------------------------------------------------------------------------------


def line(second: int, text: str, level: str = "info") -> str:
    return json.dumps({"timestamp": f"2026-01-01T00:00:{second:02d}Z", "level": level, "event": text}) + "\n"


def test_rotated_files_come_first_and_lines_of_no_form_keep_their_place(tmp_path: Path) -> None:
    (tmp_path / "node-a.0.log.2").write_text(line(1, "oldest"))
    (tmp_path / "node-a.0.log.1").write_text(line(2, "older") + "what somebody printed\n" + '{"not": "ours"}\n')
    (tmp_path / "node-a.0.log").write_text(line(5, "newest"))
    (tmp_path / "heart.log").write_text(line(3, "between"))
    logs = Logs(tmp_path, Choice())
    texts = [event.text for event in logs.past()]
    logs.close()
    assert texts == ["oldest", "older", "what somebody printed", '{"not": "ours"}', "between", "newest"]


def test_a_file_that_is_rotated_while_it_is_followed_loses_no_line(tmp_path: Path) -> None:
    log = tmp_path / "heart.log"
    log.write_text(line(1, "one"))
    logs = Logs(tmp_path, Choice())
    assert [event.text for event in logs.past()] == ["one"]
    steps = iter([True, True, True, False])

    def goes_on() -> bool:
        if not (tmp_path / "heart.log.1").exists():
            with log.open("a") as file:
                file.write(line(2, "two"))
            log.rename(tmp_path / "heart.log.1")
            log.write_text(line(3, "three") + line(4, "half")[:10])
        elif "half" not in log.read_text():
            with log.open("a") as file:
                file.write(line(4, "half")[10:])
        return next(steps)

    assert [event.text for event in logs.follow(goes_on)] == ["two", "three", "half"]
    logs.close()


@pytest.mark.parametrize(
    ("text", "level", "said"),
    [
        ("2026-01-01 00:00:01,250 CRIT Server running", "critical", "Server running"),
        ("2026-01-01 00:00:01,250 WARN late", "warning", "late"),
        ("2026-01-01 00:00:01,250 ODD late", "info", "late"),
    ],
)
def test_supervisord_is_understood(text: str, level: str, said: str) -> None:
    event = parse("supervisord", text, 0.0)
    assert (event.level, event.text) == (level, said)
    assert event.at == datetime(2026, 1, 1, 0, 0, 1, 250_000).timestamp()
