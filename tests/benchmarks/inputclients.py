"""The clients of ``inputs.py``, a process each: ``python inputclients.py KIND ENDPOINT COUNT``; prints seconds."""

import select
import socket
import sys
import time
from collections.abc import Iterator

import msgspec
import zmq

CONNECTIONS = 64


def items(count: int) -> Iterator[dict[str, object]]:
    """Yield small dicts."""
    for number in range(count):
        yield {"id": number, "text": "the quick brown fox jumps over the lazy dog"}


def connect(endpoint: str) -> socket.socket:
    """Connect to ``http://HOST:PORT``."""
    host, port = endpoint.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def single(endpoint: str, count: int) -> float:
    """Post one item a request on 64 connections, each with one request at a time."""
    poller = select.epoll()
    by_fd = {}
    for _ in range(CONNECTIONS):
        connection = connect(endpoint)
        poller.register(connection, select.EPOLLIN)
        by_fd[connection.fileno()] = connection
    requests = []
    for item in items(count):
        body = msgspec.json.encode(item)
        requests.append(
            b"POST /items HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )
    started, left = time.perf_counter(), count
    begun = dict.fromkeys(by_fd, b"")
    for connection in by_fd.values():
        connection.send(requests.pop())
    while left:
        for fd, _ in poller.poll():
            begun[fd] += by_fd[fd].recv(4096)
            if not begun[fd].endswith(b"}"):
                # The head of an answer may come before its body.
                continue
            answer, begun[fd] = begun[fd], b""
            if not answer.startswith(b"HTTP/1.1 202"):
                raise SystemExit(f"not accepted: {answer!r}")
            left -= 1
            if requests:
                by_fd[fd].send(requests.pop())
    return time.perf_counter() - started


def stream(endpoint: str, count: int) -> float:
    """Post all items as one NDJSON stream."""
    connection = connect(endpoint)
    body = b"".join(msgspec.json.encode(item) + b"\n" for item in items(count))
    started = time.perf_counter()
    connection.sendall(
        b"POST /items HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\n"
        b"content-length: %d\r\n\r\n" % len(body)
    )
    connection.sendall(body)
    answer = connection.recv(4096)
    if not answer.startswith(b"HTTP/1.1 202"):
        raise SystemExit(f"not accepted: {answer!r}")
    return time.perf_counter() - started


def push(endpoint: str, count: int) -> float:
    """Push all items, a frame each, and do not wait for anything."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.connect(endpoint)
        frames = [msgspec.msgpack.encode(item) for item in items(count)]
        started = time.perf_counter()
        for frame in frames:
            socket.send(frame)
    return time.perf_counter() - started


if __name__ == "__main__":
    kind, place, number = sys.argv[1:]
    print({"single": single, "stream": stream, "push": push}[kind](place, int(number)))
