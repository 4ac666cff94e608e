"""The producer's half of the hand-over to the acker, against a real ROUTER that plays the acker."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from consecutiond_broker import child, wire
from consecutiond_broker.recorder import Recorder, RefusedError

Context = zmq.Context[zmq.Socket[bytes]]


class FakeAcker:
    """A ROUTER that says what the test tells it to, and can die and come back at the same address."""

    def __init__(self, context: Context, uri: str) -> None:
        self.uri = uri
        self.heard: list[tuple[wire.Head, list[bytes]]] = []
        self.peer = b""
        self._context = context
        self.start()

    def start(self) -> None:
        self.socket = self._context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(self.uri)

    def die(self) -> None:
        self.socket.close()

    def pump(self) -> None:
        while self.socket.poll(0):
            self.peer, *frames = self.socket.recv_multipart()
            self.heard.append((wire.unpack(frames), frames[1:]))

    def say(self, head: wire.Head) -> None:
        self.socket.send_multipart([self.peer, wire.pack(head)])

    def take(self, kind: type) -> list[tuple[wire.Head, list[bytes]]]:
        mine = [each for each in self.heard if isinstance(each[0], kind)]
        self.heard = [each for each in self.heard if not isinstance(each[0], kind)]
        return mine


@pytest.fixture
def context() -> Iterator[Context]:
    context: Context = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def acker(context: Context, tmp_path: Path) -> FakeAcker:
    return FakeAcker(context, f"ipc://{tmp_path}/acker")


@pytest.fixture
def recorder(context: Context, acker: FakeAcker) -> Iterator[Recorder]:
    recorder = Recorder(context, acker.uri, inside=False)
    yield recorder
    recorder.close()


def until(condition: Callable[[], object], recorder: Recorder, acker: FakeAcker) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        recorder.pump()
        if not acker.socket.closed:
            acker.pump()


def join(recorder: Recorder, acker: FakeAcker, recorded: int = 0) -> wire.ProducerJoin:
    until(lambda: acker.heard and isinstance(acker.heard[0][0], wire.ProducerJoin), recorder, acker)
    [(head, _)] = acker.take(wire.ProducerJoin)
    assert isinstance(head, wire.ProducerJoin)
    acker.say(wire.ProducerJoined(1, recorded))
    until(lambda: recorder._joined, recorder, acker)
    return head


def appended(acker: FakeAcker) -> list[tuple[int, bytes]]:
    return [(head.seq, raw[0]) for head, raw in acker.take(wire.Append)]  # type: ignore[union-attr]


def test_it_greets_with_its_identity_first(recorder: Recorder, acker: FakeAcker) -> None:
    head = join(recorder, acker)
    assert head == wire.ProducerJoin(wire.VERSION, recorder.producer, False, *child.identity())


def test_nothing_is_sent_before_the_acker_has_answered(recorder: Recorder, acker: FakeAcker) -> None:
    """Only then it is known what an earlier acker has recorded."""
    assert recorder.append(b"first", 1) == 1
    until(lambda: acker.heard, recorder, acker)
    assert [type(head) for head, _ in acker.heard] == [wire.ProducerJoin]
    join(recorder, acker)
    until(lambda: acker.heard, recorder, acker)
    assert appended(acker) == [(1, b"first")]


def test_a_batch_is_outstanding_until_its_receipt(recorder: Recorder, acker: FakeAcker) -> None:
    join(recorder, acker)
    recorder.append(b"first", 1)
    recorder.append(b"second", 1)
    assert (recorder.outstanding, recorder.recorded, recorder.sent) == (2, 0, 2)
    until(lambda: len(acker.heard) == 2, recorder, acker)
    acker.say(wire.Receipt(1))
    until(lambda: recorder.recorded == 1, recorder, acker)
    assert recorder.outstanding == 1
    acker.say(wire.Receipt(2))
    until(lambda: recorder.outstanding == 0, recorder, acker)


def test_after_the_acker_was_replaced_exactly_what_is_not_recorded_is_sent_again_under_its_number(
    recorder: Recorder, acker: FakeAcker
) -> None:
    join(recorder, acker)
    for body in (b"first", b"second", b"third"):
        recorder.append(body, 1, ("a->b",))
    until(lambda: len(acker.heard) == 3, recorder, acker)
    acker.heard.clear()
    acker.die()
    acker.start()
    join(recorder, acker, recorded=1)
    assert recorder.outstanding == 2
    until(lambda: len(acker.heard) == 2, recorder, acker)
    assert all(head.entry == ("a->b",) for head, _ in acker.heard)  # type: ignore[union-attr]
    assert appended(acker) == [(2, b"second"), (3, b"third")]


def test_an_acker_whose_log_lost_batches_gets_the_next_under_the_number_that_it_expects(
    recorder: Recorder, acker: FakeAcker
) -> None:
    """What had a receipt is not here any more; what has none must not wait for it."""
    join(recorder, acker)
    for body in (b"first", b"second", b"third", b"fourth"):
        recorder.append(body, 1)
    until(lambda: len(acker.heard) == 4, recorder, acker)
    acker.say(wire.Receipt(3))
    until(lambda: recorder.recorded == 3, recorder, acker)
    acker.heard.clear()
    for recorded, expected in ((1, 2), (0, 1)):
        acker.die()
        acker.start()
        join(recorder, acker, recorded=recorded)
        until(lambda: acker.heard, recorder, acker)
        assert appended(acker) == [(expected, b"fourth")]
    acker.say(wire.Receipt(1, (77,)))
    until(lambda: recorder.outstanding == 0, recorder, acker)
    assert (recorder.recorded, recorder.positions) == (4, {4: 77})
    assert recorder.append(b"fifth", 1) == 5
    until(lambda: acker.heard, recorder, acker)
    assert appended(acker) == [(2, b"fifth")]


def test_an_old_receipt_takes_nothing_back(recorder: Recorder, acker: FakeAcker) -> None:
    join(recorder, acker, recorded=5)
    acker.say(wire.Receipt(3))
    acker.say(wire.Refused("enough"))
    until(lambda: recorder.refused, recorder, acker)
    assert recorder.recorded == 5


def test_one_that_was_refused_appends_nothing_and_says_why(recorder: Recorder, acker: FakeAcker) -> None:
    join(recorder, acker)
    acker.say(wire.Refused("the consecutor is going down"))
    until(lambda: recorder.refused, recorder, acker)
    with pytest.raises(RefusedError, match="going down"):
        recorder.append(b"late", 1)


def test_the_end_of_input_is_said_again_to_a_new_acker_after_what_is_not_recorded(
    recorder: Recorder, acker: FakeAcker
) -> None:
    join(recorder, acker)
    recorder.append(b"first", 1)
    recorder.end(wait=True)
    until(lambda: len(acker.heard) == 2, recorder, acker)
    acker.heard.clear()
    acker.die()
    acker.start()
    join(recorder, acker)
    until(lambda: len(acker.heard) == 2, recorder, acker)
    assert [type(head) for head, _ in acker.heard] == [wire.Append, wire.EndOfInput]
    acker.say(wire.Finished(b'{"failed":0}'))
    until(lambda: recorder.summary is not None, recorder, acker)
    assert recorder.summary == b'{"failed":0}'


def test_foreign_frames_are_passed_over(recorder: Recorder, acker: FakeAcker) -> None:
    join(recorder, acker)
    acker.socket.send_multipart([acker.peer, b"\xffgarbage", b"more"])
    recorder.append(b"first", 1)
    acker.say(wire.Receipt(1))
    until(lambda: recorder.recorded == 1, recorder, acker)


def test_no_two_producers_have_one_identity(context: Context, acker: FakeAcker, recorder: Recorder) -> None:
    other = Recorder(context, acker.uri, inside=True)
    assert other.producer != recorder.producer
    other.close()
