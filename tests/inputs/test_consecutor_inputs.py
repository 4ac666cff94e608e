"""A consecutor that is fed by servers, with real clients: plain pyzmq, curl and httpx."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import zmq

from consecutiond import Consecutor, Summary
from consecutiond.acker.stores import read_only
from consecutiond.consecutor import StateError
from consecutiond.inputs.errors import InputError, InputUriError
from tests.graphs import items

GRAPHS = Path(items.__file__)


class Run:
    """A consecutor in a thread of the test, fed by a server; ended by `down` from the test."""

    def __init__(self, architecture: str, directory: Path, start: Callable[[Consecutor], Any]) -> None:
        self.out: list[Any] = []
        self.consecutor = Consecutor(
            items.keyed, architecture, target=f"{GRAPHS}:keyed", id="fed", dir=directory, retry_backoff_s=0.01
        )
        self.consecutor.register_output("owners", self.out)
        self.store = directory / "fed" / "acker_db.sqlite"
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(start,), daemon=True)
        self.thread.start()
        deadline = time.monotonic() + 60
        while self.endpoint is None:
            assert self.error is None, self.error
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def _run(self, start: Callable[[Consecutor], Any]) -> None:
        try:
            start(self.consecutor)
        except BaseException as error:
            self.error = error

    @property
    def endpoint(self) -> str | None:
        session = self.consecutor._session
        return session.server.endpoint if session is not None and session.server is not None else None

    def down(self) -> Summary:
        summary = self.consecutor.down()
        self.thread.join(30)
        assert not self.thread.is_alive()
        assert self.error is None
        assert summary.accepted == summary.completed + summary.failed
        return summary


@pytest.fixture(params=["process", "thread"])
def fed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[Callable[[Consecutor], Any]], Run]]:
    runs: list[Run] = []

    def start(call: Callable[[Consecutor], Any]) -> Run:
        runs.append(Run(request.param, tmp_path, call))
        return runs[-1]

    yield start
    for run in runs:
        if run.consecutor._session is not None:
            run.consecutor.stop()


def client(code: str, endpoint: str) -> str:
    """Run a plain pyzmq program, as a user would write it."""
    done = subprocess.run(
        [sys.executable, "-c", code, endpoint], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


PUSH = """
import sys, zmq, json
context = zmq.Context()
socket = context.socket(zmq.PUSH)
socket.connect(sys.argv[1])
for number in range(100):
    socket.send_multipart([json.dumps(2 * number).encode(), json.dumps(2 * number + 1).encode()])
socket.close()
context.term()
"""

REQ = """
import sys, zmq
socket = zmq.Context().socket(zmq.REQ)
socket.connect(sys.argv[1])
for frame in (b"7", b"{half", b"8"):
    socket.send(frame)
    print(socket.recv_multipart()[-1].decode())
"""


def test_a_push_client_feeds_values_without_an_answer(fed: Any) -> None:
    run = fed(lambda consecutor: consecutor.produce_from_tcp("tcp://127.0.0.1:0?format=json"))
    client(PUSH, run.endpoint)
    deadline = time.monotonic() + 30
    while len(run.out) < 200:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert run.down().completed == 200


def test_a_req_client_gets_a_receipt_once_its_value_is_recorded_and_an_error_for_what_is_none(fed: Any) -> None:
    run = fed(lambda consecutor: consecutor.produce_from_tcp("tcp://127.0.0.1:0?type=router&format=json"))
    first, bad, last = [msgspec.json.decode(line) for line in client(REQ, run.endpoint).splitlines()]
    assert "error" in bad
    assert "error" not in first
    assert "error" not in last
    log = read_only(run.store)
    assert log.totals().accepted == 2
    log.close()
    assert run.down().completed == 2
    assert sorted(row[0] for row in run.out) == [0, 1]


def test_rest_takes_values_arrays_lines_and_msgpack_and_records_before_it_answers(fed: Any) -> None:
    run = fed(lambda consecutor: consecutor.produce_from_http("http://127.0.0.1:0"))
    url = run.endpoint
    with httpx.Client(base_url=url) as http:
        assert http.get("/healthz").status_code == http.get("/readyz").status_code == 200
        assert http.post("/items", json=1).status_code == 202
        array = http.post("/items?each=1", json=[2, 3, 4])
        assert (array.status_code, array.json()["accepted"]) == (202, 3)
        packed = {"content-type": "application/msgpack"}
        assert http.post("/items", content=msgspec.msgpack.encode(5), headers=packed).status_code == 202
        ndjson = {"content-type": "application/x-ndjson"}
        bad = http.post("/items", content=b"6\n7\n{oops\n8\n", headers=ndjson)
        assert (bad.status_code, bad.json()["accepted"], bad.json()["position"]) == (400, 2, {"line": 3})
        assert http.post("/items", content=b"x", headers={"content-type": "text/html"}).status_code == 415
        assert http.post("/items", content=b"{", headers={"content-type": "application/json"}).status_code == 400
        log = read_only(run.store)
        assert log.totals().accepted == 7
        log.close()
    assert run.down().completed == 7


@pytest.mark.skipif(shutil.which("curl") is None and "CI" not in os.environ, reason="curl is not installed")
def test_curl_feeds_a_file_line_by_line(fed: Any, tmp_path: Path) -> None:
    run = fed(lambda consecutor: consecutor.produce_from_http("http://127.0.0.1:0"))
    lines = tmp_path / "lines"
    lines.write_text("".join(f"{number}\n" for number in range(5000)))
    call = [
        "curl",
        "-sS",
        "-H",
        "content-type: application/x-ndjson",
        "--data-binary",
        f"@{lines}",
        f"{run.endpoint}/items",
    ]
    answer = msgspec.json.decode(subprocess.run(call, capture_output=True, check=True, timeout=60).stdout)
    assert answer["accepted"] == 5000
    assert run.down().completed == 5000


def test_a_second_input_is_refused_while_one_is_open(fed: Any) -> None:
    run = fed(lambda consecutor: consecutor.produce_from_tcp("tcp://127.0.0.1:0?format=json"))
    for second in (
        lambda: run.consecutor.push(1),
        lambda: run.consecutor.produce_from_iterable([1]),
        lambda: run.consecutor.produce_from_http("http://127.0.0.1:0"),
    ):
        with pytest.raises(StateError, match="second input"):
            second()
    assert run.down().accepted == 0


def test_a_place_that_is_taken_is_an_error_and_nothing_is_left_running(tmp_path: Path) -> None:
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        consecutor = Consecutor(items.keyed, "thread", id="x", dir=tmp_path)
        with pytest.raises(InputError, match="cannot listen"):
            consecutor.produce_from_tcp(f"tcp://127.0.0.1:{port}")
        assert consecutor._session is None


@pytest.mark.parametrize(
    "uri", ["tpc://127.0.0.1:1", "tcp://127.0.0.1", "tcp://0.0.0.0:5555", "tcp://127.0.0.1:1?typ=x"]
)
def test_a_wrong_or_unsafe_uri_is_refused_before_anything_starts(tmp_path: Path, uri: str) -> None:
    consecutor = Consecutor(items.keyed, "thread", id="x", dir=tmp_path)
    with pytest.raises(InputUriError):
        consecutor.produce_from_tcp(uri)
    assert not (tmp_path / "x").exists()
