"""The kill socket: one message stops, once; everything else is counted and nothing more."""

import os
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zmq

from consecutiond.inputs.errors import InputError
from consecutiond.inputs.killsocket import KillSocket, NoAnswerError, request_stop
from consecutiond.rundir import RunDir
from tests.inputs.acker import until


@pytest.fixture
def uri(tmp_path: Path) -> str:
    directory = RunDir(tmp_path, "killed")
    directory.create()
    return directory.socket_uri("kill")


@pytest.fixture
def asked() -> list[float]:
    return []


@pytest.fixture
def kill(uri: str, asked: list[float]) -> Iterator[KillSocket]:
    kill = KillSocket(uri, 60.0, asked.append)
    yield kill
    kill.close()


def test_a_stop_is_answered_and_calls_back_with_its_seconds(kill: KillSocket, uri: str, asked: list[float]) -> None:
    assert not kill.asked
    assert request_stop(uri, 12.5) == 12.5
    until(lambda: asked == [12.5])
    assert kill.asked


def test_the_first_request_alone_counts(kill: KillSocket, uri: str, asked: list[float]) -> None:
    assert [request_stop(uri, seconds) for seconds in (3, 1, 99)] == [3, 3, 3]
    until(lambda: asked == [3])


def test_a_request_without_seconds_gets_those_of_the_consecutor(kill: KillSocket, uri: str, asked: list[float]) -> None:
    assert request_stop(uri, None) == 60.0
    until(lambda: asked == [60.0])


def test_nobody_is_asked_who_is_not_alive(uri: str) -> None:
    with pytest.raises(NoAnswerError):
        request_stop(uri, 1, answer_s=3600, alive=lambda: False)


def test_a_listener_that_comes_late_is_asked_too(uri: str, asked: list[float]) -> None:
    """As a heart that is restarted: the request waits for it, or is sent again."""
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(request_stop, uri, 2.0, 60.0)
        with pytest.raises(TimeoutError):
            answer.result(0.05)
        kill = KillSocket(uri, 60.0, asked.append)
        assert answer.result() == 2.0
    kill.close()


def test_the_socket_is_for_this_user_alone(kill: KillSocket, uri: str) -> None:
    assert stat.S_IMODE(Path(uri.removeprefix("ipc://")).stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", [zmq.REQ, zmq.DEALER])
def test_a_plain_client_of_either_kind_can_ask(kill: KillSocket, uri: str, asked: list[float], kind: int) -> None:
    with zmq.Context() as context, context.socket(kind) as socket:
        socket.connect(uri)
        empty = [b""] if kind == zmq.DEALER else []
        socket.send_multipart([*empty, b"CONSECUTIOND/1", b"STOP", b"7"])
        assert socket.poll(30_000)
        assert socket.recv_multipart() == [*empty, b"CONSECUTIOND/1", b"STOPPING", b"7"]
    until(lambda: asked == [7])


NONSENSE = [
    [b"CONSECUTIOND/1", b"STOP", b"7"], [b"", b"CONSECUTIOND/1", b"STOP"], [b"", b"CONSECUTIOND/2", b"STOP", b"7"],
    [b"", b"CONSECUTIOND/1", b"stop", b"7"], [b"", b"CONSECUTIOND/1", b"STOP", b"-1"],
    [b"", b"CONSECUTIOND/1", b"STOP", b"inf"], [b"", b"CONSECUTIOND/1", b"STOP", b"7\n"],
    [b"", b"CONSECUTIOND/1", b"STOP", b" "], [b"", b"CONSECUTIOND/1", b"STOP", "\u0667".encode()],
    [b"", b"CONSECUTIOND/1", b"STOP", b"7", b""], [b""], [b"\x00" * 64], [b"a"] * 1000,
]  # fmt: skip


def test_anything_else_is_counted_and_gets_no_answer(kill: KillSocket, uri: str, asked: list[float]) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(uri)
        for frames in NONSENSE:
            socket.send_multipart(frames)
        until(lambda: kill.ignored == len(NONSENSE))
        assert not socket.poll(50)
    assert not kill.asked
    assert request_stop(uri, 1) == 1
    until(lambda: asked == [1])


def test_an_oversized_frame_harms_nobody(kill: KillSocket, uri: str) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(uri)
        socket.send(os.urandom(1 << 20))
        assert request_stop(uri, 1) == 1


def test_a_callback_that_raises_leaves_the_socket_alive(uri: str) -> None:
    def bad(_seconds: float) -> None:
        raise ZeroDivisionError

    kill = KillSocket(uri, 60.0, bad)
    assert [request_stop(uri, 1), request_stop(uri, 2)] == [1, 1]
    kill.close()


def test_the_callback_may_close_the_socket(uri: str) -> None:
    closed = threading.Event()

    def close(_seconds: float) -> None:
        kill.close()
        closed.set()

    kill = KillSocket(uri, 60.0, close)
    request_stop(uri, 1)
    assert closed.wait(30)
    kill.close()
    assert not kill._thread.is_alive()


def test_where_nobody_listens_the_client_says_so(uri: str) -> None:
    started = time.monotonic()
    with pytest.raises(NoAnswerError, match="nobody answered at the kill socket"):
        request_stop(uri, 1, answer_s=0.2)
    assert time.monotonic() - started >= 0.2


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan"), 1e9])
def test_seconds_that_are_none_are_refused_before_they_are_sent(uri: str, seconds: float) -> None:
    with pytest.raises(ValueError, match="is no number of seconds"):
        request_stop(uri, seconds)


def test_a_place_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot make the kill socket"):
        KillSocket(f"ipc://{tmp_path}/nowhere/kill.sock", 60.0, lambda _seconds: None)
