"""The ZeroMQ server: what clients send is recorded or refused, and no client harms another."""

import contextlib
import logging
import os
import socket as sockets
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
import zmq.auth

from consecutiond.feeder import Feeder
from consecutiond.inputs.errors import InputError
from consecutiond.inputs.uris import parse_zmq
from consecutiond.inputs.zmqserver import ZmqServer
from tests.inputs.acker import FakeAcker, until

pack = msgspec.msgpack.encode
unpack = msgspec.msgpack.decode

Context = zmq.Context[zmq.Socket[bytes]]
#: the clients of the running test
OPEN: list["zmq.Socket[bytes]"] = []
Serve = Callable[[str], ZmqServer]


@pytest.fixture
def serve(feeder: Feeder) -> Iterator[Serve]:
    servers = []

    def start(uri: str) -> ZmqServer:
        servers.append(ZmqServer(parse_zmq(uri), feeder))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.stop(2)


@pytest.fixture
def context() -> Iterator[Context]:
    context: Context = zmq.Context()
    yield context
    while OPEN:
        OPEN.pop().close(linger=0)
    context.term()


def connect(context: Context, kind: int, server: ZmqServer, **options: int) -> "zmq.Socket[bytes]":
    socket = context.socket(kind)
    OPEN.append(socket)
    socket.setsockopt(zmq.RCVTIMEO, 30_000)
    socket.setsockopt(zmq.SNDTIMEO, 30_000)
    for name, value in options.items():
        socket.setsockopt(getattr(zmq, name), value)
    socket.connect(server.endpoint)
    return socket


PULL = "tcp://127.0.0.1:0"
ROUTER = "tcp://127.0.0.1:0?type=router"


# --- PULL ---------------------------------------------------------------------------------------------------------


def test_each_frame_of_a_push_client_is_a_value(serve: Serve, context: Context, acker: FakeAcker) -> None:
    push = connect(context, zmq.PUSH, serve(PULL))
    push.send(pack({"a": 1}))
    push.send_multipart([pack(2), pack("three"), pack(None)])
    until(lambda: len(acker.values) == 4)
    assert acker.values == [{"a": 1}, 2, "three", None]


@pytest.mark.parametrize(
    ("format", "encode"), [("json", msgspec.json.encode), ("auto", msgspec.json.encode), ("auto", pack)]
)
def test_other_formats_are_read_when_they_are_asked_for(
    serve: Serve, context: Context, acker: FakeAcker, format: str, encode: Callable[[Any], bytes]
) -> None:
    push = connect(context, zmq.PUSH, serve(f"{PULL}?format={format}"))
    for value in ({"a": [1]}, "x", 1000, None):
        push.send(encode(value))
    until(lambda: len(acker.values) == 4)
    assert acker.values == [{"a": [1]}, "x", 1000, None]


def test_a_bad_frame_is_dropped_and_counted_and_its_neighbours_are_taken(
    serve: Serve, context: Context, acker: FakeAcker
) -> None:
    server = serve(PULL)
    push = connect(context, zmq.PUSH, server)
    push.send_multipart([pack(1), b"\xc1", pack(2)])
    push.send(b'{"json": 1}')
    push.send(b"")
    push.send(pack(3))
    until(lambda: server.counts.taken == 3)
    assert server.counts.malformed == 3
    until(lambda: acker.values == [1, 2, 3])


def test_the_log_does_not_grow_with_the_bad_frames(
    serve: Serve, context: Context, acker: FakeAcker, logs: Callable[[], list[dict[str, Any]]]
) -> None:
    server = serve(PULL)
    push = connect(context, zmq.PUSH, server)
    for _ in range(1000):
        push.send(b"\xc1secret")
    push.send(pack("good"))
    until(lambda: server.counts.taken == 1)
    assert server.counts.malformed == 1000
    assert [entry["count"] for entry in logs() if entry["event"] == "input.malformed"] == [2**n for n in range(10)]
    assert "secret" not in str(logs())
    until(lambda: acker.values == ["good"])


def test_without_receipts_reading_stops_and_the_clients_have_to_wait(
    serve: Serve, context: Context, acker: FakeAcker
) -> None:
    acker.silent = True
    server = serve(PULL)
    push = connect(context, zmq.PUSH, server, SNDHWM=100, SNDTIMEO=300)
    frame, sent = pack(b"x" * 20_000), 0
    try:
        while sent < 50_000:
            push.send(frame)
            sent += 1
    except zmq.Again:
        pass
    assert sent < 50_000
    # What the server takes without a receipt is bounded by bytes; the rest is in queues of ZeroMQ and the system.
    assert server.counts.taken * len(frame) < 11 << 20
    acker.release()
    until(lambda: len(acker.values) == sent)


def test_a_backlog_that_is_full_stops_the_reading(
    serve: Serve, context: Context, acker: FakeAcker, feeder: Feeder
) -> None:
    acker.withholding = True
    server = serve(PULL)
    push = connect(context, zmq.PUSH, server)
    push.send(pack(0))
    until(lambda: feeder.full)
    for number in range(1, 100):
        push.send(pack(number))
    time.sleep(0.3)
    assert server.counts.taken == 1
    acker.release()
    until(lambda: acker.values == list(range(100)))


def test_stop_takes_what_has_arrived_and_returns_when_it_is_recorded(
    serve: Serve, context: Context, acker: FakeAcker
) -> None:
    acker.silent = True
    server = serve(PULL)
    push = connect(context, zmq.PUSH, server)
    for number in range(17_500):
        push.send(pack(number))
    until(lambda: server.counts.taken > 16_000 and not server._reading)
    assert server.counts.taken < 17_500, "the rest is on its way"
    stopping = threading.Thread(target=server.stop, args=(60,))
    stopping.start()
    acker.release()
    stopping.join(60)
    assert acker.values == list(range(17_500))


# --- ROUTER -------------------------------------------------------------------------------------------------------


def test_a_req_client_gets_a_receipt_when_its_value_is_recorded(
    serve: Serve, context: Context, acker: FakeAcker
) -> None:
    acker.silent, acker.position = True, 7
    req = connect(context, zmq.REQ, serve(ROUTER))
    req.send(pack("value"))
    until(lambda: acker.values == ["value"])
    assert not req.poll(100)
    acker.release()
    assert unpack(req.recv()) == {"recorded": 1, "first": 7}


def test_all_values_of_a_message_have_one_receipt(serve: Serve, context: Context, acker: FakeAcker) -> None:
    req = connect(context, zmq.REQ, serve(ROUTER))
    req.send_multipart([pack(number) for number in range(3000)])
    assert unpack(req.recv()) == {"recorded": 3000, "first": 1}
    assert acker.values == list(range(3000))


def test_a_dealer_gets_back_the_envelope_it_sent(serve: Serve, context: Context, acker: FakeAcker) -> None:
    dealer = connect(context, zmq.DEALER, serve(ROUTER))
    dealer.send_multipart([b"job", b"17", b"", pack(1), pack(2)])
    assert dealer.recv_multipart() == [b"job", b"17", b"", pack({"recorded": 2, "first": 1})]
    dealer.send(pack(3))
    assert dealer.recv_multipart() == [pack({"recorded": 1, "first": 3})]


@pytest.mark.parametrize("bad", [b"\xc1", b"", b"\x91", b"{}"])
def test_a_message_with_a_bad_value_is_refused_as_a_whole_and_told_why(
    serve: Serve, context: Context, acker: FakeAcker, bad: bytes
) -> None:
    server = serve(ROUTER)
    dealer = connect(context, zmq.DEALER, server)
    dealer.send_multipart([b"1", b"", pack("good"), bad, pack("good")])
    envelope, _, answer = dealer.recv_multipart()
    assert envelope == b"1"
    told = unpack(answer)
    assert (told["recorded"], told["frame"], bool(told["error"])) == (0, 2, True)
    dealer.send_multipart([b"2", b"", pack("after")])
    assert unpack(dealer.recv_multipart()[-1])["recorded"] == 1
    assert acker.values == ["after"]
    assert server.counts.malformed == 1


def test_answers_are_in_the_format_of_the_question(serve: Serve, context: Context) -> None:
    json_req = connect(context, zmq.REQ, serve(f"{ROUTER}&format=json"))
    json_req.send(b"[1]")
    assert msgspec.json.decode(json_req.recv())["recorded"] == 1
    auto_req = connect(context, zmq.REQ, serve(f"{ROUTER}&format=auto"))
    for question, decode in ((b'"x"', msgspec.json.decode), (pack("x"), unpack)):
        auto_req.send(question)
        assert decode(auto_req.recv())["recorded"] == 1


def test_a_message_without_a_value_is_an_error(serve: Serve, context: Context) -> None:
    dealer = connect(context, zmq.DEALER, serve(ROUTER))
    dealer.send_multipart([b"1", b""])
    assert "no value" in unpack(dealer.recv_multipart()[-1])["error"]


def test_a_client_that_never_reads_its_receipts_holds_nobody_up(
    serve: Serve, context: Context, acker: FakeAcker
) -> None:
    server = serve(ROUTER)
    deaf = connect(context, zmq.DEALER, server, RCVHWM=1, RCVBUF=4096)
    req = connect(context, zmq.REQ, server)
    for number in range(20_000):
        deaf.send(pack(number))
    req.send(pack("other"))
    assert unpack(req.recv())["recorded"] == 1
    until(lambda: len(acker.values) == 20_001)


def test_a_client_that_vanishes_before_its_receipt_harms_nobody(
    serve: Serve, context: Context, acker: FakeAcker
) -> None:
    server = serve(ROUTER)
    acker.silent = True
    gone = connect(context, zmq.DEALER, server)
    gone.send(pack(1))
    until(lambda: acker.values == [1])
    gone.close(linger=0)
    time.sleep(0.1)
    acker.release()
    until(lambda: server.counts.unsent == 1)
    req = connect(context, zmq.REQ, server)
    req.send(pack(2))
    assert unpack(req.recv())["recorded"] == 1


def test_the_server_ends_with_the_error_when_the_consecutor_takes_no_more(
    serve: Serve, context: Context, acker: FakeAcker, feeder: Feeder
) -> None:
    server = serve(ROUTER)
    acker.do(lambda: None)
    req = connect(context, zmq.REQ, server)
    req.send(pack(1))
    req.recv()
    acker.refuse("it is being stopped")
    assert server.wait(30)
    assert str(server.error) == "it is being stopped"


# --- places and peers -----------------------------------------------------------------------------------------------


def test_a_port_of_0_is_told(serve: Serve) -> None:
    assert int(serve(PULL).endpoint.rpartition(":")[2]) > 0
    assert serve("tcp://[::1]:0").endpoint.startswith("tcp://[::1]:")


def test_a_place_in_use_is_an_error_that_says_so(serve: Serve, feeder: Feeder, tmp_path: Path) -> None:
    for uri in (serve(PULL).endpoint, serve(f"ipc://{tmp_path}/in.sock").endpoint):
        with pytest.raises(InputError, match=f"cannot listen at {uri}: Address already in use"):
            ZmqServer(parse_zmq(uri), feeder)


def test_the_socket_of_an_ipc_place_is_for_this_user_and_replaces_a_stale_one(
    serve: Serve, context: Context, acker: FakeAcker, tmp_path: Path
) -> None:
    path = tmp_path / "in.sock"
    with sockets.socket(sockets.AF_UNIX) as stale:
        stale.bind(str(path))
    push = connect(context, zmq.PUSH, serve(f"ipc://{path}"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    push.send(pack(1))
    until(lambda: acker.values == [1])


def test_garbage_on_the_port_and_a_frame_over_the_limit_harm_nobody(
    serve: Serve, context: Context, acker: FakeAcker
) -> None:
    server = serve(f"{PULL}?max_frame=1000")
    host, port = server.endpoint.removeprefix("tcp://").split(":")
    # What an ancient client would send: an identity of no bytes, and a message of one.
    ancient = b"\x01\x00" + b"\x02\x00\x07"
    with contextlib.ExitStack() as stack:
        for number in range(100):
            connection = stack.enter_context(sockets.create_connection((host, int(port))))
            # The server may have hung up on it already.
            with contextlib.suppress(OSError):
                connection.sendall(os.urandom(number * 10) if number else ancient)
        connect(context, zmq.PUSH, server).send(pack(b"x" * 2000))
        connect(context, zmq.PUSH, server).send(pack("good"))
        until(lambda: acker.values == ["good"])


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    (tmp_path / "clients").mkdir()
    for name in ("server", "friend", "stranger"):
        zmq.auth.create_certificates(tmp_path, name)
        (tmp_path / f"{name}.key_secret").chmod(0o600)
    (tmp_path / "friend.key").rename(tmp_path / "clients" / "friend.key")
    return tmp_path


def encrypted(context: Context, keys: Path, name: str | None, server: ZmqServer) -> "zmq.Socket[bytes]":
    socket = context.socket(zmq.REQ)
    OPEN.append(socket)
    if name is not None:
        socket.curve_publickey, socket.curve_secretkey = zmq.auth.load_certificate(keys / f"{name}.key_secret")
        socket.curve_serverkey = zmq.auth.load_certificate(keys / "server.key")[0]
    socket.connect(server.endpoint)
    socket.send(pack(name))
    return socket


def test_with_curve_only_listed_clients_come_in(
    serve: Serve, context: Context, acker: FakeAcker, keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(f"{ROUTER}&curve={keys}/server.key_secret&clients={keys}/clients")
    with caplog.at_level(logging.CRITICAL, "zmq.auth"):
        refused = [encrypted(context, keys, name, server) for name in ("stranger", None)]
        friend = encrypted(context, keys, "friend", server)
        assert friend.poll(30_000)
        assert unpack(friend.recv())["recorded"] == 1
        assert not any(socket.poll(200) for socket in refused)
    assert acker.values == ["friend"]


@pytest.mark.parametrize("fault", ["readable", "public", "none"])
def test_a_secret_key_that_is_none_or_no_secret_is_refused(feeder: Feeder, keys: Path, fault: str) -> None:
    path = keys / {"readable": "server.key_secret", "public": "server.key", "none": "empty"}[fault]
    path.touch()
    path.chmod(0o644 if fault == "readable" else 0o600)
    uri = parse_zmq(f"{PULL}?curve={path}&clients={keys}/clients")
    text = {"readable": "chmod 600", "public": "holds a public key", "none": "no CURVE key"}[fault]
    with pytest.raises(InputError, match=text):
        ZmqServer(uri, feeder)
