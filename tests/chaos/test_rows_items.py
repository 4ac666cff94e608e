"""Rows of the table: slow consumers, and items that raise, crash, burst, or are too large."""

import socket as sockets
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import zmq

from consecutiond.config import Settings
from consecutiond.feeder import BadValueError
from consecutiond_broker import codec
from tests.chaos.conftest import Scale
from tests.chaos.daemon import Daemon, eventually, running
from tests.chaos.load import BATCH, RATE
from tests.chaos.oracle import Oracle, Verdict
from tests.chaos.table import Row
from tests.chaos.watch import Watch
from tests.graphs import burst, dag

pytestmark = pytest.mark.chaos

#: MiB by which a process may grow
MOST_GROWTH = 64
#: values that are ordered to go wrong are spread among the others
Order = Callable[[int], dict[str, Any]]

up = contextmanager(running)


def feed(daemon: Daemon, count: int, order: Order = lambda number: {}) -> range:
    """Push so many, all of which get their receipts."""
    first = daemon.oracle.sent
    with daemon.pushing() as push:
        while daemon.oracle.sent < first + count:
            ids = daemon.oracle.draw(min(BATCH, first + count - daemon.oracle.sent))
            push([dag.item(number, **order(number)) for number in ids])
            daemon.oracle.receipt(ids)
    return range(first, first + count)


def seconds_for(daemon: Daemon, watch: Watch, count: int, order: Order = lambda number: {}) -> float:
    """Return how long it takes to complete all of so many that have no order."""
    begun = time.monotonic()
    seen = len(watch.order)
    missing = {number for number in feed(daemon, count, order) if not order(number)}

    def done() -> bool:
        nonlocal seen
        new = watch.order[seen:]
        seen += len(new)
        missing.difference_update(new)
        return not missing

    eventually(done, "the good ones are completed", 600)
    return time.monotonic() - begun


def spread(first: int, count: int, poison: int) -> set[int]:
    """Return so many numbers, spread evenly over `count` that begin at `first`."""
    return {first + (2 * k + 1) * count // (2 * poison) for k in range(poison)}


def test_f17_the_last_node_is_a_hundred_times_too_slow(tmp_path: Path, row: Row, scale: Scale) -> None:
    """What is accepted is bounded by the two bounds of the options, a queue by its credit, and memory with them."""
    seconds = scale.pick(3, 600)
    # The bounds, in full those of the options, are reached well within that time.
    pending, backlog = scale.pick(300, 20_000), scale.pick(64 << 10, 8 << 20)
    row.fault, row.how = "F17 the last node does 1/100 of the input's rate", f"{seconds} s at {RATE:.0f} inputs/s"
    gate = tmp_path / "slow"
    gate.touch()
    slow = [str(gate), 100 / RATE / dag.PARTS]
    daemon = Daemon.of_dag(tmp_path, CONSECUTIOND_MAX_PENDING=str(pending), CONSECUTIOND_MAX_BACKLOG=str(backlog))
    daemon.item = lambda number: dag.item(number, slow=slow)
    size = len(codec.encode([daemon.item(0)]))
    with up(daemon), daemon.watch() as watch:
        load, most_open, deepest = daemon.load(), 0, 0
        until = time.monotonic() + seconds
        while time.monotonic() < until or load.longest_s < 0.5:
            load.check()
            most_open = max(most_open, daemon.count_open())
            deepest = max(deepest, *(part["stats"].get("queued", 0) for part in daemon.parts().values()))
            time.sleep(0.1)
        accepted, grown = len(daemon.oracle.receipted), watch.growth()
        gate.unlink()
        load.end()
        verdict = daemon.drain()
    row.judged(verdict)
    row.grown_part, row.grown_mib = grown
    row.notes.append(f"{accepted:,} accepted meanwhile, {most_open:,} open at the most, {deepest} batches in a queue")
    row.note_pause(load.longest_s)
    assert not verdict.failed
    # Two senders on an edge at the most, each with its window.
    assert deepest <= 2 * Settings().edge_window
    # One push is recorded, and has no receipt.
    assert most_open <= pending + backlog / size + BATCH
    assert grown[1] <= MOST_GROWTH, grown


def test_f19_one_item_in_a_hundred_raises(tmp_path: Path, row: Row, scale: Scale) -> None:
    count = scale.pick(3_000, 60_000)
    row.fault, row.how = "F19 1 % of the items raise in their node, always", f"{count:,} inputs after as many good ones"
    daemon = Daemon.of_dag(tmp_path)
    with up(daemon), daemon.watch() as watch:
        # The first ones take longer: batches find their size.
        seconds_for(daemon, watch, count // 3)
        clean_s = seconds_for(daemon, watch, count)
        poison = spread(daemon.oracle.sent, count, count // 100)
        spoilt_s = seconds_for(daemon, watch, count, lambda number: {"order": "raise"} if number in poison else {})
        verdict = daemon.drain()
    row.judged(verdict)
    row.grew(watch)
    row.notes.append(f"the good ones took {spoilt_s:.2f} s, and {clean_s:.2f} s without the others")
    assert verdict.failed == poison
    letters = {codec.decode(letter.body)[0]["id"]: letter for letter in verdict.log.letters}
    for number, letter in letters.items():
        assert (letter.node, letter.kind, letter.attempts) == ("left", "raised", Settings().max_attempts)
        assert letter.error.endswith(f"poison {number}")
        assert "in obey" in letter.traceback


def test_f20_items_that_crash_their_process(tmp_path: Path, row: Row, scale: Scale) -> None:
    """Half of them end it in order, half by a signal."""
    count, poison_count = scale.pick(2_000, 10_000), scale.pick(4, 10)
    row.fault, row.how = "F20 items crash their worker, always", f"{poison_count} among {count:,} inputs, batches of 64"
    poison = spread(0, count, poison_count)
    orders = dict(zip(sorted(poison), ["exit", "segv"] * poison_count, strict=False))
    daemon = Daemon.of_dag(tmp_path, CONSECUTIOND_BATCH_ITEMS="64")
    with up(daemon), daemon.watch() as watch:
        seconds_for(daemon, watch, count, lambda number: {"order": orders[number]} if number in orders else {})
        names = [name for name in daemon.pids() if name != "root"]
        verdict = daemon.drain()
    row.judged(verdict)
    row.grew(watch)
    starts = {name: daemon.starts(name) for name in names}
    crashes = sum(count - 1 for count in starts.values())
    row.notes.append(f"{crashes} crashes")
    assert verdict.failed == poison, "innocent items, or not all of the guilty ones"
    assert {letter.kind for letter in verdict.log.letters} == {"crashed"}
    assert {name for name, count in starts.items() if count > 1} <= {"node-left.0", "node-left.1"}
    assert crashes <= 5 * poison_count


def test_f22_one_item_becomes_a_million(tmp_path: Path, row: Row, scale: Scale) -> None:
    count = scale.pick(100_000, 1_000_000)
    row.fault, row.how = "F22 one input becomes very many items", f"{count:,} items"
    oracle = Oracle(lambda number: {(number, child) for child in range(count)})
    daemon = Daemon(tmp_path, f"{burst.__file__}:graph", oracle, lambda number: {"id": number, "count": count})
    with up(daemon), daemon.watch(sink=False) as watch:
        begun = time.monotonic()
        with daemon.pushing() as push:
            push([daemon.item(number) for number in oracle.draw(1)])
            oracle.receipt([0])
        eventually(lambda: daemon.count_open() == 0, "it is completed", 600)
        row.notes.append(f"completed in {time.monotonic() - begun:.1f} s")
        others = watch.growth()
        verdict = daemon.drain()
    row.judged(verdict)
    row.grew(watch, "acker")
    row.notes.append(f"the {others[0]} grew most, by {others[1]:.0f} MiB")
    assert verdict.completed == {0}
    assert watch.grown("acker") <= MOST_GROWTH


#: bytes of the largest value, and of the largest body or frame, in the rows of values that are too large
LARGEST = 1 << 16
GIB = 1 << 30


def of_size(size: int) -> bytes:
    """Return a value whose encoding, in a batch of its own, has so many bytes."""
    head = 4 if size <= (1 << 16) + 3 else 6
    return b"x" * (size - head)


def test_f25_values_that_are_too_large(tmp_path: Path, row: Row, scale: Scale) -> None:
    """A producer is told before anything is sent; a node's item fails with the reason."""
    count = scale.pick(200, 20_000)
    row.fault = "F25 values that are too large, pushed by a producer and by a node"
    row.how = f"1 byte, and ten times: each every 20th of {count:,}; 1 GiB"
    daemon = Daemon.of_dag(tmp_path, CONSECUTIOND_MAX_MESSAGE=str(LARGEST))
    poison = spread(0, count, count // 20)
    sizes = dict(zip(sorted(poison), [LARGEST + 1, 10 * LARGEST] * count, strict=False))

    def order(number: int) -> dict[str, Any]:
        return {"order": "inflate", "size": sizes[number]} if number in sizes else {}

    with up(daemon), daemon.watch() as watch:
        seconds_for(daemon, watch, count, order)
        with daemon.pushing(LARGEST) as push:
            for size in (LARGEST + 1, 10 * LARGEST, GIB):
                with pytest.raises(BadValueError, match="more than max_message"):
                    push([of_size(size)])
            [number] = daemon.oracle.draw(1)
            push([daemon.item(number)])
            daemon.oracle.receipt([number])
        verdict = daemon.drain()
    row.judged(verdict)
    row.grew(watch)
    assert verdict.failed == poison
    assert all("more than max_message" in letter.error for letter in verdict.log.letters)
    assert verdict.accepted == count + 1


def test_f25_bodies_that_are_too_large(tmp_path: Path, row: Row, scale: Scale) -> None:
    """Each is refused by its head, and those of others are taken."""
    times = scale.pick(5, 500)
    row.fault, row.how = "F25 too large for an HTTP input", f"1 byte, ten times, a head of 1 GiB: {times} times each"
    daemon = Daemon.of_dag(tmp_path, CONSECUTIOND_INPUT=f"http://127.0.0.1:0?max_body={LARGEST}")
    with up(daemon), daemon.watch() as watch, httpx.Client(base_url=endpoint(daemon), timeout=60) as http:
        for _ in range(times):
            for size in (LARGEST + 1, 10 * LARGEST):
                body = b'"' + b"x" * (size - 2) + b'"'
                assert http.post("/items", headers=JSON, content=body).status_code == 413
            with sockets.create_connection((http.base_url.host, http.base_url.port), 60) as connection:
                connection.sendall(b"POST /items HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n")
                connection.sendall(b"content-length: %d\r\n\r\n[" % GIB)
                assert connection.recv(4096).startswith(b"HTTP/1.1 413")
            [number] = daemon.oracle.draw(1)
            assert http.post("/items", json=daemon.item(number)).status_code == 202
            daemon.oracle.receipt([number])
        verdict = daemon.drain()
    finish_f25(row, verdict, watch, times)


def test_f25_frames_that_are_too_large(tmp_path: Path, row: Row, scale: Scale) -> None:
    """ZeroMQ hangs up on whoever sends one; others are not disturbed."""
    times = scale.pick(5, 500)
    row.fault, row.how = "F25 too large for a ZeroMQ input", f"1 byte, ten times, a head of 1 GiB: {times} times each"
    daemon = Daemon.of_dag(tmp_path, CONSECUTIOND_INPUT=f"tcp://127.0.0.1:0?type=router&max_frame={LARGEST}")
    with up(daemon), daemon.watch() as watch, zmq.Context() as context, context.socket(zmq.DEALER) as good:
        place = endpoint(daemon)
        host, port = place.removeprefix("tcp://").split(":")
        good.setsockopt(zmq.RCVTIMEO, 60_000)
        good.connect(place)
        for _ in range(times):
            for size in (LARGEST + 1, 10 * LARGEST, GIB):
                with sockets.create_connection((host, int(port)), 60) as connection:
                    connection.sendall(ZMTP_DEALER + b"\x02" + size.to_bytes(8, "big") + b"x")
                    hung_up(connection)
            [number] = daemon.oracle.draw(1)
            good.send_multipart([b"%d" % number, b"", codec.encode([daemon.item(number)])[1:]])
            envelope, _, answer = good.recv_multipart()
            assert (int(envelope), codec.decode(b"\x91" + answer)[0]["recorded"]) == (number, 1)
            daemon.oracle.receipt([number])
        verdict = daemon.drain()
    finish_f25(row, verdict, watch, times)


#: what a DEALER of ZMTP 3.1 says first: greeting, and READY
ZMTP_DEALER = (
    b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
    + b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
)  # fmt: skip
JSON = {"content-type": "application/json"}


def endpoint(daemon: Daemon) -> str:
    """Return where the input takes values, once it does."""
    eventually(lambda: daemon.parts()["input"]["stats"].get("endpoint"), "the input listens")
    return str(daemon.parts()["input"]["stats"]["endpoint"])


def hung_up(connection: sockets.socket) -> None:
    """Wait until the other side has closed a connection."""
    with suppress(ConnectionError):
        while connection.recv(4096):
            pass


def finish_f25(row: Row, verdict: Verdict, watch: Watch, times: int) -> None:
    row.judged(verdict)
    row.grew(watch)
    assert (len(verdict.completed), verdict.failed) == (times, set())
    assert watch.grown("input") <= MOST_GROWTH
