"""The acker on a real socket: a store that refuses, and messages that nobody should send."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from consecutiond.acker import committer
from consecutiond_broker import codec, wire
from tests.acker.bench import IN, MID, Bench, Edge


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(committer, "_RETRY_S", 0.01)
    bench = Bench(tmp_path, "sqlite")
    yield bench
    bench.close()


@pytest.fixture
def entry(bench: Bench) -> Edge:
    return bench.up()


class TestStoreThatRefuses:
    def test_intake_stops_nothing_is_lost_and_it_heals_by_itself(self, bench: Bench, entry: Edge) -> None:
        producer = bench.producer()
        producer.record("before")
        bench.store.refusing = "the disk is full"
        for value in range(3):
            producer.append(value)
        bench.until(lambda: bench.stats()["store_trouble"] == "the disk is full")
        producer.fence()
        assert (producer.receipted, bench.stats()["accepted"]) == (1, 1)
        bench.store.refusing = ""
        producer.expect_receipt(4)
        entry.complete(*entry.take(4))
        bench.until(lambda: bench.stats()["completed"] == 4)
        assert (bench.stats()["store_trouble"], bench.chunks()) == ("", [])

    def test_what_is_in_the_graph_goes_on_meanwhile_and_is_recorded_afterwards(self, bench: Bench, entry: Edge) -> None:
        producer = bench.producer()
        producer.record("a", "b")
        [batch] = entry.take()
        bench.store.refusing = "the disk is full"
        entry.complete_one(batch, 0)
        entry.fail(batch, 1)
        bench.until(lambda: bench.stats()["store_trouble"])
        entry.fence()
        # The attempt is not recorded yet, so it must not go out again; but the tree is closed.
        assert (bench.acker.ledger.open, entry.values) == (0, [])
        bench.store.refusing = ""
        [batch] = entry.take()
        assert (batch.values, batch.head.attempt) == (["b"], 2)
        entry.complete(batch)
        bench.until(lambda: bench.stats()["completed"] == 2)

    def test_while_there_is_no_room_what_ends_is_recorded_past_what_waits_to_be(
        self, bench: Bench, entry: Edge
    ) -> None:
        producer = bench.producer()
        producer.record("a", "b")
        producer.record("c")
        batches = entry.take(2)
        bench.store.full = "the memory is full"
        producer.append("d")
        bench.until(lambda: bench.stats()["store_trouble"])
        for batch, left in zip(batches, (1, 0), strict=True):
            entry.complete(batch)
            bench.until(lambda left=left: bench.stats()["open"] == left)
        bench.until(lambda: bench.stats()["completed"] == 3)
        assert (bench.stats()["accepted"], bench.stats()["open"]) == (3, 0)
        bench.store.full = ""
        assert entry.take()[0].values == ["d"]

    def test_a_kill_meanwhile_loses_nothing_that_has_a_receipt(self, bench: Bench, entry: Edge) -> None:
        producer = bench.producer()
        producer.record("a", "b")
        [batch] = entry.take()
        bench.store.refusing = "the disk is full"
        entry.complete_one(batch, 0)
        producer.append("c")
        bench.until(lambda: bench.stats()["store_trouble"])
        bench.restart()
        entry = bench.up()
        assert bench.producer().of(wire.ProducerJoined)[-1].recorded == 1
        assert entry.take()[0].values == ["a", "b"]

    def test_an_acker_that_is_told_to_stop_meanwhile_ends(
        self, bench: Bench, entry: Edge, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(committer, "_CLOSE_S", 0.01)
        bench.store.refusing = "the disk is full"
        bench.producer().append("a")
        bench.until(lambda: bench.stats()["store_trouble"])
        bench.acker.close()
        assert bench.acker.router.closed


class TestStop:
    def test_a_stop_commits_what_was_completed(self, bench: Bench, entry: Edge) -> None:
        bench.producer().record("a")
        entry.complete(*entry.take())
        entry.fence()
        bench.acker.close()
        bench.part()
        bench.start()
        assert (bench.stats()["completed"], bench.stats()["open"]) == (1, 0)


MALFORMED = {
    "no head": [b""],
    "not msgpack": [b"\xc1\xff"],
    "an unknown tag": [b"\x91\x63"],
    "not for an acker": [wire.pack(wire.Grant(1, 1, 1, 1)), b"extra"],
    "a worker's": [wire.pack(wire.Leave(1))],
    "a batch without values": [wire.pack(wire.Append(b"one", 1, 0, ())), codec.encode([])],
    "a batch too large": [wire.pack(wire.Append(b"one", 1, 5000, ())), codec.encode([0] * 5000)],
    "a batch with another count": [wire.pack(wire.Append(b"one", 1, 3, ())), codec.encode(["a"])],
    "a batch that is none": [wire.pack(wire.Append(b"one", 1, 1, ())), b"\xc1"],
    "a batch for an edge that is not there": [wire.pack(wire.Append(b"one", 1, 1, ("x->y",))), codec.encode(["a"])],
    "a batch for an edge twice": [wire.pack(wire.Append(b"one", 1, 1, (MID, MID))), codec.encode(["a"])],
    "a broker of an edge that is not there": [wire.pack(wire.EdgeJoin(wire.VERSION, "x->y", 1, 1, 1))],
    "a broker of another version": [wire.pack(wire.EdgeJoin(99, IN, 9, 1, 1))],
}


class TestMalformed:
    @pytest.mark.parametrize("frames", MALFORMED.values(), ids=MALFORMED.keys())
    def test_it_is_counted_dropped_and_harms_nobody(self, bench: Bench, entry: Edge, frames: list[bytes]) -> None:
        stranger = bench.producer()
        stranger.socket.send_multipart(frames)
        assert stranger.fence()["malformed"] == 1
        good = bench.producer(b"two")
        good.record("good", "values")
        assert bench.stats()["accepted"] == 2
        entry.complete(*entry.take())
        bench.until(lambda: bench.stats()["completed"] == 2)

    def test_a_producer_is_told_why_its_batch_was_refused(self, bench: Bench, entry: Edge) -> None:
        producer = bench.producer()
        producer.append("a", entry=("x->y",))
        assert producer.expect(wire.Refused)[0].reason == "there is no edge 'x->y'"

    def test_a_producer_of_another_version_is_refused_by_name(self, bench: Bench) -> None:
        producer = bench.peer("P:new")
        producer.send(wire.ProducerJoin(99, b"new", False))
        assert "protocol version" in producer.expect(wire.Refused)[0].reason

    def test_a_malformed_report_does_not_take_its_neighbours_along(self, bench: Bench, entry: Edge) -> None:
        bench.producer().record("a", "b")
        [batch] = entry.take()
        good = [(batch.roots[[place]].tobytes(), batch.ids[[place]].tobytes(), b"") for place in (0, 1)]
        odd = (batch.roots[[0]].tobytes(), b"short", b"")
        entry.report_as(1, *odd, *good[0], *(b"", b"", b"\xc1"), *good[1])
        bench.until(lambda: bench.stats()["completed"] == 2)
        assert bench.stats()["malformed"] == 2

    def test_a_malformed_report_is_not_applied_in_part(self, bench: Bench, entry: Edge) -> None:
        bench.producer().record("a")
        [batch] = entry.take()
        odd = wire.Fail("raised", True, b"odd", "parse", "E", "")
        good = wire.Fail("raised", True, batch.roots.tobytes(), "parse", "E", "")
        entry.report_as(1, b"", b"", wire.pack_fails([good, odd]))
        bench.settle()
        assert (bench.acker.ledger.open, bench.stats()["malformed"]) == (1, 1)

    def test_garbage_from_every_kind_of_peer_changes_nothing(self, bench: Bench, entry: Edge) -> None:
        bench.producer().record("a")
        [batch] = entry.take()
        noise = random.Random(7)
        heads = [wire.pack(wire.Reports(1, 1, (1, 1))), wire.pack(wire.Append(b"one", 2, 1, ()))]
        for peer in (*bench.peers, bench.peer("N:parse.0"), bench.peer("E:nothing"), bench.peer("?")):
            for _ in range(40):
                head = bytearray(noise.choice([*heads, noise.randbytes(9)]))
                head[noise.randrange(len(head))] ^= 0xFF
                peer.socket.send_multipart([bytes(head), *(noise.randbytes(8) for _ in range(noise.randrange(4)))])
        bench.settle()
        assert (bench.acker.ledger.open, bench.stats()["accepted"], bench.stats()["swept"]) == (1, 1, 0)
        entry.seq = bench.acker.brokers.edges[IN].applied
        entry.report(batch.roots, batch.ids)
        bench.until(lambda: bench.stats()["completed"] == 1)
