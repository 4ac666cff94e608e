"""A producer's way past the acker, against real ROUTERs that play the acker and the broker."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from consecutiond_broker import child, wire
from consecutiond_broker.recorder import Recorder, RefusedError
from tests.broker.test_recorder import Context, FakeAcker, until

EPOCH = 3


class Bench:
    """A recorder, its acker, and the broker that the acker names."""

    def __init__(self, context: Context, directory: Path) -> None:
        self.acker = FakeAcker(context, f"ipc://{directory}/acker")
        self.broker = FakeAcker(context, f"ipc://{directory}/broker")
        self.recorder = Recorder(context, self.acker.uri, inside=False)
        self.recorder.register(zmq.Poller())

    def until(self, condition: object) -> None:
        def met() -> object:
            if not self.broker.socket.closed:
                self.broker.pump()
            return condition()  # type: ignore[operator]

        until(met, self.recorder, self.acker)

    def join(self) -> None:
        self.until(lambda: self.acker.take(wire.ProducerJoin))
        self.acker.say(wire.ProducerJoined(1, 0, self.broker.uri))
        self.until(lambda: self.recorder._joined)

    def join_broker(self, *, epoch: int = EPOCH, accepted: int = 0, limit: int = 4) -> wire.Join:
        found: list[tuple[wire.Head, list[bytes]]] = []
        self.until(lambda: found.extend(self.broker.take(wire.Join)) or found)  # type: ignore[func-returns-value]
        self.broker.say(wire.Joined(wire.VERSION, epoch, accepted, limit, 16))
        assert isinstance(found[-1][0], wire.Join)
        return found[-1][0]

    def batches(self, count: int) -> list[tuple[int, int, list[bytes]]]:
        found: list[tuple[int, int, list[bytes]]] = []

        def come() -> bool:
            found.extend((head.seq, head.acker_epoch, raw) for head, raw in self.broker.take(wire.Batch))  # type: ignore[union-attr]
            return len(found) >= count

        self.until(come)
        return found

    def ends(self) -> list[wire.EndOfInput]:
        return [head for head, _ in self.acker.heard if isinstance(head, wire.EndOfInput)]

    def idle(self) -> None:
        """Turn for a while: long enough for what should not be sent."""
        for _ in range(20):
            self.recorder.pump()
            self.broker.socket.poll(5)
            self.broker.pump()
            self.acker.pump()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    context: Context = zmq.Context()
    bench = Bench(context, tmp_path)
    yield bench
    if not bench.recorder.dealer.socket.closed:
        bench.recorder.close()
    context.destroy(linger=0)


def test_what_came_before_the_acker_answered_goes_to_the_broker_too(bench: Bench) -> None:
    bench.recorder.append(b"\x91\x01", 1)
    bench.join()
    bench.recorder.append(b"\x91\x02", 1)
    join = bench.join_broker()
    assert (join.side, join.pid) == ("up", child.identity()[0])
    assert bench.batches(2) == [
        (1, wire.UNTRACKED, [b"", b"", b"\x91\x01"]), (2, wire.UNTRACKED, [b"", b"", b"\x91\x02"]),
    ]  # fmt: skip
    assert bench.acker.take(wire.Append) == []
    assert bench.recorder.recorded == 0
    bench.broker.say(wire.Grant(EPOCH, 1, 4, 16))
    bench.until(lambda: bench.recorder.recorded == 1)
    assert bench.recorder.outstanding == 1


def test_without_credit_batches_wait_and_the_producer_is_told(bench: Bench) -> None:
    bench.join()
    bench.join_broker(limit=1)
    for number in range(3):
        bench.recorder.append(bytes((0x91, number)), 1)
    assert len(bench.batches(1)) == 1
    bench.until(lambda: bench.recorder.withheld)
    bench.broker.say(wire.Grant(EPOCH, 1, 3, 16))
    assert [seq for seq, _, _ in bench.batches(2)] == [2, 3]
    bench.until(lambda: not bench.recorder.withheld)


def test_a_broker_that_died_has_taken_what_it_had_not_accepted_with_it(bench: Bench) -> None:
    """It may have passed it on, so it is not sent again, and counted."""
    bench.join()
    bench.join_broker(limit=2)
    for number in range(3):
        bench.recorder.append(bytes((0x92, number, number)), 2)
    bench.batches(2)
    bench.broker.say(wire.Grant(EPOCH, 1, 2, 16))
    bench.until(lambda: bench.recorder.recorded == 1)
    bench.broker.die()
    bench.broker.start()
    bench.join_broker(epoch=EPOCH + 1)
    assert bench.batches(1) == [(1, wire.UNTRACKED, [b"", b"", b"\x92\x02\x02"])]
    assert bench.recorder.recorded == 2
    bench.recorder.end(wait=True)
    bench.idle()
    assert bench.ends() == [], "the last one is still on its way"
    bench.broker.say(wire.Grant(EPOCH + 1, 1, 4, 16))
    bench.until(bench.ends)
    assert [(end.wait, end.lost) for end in bench.ends()] == [(True, 2)]


def test_after_a_broken_connection_the_same_broker_gets_what_did_not_arrive(bench: Bench) -> None:
    bench.join()
    bench.join_broker()
    for number in range(3):
        bench.recorder.append(bytes((0x91, number)), 1)
    bench.batches(3)
    bench.broker.die()
    bench.broker.start()
    bench.join_broker(accepted=1)
    assert [seq for seq, _, _ in bench.batches(2)] == [2, 3]
    bench.until(lambda: bench.recorder.recorded == 1)


def test_a_grant_of_an_older_broker_is_not_taken_for_one_of_this(bench: Bench) -> None:
    bench.join()
    bench.join_broker(limit=1)
    bench.recorder.append(b"\x91\x00", 1)
    bench.batches(1)
    bench.broker.say(wire.Grant(EPOCH - 1, 1, 4, 16))
    bench.idle()
    assert bench.recorder.outstanding == 1


def test_one_that_is_refused_sends_nothing_more_and_says_so_when_all_has_arrived(bench: Bench) -> None:
    bench.join()
    bench.join_broker(limit=1)
    for number in range(3):
        bench.recorder.append(bytes((0x91, number)), 1)
    bench.batches(1)
    bench.acker.say(wire.Refused("it is being stopped"))
    bench.until(lambda: bench.recorder.refused)
    with pytest.raises(RefusedError, match="it is being stopped"):
        bench.recorder.append(b"\x91\x07", 1)
    bench.idle()
    assert bench.ends() == []
    bench.broker.say(wire.Grant(EPOCH, 1, 9, 16))
    bench.until(bench.ends)
    assert bench.broker.take(wire.Batch) == []
    assert bench.recorder.recorded == 1


def test_goodbye_is_said_to_the_broker_too(bench: Bench) -> None:
    bench.join()
    bench.join_broker()
    bench.recorder.pump()
    bench.recorder.close()
    for _ in range(200):
        bench.broker.socket.poll(50)
        bench.broker.pump()
        if bench.broker.take(wire.Leave):
            return
    raise AssertionError("no goodbye has come")
