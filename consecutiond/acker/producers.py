"""Who feeds the acker: sequences, duplicates, and receipts that are withheld when the backlog is full."""

from collections.abc import Callable, Container, Iterator

from consecutiond.acker.stores.base import Origin
from consecutiond_broker import codec, wire
from consecutiond_broker.child import start_time
from consecutiond_broker.errors import CodecError
from consecutiond_broker.ids import MAX_ROOTS


class Producer:
    """One producer, as long as the acker lives."""

    __slots__ = (
        "end",
        "id",
        "inside",
        "peer",
        "positions",
        "process",
        "queued",
        "receipted",
        "recorded",
        "wait",
        "withheld",
    )

    def __init__(self, identity: bytes, recorded: int, *, inside: bool) -> None:
        self.id = identity
        self.inside = inside
        self.peer = b""
        #: the newest batch that is in the log or on its way to it
        self.queued = recorded
        self.recorded = recorded
        self.receipted = recorded
        #: of the batches between `receipted` and `recorded`; a producer inside the graph has no use for them
        self.positions: list[int] = []
        #: it was told that its receipts are withheld
        self.withheld = False
        self.end = False
        self.wait = False
        #: pid and start time; None for one that is not of this machine
        self.process: tuple[int, int] | None = None

    def is_dead(self) -> bool:
        """Whether its process has surely ended."""
        return self.process is not None and start_time(self.process[0]) != self.process[1]

    def origin(self, seq: int) -> Origin:
        """Note that a batch is on its way to the log, and return what is recorded with it."""
        self.queued = seq
        return Origin(self.id, seq)

    def record(self, seq: int, position: int) -> None:
        """The batch is safe, and its first root has this position in the log."""
        self.recorded = seq
        if not self.inside:
            self.positions.append(position)


class Producers:
    """All producers.

    Args:
        send: ``(peer, head)``; a peer that is gone greets again.
        max_backlog: bytes; above it only producers inside the graph get receipts.
    """

    def __init__(self, send: Callable[[bytes, wire.Head], bool], max_backlog: int) -> None:
        self._send, self._max_backlog = send, max_backlog
        self._known: dict[bytes, Producer] = {}
        self._by_peer: dict[bytes, Producer] = {}
        #: values that never reached a broker, when nothing is tracked
        self.lost = 0

    def join(
        self, peer: bytes, identity: bytes, recorded: int, *, inside: bool, process: tuple[int, int] | None = None
    ) -> int:
        """Admit a producer; return the number of its last batch that is recorded."""
        producer = self._known.get(identity)
        if producer is None:
            producer = self._known[identity] = Producer(identity, recorded, inside=inside)
        producer.peer, producer.process = peer, process
        producer.receipted = producer.recorded
        producer.positions.clear()
        producer.withheld = False
        self._by_peer[peer] = producer
        return producer.recorded

    def expecting(self, peer: bytes, head: wire.Append) -> Producer | None:
        """Return the producer if this is its next batch; one that came twice, or out of order, is passed over."""
        producer = self._by_peer.get(peer)
        if producer is None or producer.id != head.producer or head.seq != producer.queued + 1:
            return None
        return producer

    def send_receipts(self, backlog: int) -> None:
        """Send what receipts are due; say once to each producer that its receipts are withheld."""
        for producer in self._by_peer.values():
            if producer.recorded <= producer.receipted:
                continue
            if producer.inside or backlog <= self._max_backlog:
                producer.receipted, producer.withheld = producer.recorded, False
                self._send(producer.peer, wire.Receipt(producer.recorded, tuple(producer.positions)))
                producer.positions.clear()
            elif not producer.withheld:
                producer.withheld = True
                self._send(producer.peer, wire.Receipt(producer.receipted, (), True))

    def ended(self, peer: bytes, *, wait: bool, lost: int = 0) -> None:
        """A producer has nothing more; untracked, it has lost some values."""
        producer = self._by_peer.get(peer)
        if producer is None:
            return
        if not producer.end:
            # Said again to a new acker, or on a new connection, it is not counted again.
            self.lost += lost
        if wait:
            producer.end = producer.wait = True
        else:
            del self._by_peer[peer]
            self._known.pop(producer.id, None)

    @property
    def input_ended(self) -> bool:
        """Whether the input is over: somebody waits for the end, and nobody else is feeding."""
        return self.stopped and any(producer.end for producer in self._outside())

    @property
    def stopped(self) -> bool:
        """Whether nobody feeds; one that was killed without a goodbye must not be waited for."""
        return all(producer.end or producer.is_dead() for producer in self._outside())

    def _outside(self) -> list[Producer]:
        return [producer for producer in self._by_peer.values() if not producer.inside]

    def peers(self) -> Iterator[bytes]:
        """Yield the peers outside the graph."""
        return (peer for peer, producer in self._by_peer.items() if not producer.inside)

    def waiting_peers(self) -> list[bytes]:
        """Return the peers that wait for the end."""
        return [peer for peer, producer in self._by_peer.items() if producer.wait]


def fault(head: wire.Append, body: bytes, edges: Container[str]) -> str:
    """Return why a batch cannot be recorded; empty if it can."""
    if not 1 <= head.count <= MAX_ROOTS:
        return f"a batch holds 1 to {MAX_ROOTS} values, not {head.count}"
    if len(set(head.entry)) != len(head.entry):
        return f"a root enters an edge once, not as in {head.entry}"
    unknown = [name for name in head.entry if name not in edges]
    if unknown:
        return f"there is no edge {unknown[0]!r}"
    try:
        count = len(codec.split(body))
    except CodecError as error:
        return str(error)
    return "" if count == head.count else f"a batch of {head.count} values came with {count}"
