"""Clients that mean no good, or do not know better: the others are served all the same."""

import contextlib
import socket as sockets
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from consecutiond.feeder import Feeder
from consecutiond.inputs.httpapp import Limits
from consecutiond.inputs.httpserver import HttpServer
from consecutiond.inputs.uris import parse_http
from tests.inputs.acker import FakeAcker, until

NDJSON = {"content-type": "application/x-ndjson"}
POST = b"POST /items HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"

Serve = Callable[..., HttpServer]


@pytest.fixture
def serve(feeder: Feeder) -> Iterator[Serve]:
    servers = []

    def start(query: str = "", **limits: Any) -> HttpServer:
        servers.append(HttpServer(parse_http(f"http://127.0.0.1:0{query}"), feeder, Limits(**limits)))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.stop(2)


@pytest.fixture
def connect() -> Iterator[Callable[[HttpServer], sockets.socket]]:
    with contextlib.ExitStack() as stack:

        def open_one(server: HttpServer) -> sockets.socket:
            address = ("127.0.0.1", int(server.endpoint.rpartition(":")[2]))
            connection = stack.enter_context(sockets.create_connection(address))
            connection.settimeout(30)
            return connection

        yield open_one


def everything(connection: sockets.socket) -> bytes:
    """Read until the other side closes."""
    text = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            text += piece
    return text


def check_served(server: HttpServer) -> None:
    assert httpx.post(f"{server.endpoint}/items", json=1, timeout=30).status_code == 202


def test_connections_that_never_ask_do_not_keep_others_out_and_are_closed(serve: Serve, connect: Any) -> None:
    server = serve("?max_connections=20", head_s=60.0)
    idle = [connect(server) for _ in range(60)]
    check_served(server)
    for connection in idle[:40]:
        assert everything(connection) == b"", "the longest idle ones have made room"


def test_connections_that_never_ask_are_closed(serve: Serve, connect: Any) -> None:
    server = serve(head_s=0.5)
    for connection in [connect(server) for _ in range(5)]:
        assert everything(connection) == b""


def test_heads_that_never_end_do_not_keep_others_out_and_are_closed(serve: Serve, connect: Any) -> None:
    server = serve("?max_connections=20", head_s=1.0)
    slow = [connect(server) for _ in range(60)]
    for connection in slow:
        with contextlib.suppress(OSError):
            connection.sendall(b"POST /items HTTP/1.1\r\nx-slow: 1\r\n")
    check_served(server)
    for connection in slow:
        assert everything(connection) == b""


def test_a_head_that_dribbles_is_closed_in_time_all_the_same(serve: Serve, connect: Any) -> None:
    connection = connect(serve(head_s=0.5))
    connection.settimeout(0.05)
    connection.sendall(b"POST /items HTTP/1.1\r\nx-slow: ")
    with contextlib.suppress(ConnectionError):
        for _ in range(600):
            connection.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                assert connection.recv(100) == b""
                break
        else:
            pytest.fail("it was never closed")


def test_a_connection_that_served_a_request_is_not_held_for_ever(serve: Serve, connect: Any) -> None:
    connection = connect(serve(idle_s=1.0))
    connection.sendall(POST + b"content-length: 1\r\n\r\n1")
    assert b" 202 " in everything(connection)


def test_a_busy_connection_is_never_the_one_that_is_closed_for_others(
    serve: Serve, connect: Any, acker: FakeAcker
) -> None:
    server = serve("?max_connections=5")
    acker.silent = True
    busy = connect(server)
    busy.sendall(POST + b"content-length: 1\r\n\r\n7")
    until(lambda: acker.values == [7])
    _idle = [connect(server) for _ in range(20)]
    acker.release()
    assert b" 202 " in busy.recv(4096)


def test_a_head_without_end_is_cut_off_long_before_its_time(serve: Serve, connect: Any) -> None:
    server = serve(head_s=60.0)
    connection = connect(server)
    with contextlib.suppress(OSError):
        connection.sendall(POST)
        for number in range(2000):
            connection.sendall(b"x-%d: %s\r\n" % (number, b"y" * 1000))
    answer = everything(connection)
    # A client that is still sending may be reset before it reads the answer.
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431")
    check_served(server)


def test_a_body_that_does_not_come_is_408(serve: Serve, connect: Any, acker: FakeAcker) -> None:
    connection = connect(serve(body_s=0.5))
    connection.sendall(POST + b"content-length: 5\r\n\r\n[1,")
    answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 408")
    assert acker.values == []


def test_a_stream_that_dribbles_without_a_line_is_408_and_its_lines_are_taken(
    serve: Serve, connect: Any, acker: FakeAcker
) -> None:
    connection = connect(serve(body_s=0.5))
    connection.sendall(POST.replace(b"json", b"x-ndjson") + b"content-length: 10000\r\n\r\n1\n2\n")
    connection.settimeout(0.05)
    answer = b""
    for _ in range(600):
        connection.sendall(b"3")
        with contextlib.suppress(TimeoutError):
            answer = connection.recv(4096)
            break
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"accepted":2' in answer
    assert acker.values == [1, 2]


def test_a_stream_that_waits_for_the_graph_is_not_too_slow(serve: Serve, acker: FakeAcker) -> None:
    server = serve(body_s=0.3)
    acker.silent = True

    def lines() -> Iterator[bytes]:
        for _ in range(400):
            yield b'"' + b"x" * 9_998 + b'"\n'

    # Longer than the client may take; it is the receipts that do not come.
    import threading

    timer = threading.Timer(1.0, acker.release)
    timer.start()
    answer = httpx.post(f"{server.endpoint}/items", headers=NDJSON, content=lines(), timeout=60)
    timer.join()
    assert (answer.status_code, answer.json()["accepted"]) == (202, 400)


def test_a_body_announced_over_the_limit_is_413_before_it_comes(serve: Serve, connect: Any) -> None:
    connection = connect(serve("?max_body=1000"))
    connection.sendall(POST + b"content-length: 1001\r\nexpect: 100-continue\r\n\r\n")
    assert connection.recv(4096).startswith(b"HTTP/1.1 413")


def test_a_refused_client_may_finish_sending_and_then_reads_why(serve: Serve, connect: Any) -> None:
    """One whose connection is reset while it sends never sees the answer."""
    connection = connect(serve("?max_body=1000"))
    body = b"x" * (4 << 20)
    connection.sendall(POST + b"content-length: %d\r\n\r\n" % len(body))
    for start in range(0, len(body), 65536):
        connection.sendall(body[start : start + 65536])
    assert everything(connection).startswith(b"HTTP/1.1 413")


def test_a_chunked_body_for_ever_is_413_and_cut_off(serve: Serve, connect: Any) -> None:
    server = serve("?max_body=100000")
    connection = connect(server)
    connection.sendall(POST + b"transfer-encoding: chunked\r\n\r\n")
    chunk = b"%x\r\n%s\r\n" % (65536, b"[" * 65536)
    sent = 0
    with contextlib.suppress(ConnectionError, TimeoutError):
        connection.settimeout(5)
        while sent < 10_000:
            connection.sendall(chunk)
            sent += 1
    assert sent < 10_000
    check_served(server)


def test_bodies_in_memory_are_bounded_together(serve: Serve, connect: Any, acker: FakeAcker) -> None:
    server = serve(bodies=350_000)
    half = [connect(server) for _ in range(4)]
    for number, connection in enumerate(half, 1):
        connection.sendall(POST + b'content-length: 200000\r\n\r\n"' + b"x" * 99_999)
        until(lambda number=number: server.app.items._buffered == 100_000 * number or server.counts)
    assert half[3].recv(4096).startswith(b"HTTP/1.1 429")
    half[2].close()
    until(lambda: server.app.items._buffered == 200_000)
    for connection in half[:2]:
        connection.sendall(b"x" * 99_999 + b'"')
        assert connection.recv(4096).startswith(b"HTTP/1.1 202")
    assert len(acker.values) == 2


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20, b"\xff" * 5000, b"GET\r\n\r\n", b"\r\n" * 1000,
        b"POST /items HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"POST /items HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        POST + b"transfer-encoding: chunked\r\n\r\nZZ\r\n",
        b"GET ws://localhost/ HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_no_http_harms_nobody_and_fills_no_log(
    serve: Serve, connect: Any, garbage: bytes, caplog: pytest.LogCaptureFixture, acker: FakeAcker
) -> None:
    server = serve(head_s=0.5, body_s=0.5)
    for _ in range(20):
        connection = connect(server)
        with contextlib.suppress(OSError):
            connection.sendall(garbage)
    check_served(server)
    assert acker.values == [1]
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


def test_a_client_that_leaves_in_the_middle_leaves_what_was_complete(
    serve: Serve, connect: Any, acker: FakeAcker
) -> None:
    server = serve()
    connection = connect(server)
    connection.sendall(POST.replace(b"json", b"x-ndjson") + b'content-length: 1000\r\n\r\n1\n2\n"half')
    until(lambda: acker.values == [1, 2])
    connection.close()
    until(lambda: server.app.items.active == 0)
    assert acker.values == [1, 2]


def test_requests_whose_clients_gave_up_waiting_are_bounded(serve: Serve, connect: Any, acker: FakeAcker) -> None:
    server = serve("?max_connections=4")
    acker.silent = True
    for number in range(30):
        connection = connect(server)
        connection.sendall(POST + b"content-length: 1\r\n\r\n1")
        until(lambda number=number: server.app.items.active > number or server.counts.get(429))
        connection.close()
    assert server.app.items.active <= 9
    acker.release()
    until(lambda: server.app.items.active == 0)
    check_served(server)
