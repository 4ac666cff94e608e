"""Uris of inputs: what they mean, and an error that names every fault of a wrong one."""

from pathlib import Path

import pytest

from consecutiond.inputs.errors import InputUriError
from consecutiond.inputs.uris import HttpUri, ZmqUri, is_loopback, parse_http, parse_zmq


@pytest.mark.parametrize(
    ("uri", "meant"),
    [
        ("tcp://127.0.0.1:5555", ZmqUri("tcp://127.0.0.1:5555")),
        ("tcp://localhost:0?type=router", ZmqUri("tcp://127.0.0.1:0", "router")),
        ("tcp://[::1]:5555?format=json", ZmqUri("tcp://[::1]:5555", format="json")),
        ("tcp://127.0.0.1:1/?max_frame=10", ZmqUri("tcp://127.0.0.1:1", max_frame=10)),
        ("TCP://127.0.0.1:1?type=pull&format=auto", ZmqUri("tcp://127.0.0.1:1", "pull", "auto")),
    ],
)
def test_a_zmq_uri_says_where_and_how(uri: str, meant: ZmqUri) -> None:
    assert parse_zmq(uri) == meant


@pytest.mark.parametrize(
    ("uri", "meant"),
    [
        ("http://127.0.0.1:8080", HttpUri("127.0.0.1", 8080)),
        ("http://localhost:0/", HttpUri("127.0.0.1", 0)),
        ("http://[::1]:80/api/v1/", HttpUri("::1", 80, "/api/v1")),
        ("http://127.0.0.1:1?max_body=5&hosts=Box,b", HttpUri("127.0.0.1", 1, max_body=5, hosts=("box", "b"))),
    ],
)
def test_an_http_uri_says_where_and_how(uri: str, meant: HttpUri) -> None:
    assert parse_http(uri) == meant


@pytest.mark.parametrize(
    ("uri", "texts"),
    [
        ("tpc://127.0.0.1:1", ["did you mean tcp://?", "an example: tcp://"]),
        ("127.0.0.1:5555", ["does not begin with tcp:// or ipc://"]),
        ("", ["does not begin with"]),
        ("tcp:127.0.0.1:1", ["does not begin with"]),
        ("http://127.0.0.1:1", ["does not begin with tcp:// or ipc://"]),
        ("tcp://127.0.0.1", ["the port is missing"]),
        ("tcp://:5555", ["the host is missing"]),
        ("tcp://127.0.0.1:65536", ["the port '65536' is no number from 0 to 65535"]),
        ("tcp://127.0.0.1:http", ["the port 'http' is no number"]),
        ("tcp://[::1", ["is no uri"]),
        ("tcp://somewhere:1", ["is no address to listen at"]),
        ("tcp://me:secret@127.0.0.1:1", ["do not belong into a uri"]),
        ("tcp://127.0.0.1:1/x", ["a tcp uri has no path"]),
        ("tcp://127.0.0.1:1#x", ["#x means nothing"]),
        ("tcp://127.0.0.1:1?typ=router", ["there is no option typ; did you mean type?"]),
        ("tcp://127.0.0.1:1?type=ruoter", ["type=ruoter means nothing; did you mean router?"]),
        ("tcp://127.0.0.1:1?type=", ["type= means nothing; there are pull, router"]),
        ("tcp://127.0.0.1:1?type=pull&type=router", ["type is given twice"]),
        ("tcp://127.0.0.1:1?max_frame=-1", ["max_frame=-1 is no number from 1"]),
        ("tcp://127.0.0.1:1?curve=nowhere", ["there is no file nowhere"]),
        ("tcp://0.0.0.0?type=pul&x=1", ["the port is missing", "did you mean pull?", "no option x", "?curve="]),
        ("ipc://", ["the path of a socket file is missing"]),
        ("ipc:///tmp/", ["the path of a socket file is missing"]),
        ("ipc://@abstract", ["the path of a socket file is missing"]),
        ("ipc:///nowhere/in.sock", ["there is no directory /nowhere"]),
        ("ipc:///tmp/" + "x" * 103, ["longer than the 107 bytes"]),
    ],
)
def test_every_fault_of_a_zmq_uri_is_named(uri: str, texts: list[str]) -> None:
    with pytest.raises(InputUriError) as caught:
        parse_zmq(uri)
    for text in texts:
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "texts"),
    [
        ("htpp://127.0.0.1:1", ["did you mean http://?"]),
        ("https://127.0.0.1:1", ["does not begin with http://; did you mean http://?"]),
        ("http://127.0.0.1", ["the port is missing"]),
        ("http://127.0.0.1:1/a b", ["has something else than"]),
        ("http://127.0.0.1:1/{x}", ["has something else than"]),
        ("http://127.0.0.1:1?max_bdy=1", ["did you mean max_body?"]),
        ("http://127.0.0.1:1?max_body=1e9&max_connections=0", ["max_body=1e9", "max_connections=0"]),
        ("http://127.0.0.1:1?token_file=nowhere", ["token_file: there is no file nowhere"]),
        ("http://127.0.0.1:1?token=abc", ["there is no option token; did you mean token_file?"]),
    ],
)
def test_every_fault_of_an_http_uri_is_named(uri: str, texts: list[str]) -> None:
    with pytest.raises(InputUriError) as caught:
        parse_http(uri)
    for text in texts:
        assert text in str(caught.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.0.2.1", "*", "[2001:db8::1]"])
def test_places_that_other_machines_reach_need_keys_or_a_token(host: str) -> None:
    with pytest.raises(InputUriError, match="can be reached from other machines"):
        parse_zmq(f"tcp://{host}:5555")
    with pytest.raises(InputUriError, match="can be reached from other machines"):
        parse_http(f"http://{host}:8080")
    assert parse_http(f"http://{host}:8080", token="a-token-of-sufficient-length").token


@pytest.mark.parametrize("host", ["localhost.evil.example", "127.0.0.1.evil.example", "example.org", "10.0.0.1", ""])
def test_only_this_machine_is_loopback(host: str) -> None:
    assert not is_loopback(host)
    assert is_loopback("127.8.9.1")


def test_curve_keys_open_a_tcp_place_and_need_both_halves(tmp_path: Path) -> None:
    (tmp_path / "server.key_secret").touch()
    both = f"curve={tmp_path}/server.key_secret&clients={tmp_path}"
    assert parse_zmq(f"tcp://0.0.0.0:1?{both}").clients == tmp_path
    with pytest.raises(InputUriError, match="go together"):
        parse_zmq(f"tcp://127.0.0.1:1?clients={tmp_path}")
    with pytest.raises(InputUriError, match="curve is for tcp"):
        parse_zmq(f"ipc://{tmp_path}/in.sock?{both}")


def test_a_token_comes_from_a_file_that_nobody_else_reads(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("a-token-of-sufficient-length\n")
    path.chmod(0o640)
    with pytest.raises(InputUriError, match="chmod 600"):
        parse_http(f"http://127.0.0.1:1?token_file={path}")
    path.chmod(0o600)
    assert parse_http(f"http://127.0.0.1:1?token_file={path}").token == "a-token-of-sufficient-length"


@pytest.mark.parametrize("token", ["short", "with blanks in the middle", "ünprintable-in-a-header", "x" * 300, ""])
def test_what_is_no_token_is_refused_and_not_repeated(tmp_path: Path, token: str) -> None:
    path = tmp_path / "token"
    path.write_text(token)
    path.chmod(0o600)
    for call in (
        lambda: parse_http(f"http://127.0.0.1:1?token_file={path}"),
        lambda: parse_http("http://127.0.0.1:1", token=token),
    ):
        with pytest.raises(InputUriError, match="16 to 256 printable") as caught:
            call()
        assert not token or token not in str(caught.value)


def test_an_ipc_path_must_not_be_a_file_of_somebody_elses(tmp_path: Path) -> None:
    """ZeroMQ would remove it."""
    (tmp_path / "book.txt").write_text("precious")
    with pytest.raises(InputUriError, match="it is no socket"):
        parse_zmq(f"ipc://{tmp_path}/book.txt")
