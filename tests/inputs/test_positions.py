"""The positions that clients are told are those under which dead letters are found."""

from pathlib import Path

import httpx
import msgspec
import zmq

from consecutiond import Consecutor, Node
from consecutiond.acker.stores import read_only
from consecutiond.inputs.httpserver import HttpServer
from consecutiond.inputs.uris import parse_http, parse_zmq
from consecutiond.inputs.zmqserver import ZmqServer
from consecutiond_broker import codec


class Odd(Node):
    """Cannot bear odd numbers."""

    def process(self, value: int) -> None:
        if value % 2:
            raise ValueError(value)


graph = Odd("odd") | Node("rest")


def test_a_dead_letter_is_found_under_the_position_that_its_client_was_told(tmp_path: Path) -> None:
    consecutor = Consecutor(graph, "thread", target=f"{__file__}:graph", id="odd", dir=tmp_path, max_attempts=1)
    consecutor.up()
    session = consecutor._session
    assert session is not None
    told: dict[int, int] = {}
    http = HttpServer(parse_http("http://127.0.0.1:0"), session.feeder)
    http.start()
    for body in ([2, 3, 4, 5], [7]):
        answer = httpx.post(f"{http.endpoint}/items?each=1", json=body).json()
        positions = [position for first, last in answer["ids"] for position in range(first, last + 1)]
        told.update(zip(positions, body, strict=True))
    http.stop()
    server = ZmqServer(parse_zmq("tcp://127.0.0.1:0?type=router"), session.feeder)
    server.start()
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.connect(server.endpoint)
        socket.send_multipart([msgspec.msgpack.encode(8), msgspec.msgpack.encode(9)])
        first = msgspec.msgpack.decode(socket.recv())["first"]
        told.update({first: 8, first + 1: 9})
    server.stop()
    assert consecutor.down().failed == 4
    store = read_only(tmp_path / "odd" / "acker_db.sqlite")
    letters = {letter.position: codec.decode(letter.body)[0] for letter in store.dead_letters()}
    store.close()
    assert letters == {position: value for position, value in told.items() if value % 2}
