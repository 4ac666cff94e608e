"""REST: what is answered with 202 is recorded; what is not is told where, why, and what became of the rest."""

import re
import socket as sockets
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import msgspec
import pytest

from consecutiond.feeder import Feeder
from consecutiond.inputs.errors import InputError
from consecutiond.inputs.httpserver import HttpServer
from consecutiond.inputs.uris import parse_http
from tests.inputs.acker import FakeAcker, until

pack = msgspec.msgpack.encode

JSON = {"content-type": "application/json"}
NDJSON = {"content-type": "application/x-ndjson"}
MSGPACK = {"content-type": "application/msgpack"}
TOKEN = "a-token-of-sufficient-length"

Serve = Callable[..., HttpServer]


@pytest.fixture
def serve(feeder: Feeder) -> Iterator[Serve]:
    servers = []

    def start(query: str = "", path: str = "", token: str | None = None, **options: Any) -> HttpServer:
        servers.append(HttpServer(parse_http(f"http://127.0.0.1:0{path}{query}", token), feeder, **options))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.stop(2)


@pytest.fixture
def http(serve: Serve) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=serve().endpoint, timeout=30) as client:
        yield client


# --- bodies that are taken ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "headers", "body", "taken"),
    [
        ("/items", JSON, b'{"a": [1, null]}', [{"a": [1, None]}]),
        ("/items", {"content-type": "Application/JSON; charset=UTF-8"}, b"[1, 2]", [[1, 2]]),
        ("/items?each=0", JSON, b"[1, 2]", [[1, 2]]),
        ("/items?each=1", JSON, b'[1, "two", {"three": 3}]', [1, "two", {"three": 3}]),
        ("/items?each=1", JSON, b"[]", []),
        ("/items", NDJSON, b'1\n\n"two"\r\n{"three": 3}', [1, "two", {"three": 3}]),
        ("/items", NDJSON, b"", []),
        ("/items", MSGPACK, pack({"a": b"bytes"}), [{"a": b"bytes"}]),
        ("/items", {"content-type": "application/x-msgpack"}, pack([1, 2]), [[1, 2]]),
        ("/items?each=1", {"content-type": "application/vnd.msgpack"}, pack([1, b"two"]), [1, b"two"]),
    ],
)
def test_values_are_recorded_and_their_positions_told(
    http: httpx.Client, acker: FakeAcker, path: str, headers: dict[str, str], body: bytes, taken: list[Any]
) -> None:
    acker.position = 50
    answer = http.post(path, headers=headers, content=body)
    assert answer.status_code == 202
    ids = [[50, 49 + len(taken)]] if taken else []
    assert answer.json() == {"accepted": len(taken), "ids": ids}
    assert acker.values == taken


def test_the_answer_comes_only_when_the_values_are_recorded(http: httpx.Client, acker: FakeAcker) -> None:
    acker.silent = True
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(http.post("/items", json="x")))
    thread.start()
    until(lambda: acker.values == ["x"])
    thread.join(0.1)
    assert not answers
    acker.release()
    thread.join(30)
    assert answers[0].status_code == 202


def test_a_stream_of_any_length_is_taken_in_order_and_recorded_as_it_comes(
    http: httpx.Client, acker: FakeAcker
) -> None:
    def lines() -> Iterator[bytes]:
        for number in range(20_000):
            yield b'{"number": %d}\n' % number
        until(lambda: len(acker.values) > 10_000)
        yield b'"unfinished'
        yield b' line"'

    answer = http.post("/items", headers=NDJSON, content=lines())
    assert (answer.status_code, answer.json()["accepted"]) == (202, 20_001)
    assert acker.values == [{"number": number} for number in range(20_000)] + ["unfinished line"]
    assert sum(last - first + 1 for first, last in answer.json()["ids"]) == 20_001


def test_one_item_each_on_64_connections_share_batches(serve: Serve, acker: FakeAcker) -> None:
    server = serve()
    acker.silent = True

    def post(number: int) -> None:
        answer = httpx.post(f"{server.endpoint}/items", json=number, timeout=30)
        assert answer.status_code == 202
        [[first, last]] = answer.json()["ids"]
        assert first == last
        places[number] = first

    places: dict[int, int] = {}
    threads = [threading.Thread(target=post, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    until(lambda: server.app.items.active == 64)
    acker.release()
    for thread in threads:
        thread.join(30)
    assert sorted(acker.values) == list(range(64))
    assert {number: place for place, number in enumerate(acker.values, 1)} == places, "each is told its own position"
    assert len(acker.batches) < 32


# --- bodies that are not --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "headers", "body", "taken", "position"),
    [
        ("/items", JSON, b"{", [], {"value": 1}),
        ("/items", JSON, b"", [], {"value": 1}),
        ("/items", JSON, b"[" * 100_000, [], {"value": 1}),
        ("/items?each=1", JSON, b"[1, 2, oops, 4]", [1, 2], {"value": 3}),
        ("/items?each=1", JSON, b"[1, 2, 99999999999999999999, 4]", [1, 2], {"value": 3}),
        ("/items?each=1", JSON, b"[1, 2", [1], {"value": 2}),
        ("/items?each=1", JSON, b'{"no": "array"}', [], {"value": 1}),
        ("/items", NDJSON, b"1\n\n2\noops\n4\n", [1, 2], {"line": 4}),
        ("/items", NDJSON, b'1\n2\n{"half":', [1, 2], {"line": 3}),
        ("/items", NDJSON, b"1\n" * 20_000 + b"\xff\n" + b"1\n" * 20_000, [1] * 20_000, {"line": 20_001}),
        ("/items", MSGPACK, b"\xc1", [], {"value": 1}),
        ("/items", MSGPACK, pack("half a string")[:5], [], {"value": 1}),
        ("/items?each=1", MSGPACK, pack([1, 2, "half a string"])[:-5], [1, 2], {"value": 3}),
        ("/items", MSGPACK, pack(1) + pack(2), [], {"value": 1}),
    ],
)
def test_nothing_is_taken_from_the_bad_value_on(
    http: httpx.Client, acker: FakeAcker, path: str, headers: dict[str, str], body: bytes, taken: list[Any],
    position: dict[str, int],
) -> None:  # fmt: skip
    answer = http.post(path, headers=headers, content=body)
    assert answer.status_code == 400
    told = answer.json()
    [(noun, number)] = position.items()
    assert told["error"].startswith(f"{noun} {number}: it ") or told["error"].startswith(f"{noun} {number}: the")
    assert (told["position"], told["accepted"]) == (position, len(taken))
    assert sum(last - first + 1 for first, last in told["ids"]) == len(taken)
    assert acker.values == taken
    assert http.post("/items", json="after").status_code == 202


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({}, "(none)"),
        ({"content-type": "application/x-www-form-urlencoded"}, "say Content-Type: application/json"),
        ({"content-type": "multipart/form-data; boundary=x"}, "multipart/form-data is not taken"),
        ({"content-type": "application/json; charset=latin-1"}, "JSON is UTF-8"),
        ({**JSON, "content-encoding": "gzip"}, "compressed"),
    ],
)
def test_other_types_are_415(http: httpx.Client, acker: FakeAcker, headers: dict[str, str], text: str) -> None:
    answer = http.post("/items", headers=headers, content=b"1")
    assert answer.status_code == 415
    assert text in answer.json()["error"]
    assert acker.values == []


@pytest.mark.parametrize(("query", "headers"), [("each=2", JSON), ("eahc=1", JSON), ("each", JSON), ("each=1", NDJSON)])
def test_a_query_that_means_nothing_is_400(
    http: httpx.Client, acker: FakeAcker, query: str, headers: dict[str, str]
) -> None:
    answer = http.post(f"/items?{query}", headers=headers, content=b"[1]")
    assert answer.status_code == 400
    assert "each=1" in answer.json()["error"]
    assert acker.values == []


def test_other_paths_and_methods_are_told_what_there_is(http: httpx.Client) -> None:
    assert http.get("/nothing").status_code == 404
    assert "/items" in http.get("/nothing").json()["error"]
    answer = http.get("/items")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


# --- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("headers", [JSON, MSGPACK])
def test_a_body_over_the_limit_is_413_and_the_client_gets_to_read_it(
    serve: Serve, acker: FakeAcker, headers: dict[str, str], chunked: bool
) -> None:
    server = serve("?max_body=1000")
    body = b'"' + b"x" * 3_000_000 + b'"'
    content: Any = (body[at : at + 10_000] for at in range(0, len(body), 10_000)) if chunked else body
    answer = httpx.post(f"{server.endpoint}/items", headers=headers, content=content, timeout=30)
    assert answer.status_code == 413
    assert "1,000 bytes" in answer.json()["error"]
    assert acker.values == []
    exact = b'"' + b"x" * 998 + b'"'
    assert httpx.post(f"{server.endpoint}/items", headers=JSON, content=exact).status_code == 202


def test_a_line_over_the_limit_is_413_and_those_before_it_are_taken(serve: Serve, acker: FakeAcker) -> None:
    server = serve("?max_body=1000")
    body = b"1\n2\n" + b'"' + b"x" * 500_000
    answer = httpx.post(f"{server.endpoint}/items", headers=NDJSON, content=body, timeout=30)
    assert (answer.status_code, answer.json()["accepted"], answer.json()["position"]) == (413, 2, {"line": 3})
    assert acker.values == [1, 2]


def test_when_the_backlog_is_full_new_requests_are_put_off_and_old_ones_answered_in_the_end(
    http: httpx.Client, acker: FakeAcker, feeder: Feeder
) -> None:
    acker.withholding = True
    first: list[int] = []
    thread = threading.Thread(
        target=lambda: first.append(httpx.post(f"{http.base_url}/items", json=1, timeout=60).status_code)
    )
    thread.start()
    until(lambda: feeder.full)
    assert http.get("/readyz").status_code == 503
    assert http.get("/healthz").status_code == 200
    for headers in (JSON, NDJSON, MSGPACK):
        answer = http.post("/items", headers=headers, content=b"2")
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    acker.release()
    thread.join(30)
    assert first == [202]
    until(lambda: not feeder.full)
    assert http.post("/items", json=3).status_code == 202
    assert http.get("/readyz").status_code == 200
    assert acker.values == [1, 3]


def test_a_stream_is_read_no_further_than_receipts_come(serve: Serve, acker: FakeAcker) -> None:
    server = serve()
    acker.silent = True
    sent = 0

    def lines() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(2000):
            yield b'"' + b"x" * 9_998 + b'"\n'
            sent += 1

    answers: list[httpx.Response] = []
    thread = threading.Thread(
        target=lambda: answers.append(
            httpx.post(f"{server.endpoint}/items", headers=NDJSON, content=lines(), timeout=60)
        )
    )
    thread.start()
    until(lambda: len(acker.values) > 100)
    before = -1
    while before != sent:
        before = sent
        thread.join(0.3)
    # 2 MiB on their way, and what fits into the buffers of two sockets.
    assert sent < 1500
    acker.release()
    thread.join(60)
    assert answers[0].json()["accepted"] == len(acker.values) == 2000


# --- the end --------------------------------------------------------------------------------------------------------


def test_while_it_is_being_stopped_new_requests_are_503_and_old_ones_are_finished(
    serve: Serve, acker: FakeAcker
) -> None:
    server = serve()
    acker.silent = True
    answers: list[httpx.Response] = []
    with httpx.Client(base_url=server.endpoint, timeout=30) as http:
        assert http.get("/readyz").status_code == 200
        waiting = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{server.endpoint}/items", json=1, timeout=60))
        )
        waiting.start()
        until(lambda: acker.values == [1])
        stopping = threading.Thread(target=server.stop, args=(30,))
        stopping.start()
        until(lambda: server.app.items.stopping)
        answer = http.post("/items", json=2)
        assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
        assert http.get("/readyz").status_code == 503
        acker.release()
    waiting.join(30)
    stopping.join(30)
    assert not stopping.is_alive()
    assert answers[0].status_code == 202
    assert acker.values == [1]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.endpoint}/healthz")


def test_a_stop_ends_a_stream_and_tells_what_was_taken_of_it(serve: Serve, acker: FakeAcker) -> None:
    server = serve()

    def lines() -> Iterator[bytes]:
        yield b"1\n2\n"
        until(lambda: acker.values == [1, 2])
        stopping.start()
        until(lambda: server.app.items.stopping)
        yield b"3\n"

    stopping = threading.Thread(target=server.stop, args=(30,))
    answer = httpx.post(f"{server.endpoint}/items", headers=NDJSON, content=lines(), timeout=30)
    assert (answer.status_code, answer.json()["accepted"]) == (503, 2)
    stopping.join(30)
    assert not stopping.is_alive()
    assert acker.values == [1, 2]


def test_a_stop_waits_no_longer_than_it_may_and_says_what_is_not_known(serve: Serve, acker: FakeAcker) -> None:
    server = serve()
    acker.silent = True
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(httpx.post(f"{server.endpoint}/items", json=1, timeout=60)))
    thread.start()
    until(lambda: acker.values == [1])
    server.stop(0.2)
    thread.join(30)
    assert (answers[0].status_code, answers[0].json()["accepted"], answers[0].json()["unknown"]) == (503, 0, 1)


def test_when_the_consecutor_takes_no_more_that_is_503_and_the_unknown_is_called_so(
    http: httpx.Client, acker: FakeAcker
) -> None:
    acker.silent = True
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(http.post("/items?each=1", json=[1, 2])))
    thread.start()
    until(lambda: acker.values == [1, 2])
    acker.refuse("it is being stopped")
    thread.join(30)
    assert (answers[0].status_code, answers[0].json()["accepted"], answers[0].json()["unknown"]) == (503, 0, 2)
    assert http.get("/healthz").status_code == http.get("/readyz").status_code == 503
    assert http.post("/items", json=3).status_code == 503


# --- who may ask ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "localhost"}, 202), ({"host": "127.0.0.1:80"}, 202), ({"host": "[::1]:80"}, 202),
        ({"host": "evil.example"}, 403), ({"host": "127.0.0.1.evil.example"}, 403), ({"host": ""}, 403),
        ({"host": "localhost@evil.example"}, 403), ({"host": "[::1"}, 403),
        ({"origin": "http://localhost:3000"}, 202), ({"origin": "http://evil.example"}, 403), ({"origin": "null"}, 403),
        ({"origin": "http://localhost.evil.example"}, 403),
    ],
)  # fmt: skip
def test_a_web_page_of_another_site_cannot_feed_through_a_browser(
    http: httpx.Client, acker: FakeAcker, headers: dict[str, str], status: int
) -> None:
    assert http.post("/items", headers=headers, json=1).status_code == status
    assert http.get("/readyz", headers=headers).status_code == (200 if status == 202 else 403)
    assert len(acker.values) == (status == 202)


def test_further_names_of_the_host_can_be_allowed(serve: Serve) -> None:
    endpoint = serve("?hosts=box.example").endpoint
    for host, status in (("Box.example:80", 202), ("other.example", 403)):
        assert httpx.post(f"{endpoint}/items", headers={"host": host}, json=1).status_code == status


@pytest.mark.parametrize(
    "authorization", [None, "", TOKEN, f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", "Bearer \xff"]
)
def test_with_a_token_nobody_feeds_without_it(serve: Serve, acker: FakeAcker, authorization: str | None) -> None:
    endpoint = serve(token=TOKEN).endpoint
    headers = {} if authorization is None else {"authorization": authorization.encode("latin-1")}
    answer = httpx.post(f"{endpoint}/items", headers=headers, json=1)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert TOKEN not in answer.text
    assert acker.values == []
    good = {"authorization": f"Bearer {TOKEN}", "host": "box.example"}
    assert httpx.post(f"{endpoint}/items", headers=good, json=1).status_code == 202
    assert httpx.get(f"{endpoint}/healthz").status_code == 200


# --- the rest -------------------------------------------------------------------------------------------------------


def test_the_document_names_every_answer_and_the_page_asks_no_other_host(serve: Serve) -> None:
    server = serve(path="/api", token=TOKEN)
    document = httpx.get(f"{server.endpoint}/openapi.json").json()
    post = document["paths"]["/api/items"]["post"]
    assert {"202", "400", "401", "403", "408", "413", "415", "429", "503"} == set(post["responses"])
    assert post["security"] == [{"token": []}]
    page = httpx.get(f"{server.endpoint}/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"https?://|//\w|<script", page.text)
    for status in post["responses"]:
        assert f"<td>{status}<td>" in page.text


def test_all_paths_are_below_the_one_of_the_uri(serve: Serve, acker: FakeAcker) -> None:
    server = serve(path="/in/put")
    assert server.endpoint.endswith("/in/put")
    assert httpx.post(f"{server.endpoint}/items", json=1).status_code == 202
    assert httpx.post(server.endpoint.removesuffix("/in/put") + "/items", json=1).status_code == 404


def test_a_head_request_is_answered(http: httpx.Client) -> None:
    assert http.head("/healthz").status_code == 200


def test_a_port_in_use_is_an_error_that_says_so(serve: Serve, feeder: Feeder) -> None:
    with pytest.raises(InputError, match=r"cannot listen at http://127.0.0.1:\d+: Address already in use"):
        HttpServer(parse_http(serve().endpoint), feeder)


def test_a_server_that_was_never_started_lets_its_port_go(feeder: Feeder) -> None:
    server = HttpServer(parse_http("http://127.0.0.1:0"), feeder)
    server.stop()
    with sockets.create_server(("127.0.0.1", int(server.endpoint.rpartition(":")[2]))):
        pass


def test_answers_are_counted_by_status(serve: Serve) -> None:
    server = serve()
    for content in (b"1", b"2", b"oops"):
        httpx.post(f"{server.endpoint}/items", headers=JSON, content=content)
    assert server.counts == {202: 2, 400: 1}
