"""Producers: every batch once, receipts only for what is recorded, and none while the backlog is full."""

import subprocess
import sys

import pytest

from consecutiond.acker.producers import Producers
from consecutiond_broker import wire
from consecutiond_broker.child import start_time

FULL = 101


class Sent(list[tuple[bytes, wire.Head]]):
    def __call__(self, peer: bytes, head: wire.Head) -> bool:
        self.append((peer, head))
        return True

    def taken(self) -> list[tuple[bytes, wire.Head]]:
        taken = list(self)
        self.clear()
        return taken


@pytest.fixture
def sent() -> Sent:
    return Sent()


@pytest.fixture
def producers(sent: Sent) -> Producers:
    return Producers(sent, max_backlog=100)


def append(seq: int, producer: bytes = b"one") -> wire.Append:
    return wire.Append(producer, seq, 1, ())


def record(producers: Producers, peer: bytes, seq: int, producer: bytes = b"one") -> None:
    known = producers.expecting(peer, append(seq, producer))
    assert known is not None
    known.origin(seq)
    known.record(seq, 10 * seq)


def test_only_the_next_batch_of_a_known_producer_is_expected(producers: Producers) -> None:
    assert producers.expecting(b"P:1", append(1)) is None
    producers.join(b"P:1", b"one", 4, inside=False)
    assert producers.expecting(b"P:1", append(4)) is None
    assert producers.expecting(b"P:1", append(6)) is None
    assert producers.expecting(b"P:1", append(5, b"two")) is None
    assert producers.expecting(b"P:1", append(5)) is not None


def test_a_batch_on_its_way_to_the_log_is_not_taken_a_second_time(producers: Producers) -> None:
    producers.join(b"P:1", b"one", 0, inside=False)
    producer = producers.expecting(b"P:1", append(1))
    assert producer is not None
    producer.origin(1)
    assert producers.expecting(b"P:1", append(1)) is None
    assert producers.expecting(b"P:1", append(2)) is not None


def test_a_producer_that_reconnects_is_told_what_is_recorded_and_not_what_is_on_its_way(
    producers: Producers,
) -> None:
    producers.join(b"P:1", b"one", 0, inside=False)
    record(producers, b"P:1", 1)
    producer = producers.expecting(b"P:1", append(2))
    assert producer is not None
    producer.origin(2)
    assert producers.join(b"P:1", b"one", 0, inside=False) == 1
    assert producers.expecting(b"P:1", append(2)) is None


def test_a_receipt_is_sent_once_and_only_for_what_is_recorded(producers: Producers, sent: Sent) -> None:
    producers.join(b"P:1", b"one", 0, inside=False)
    producer = producers.expecting(b"P:1", append(1))
    assert producer is not None
    producer.origin(1)
    producers.send_receipts(0)
    assert sent.taken() == []
    producer.record(1, 77)
    producers.send_receipts(0)
    producers.send_receipts(0)
    assert sent.taken() == [(b"P:1", wire.Receipt(1, (77,)))]


def test_while_the_backlog_is_full_receipts_wait_and_come_with_room(producers: Producers, sent: Sent) -> None:
    producers.join(b"P:1", b"one", 0, inside=False)
    record(producers, b"P:1", 1)
    record(producers, b"P:1", 2)
    producers.send_receipts(FULL)
    producers.send_receipts(FULL)
    assert sent.taken() == [(b"P:1", wire.Receipt(0, (), True))], "said once, so that an HTTP input can answer 429"
    producers.send_receipts(FULL - 1)
    assert sent.taken() == [(b"P:1", wire.Receipt(2, (10, 20)))]


def test_a_producer_that_reconnects_hears_again_that_its_receipts_are_withheld(
    producers: Producers, sent: Sent
) -> None:
    producers.join(b"P:1", b"one", 0, inside=False)
    record(producers, b"P:1", 1)
    producers.send_receipts(FULL)
    producers.join(b"P:1", b"one", 0, inside=False)
    record(producers, b"P:1", 2)
    sent.clear()
    producers.send_receipts(FULL)
    assert sent.taken() == [(b"P:1", wire.Receipt(1, (), True))]
    producers.send_receipts(0)
    assert sent.taken() == [(b"P:1", wire.Receipt(2, (20,)))], "the greeting told of the first, without its position"


def test_producers_inside_the_graph_get_receipts_whatever_the_backlog(producers: Producers, sent: Sent) -> None:
    """A node that waited for its receipt could never work off the backlog."""
    producers.join(b"P:1", b"one", 0, inside=True)
    record(producers, b"P:1", 1)
    producers.send_receipts(FULL)
    assert sent.taken() == [(b"P:1", wire.Receipt(1))]


def test_the_input_is_over_when_somebody_waits_and_nobody_feeds(producers: Producers) -> None:
    assert not producers.input_ended
    producers.join(b"P:1", b"one", 0, inside=False)
    producers.join(b"P:2", b"two", 0, inside=False)
    producers.join(b"P:3", b"three", 0, inside=True)
    producers.ended(b"P:1", wait=True)
    assert not producers.input_ended
    producers.ended(b"P:2", wait=False)
    assert producers.input_ended
    assert producers.waiting_peers() == [b"P:1"]


def test_goodbyes_alone_do_not_end_the_input_of_a_service(producers: Producers) -> None:
    producers.join(b"P:1", b"one", 0, inside=False)
    producers.ended(b"P:1", wait=False)
    producers.ended(b"P:9", wait=True)
    assert not producers.input_ended


def test_one_that_said_goodbye_is_forgotten(producers: Producers, sent: Sent) -> None:
    producers.join(b"P:1", b"one", 0, inside=False)
    producers.ended(b"P:1", wait=False)
    assert producers.expecting(b"P:1", append(1)) is None
    assert list(producers.peers()) == []
    assert producers.join(b"P:1", b"one", 7, inside=False) == 7


def test_the_peers_that_hear_of_a_drain_are_those_outside(producers: Producers) -> None:
    producers.join(b"P:1", b"one", 0, inside=False)
    producers.join(b"P:2", b"two", 0, inside=True)
    assert list(producers.peers()) == [b"P:1"]


def test_a_producer_that_was_killed_without_a_goodbye_is_not_waited_for(producers: Producers) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = start_time(other.pid)
    assert started is not None
    producers.join(b"P:1", b"one", 0, inside=False, process=(other.pid, started))
    producers.join(b"P:2", b"two", 0, inside=False)
    producers.ended(b"P:2", wait=True)
    assert not producers.input_ended
    other.kill()
    other.communicate()
    assert producers.input_ended
