"""An acker on a real ROUTER socket, with a real store; brokers, producers, workers and the heart are DEALERs.

The graph is a line: input -> parse (two workers) -> count (one worker) -> output.
"""

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from msgspec.structs import replace

from consecutiond.acker.committer import Committer
from consecutiond.acker.options import AckerOptions
from consecutiond.acker.policies import Policies, Policy
from consecutiond.acker.service import Acker
from consecutiond.acker.stores.base import Changes, Failed, StoreError, StoreFullError
from consecutiond.acker.stores.memory import MemoryStore
from consecutiond.acker.stores.sqlite import SqliteStore
from consecutiond_broker import codec, wire

IN, MID, OUT = "*->parse", "parse->count", "*->output"
REACH = {IN: (IN,), MID: (IN, MID), OUT: (IN, MID, OUT)}
TARGETS = {IN: "parse", MID: "count", OUT: "output"}
NODES = {"parse": ("parse.0", "parse.1"), "count": ("count.0",)}

Context = zmq.Context[zmq.Socket[bytes]]
Message = tuple[Any, list[bytes]]
_numbers = itertools.count(1)


class KeptStore(MemoryStore):
    """A store in memory that outlives the ackers of a test."""

    def close(self) -> None:
        pass


class Watched:
    """A real store on which the test can close a gate, which can refuse, and which is dead after a crash."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.gate = threading.Event()
        self.gate.set()
        self.refusing = self.full = ""
        self.dead = False
        self.commits = self.bodies = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def body(self, chunk: int) -> bytes:
        self.bodies += 1
        return self.inner.body(chunk)  # type: ignore[no-any-return]

    def commit(self, changes: Changes) -> None:
        self.gate.wait(20)
        if self.dead or self.refusing:
            raise StoreError(self.refusing or "the acker is dead")
        if self.full and changes.appends:
            raise StoreFullError(self.full)
        self.inner.commit(changes)
        self.commits += 1

    def close(self) -> None:
        self.inner.close()


class Bench:
    """An acker and everybody who speaks with it."""

    def __init__(self, directory: Path, kind: str = "memory", **options: Any) -> None:
        self.context: Context = zmq.Context()
        self.kept = KeptStore() if kind == "memory" else None
        self.path = directory / "store.sqlite"
        self.options = AckerOptions(
            part="acker", uri=f"ipc://{directory}/acker", heart_uri="", pid_dir=str(directory), store="",
            reach=REACH, targets=TARGETS, nodes=NODES, input_edge=IN,
            **_with_policies({"retry_backoff_s": 0.0} | options),
        )  # fmt: skip
        self.peers: list[Peer] = []
        self.epoch = 0
        self.start()

    # --- the acker's life ------------------------------------------------------------------------------------

    def start(self) -> None:
        self.epoch += 1
        self.store = Watched(self.kept or SqliteStore(self.path, "durable"))

        def opened() -> Any:
            self.store.inner.open()
            return self.store

        self.committer = Committer(opened)
        try:
            self.acker = Acker(self.options, self.epoch, self.context, self.committer)
        except StoreError:
            self.committer.close()
            raise

    def crash(self) -> None:
        """End the acker as kill -9 would: what was not committed is gone."""
        self.store.dead = True
        self.committer._stop.set()
        self.store.gate.set()
        self.acker.router.close()
        self.committer.close()

    def restart(self, **options: Any) -> None:
        """Kill the acker and start another; nobody has greeted it yet."""
        self.crash()
        self.part()
        if options:
            known = {name: getattr(self.options, name) for name in _FIELDS}
            self.options = AckerOptions(**known | _with_policies(options, self.options.policies.default))
        self.start()

    def part(self) -> None:
        """Everybody goes."""
        for peer in self.peers:
            peer.close()
        self.peers.clear()

    def close(self) -> None:
        self.part()
        if not self.acker.router.closed:
            self.crash()
        self.context.destroy(linger=0)

    # --- time ------------------------------------------------------------------------------------------------

    def until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            self.acker._turn(5)

    def settle(self) -> None:
        """Turn until all that was sent is read, all that was read is recorded, and all that follows was received."""
        for _ in range(2):
            for peer in self.peers:
                peer.fence()
            # Twice there and back, because what is loaded may be emitted and what is emitted makes room to load.
            for _ in range(3):
                self.until(lambda: not self.acker.log.moving(lambda _entry: False))
                self.store_round_trip()
        for peer in self.peers:
            peer.fence()

    def store_round_trip(self) -> None:
        back: list[None] = []
        self.committer.ask(lambda: None, back.append)
        self.until(lambda: back)

    # --- who is there ----------------------------------------------------------------------------------------

    def peer(self, identity: str) -> "Peer":
        return Peer(self, identity)

    def heart(self, *, ready: bool = True) -> "Peer":
        heart = Peer(self, "H:heart")
        heart.send(wire.HeartJoin(wire.VERSION, 1, ready))
        heart.fence()
        return heart

    def broker(self, edge: str = IN, epoch: int = 1, **credit: int) -> "Edge":
        """Let a broker greet; one of the same edge that is there already is gone."""
        for peer in [peer for peer in self.peers if peer.identity == f"E:{edge}"]:
            peer.close()
            self.peers.remove(peer)
        broker = Edge(self, edge, epoch)
        broker.greet(**credit)
        return broker

    def up(self, **credit: int) -> "Edge":
        """Let everybody that emission waits for greet; return the input's broker."""
        self.heart()
        self.mid, self.out = self.broker(MID, **credit), self.broker(OUT, **credit)
        self.entry = self.broker(IN, **credit)
        return self.entry

    def producer(self, name: bytes = b"one", *, inside: bool = False) -> "Source":
        source = Source(self, name, inside)
        source.join()
        return source

    # --- what is known ---------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        return self.acker.stats()

    def waiting(self) -> list[Failed]:
        return self.read(lambda store: store.waiting(0, 10_000))

    def dead(self) -> list[Failed]:
        return self.read(lambda store: store.dead_letters(0, 10_000))

    def chunks(self) -> list[Any]:
        return self.read(lambda store: store.open_chunks(0, 10_000))

    def read(self, read: Callable[[Any], list[Any]]) -> list[Any]:
        result: list[list[Any]] = []
        self.committer.ask(lambda: read(self.store), result.append)
        self.until(lambda: result)
        return result[0]


_FIELDS = AckerOptions.__struct_fields__


def _with_policies(options: dict[str, Any], known: Policy = Policy()) -> dict[str, Any]:  # noqa: B008 - it is frozen
    """Take what is about policies for the default one, by the names that a consecutor's options have."""
    names = {"max_attempts": "max_attempts", "retry_backoff_s": "backoff_s", "retry_backoff_max_s": "backoff_max_s"}
    said = {mine: options[name] for name, mine in names.items() if name in options}
    rest = {name: value for name, value in options.items() if name not in names}
    return {"policies": Policies(replace(known, **said))} | rest


class Peer:
    """A DEALER that speaks as the test wants."""

    def __init__(self, bench: Bench, identity: str) -> None:
        self.bench, self.identity = bench, identity
        self.heard: list[Message] = []
        self.socket = bench.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.IDENTITY, identity.encode())
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(bench.options.uri)
        bench.peers.append(self)

    def send(self, head: wire.Head, *frames: bytes) -> None:
        self.socket.send_multipart([wire.pack(head), *frames])

    def pump(self) -> bool:
        while self.socket.poll(0):
            frames = self.socket.recv_multipart()
            self.heard.append((wire.unpack(frames), frames[1:]))
        return True

    def of(self, kind: type) -> list[Any]:
        """Return the heads of a kind that were received."""
        self.pump()
        return [head for head, _ in self.heard if isinstance(head, kind)]

    def expect(self, kind: type, count: int = 1) -> list[Any]:
        self.bench.until(lambda: len(self.of(kind)) >= count)
        return self.of(kind)

    def fence(self) -> dict[str, Any]:
        """Turn until the acker has read what was sent and its answers are here; return its statistics."""
        number = next(_numbers)
        self.send(wire.StatsAsk(number))
        self.bench.until(lambda: any(stats.number == number for stats in self.of(wire.Stats)))
        stats: dict[str, Any] = json.loads(self.of(wire.Stats)[-1].body)
        return stats

    def close(self) -> None:
        self.socket.close()


class Sent:
    """One batch as a broker got it."""

    def __init__(self, head: wire.Batch, frames: list[bytes]) -> None:
        self.head = head
        self.roots, self.ids = (np.frombuffer(frame, dtype="<u8") for frame in frames[:2])
        self.values = codec.decode(frames[2])


class Edge(Peer):
    """A broker."""

    def __init__(self, bench: Bench, edge: str, epoch: int) -> None:
        super().__init__(bench, f"E:{edge}")
        self.edge, self.epoch, self.seq = edge, epoch, 0

    def greet(self, limit: int = 1000, hint: int = 4096) -> wire.EdgeJoined:
        self.send(wire.EdgeJoin(wire.VERSION, self.edge, self.epoch, limit, hint))
        return self.expect(wire.EdgeJoined, len(self.of(wire.EdgeJoined)) + 1)[-1]  # type: ignore[no-any-return]

    @property
    def batches(self) -> list[Sent]:
        self.pump()
        return [Sent(head, frames) for head, frames in self.heard if isinstance(head, wire.Batch)]

    @property
    def values(self) -> list[Any]:
        """Return every value that has come, in order."""
        return [value for batch in self.batches for value in batch.values]

    def take(self, count: int = 1) -> list[Sent]:
        """Wait for batches, and forget them as seen."""
        self.expect(wire.Batch, count)
        taken = self.batches
        self.heard = [each for each in self.heard if not isinstance(each[0], wire.Batch)]
        return taken

    def report(self, roots: Any = (), xors: Any = (), *fails: wire.Fail, epoch: int = 0) -> None:
        """Send the next report; epoch 0 is that of the acker."""
        self.seq += 1
        self.report_as(self.seq, _raw(roots), _raw(xors), wire.pack_fails(list(fails)), epoch=epoch)

    def report_as(self, seq: int, *frames: bytes, epoch: int = 0, broker_epoch: int = 0) -> None:
        epochs = (epoch or self.bench.epoch,) * (len(frames) // 3)
        self.send(wire.Reports(broker_epoch or self.epoch, seq, epochs), *frames)

    def complete(self, *batches: Sent) -> None:
        """Report the items as consumed with nothing produced."""
        for batch in batches:
            self.report(batch.roots, batch.ids)

    def complete_one(self, batch: Sent, place: int) -> None:
        self.report(batch.roots[[place]], batch.ids[[place]])

    def fail(self, batch: Sent, *places: int, charged: bool = True, kind: str = "raised", error: str = "E: no") -> None:
        roots = batch.roots[list(places)] if places else batch.roots
        self.report((), (), wire.Fail(kind, charged, _raw(roots), "parse", error, "Traceback of the user"))


class Source(Peer):
    """A producer."""

    def __init__(self, bench: Bench, name: bytes, inside: bool) -> None:
        super().__init__(bench, f"P:{name.hex()}")
        self.name, self.inside, self.seq = name, inside, 0

    def join(self) -> int:
        """Greet; return the number of the last batch that is recorded."""
        self.send(wire.ProducerJoin(wire.VERSION, self.name, self.inside))
        joined = self.expect(wire.ProducerJoined, len(self.of(wire.ProducerJoined)) + 1)
        return joined[-1].recorded  # type: ignore[no-any-return]

    def append(self, *values: Any, entry: tuple[str, ...] = (), seq: int = 0) -> int:
        self.seq = seq or self.seq + 1
        self.send(wire.Append(self.name, self.seq, len(values), entry), codec.encode(values))
        return self.seq

    def end(self, *, wait: bool = True) -> None:
        self.send(wire.EndOfInput(self.name, wait))

    @property
    def receipted(self) -> int:
        """The number of the last batch that has a receipt."""
        return max((receipt.seq for receipt in self.of(wire.Receipt)), default=0)

    def expect_receipt(self, seq: int) -> None:
        self.bench.until(lambda: self.receipted >= seq)

    def record(self, *values: Any, entry: tuple[str, ...] = ()) -> None:
        """Append, and wait for the receipt."""
        self.expect_receipt(self.append(*values, entry=entry))


class Worker(Peer):
    """A worker, as far as it speaks with the acker."""

    def __init__(self, bench: Bench, name: str, state: int = 0) -> None:
        super().__init__(bench, f"N:{name}")
        self.name, self.node = name, name.partition(".")[0]
        self.join(state)

    def join(self, state: int = 0) -> None:
        self.send(wire.NodeJoin(wire.VERSION, self.node, self.name, 1, state))
        self.fence()

    @property
    def turns(self) -> list[tuple[str, int]]:
        return [(turn.what, turn.round) for turn in self.of(wire.Turn)]

    def done(self, what: str = "end", round_: int = 1, traceback: str = "") -> None:
        self.expect(wire.Turn, 1)
        self.send(wire.TurnDone(what, round_, self.node, self.name, 1, traceback))
        self.fence()


def _raw(words: Any) -> bytes:
    return np.array(words, dtype="<u8").tobytes()


def benches(directory: Path, kind: str = "memory", **options: Any) -> Iterator[Bench]:
    """Yield one bench, for a fixture."""
    bench = Bench(directory, kind, **options)
    yield bench
    bench.close()
