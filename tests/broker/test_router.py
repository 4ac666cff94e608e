"""One edge's broker on real sockets: the acker is a ROUTER of the test, senders and receivers are DEALERs."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from consecutiond_broker import child, wire
from consecutiond_broker.cell import Remains
from consecutiond_broker.options import BrokerOptions
from consecutiond_broker.router import Broker

BROKER_DIR = Path(__file__).parents[2] / "broker"
EPOCH, ACKER = 7, 3
Context = zmq.Context[zmq.Socket[bytes]]
Message = tuple[Any, list[bytes]]


def words(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, "little") for value in values)


class Bench:
    """A broker, the acker it talks to, and everybody who has connected."""

    def __init__(self, context: Context, directory: Path) -> None:
        self.context, self.directory = context, directory
        self.options = BrokerOptions(
            part="broker-a", edge="in->a", uri=f"ipc://{directory}/edge", acker_uri=f"ipc://{directory}/acker",
            heart_uri="", pid_dir=str(directory),
        )  # fmt: skip
        self.acker_heard: list[Message] = []
        self.peers: list[Peer] = []
        self.start_acker()
        self.broker = Broker(self.options, EPOCH, context)

    def start_acker(self) -> None:
        self.acker = self.context.socket(zmq.ROUTER)
        self.acker.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self.acker.setsockopt(zmq.LINGER, 0)
        self.acker.bind(self.options.acker_uri)

    def until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            self.broker._turn(5)
            while not self.acker.closed and self.acker.poll(0):
                _, *frames = self.acker.recv_multipart()
                self.acker_heard.append((wire.unpack(frames), frames[1:]))

    def settled_down(self) -> None:
        """Turn until the broker has read everything that was sent to it before: a stranger's greeting is answered."""
        probe = Peer(self, b"up:probe.0")
        probe.join()
        probe.socket.close()

    def to_acker(self, kind: type) -> list[Message]:
        return [each for each in self.acker_heard if isinstance(each[0], kind)]

    def from_acker(self, head: wire.Head, *frames: bytes) -> None:
        self.acker.send_multipart([b"E:in->a", wire.pack(head), *frames])

    def join_acker(self, epoch: int = ACKER, applied: int = 0) -> wire.EdgeJoin:
        self.until(lambda: self.to_acker(wire.EdgeJoin))
        *_, (head, _) = self.to_acker(wire.EdgeJoin)
        self.acker_heard.clear()
        self.from_acker(wire.EdgeJoined(epoch, applied, head.greeting))
        self.until(lambda: self.broker.edge.acker_epoch == epoch)
        return head  # type: ignore[no-any-return]

    def reports(self) -> list[tuple[int, int, list[bytes]]]:
        """Return ``(number, acker epoch, frames)`` of every report that the acker got, as often as it got it."""
        return [
            (head.first + place, epoch, raw[3 * place : 3 * place + 3])
            for head, raw in self.to_acker(wire.Reports)
            for place, epoch in enumerate(head.acker_epochs)
        ]

    def fails(self) -> list[wire.Fail]:
        return [fail for _, _, frames in self.reports() for fail in wire.unpack_fails(frames[2])]

    def close(self) -> None:
        self.broker.close()
        for peer in self.peers:
            peer.socket.close()
        self.acker.close()
        self.context.destroy(linger=0)


class Peer:
    """A DEALER that speaks as a worker would."""

    def __init__(self, bench: Bench, identity: bytes) -> None:
        self.bench, self.identity = bench, identity
        bench.peers.append(self)
        self.heard: list[Message] = []
        self.socket = bench.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.IDENTITY, identity)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(bench.options.uri)

    def send(self, head: wire.Head, *frames: bytes) -> None:
        self.socket.send_multipart([wire.pack(head), *frames])

    def pump(self) -> bool:
        while self.socket.poll(0):
            frames = self.socket.recv_multipart()
            self.heard.append((wire.unpack(frames), frames[1:]))
        return True

    def expect(self, kind: type, count: int = 1) -> list[Message]:
        self.bench.until(lambda: self.pump() and len(self.of(kind)) >= count)
        return self.of(kind)

    def of(self, kind: type) -> list[Message]:
        return [each for each in self.heard if isinstance(each[0], kind)]

    def join(
        self, epoch: int = 1, *, limit: int = 10, held: tuple[int, ...] = (), cell: str = "",
        process: tuple[int, int] | None = None, version: int = wire.VERSION, hint: int = 16,
    ) -> wire.Joined | wire.Fenced:  # fmt: skip
        side, name = self.identity.decode().split(":")
        pid, started = process or child.identity()
        self.heard.clear()
        self.send(wire.Join(version, side, name, epoch, pid, started, cell, 0, limit, hint, held))
        self.bench.until(lambda: self.pump() and (self.of(wire.Joined) or self.of(wire.Fenced)))
        return (self.of(wire.Joined) or self.of(wire.Fenced))[0][0]  # type: ignore[no-any-return]

    def offer(self, seq: int, *roots: int, broker_epoch: int = EPOCH, acker_epoch: int = ACKER) -> None:
        columns = words(*roots)
        self.send(wire.Batch(broker_epoch, seq, acker_epoch, len(roots)), columns, columns, b"body%d" % seq)

    def settle(self, delivery: Message, broker_epoch: int = EPOCH, limit: int = 10) -> None:
        head, (roots, ids, _) = delivery
        self.send(wire.Settle(broker_epoch, head.seq, head.acker_epoch, limit, 16), roots, ids, b"")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(zmq.Context(), tmp_path)
    yield bench
    bench.close()


@pytest.fixture
def sender(bench: Bench) -> Peer:
    sender = Peer(bench, b"up:parse.0")
    sender.join()
    return sender


@pytest.fixture
def receiver(bench: Bench) -> Peer:
    return Peer(bench, b"down:a.0")


class Worker:
    """A real process with a cell, which waits to be killed."""

    def __init__(self, directory: Path, name: str, epoch: int, remains: Remains) -> None:
        self.cell = str(directory / f"{name}.cell")
        program = f"""
import sys, time
sys.path.insert(0, {str(BROKER_DIR)!r})
from pathlib import Path
from consecutiond_broker.cell import Cell, INDEX
cell = Cell(Path({self.cell!r}), {epoch}, 1)
if {remains.outputs}: cell.outputs_leave(0, {remains.outputs})
if {remains.delivery}: cell.start(0, {remains.delivery})
cell.words[INDEX] = {remains.position} + 1
print("ready", flush=True)
time.sleep(600)
"""
        self.process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"
        started = child.start_time(self.process.pid)
        assert started is not None
        self.identity = (self.process.pid, started)

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.reap()

    def reap(self) -> None:
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def every_lower_descriptor_taken(limit: int) -> Iterator[None]:
    """Let the next descriptor that is freed at ``limit`` be the next that is given out."""
    taken = [os.dup(0)]
    while taken[-1] < limit:
        taken.append(os.dup(0))
    yield
    for descriptor in taken:
        os.close(descriptor)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def start_worker(epoch: int = 1, delivery: int = 0, index: int = -1, outputs: int = 0) -> Worker:
        workers.append(Worker(tmp_path, f"a.0-{epoch}", epoch, Remains(delivery, index, outputs)))
        return workers[-1]

    yield start_worker
    for worker in workers:
        worker.process.kill()
        worker.reap()


class TestGreetings:
    def test_it_greets_the_acker_with_its_edge_and_epoch(self, bench: Bench) -> None:
        head = bench.join_acker()
        assert (head.version, head.edge, head.epoch) == (wire.VERSION, "in->a", EPOCH)

    def test_a_worker_learns_the_broker_s_epoch_and_its_credit(self, bench: Bench, sender: Peer) -> None:
        assert sender.of(wire.Joined)[0][0] == wire.Joined(wire.VERSION, EPOCH, 0, bench.options.window, 16)

    def test_a_sender_that_reconnects_learns_what_was_accepted(self, bench: Bench, sender: Peer) -> None:
        sender.offer(1, 11)
        sender.offer(2, 12)
        bench.until(lambda: len(bench.broker.edge.queue) == 2)
        answer = sender.join()
        assert isinstance(answer, wire.Joined)
        assert answer.accepted == 2

    @pytest.mark.parametrize("identity", [b"up:parse.0", b"down:a.0"])
    def test_an_older_incarnation_is_told_that_it_is_fenced(self, bench: Bench, identity: bytes) -> None:
        Peer(bench, identity).join(epoch=2)
        assert Peer(bench, identity).join(epoch=1) == wire.Fenced(1)

    def test_a_worker_of_another_protocol_version_is_counted_and_not_joined(self, bench: Bench) -> None:
        other = Peer(bench, b"down:a.0")
        other.send(wire.Join(99, "down", "a.0", 1, 1, 1, "", 0, 5, 5, ()))
        bench.until(lambda: bench.broker.stats()["malformed"] == 1)
        assert not bench.broker.edge.receivers


class TestFlow:
    def test_a_batch_goes_untouched_to_a_receiver_and_its_settlement_to_the_acker(
        self, bench: Bench, sender: Peer, receiver: Peer
    ) -> None:
        bench.join_acker()
        receiver.join()
        sender.offer(1, 11, 12)
        [(head, raw)] = receiver.expect(wire.Deliver)
        assert head == wire.Deliver(EPOCH, 1, ACKER, 2, ())
        assert raw == [words(11, 12), words(11, 12), b"body1"]
        receiver.settle((head, raw))
        bench.until(bench.reports)
        assert bench.reports() == [(1, ACKER, [words(11, 12), words(11, 12), b""])]
        assert bench.broker.stats()["held"] == 0

    def test_acceptance_is_granted_when_the_batch_is_in_custody(self, bench: Bench, sender: Peer) -> None:
        sender.offer(1, 11)
        window = bench.options.window
        bench.until(lambda: sender.pump() and wire.Grant(EPOCH, 1, window, 16) in [h for h, _ in sender.heard])
        assert len(bench.broker.edge.queue) == 1

    def test_a_batch_offered_twice_is_accepted_once(self, bench: Bench, sender: Peer) -> None:
        sender.offer(1, 11)
        sender.offer(1, 11)
        bench.settled_down()
        assert len(bench.broker.edge.queue) == 1

    def test_a_message_for_an_older_broker_is_dropped(self, bench: Bench, sender: Peer, receiver: Peer) -> None:
        bench.join_acker()
        receiver.join()
        sender.offer(1, 11, broker_epoch=EPOCH - 1)
        bench.settled_down()
        assert len(bench.broker.edge.queue) == bench.broker.edge.held == 0
        sender.offer(1, 11)
        [delivery] = receiver.expect(wire.Deliver)
        receiver.settle(delivery, broker_epoch=EPOCH - 1)
        bench.settled_down()
        assert bench.broker.edge.held == 1
        assert bench.reports() == []

    def test_a_settlement_that_comes_twice_is_reported_once(self, bench: Bench, sender: Peer, receiver: Peer) -> None:
        bench.join_acker()
        receiver.join()
        sender.offer(1, 11)
        [delivery] = receiver.expect(wire.Deliver)
        receiver.settle(delivery)
        receiver.settle(delivery)
        bench.settled_down()
        bench.until(bench.reports)
        assert len(bench.reports()) == 1

    def test_a_receiver_that_is_gone_gives_its_delivery_back(self, bench: Bench, sender: Peer, receiver: Peer) -> None:
        receiver.join()
        monitor = bench.broker.router.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        receiver.socket.close()
        assert monitor.poll(20_000), "the broker's side never saw the connection end"
        bench.broker.router.disable_monitor()
        monitor.close()
        sender.offer(1, 11)
        bench.until(lambda: not bench.broker.edge.receivers[b"down:a.0"].reachable)
        assert len(bench.broker.edge.queue) == 1
        back = Peer(bench, b"down:a.0")
        back.join()
        assert back.expect(wire.Deliver)[0][1][0] == words(11)

    def test_batches_of_the_acker_are_granted_and_delivered_too(self, bench: Bench, receiver: Peer) -> None:
        bench.join_acker()
        receiver.join()
        for _ in range(2):
            bench.from_acker(wire.Batch(EPOCH, 1, ACKER, 1), words(11), words(12), b"body")
        bench.from_acker(wire.Batch(EPOCH - 1, 2, ACKER, 1), words(13), words(14), b"body")
        assert receiver.expect(wire.Deliver)[0][1] == [words(11), words(12), b"body"]
        window = bench.options.acker_window
        bench.until(lambda: wire.Grant(EPOCH, 1, window + 1, 16, 1) in [head for head, _ in bench.acker_heard])
        bench.settled_down()
        receiver.pump()
        assert len(receiver.of(wire.Deliver)) == 1

    def test_a_worker_that_leaves_has_no_turn_any_more(self, bench: Bench, receiver: Peer, sender: Peer) -> None:
        receiver.join(epoch=1)
        receiver.send(wire.Leave(1))
        sender.send(wire.Leave(1))
        bench.until(lambda: not bench.broker.edge.receivers and b"up:parse.0" not in bench.broker.edge.sources)

    def test_the_late_goodbye_of_an_old_incarnation_does_not_remove_the_new_one(
        self, bench: Bench, receiver: Peer, sender: Peer
    ) -> None:
        receiver.join(epoch=2)
        sender.join(epoch=2)
        receiver.send(wire.Leave(1))
        sender.send(wire.Leave(1))
        bench.settled_down()
        assert b"down:a.0" in bench.broker.edge.receivers
        assert b"up:parse.0" in bench.broker.edge.sources


class TestGarbage:
    def test_it_is_counted_and_dropped_and_harms_nobody(self, bench: Bench, sender: Peer, receiver: Peer) -> None:
        bench.join_acker()
        receiver.join()
        stranger = Peer(bench, b"\x01\xff")
        garbage = [
            [b""],
            [b"", b"", b""],
            [b"\xff" * 50],
            [os.urandom(100)],
            [wire.pack(wire.Batch(EPOCH, 1, ACKER, 5)), b"short", b"short", b"body"],
            [wire.pack(wire.Settle(EPOCH, 1, ACKER, 1, 1))],
            [wire.pack(wire.Applied(EPOCH, 1))],
            [b"\x93\x04\x01" + b"\x91" * 100_000 + b"\x01"],
            [wire.pack(wire.Refused("full")).replace(b"full", b"\x80ull")],
        ]
        for frames in garbage:
            stranger.socket.send_multipart(frames)
        bench.acker.send_multipart([b"E:in->a", b"\xffgarbage"])
        bench.until(lambda: bench.broker.stats()["malformed"] == len(garbage) + 1)
        sender.offer(1, 11)
        [delivery] = receiver.expect(wire.Deliver)
        receiver.settle(delivery)
        bench.until(bench.reports)

    def test_a_flood_of_it_is_logged_a_few_times(self, bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
        stranger = Peer(bench, b"stranger")
        for _ in range(300):
            stranger.socket.send(b"\xff")
        bench.until(lambda: bench.broker.stats()["malformed"] == 300)
        assert 1 <= sum("wire.malformed" in record.message for record in caplog.records) <= 10


class TestReports:
    def settle_some(self, bench: Bench, sender: Peer, receiver: Peer, *roots: int) -> None:
        for root in roots:
            known = bench.broker.edge.sources[b"up:parse.0"].accepted
            sender.offer(known + 1, root)
            *_, delivery = receiver.expect(wire.Deliver, known + 1)
            receiver.settle(delivery)

    def test_they_are_kept_until_the_acker_has_applied_them(self, bench: Bench, sender: Peer, receiver: Peer) -> None:
        bench.join_acker()
        receiver.join()
        self.settle_some(bench, sender, receiver, 11, 12, 13)
        bench.until(lambda: len(bench.reports()) == 3)
        assert bench.broker.stats()["reports"] == 3
        bench.from_acker(wire.Applied(EPOCH - 1, 3))
        bench.from_acker(wire.Applied(EPOCH, 2))
        bench.until(lambda: bench.broker.stats()["reports"] == 1)

    def test_what_the_acker_has_not_applied_is_sent_again_under_its_number_after_a_reconnection(
        self, bench: Bench, sender: Peer, receiver: Peer
    ) -> None:
        bench.join_acker()
        receiver.join()
        self.settle_some(bench, sender, receiver, 11, 12, 13)
        bench.until(lambda: len(bench.reports()) == 3)
        bench.acker.close()
        bench.start_acker()
        bench.join_acker(applied=1)
        bench.until(lambda: len(bench.reports()) >= 2)
        assert [(seq, frames[0]) for seq, _, frames in bench.reports()] == [(2, words(12)), (3, words(13))]

    def test_what_happens_while_the_acker_is_away_is_reported_when_it_is_back_and_has_said_where_it_stands(
        self, bench: Bench, sender: Peer, receiver: Peer
    ) -> None:
        bench.join_acker()
        receiver.join()
        self.settle_some(bench, sender, receiver, 11)
        bench.until(lambda: len(bench.reports()) == 1)
        bench.acker.close()
        bench.until(lambda: not bench.broker.acker.connected)
        self.settle_some(bench, sender, receiver, 12)
        bench.until(lambda: bench.broker.stats()["reports"] == 2)
        bench.start_acker()
        bench.until(lambda: bench.to_acker(wire.EdgeJoin))
        bench.settled_down()
        assert [seq for seq, _, _ in bench.reports()] == [1], "report 2 would overtake 1, which may be lost"
        bench.join_acker()
        bench.until(lambda: len(bench.reports()) == 2)
        assert [seq for seq, _, _ in bench.reports()] == [1, 2]

    def test_a_new_acker_epoch_purges_the_queue_and_the_reports_of_the_old_one(
        self, bench: Bench, sender: Peer, receiver: Peer
    ) -> None:
        bench.join_acker()
        receiver.join(limit=2)
        self.settle_some(bench, sender, receiver, 11)
        bench.until(lambda: bench.broker.stats()["reports"] == 1)
        receiver.join(limit=0)
        sender.offer(2, 12)
        bench.until(lambda: len(bench.broker.edge.queue) == 1)
        bench.acker.close()
        bench.start_acker()
        bench.join_acker(epoch=ACKER + 1)
        bench.until(lambda: not bench.broker.edge.queue)
        assert bench.broker.stats()["reports"] == 0
        sender.offer(3, 13, acker_epoch=ACKER + 1)
        receiver.join(limit=5)
        *_, delivery = receiver.expect(wire.Deliver)
        assert delivery[1][0] == words(13)
        receiver.settle(delivery)
        bench.until(bench.reports)
        assert [(epoch, frames[0]) for _, epoch, frames in bench.reports()] == [(ACKER + 1, words(13))]

    def test_a_settlement_of_a_new_acker_s_batch_is_kept_even_if_this_broker_has_not_met_it_yet(
        self, bench: Bench, sender: Peer, receiver: Peer
    ) -> None:
        """Its batches may come through a worker before its greeting does."""
        receiver.join()
        self.settle_some(bench, sender, receiver, 11)
        bench.settled_down()
        bench.join_acker()
        bench.until(bench.reports)
        assert bench.reports() == [(1, ACKER, [words(11), words(11), b""])]

    def test_reports_of_a_mixture_of_ackers_keep_their_numbers(
        self, bench: Bench, sender: Peer, receiver: Peer
    ) -> None:
        """Numbers without gaps are what keeps a report from being applied twice."""
        bench.join_acker()
        receiver.join()
        for seq, epoch in enumerate((ACKER, ACKER + 1, ACKER, ACKER + 1), 1):
            sender.offer(seq, 10 + seq, acker_epoch=epoch)
        for delivery in receiver.expect(wire.Deliver, 4):
            receiver.settle(delivery)
        bench.until(lambda: len(bench.reports()) == 4)
        bench.acker.close()
        bench.start_acker()
        bench.join_acker(epoch=ACKER + 1)
        bench.until(lambda: len(bench.reports()) >= 2)
        bench.settled_down()
        new = [(seq, frames[0]) for seq, epoch, frames in bench.reports() if epoch == ACKER + 1]
        assert new == [(2, words(12)), (4, words(14))]

    def test_a_probe_is_answered_with_what_is_left(self, bench: Bench, sender: Peer, receiver: Peer) -> None:
        bench.join_acker()
        receiver.join(limit=1)
        for seq in (1, 2):
            sender.offer(seq, 10 + seq)
        receiver.expect(wire.Deliver)
        bench.until(lambda: len(bench.broker.edge.queue) == 1)
        bench.from_acker(wire.Probe(5))
        bench.until(lambda: bench.to_acker(wire.Idle))
        [(idle, _)] = bench.to_acker(wire.Idle)
        assert (idle.number, idle.queued, idle.held, idle.reports) == (5, 1, 1, 0)
        assert idle.activity == bench.broker.edge.activity


class TestDeath:
    """A real worker process is killed with two batches in its hands; the other end of its socket is the test's."""

    def hand_out(self, bench: Bench, sender: Peer, receiver: Peer, worker: Worker, epoch: int = 1) -> None:
        bench.join_acker()
        receiver.join(epoch, cell=worker.cell, process=worker.identity)
        sender.offer(1, 11, 12)
        sender.offer(2, 21, 22)
        receiver.expect(wire.Deliver, 2)

    def redelivered(self, bench: Bench, count: int) -> list[tuple[bytes, tuple[int, ...]]]:
        other = Peer(bench, b"down:a.1")
        other.join()
        return [(raw[0], head.skip) for head, raw in other.expect(wire.Deliver, count)]

    def test_when_no_output_had_left_its_batches_go_to_another_worker(
        self, bench: Bench, sender: Peer, receiver: Peer, start: Callable[..., Worker]
    ) -> None:
        worker = start()
        self.hand_out(bench, sender, receiver, worker)
        worker.kill()
        assert self.redelivered(bench, 2) == [(words(11, 12), ()), (words(21, 22), ())]
        assert bench.fails() == []

    def test_the_suspect_alone_is_charged_and_its_neighbours_flow(
        self, bench: Bench, sender: Peer, receiver: Peer, start: Callable[..., Worker]
    ) -> None:
        worker = start(delivery=1, index=1)
        self.hand_out(bench, sender, receiver, worker)
        worker.kill()
        bench.until(bench.fails)
        [fail] = bench.fails()
        assert (fail.kind, fail.charged, fail.roots, fail.node) == ("crashed", True, words(12), "a")
        assert "a.0 died" in fail.error
        assert self.redelivered(bench, 2) == [(words(11, 12), (1,)), (words(21, 22), ())]

    def test_batches_of_which_outputs_had_left_fail_uncharged(
        self, bench: Bench, sender: Peer, receiver: Peer, start: Callable[..., Worker]
    ) -> None:
        worker = start(delivery=2, index=0, outputs=1)
        self.hand_out(bench, sender, receiver, worker)
        worker.kill()
        bench.until(lambda: len(bench.fails()) == 2)
        assert [(fail.kind, fail.charged, fail.roots) for fail in bench.fails()] == [
            ("worker died", False, words(11, 12)), ("crashed", True, words(21)),
        ]  # fmt: skip
        assert self.redelivered(bench, 1) == [(words(21, 22), (0,))]

    def test_the_suspect_of_a_batch_with_outputs_is_charged_and_its_neighbours_fail_uncharged(
        self, bench: Bench, sender: Peer, receiver: Peer, start: Callable[..., Worker]
    ) -> None:
        worker = start(delivery=2, index=1, outputs=2)
        self.hand_out(bench, sender, receiver, worker)
        worker.kill()
        bench.until(lambda: len(bench.fails()) == 3)
        assert {(fail.charged, fail.roots) for fail in bench.fails()} == {
            (False, words(11, 12)), (True, words(22)), (False, words(21)),
        }  # fmt: skip

    def test_a_death_between_two_items_of_a_batch_is_told_as_that(
        self, bench: Bench, sender: Peer, receiver: Peer, start: Callable[..., Worker]
    ) -> None:
        worker = start(delivery=1, index=-1)
        self.hand_out(bench, sender, receiver, worker)
        worker.kill()
        bench.until(bench.fails)
        [fail] = bench.fails()
        assert (fail.kind, fail.charged, fail.roots, fail.node) == (wire.BETWEEN, False, words(11, 12), "a")
        assert self.redelivered(bench, 1) == [(words(21, 22), ())]

    def test_without_a_cell_everything_fails_uncharged(
        self, bench: Bench, sender: Peer, receiver: Peer, start: Callable[..., Worker]
    ) -> None:
        worker = start(delivery=1, index=0)
        Path(worker.cell).unlink()
        self.hand_out(bench, sender, receiver, worker)
        worker.kill()
        bench.until(lambda: len(bench.fails()) == 2)
        assert [(fail.charged, fail.roots) for fail in bench.fails()] == [
            (False, words(11, 12)), (False, words(21, 22)),
        ]  # fmt: skip

    def test_what_the_dead_had_settled_is_not_redelivered(
        self, bench: Bench, sender: Peer, receiver: Peer, start: Callable[..., Worker]
    ) -> None:
        worker = start()
        self.hand_out(bench, sender, receiver, worker)
        receiver.settle(receiver.of(wire.Deliver)[0])
        bench.until(bench.reports)
        worker.kill()
        assert self.redelivered(bench, 1) == [(words(21, 22), ())]

    def test_one_that_dies_before_its_greeting_is_read_holds_nothing_up(
        self, bench: Bench, sender: Peer, receiver: Peer, start: Callable[..., Worker]
    ) -> None:
        worker = start()
        worker.kill()
        receiver.join(cell=worker.cell, process=worker.identity)
        assert b"down:a.0" not in bench.broker.edge.receivers

    def test_a_reconnection_loses_uncharged_what_was_on_its_way(
        self, bench: Bench, sender: Peer, receiver: Peer, start: Callable[..., Worker]
    ) -> None:
        worker = start()
        self.hand_out(bench, sender, receiver, worker)
        receiver.join(1, held=(2,), cell=worker.cell, process=worker.identity)
        bench.until(bench.fails)
        assert [(fail.charged, fail.roots) for fail in bench.fails()] == [(False, words(11, 12))]
        assert bench.broker.edge.held == 1

    def test_a_successor_that_greets_before_the_death_was_noticed_is_not_buried_in_its_place(
        self, bench: Bench, sender: Peer, receiver: Peer, start: Callable[..., Worker]
    ) -> None:
        """The descriptor of the dead is closed, and that of the living gets its number."""
        old, new = start(epoch=1), start(epoch=2)
        self.hand_out(bench, sender, receiver, old)
        old.kill()
        watched = bench.broker.deaths.fd(b"down:a.0")
        assert watched is not None
        receiver.heard.clear()
        receiver.send(wire.Join(wire.VERSION, "down", "a.0", 2, *new.identity, new.cell, 0, 10, 16, ()))
        assert bench.broker.router.poll(5000)
        with every_lower_descriptor_taken(watched):
            bench.until(lambda: receiver.pump() and receiver.of(wire.Joined))
        assert bench.broker.deaths.fd(b"down:a.0") == watched
        bench.settled_down()
        assert bench.broker.edge.receivers[b"down:a.0"].epoch == 2
        redelivered = receiver.expect(wire.Deliver, 2)
        assert [raw[0] for _, raw in redelivered] == [words(11, 12), words(21, 22)]
        assert bench.fails() == []

    def test_a_successor_of_one_that_may_still_live_inherits_nothing(
        self, bench: Bench, sender: Peer, receiver: Peer, start: Callable[..., Worker]
    ) -> None:
        old, new = start(epoch=1), start(epoch=2)
        self.hand_out(bench, sender, receiver, old)
        receiver.join(2, cell=new.cell, process=new.identity)
        bench.until(lambda: len(bench.fails()) == 2)
        assert [(fail.charged, fail.roots) for fail in bench.fails()] == [
            (False, words(11, 12)), (False, words(21, 22)),
        ]  # fmt: skip
        new.kill()
        bench.until(lambda: b"down:a.0" not in bench.broker.edge.receivers)
