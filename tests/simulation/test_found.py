"""What the simulation has found, each as the smallest scenario in which it happens."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from consecutiond_broker import codec, wire
from consecutiond_broker.edge import Batch, Edge
from consecutiond_broker.errors import FencedError
from consecutiond_nodes.worker import Worker
from tests.simulation.world import IN, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, seed=1, fails=0.0)
    world.run(600)
    yield world
    world.close()


def connection(world: World, of: str, to: str) -> Any:
    [found] = [
        each for each in world.network.connections if each.dealer.owner.name == of and each.dealer.uri.endswith(to)
    ]
    return found


def test_a_receiver_that_settles_what_had_failed_with_its_connection_gets_no_more_than_its_window() -> None:
    """It had not read the delivery when it greeted anew, so both sides count from zero, and then it settles it."""
    edge = Edge(8)
    receiver, _ = edge.join_receiver(b"a.0", 1, ()) or (None, [])
    assert receiver is not None
    receiver.limit = receiver.window = 2
    source = edge.join_source(b"up", 1)
    assert source is not None
    for number in range(1, 6):
        edge.offer(b"up", number, Batch(1, 1, [b"", b"", b""]))
    assert len(list(edge.dispatch())) == 2
    _, lost = edge.join_receiver(b"a.0", 1, ()) or (None, [])
    assert len(lost) == 2
    # Two settlements of what is in nobody's custody have raised the limit.
    receiver.limit = 4
    assert len(list(edge.dispatch())) == 2


def test_a_delivery_that_comes_twice_is_worked_on_once(world: World) -> None:
    process = world.parts["d.0"]
    worker: Worker = process.part
    up = worker.up[0]
    seen: list[Any] = []
    worker.node.process = seen.append  # type: ignore[method-assign]
    words = (7).to_bytes(8, "little")
    frames = [wire.pack(wire.Deliver(up.broker_epoch, 1, 1, 1, ())), words, words, codec.encode(["x"])]
    for _ in range(2):
        up.receive(wire.unpack(frames), frames)
    for _ in range(3):
        world.turn(process)
    assert seen == ["x"]


def test_batches_of_a_broken_connection_do_not_count_on_the_next_one(world: World) -> None:
    """A broker that had not read them when it greeted anew took them for the first of the new ones."""
    broker = world.parts[f"broker {IN}"]
    feed = world.start_feed()
    world.append(feed, 6)
    dealer = broker.part.acker.socket
    broker.busy = True
    while not any(isinstance(wire.unpack(frames), wire.Batch) for _, frames in dealer.inbox):
        world.step()
    for _ in range(2):
        # Two greetings, since the answer to the first may be there and say nothing of the second.
        world.network.break_(connection(world, broker.name, "acker"))
        world.network._connect(dealer)
        broker.busy = False
        with world._inside(broker):
            broker.part.acker.check_connection()
        broker.busy = True
        while not any(isinstance(wire.unpack(frames), wire.EdgeJoined) for _, frames in dealer.inbox):
            world.step()
    broker.busy = False
    world.drain()
    assert world.parts["acker"].part._counts["lost"] == 0


def test_the_answer_to_a_greeting_on_a_broken_connection_is_not_taken_for_that_to_the_next(world: World) -> None:
    process = world.parts[f"broker {IN}"]
    broker, epoch = process.part, world.parts["acker"].epoch
    words = bytes(8)

    def hears(head: wire.Head, *frames: bytes) -> None:
        broker._from_acker([wire.pack(head), *frames])

    with world._inside(process):
        broker._greet_acker()
        greeting = broker._acker_source.epoch
        hears(wire.EdgeJoined(epoch, 0, greeting - 1))
        hears(wire.Batch(broker.epoch, 1, epoch, 1), words, words, codec.encode(["of the old connection"]))
        assert (broker._acker_source.accepted, broker.edge.queued) == (0, 0)
        hears(wire.EdgeJoined(epoch, 0, greeting))
        hears(wire.Batch(broker.epoch, 1, epoch, 1), words, words, codec.encode(["of the new one"]))
    assert (broker._acker_source.accepted, broker.edge.queued) == (1, 1)


def test_a_greeting_of_a_broker_that_comes_twice_changes_nothing(world: World) -> None:
    """The second would have the acker number its batches from one, which the broker takes for repetitions."""
    acker = world.parts["acker"].part
    feed = world.start_feed()
    world.append(feed, 6)
    while not acker.brokers.edges[IN].sent:
        world.step()
    edge = acker.brokers.edges[IN]
    sent, swept = edge.sent, acker._counts["swept"]
    head = wire.EdgeJoin(wire.VERSION, IN, edge.epoch, 2, 16, edge.greeting)
    acker._edge_joined(edge.peer, head, [])
    assert (edge.sent, acker._counts["swept"]) == (sent, swept)
    world.drain()
    assert acker._counts["lost"] == 0


def test_a_fenced_worker_that_has_taken_its_identity_back_settles_and_sends_nothing() -> None:
    """Its connection is the newest of that identity, so it gets what its successor should, until it is told to end."""
    edge = Edge(8)
    for epoch in (1, 2):
        edge.join_source(b"up", epoch)
        receiver, _ = edge.join_receiver(b"a.0", epoch, ()) or (None, [])
        assert receiver is not None
        receiver.limit = 2
    assert not edge.offer(b"up", 1, Batch(1, 1, [b"", b"", b""]), 1)
    assert edge.offer(b"up", 1, Batch(1, 1, [b"", b"", b""]), 2)
    [(_, seq, batch)] = edge.dispatch()
    assert edge.park(b"a.0", seq, (), 1) is None
    assert edge.settle(b"a.0", seq, 1) is None
    assert edge.settle(b"a.0", seq, 2) is batch


def test_a_word_that_fences_another_instance_ends_nobody(world: World) -> None:
    """It is sent to an identity, which the newer instance may have by the time it arrives."""
    process = world.parts["a.0"]
    port = process.part.up[0]
    for epoch in (process.epoch + 1, process.epoch):
        connection_ = port.dealer.socket.connection
        port.dealer.socket.inbox.append((connection_, [wire.pack(wire.Fenced(epoch))]))
        if epoch != process.epoch:
            port.pump()
        else:
            with pytest.raises(FencedError):
                port.pump()


def test_a_greeting_on_a_connection_that_a_newer_one_has_replaced_is_nobody_s(world: World) -> None:
    """It was read after the newer one had come, and answered to nobody."""
    broker, acker, worker = (world.parts[name] for name in ("broker a->b", "acker", "a.0"))
    for process, dealer in ((broker, worker.part.down["b"].dealer), (acker, worker.part.turns.acker)):
        old = dealer.socket.connection
        with world._inside(worker):
            world.network._deliver(old, dealer._greeting(), old.router)
        world.network.break_(old)
        world.network._connect(dealer.socket)
        world.turn(process)
    peers = [*broker.part.edge.sources, *acker.part._workers.values()]
    assert len(peers) == 2 + sum(map(len, world.nodes.values()))
    assert not [peer for peer in peers if peer.startswith(b"\0")]


def test_credit_that_was_overtaken_takes_nothing_back(world: World) -> None:
    """Nobody would say again what has not changed, and the sender would wait for ever."""
    port = world.parts["a.0"].part.down["b"]
    for limit in (9, 5):
        port.receive(wire.Grant(port.broker_epoch, 0, limit, 4), [])
    assert port._limit == 9
    edge = world.parts["acker"].part.brokers.edges[IN]
    for limit in (9, 5):
        world.parts["acker"].part.brokers.grant(edge.peer, wire.Grant(edge.epoch, 0, limit, 4, edge.greeting))
    world.parts["acker"].part.brokers.grant(edge.peer, wire.Grant(edge.epoch, 0, 12, 4, edge.greeting - 1))
    assert edge.limit == 9, "what counts from an earlier greeting says nothing"


def test_credit_and_acceptance_of_another_incarnation_of_a_broker_are_not_believed(world: World) -> None:
    port = world.parts["a.0"].part.down["b"]
    limit = port._limit
    for epoch in (port.broker_epoch - 1, port.broker_epoch + 1):
        port.receive(wire.Grant(epoch, 3, limit + 40, 4), [])
    assert port._limit == limit


def test_what_the_dead_had_settled_is_read_before_they_are_buried(world: World) -> None:
    """The settlement is there, and so is the proof of the death: the broker sees both in one turn."""
    broker, worker = world.parts["broker b->d"], world.parts["d.0"]
    feed = world.start_feed()
    while not worker.part.batches:
        if not feed.part.recorder.outstanding:
            world.append(feed, 3)
        world.step()
    broker.busy = True
    link = connection(world, "d.0", "b->d")
    while link.up:
        world.network._arrive(link, link.up, link.router)
    held = dict(broker.part.edge.receivers[b"down:d.0"].held)
    assert held
    world.kill(worker)
    broker.busy = False
    world.turn(broker)
    settled = [seq for seq in held if seq not in worker.part.up[0].jobs]
    assert settled
    assert not [batch for batch in broker.part.edge.queue if batch in [held[seq] for seq in settled]]
    assert len(broker.part._kept) == len(settled)


def test_the_simulated_network_keeps_the_order_of_a_connection_and_loses_what_is_on_its_way_when_it_breaks(
    world: World,
) -> None:
    link = connection(world, "d.0", "b->d")
    worker = world.parts["d.0"]
    with world._inside(worker):
        for number in range(5):
            worker.part.up[0].dealer.send([b"%d" % number])
    assert [frames[0] for frames in link.up] == [b"0", b"1", b"2", b"3", b"4"]
    before = [*link.up]
    world.network.break_(link)
    arrived = [frames for _, frames in link.router.inbox]
    kept = list(link.dealer.kept)
    assert arrived == before[: len(arrived)]
    assert kept == before[len(before) - len(kept) :]
    assert link.dealer.monitor.events == type(link.dealer.monitor.events)([zmq.EVENT_DISCONNECTED])
