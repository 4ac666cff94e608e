"""The clients of ``test_inputs.py``, each a process: ``python inputclients.py KIND ENDPOINT FIRST COUNT``.

They print the ids that were receipted, as a JSON array; whatever else comes back ends them with an error.
"""

import json
import sys

import httpx
import msgspec
import zmq


def single(endpoint: str, ids: list[int]) -> list[int]:
    """Post each alone, on one connection."""
    with httpx.Client(base_url=endpoint, timeout=60) as http:
        return [number for number in ids if post(http, "application/json", json.dumps(number).encode()) == 1]


def stream(endpoint: str, ids: list[int]) -> list[int]:
    """Post streams of 1000."""
    receipted = []
    with httpx.Client(base_url=endpoint, timeout=60) as http:
        for start in range(0, len(ids), 1000):
            part = ids[start : start + 1000]
            accepted = post(http, "application/x-ndjson", "".join(f"{number}\n" for number in part).encode())
            assert accepted == len(part)
            receipted += part
    return receipted


def post(http: httpx.Client, kind: str, body: bytes) -> int:
    """Return how many were accepted."""
    answer = http.post("/items", headers={"content-type": kind}, content=body)
    answer.raise_for_status()
    assert answer.status_code == 202
    accepted: int = answer.json()["accepted"]
    return accepted


def dealer(endpoint: str, ids: list[int]) -> list[int]:
    """Send all but a few dozen ahead of their receipts."""
    receipted, ahead = [], list(reversed(ids))
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.RCVTIMEO, 60_000)
        socket.connect(endpoint)
        waiting = 0
        while ahead or waiting:
            while ahead and waiting < 50:
                number = ahead.pop()
                socket.send_multipart([b"%d" % number, b"", msgspec.msgpack.encode(number)])
                waiting += 1
            envelope, _, answer = socket.recv_multipart()
            assert msgspec.msgpack.decode(answer)["recorded"] == 1
            receipted.append(int(envelope))
            waiting -= 1
    return receipted


def push(endpoint: str, ids: list[int]) -> list[int]:
    """Send without an answer."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.connect(endpoint)
        for number in ids:
            socket.send(msgspec.msgpack.encode(number))
    return ids


if __name__ == "__main__":
    kind, place, first, count = sys.argv[1:]
    numbers = list(range(int(first), int(first) + int(count)))
    print(json.dumps({"single": single, "stream": stream, "dealer": dealer, "push": push}[kind](place, numbers)))
