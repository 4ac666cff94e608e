"""What a process logs and prints, as lines of JSON on its stderr."""

import json
import subprocess
import sys
from typing import Any

import pytest


def said(code: str) -> list[dict[str, Any]]:
    """Return the events of a process that runs some code after it has set its log up."""
    setup = "import logging, sys\nfrom consecutiond_broker import partlog\n"
    setup += "partlog.log_to_stderr('p', epoch=3, prints=True)\n"
    done = subprocess.run([sys.executable, "-c", setup + code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_events_name_the_part_the_time_and_whatever_was_added() -> None:
    [ours, theirs] = said(
        "logging.getLogger('consecutiond.x').info('ours n=%d', 1)\n"
        "logging.getLogger('mine').warning('theirs', extra={'size': 5, 'odd': {1}, 'part': 'not mine'})"
    )
    assert (ours["part"], ours["epoch"], ours["level"], ours["event"]) == ("p", 3, "info", "ours n=1")
    assert ours["timestamp"].endswith("Z")
    assert "logger" not in ours
    assert (theirs["logger"], theirs["size"], theirs["part"]) == ("mine", 5, "p")
    assert theirs["odd"] in ("{1}", [1])


def test_what_was_bound_is_in_every_event_and_hides_nothing() -> None:
    [event] = said("partlog.bind_context(lambda: {'root': 'r', 'event': 'no'})\nlogging.info('yes')")
    assert (event["root"], event["event"]) == ("r", "yes")


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("print('a', 'b')", ["a b"]),
        ("print('a', end=''); print('b'); print()", ["ab", ""]),
        ("print('a\\nb\\nc')", ["a", "b", "c"]),
        ("print('no end', end='')", ["no end"]),
        ("print('\\r 1 %\\r 50 %\\r100 %')", ["100 %"]),
        ("print('windows\\r')", ["windows"]),
        ("sys.stdout.write('\\r' + 'x' * 10)\nfor n in range(9): sys.stdout.write(f'\\r{n}')", ["8"]),
        ("print('x' * 70_000, end=''); print('y')", ["x" * 70_000, "y"]),
        ("print('\\udc80 lone')", ["\\udc80 lone"]),
    ],
)
def test_printed_lines_are_events(code: str, lines: list[str]) -> None:
    assert [(event["logger"], event["event"]) for event in said(code)] == [("stdout", line) for line in lines]


def test_threads_that_print_at_once_lose_nothing() -> None:
    code = """
import threading
sys.setswitchinterval(1e-6)
def work(name):
    for n in range(300):
        print(f"<{name}{n}>", end="")
threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
[t.start() for t in threads]
[t.join() for t in threads]
"""
    text = "".join(event["event"] for event in said(code))
    assert sorted(text.strip("<>").split("><")) == sorted(f"{name}{n}" for name in "abcd" for n in range(300))


def test_a_record_that_cannot_be_rendered_is_told_and_stops_nothing() -> None:
    code = """
class Bad:
    def __repr__(self):
        raise ValueError("no repr")
logging.info("x", extra={"bad": Bad()})
print("after")
"""
    events = [event["event"] for event in said(code)]
    assert any("no repr" in event for event in events)
    assert events[-1] == "after"
