"""Workers on other machines, at a real broker: who may come in, and what becomes of batches when one is gone."""

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from consecutiond_broker import wire
from consecutiond_broker.router import Broker
from consecutiond_broker.tcp import ClientKeys, Listen, ListenError, ServerKeys, client_context, listen
from tests.broker.test_router import EPOCH, Bench, Peer, words


def key_pair() -> tuple[str, str]:
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


class Far(Peer):
    """A worker of another machine, whose identity is its name and, behind a slash, its epoch."""

    def join(self, epoch: int = 1, *, held: tuple[int, ...] = (), **_: object) -> wire.Joined | wire.Fenced:
        side, name = self.identity.decode().partition("/")[0].split(":")
        self.heard.clear()
        self.send(wire.Join(wire.VERSION, side, name, epoch, 0, 0, "", 0, 10, 16, held))
        self.bench.until(lambda: self.pump() and (self.of(wire.Joined) or self.of(wire.Fenced)))
        return (self.of(wire.Joined) or self.of(wire.Fenced))[0][0]  # type: ignore[no-any-return]


class FarBench(Bench):
    """A broker that listens on tcp, too, with keys or without."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", directory: Path, *, keys: bool) -> None:
        super().__init__(context, directory)
        self.broker.close()
        (self.public, secret), client = key_pair(), key_pair()
        self.keys = ClientKeys(self.public, *client) if keys else None
        file = directory / "keys"
        file.write_bytes(msgspec.json.encode(ServerKeys(self.public, secret, (client[0],))))
        file.chmod(0o600)
        where = Listen("tcp://127.0.0.1:*", str(file) if keys else "", 5.0)
        self.broker = Broker(msgspec.structs.replace(self.options, listen=where), EPOCH, context)
        self.uri = self.broker.router.getsockopt_string(zmq.LAST_ENDPOINT)
        self.contexts: list[zmq.Context[zmq.Socket[bytes]]] = []

    def far(self, identity: bytes, keys: ClientKeys | None = None) -> Far:
        """Connect a worker of another machine."""
        peer = Far(self, identity)
        peer.socket.close()
        context = client_context(keys or self.keys, 5.0)
        self.contexts.append(context)
        peer.socket = context.socket(zmq.DEALER)
        peer.socket.setsockopt(zmq.IDENTITY, identity)
        peer.socket.setsockopt(zmq.LINGER, 0)
        peer.socket.connect(self.uri)
        return peer

    def close(self) -> None:
        self.broker.close()
        self.acker.close()
        for peer in self.peers:
            peer.socket.close()
        for context in (*self.contexts, self.context):
            context.term()


@pytest.fixture(params=[True, False], ids=["keys", "no keys"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FarBench]:
    bench = FarBench(zmq.Context(), tmp_path, keys=request.param)
    yield bench
    bench.close()


def held_far(bench: FarBench) -> Far:
    """Return a far worker that has one batch of the roots 1 and 2 in hand."""
    bench.join_acker()
    sender = Peer(bench, b"up:parse.0")
    sender.join()
    far = bench.far(b"down:a.0")
    far.join()
    sender.offer(1, 1, 2)
    far.expect(wire.Deliver)
    return far


def lose(bench: FarBench, peer: Peer) -> None:
    peer.socket.close()
    bench.until(bench.fails)


def test_local_workers_need_no_key_beside_far_ones(bench: FarBench) -> None:
    bench.join_acker()
    assert isinstance(Peer(bench, b"up:parse.0").join(), wire.Joined)
    assert isinstance(bench.far(b"down:a.0").join(), wire.Joined)


@pytest.mark.parametrize("bench", [True], indirect=True)
def test_nobody_comes_in_with_another_key_or_with_none(bench: FarBench) -> None:
    strangers = [bench.far(b"down:a.0", ClientKeys(bench.public, *key_pair()))]
    bench.keys = None
    strangers.append(bench.far(b"down:a.1"))
    for stranger in strangers:
        monitor = stranger.socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )  # fmt: skip
        stranger.send(wire.Join(wire.VERSION, "down", "a.0", 1, 0, 0, "", 0, 3, 16, ()))
        bench.until(lambda monitor=monitor: monitor.poll(0))
        event = int.from_bytes(monitor.recv_multipart()[0][:2], "little")
        assert event != zmq.EVENT_HANDSHAKE_SUCCEEDED
        stranger.socket.disable_monitor()
        monitor.close()
    bench.settled_down()
    assert not bench.broker.edge.receivers


def test_the_end_of_a_connection_fails_all_it_held_at_once_and_charges_nobody(bench: FarBench) -> None:
    lose(bench, held_far(bench))
    [fail] = bench.fails()
    assert (fail.kind, fail.charged, fail.roots) == ("connection broke", False, words(1, 2))
    assert not bench.broker.edge.receivers


def test_who_comes_back_settles_nothing_of_what_had_failed(bench: FarBench) -> None:
    far = held_far(bench)
    delivery = far.of(wire.Deliver)[0]
    lose(bench, far)
    back = bench.far(b"down:a.0")
    back.join(held=(delivery[0].seq,))
    back.settle(delivery)
    bench.settled_down()
    assert len(bench.reports()) == 1, "the failure, and no settlement"


def test_the_end_of_a_replaced_connection_is_not_that_of_its_successor(bench: FarBench) -> None:
    """The identity moves to the new connection, so the old one ends while the worker lives on."""
    far = held_far(bench)
    again = bench.far(b"down:a.0")
    again.join(held=(far.of(wire.Deliver)[0][0].seq,))
    far.socket.close()
    bench.settled_down()
    again.settle(far.of(wire.Deliver)[0])
    bench.until(bench.reports)
    # Either it was seen that the first connection ended before the second greeted, or its batch went on.
    assert "down:a.0" in {peer.decode() for peer in bench.broker.edge.receivers}


def test_a_woken_predecessor_is_fenced_and_nothing_that_it_says_counts(bench: FarBench) -> None:
    old = held_far(bench)
    delivery = old.of(wire.Deliver)[0]
    new = bench.far(b"down:a.0/2")
    new.join(epoch=2)
    old.expect(wire.Fenced)
    bench.until(bench.fails)
    assert [fail.roots for fail in bench.fails()] == [words(1, 2)], "what it held has failed"
    old.settle(delivery)
    assert isinstance(old.join(epoch=1), wire.Fenced)
    bench.settled_down()
    assert len(bench.reports()) == 1
    assert list(bench.broker.edge.receivers) == [b"down:a.0/2"]


def test_what_a_woken_predecessor_sends_is_not_taken_for_its_successor_s(bench: FarBench) -> None:
    bench.join_acker()
    old, new = bench.far(b"up:far.0/1"), bench.far(b"up:far.0/2")
    old.join(epoch=1)
    new.join(epoch=2)
    old.expect(wire.Fenced)
    old.offer(1, 7)
    assert isinstance(old.join(epoch=1), wire.Fenced)
    assert bench.broker.edge.queued == 0
    new.offer(1, 8)
    bench.until(lambda: bench.broker.edge.queued == 1)


def test_keys_that_others_can_read_are_not_used(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(b"{}")
    file.chmod(0o644)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context.socket(zmq.ROUTER) as router:
        with pytest.raises(ListenError, match=f"chmod 600 {file}"):
            listen(context, router, Listen("tcp://127.0.0.1:*", str(file), 5.0))
        file.chmod(0o600)
        with pytest.raises(ListenError, match="there are no keys"):
            listen(context, router, Listen("tcp://127.0.0.1:*", str(file), 5.0))
        os.unlink(file)
        with pytest.raises(ListenError, match="No such file"):
            listen(context, router, Listen("tcp://127.0.0.1:*", str(file), 5.0))
    context.term()


def test_an_address_in_use_is_named(tmp_path: Path) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context.socket(zmq.ROUTER) as first, context.socket(zmq.ROUTER) as second:
        listen(context, first, Listen("tcp://127.0.0.1:*", "", 5.0))
        uri = first.getsockopt_string(zmq.LAST_ENDPOINT)
        with pytest.raises(ListenError, match=f"cannot listen on {uri}: Address already in use"):
            listen(context, second, Listen(uri, "", 5.0))
    context.term()
