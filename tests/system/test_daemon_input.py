"""`consecutiond start --input`: a program of the daemon takes input from clients, and is one more that may die."""

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import zmq

from consecutiond.cli import exits
from tests.system.shell import Shell, logged, wait_for, wait_gone

#: one node that writes what it gets
ECHO = """
    from consecutiond import Node

    class Echo(Node):
        def process(self, value):
            self.write("seen", value)

    graph = Echo("echo")
"""
#: the same, held up as long as there is a file `held` beside it
HELD = """
    import os, time
    from consecutiond import Node

    class Echo(Node):
        def process(self, value):
            while os.path.exists("held"):
                time.sleep(0.01)
            self.write("seen", value)

    graph = Echo("echo")
"""
HTTP = "http://127.0.0.1:0"


def started(shell: Shell, *words: str, source: str = ECHO) -> None:
    shell.write("flow.py", source)
    done = shell.run("start", "flow.py", "--detach", *words)
    assert done.returncode == exits.OK, done.stderr


def part(shell: Shell) -> dict[str, Any]:
    found: dict[str, Any] = shell.status("flow")["parts"]["input"]
    return found


def endpoint(shell: Shell) -> str:
    """Return where the input takes values, once it does."""
    return str(wait_for(lambda: part(shell)["stats"].get("endpoint"), "the input listens"))


def free_port() -> int:
    """Return a port that nobody else is given meanwhile: the system hands out those of the other half."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def post(client: httpx.Client, url: str, values: Iterator[int], answered: list[int]) -> None:
    """Post value after value; note which were answered with 2xx; go on while there is nobody there."""
    for value in values:
        try:
            if client.post(f"{url}/items", json=value).is_success:
                answered.append(value)
        except httpx.TransportError:
            continue


def test_what_was_answered_with_2xx_survives_a_kill_of_the_input_which_is_started_again(shell: Shell) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    started(shell, "--input", url)
    over, answered = threading.Event(), list[int]()

    def values() -> Iterator[int]:
        number = 0
        while not over.is_set():
            yield number
            number += 1

    with httpx.Client() as client:
        thread = threading.Thread(target=post, args=(client, url, values(), answered))
        thread.start()
        try:
            for kill in range(1, 3):
                seen = len(answered)
                wait_for(lambda seen=seen: len(answered) > seen + 20, "items are taken")
                os.kill(part(shell)["pid"], signal.SIGKILL)
                wait_for(lambda kill=kill: part(shell)["restarts"] == kill, "it is started again")
            seen = len(answered)
            wait_for(lambda: len(answered) > seen + 20, "items are taken again")
        finally:
            over.set()
            thread.join()
    assert shell.run("stop", "flow").returncode == exits.OK
    counts = logged(shell.home("flow"))
    assert counts["open"] == counts["failed"] == 0
    assert counts["accepted"] == counts["completed"] >= len(answered)
    assert set(answered) <= set(shell.written("flow", "seen"))
    wait_gone(shell.directory)


def test_a_zmq_input_answers_with_receipts_and_is_counted_in_the_status(shell: Shell) -> None:
    started(shell, "--input", "tcp://127.0.0.1:0?type=router&format=json")
    with zmq.Context() as context, context.socket(zmq.REQ) as client:
        client.connect(endpoint(shell))
        for message in ([b"1"], [b"2", b"3"], [b"{half"]):
            client.send_multipart(message)
            assert client.poll(30_000)
            answer = msgspec.json.decode(client.recv())
            assert answer.get("recorded") == (0 if b"{half" in message else len(message)), answer
    counted = wait_for(lambda: (s := part(shell)["stats"])["items"] == 3 and s, "the counters have come")
    assert counted["failures"] == 1
    assert "takes input at tcp://127.0.0.1:" in shell.run("status", "flow").stdout
    assert shell.run("stop", "flow").returncode == exits.OK
    assert sorted(shell.written("flow", "seen")) == [1, 2, 3]


@pytest.mark.parametrize("place", ["file", "environment", "code"])
def test_the_input_may_be_named_anywhere(shell: Shell, place: str) -> None:
    words: tuple[str, ...] = ()
    source = ECHO
    if place == "file":
        shell.write("flow.toml", f'input = "{HTTP}"\n')
        words = ("--config", "flow.toml")
    elif place == "environment":
        shell.environment["CONSECUTIOND_INPUT"] = HTTP
    else:
        source += f"""
    from consecutiond import Consecutor
    consecutor = Consecutor(graph, input="{HTTP}", id="flow")
    """
    shell.write("flow.py", source)
    target = "flow.py:consecutor" if place == "code" else "flow.py:graph"
    done = shell.run("start", target, "--detach", *words)
    assert (done.returncode, done.stderr) == (exits.OK, "")
    url = endpoint(shell)
    assert f"takes input at {url};" in done.stdout
    assert httpx.post(f"{url}/items", json=1).status_code == 202
    assert shell.run("stop", "flow").returncode == exits.OK


@pytest.mark.parametrize("how", ["stop", "signal"])
def test_a_stop_ends_the_input_first_and_what_it_had_accepted_is_finished(shell: Shell, how: str) -> None:
    """A client in the middle of a stream is told how much of it was recorded; all of that is completed."""
    (shell.directory / "held").touch()
    shell.write("flow.py", HELD)
    daemon = shell.spawn("start", "flow.py", "--input", HTTP)
    wait_for(lambda: shell.home("flow").exists() and shell.status("flow")["state"] == "running", "the graph is up")
    host, port = endpoint(shell).removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(
            b"POST /items HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\n"
            b"transfer-encoding: chunked\r\n\r\n4\r\n1\n2\n\r\n"
        )
        wait_for(lambda: shell.status("flow")["accepted"] == 2, "the stream's first lines are recorded")
        stop: subprocess.Popen[str] | None = None
        if how == "stop":
            stop = shell.spawn("stop", "flow")
        else:
            daemon.send_signal(signal.SIGTERM)
        client.settimeout(60)
        raw = b""
        while b"recorded" not in raw and b'"accepted"' not in raw:
            piece = client.recv(65536)
            assert piece, raw
            raw += piece
        assert raw.startswith(b"HTTP/1.1 503"), raw
        assert b'"accepted":2' in raw, raw
    wait_for(lambda: part(shell)["state"] == "dead", "the input has ended")
    assert shell.status("flow")["state"] == "draining", "the graph waits for its node"
    (shell.directory / "held").unlink()
    assert daemon.wait(60) == exits.OK
    assert stop is None or stop.wait(60) == exits.OK
    assert sorted(shell.written("flow", "seen")) == [1, 2]
    assert logged(shell.home("flow")) == {"accepted": 2, "completed": 2, "failed": 0, "open": 0}
    wait_gone(shell.directory)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("--input", "stdin"), exits.BAD_TARGET, "consecutiond push"),
        (("--input", "lines.txt"), exits.BAD_TARGET, "not from lines.txt"),
        (("--input", "htp://127.0.0.1:1"), exits.USAGE, "did you mean http://?"),
        (("--input", "http:/127.0.0.1:1"), exits.USAGE, "did you mean http://127.0.0.1:1?"),
        (("--input", "http://127.0.0.1"), exits.USAGE, "the port is missing"),
        (("--input", "tcp://0.0.0.0:1"), exits.USAGE, "can be reached from other machines"),
        (("--input", HTTP, "--input", "tcp://127.0.0.1:0"), exits.BAD_TARGET, "one and only one input"),
        (("--architecture", "thread"), exits.BAD_TARGET, "the parts of a daemon are processes"),
    ],
)  # fmt: skip
def test_an_input_that_a_daemon_cannot_have_is_refused_before_anything_starts(
    shell: Shell, words: tuple[str, ...], code: int, text: str
) -> None:
    shell.write("flow.py", ECHO)
    done = shell.run("start", "flow.py", *words)
    assert done.returncode == code
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert not shell.home("flow").exists()


@pytest.mark.parametrize("detach", [True, False])
def test_a_place_that_is_taken_fails_the_start_with_one_clear_error(shell: Shell, detach: bool) -> None:
    shell.write("flow.py", ECHO)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        done = shell.run("start", "flow.py", "--input", uri, *(["--detach"] if detach else []))
    assert done.returncode == exits.START_FAILED
    assert f"cannot listen at {uri}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr
    wait_gone(shell.directory)


def test_nothing_is_taken_before_the_graph_is_up(shell: Shell, tmp_path: Path) -> None:
    """The place is there already, so a client waits for its answer instead of being refused."""
    gate = tmp_path / "gate"
    shell.write("flow.py", f"""
        import os, time
        from consecutiond import Node

        class Late(Node):
            def begin(self):
                while not os.path.exists({str(gate)!r}):
                    time.sleep(0.01)

            def process(self, value):
                self.write("seen", value)

        graph = Late("late")
    """)  # fmt: skip
    daemon = shell.spawn("start", "flow.py", "--input", HTTP)
    wait_for(lambda: shell.home("flow").exists() and "parts" in shell.status("flow"), "the heart answers")
    host, port = endpoint(shell).removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(
            b"POST /items HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1\r\n\r\n7"
        )
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(1)
        assert shell.status("flow")["accepted"] in (0, None)
        gate.touch()
        client.settimeout(60)
        assert client.recv(4096).startswith(b"HTTP/1.1 202")
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(60) == exits.OK
    assert shell.written("flow", "seen") == [7]
