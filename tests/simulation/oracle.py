"""What has to be true at any moment, kept apart from what the parts believe."""

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from consecutiond.acker.ledger import Closed
from consecutiond.acker.service import Acker
from consecutiond.acker.stores.base import Changes
from consecutiond.acker.stores.memory import MemoryStore
from consecutiond_broker import codec
from consecutiond_broker.edge import Batch, Receiver, Source
from consecutiond_broker.ids import root_keys
from consecutiond_broker.router import Broker
from tests.simulation.network import Socket
from tests.simulation.processes import Process

if TYPE_CHECKING:
    from tests.simulation.world import World

#: deaths between items that nobody is charged for
FREE_DEATHS = 4


class Oracle:
    """Sees every commit, every completion and every processed item, and judges them."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        store.committed = self._committed  # type: ignore[attr-defined]
        #: the value of every recorded root
        self.values: dict[int, Any] = {}
        self.completed: set[int] = set()
        #: by root key, which items were processed in that tree
        self._processed: defaultdict[int, set[Any]] = defaultdict(set)
        self._blame: Counter[Any] = Counter()
        self._lost_of: dict[int, int] = {}
        self.kills = self.lost = self._farewells = 0

    # --- what happens ------------------------------------------------------------------------------------------

    def processed(self, root: int, node: str, value: Any) -> None:
        self._processed[root].add((node, repr(value)))

    def blame(self, source: Any) -> None:
        """A root has failed by its own fault, or had the item in hand with which a worker died."""
        self._blame[source] += 1

    def farewell(self, process: Process) -> str:
        """Return a value for a node to push in its end."""
        self._farewells += 1
        return f"{process.name} {self._farewells}"

    def arrived(self, socket: Socket, frames: list[bytes]) -> None:
        """A message has arrived."""

    def follow(self, acker: Acker, process: Process) -> None:
        """See what an acker takes for complete."""
        completed, epoch = acker.log.completed, acker.epoch

        def judged(closed: Closed) -> None:
            if process.alive:
                self._judge(closed, epoch)
            completed(closed)

        acker.log.completed = judged  # type: ignore[method-assign]

    def follow_broker(self, broker: Broker) -> None:
        """See what a broker takes from whom."""
        edge, router = broker.edge, cast(Socket, broker.router)
        offer, settle = edge.offer, edge.settle

        def speaks(known: Source | Receiver | None) -> bool:
            owner = cast(Process, router.reading.dealer.owner) if router.reading is not None else None
            return owner is not None and known is not None and owner.epoch == known.epoch

        def judged_offer(peer: bytes, *rest: Any) -> bool:
            taken = offer(peer, *rest)
            assert not taken or speaks(edge.sources.get(peer)), "a batch of a fenced worker was taken"
            return taken

        def judged_settle(peer: bytes, *rest: Any) -> Batch | None:
            batch = settle(peer, *rest)
            assert batch is None or speaks(edge.receivers.get(peer)), "a fenced worker has settled"
            return batch

        edge.offer, edge.settle = judged_offer, judged_settle  # type: ignore[method-assign]

    # --- judgements --------------------------------------------------------------------------------------------

    def _judge(self, closed: Closed, epoch: int) -> None:
        emission = closed.emission
        keys = root_keys(epoch, emission.number, len(emission.positions))
        for index in closed.indices.tolist():
            value = self.values[int(emission.positions[index])]
            missing = expected(value) - self._processed[int(keys[index])]
            assert not missing, f"false completion of {value}: {missing} not processed"

    def _committed(self, changes: Changes) -> None:
        for append in changes.appends:
            values = codec.decode(append.chunk.body)
            self.values |= {append.chunk.first + place: value for place, value in enumerate(values)}
        repeated = [value for value, times in Counter(map(repr, self.values.values())).items() if times > 1]
        assert not repeated, f"recorded twice: {repeated}"
        still_open = open_positions(self.store)
        dead = {letter.position: letter for letter in self.store.dead_letters(0, 100_000)}
        assert len(still_open) == len(set(still_open)), "in a chunk and in a row"
        assert not dead.keys() & set(still_open), "open and a dead letter"
        totals = self.store.totals()
        assert totals.accepted == len(self.values)
        assert totals.accepted == totals.completed + totals.failed + totals.discarded + len(still_open)
        completed = self.values.keys() - dead.keys() - set(still_open)
        assert not self.completed - completed, "completed, and open again"
        assert len(completed) == totals.completed
        self.completed = set(completed)
        for letter in dead.values():
            fault = self._blame[self.values[letter.position]] + max(0, self.kills - FREE_DEATHS)
            assert letter.attempts <= fault, (
                f"{letter.value!r} is charged {letter.attempts} for {fault}: {letter.error}"
            )

    def look(self, world: "World") -> None:
        """Check the bounds, and what has a receipt."""
        from tests.simulation.world import EDGE_WINDOW, IN, WORKER_WINDOW

        for name, process in world.parts.items():
            if not process.alive or process.part is None:
                continue
            if name == "acker":
                input_roots = sum(
                    each.remaining for each in process.part.ledger._emissions.values() if each.entry == (IN,)
                )
                # One chunk at a time is emitted whole.
                assert input_roots < world.max_pending + 8
                assert process.part._counts["malformed"] == 0, "a part has sent what is none of the protocol"
                self._count_lost(process)
            elif name.startswith("broker"):
                broker: Broker = process.part
                assert broker._malformed == 0, "a part has sent what is none of the protocol"
                for source in (*broker.edge.sources.values(), broker._acker_source):
                    assert source.accepted - source.taken <= EDGE_WINDOW
                for receiver in broker.edge.receivers.values():
                    assert len(receiver.held) - len(receiver.parked) <= WORKER_WINDOW, (
                        name,
                        receiver.held.keys(),
                        receiver.limit,
                        receiver.delivered,
                    )
        for process in world.feeds:
            for number in range(1, process.part.recorder.recorded + 1):
                assert set(process.part.batches[number]) <= set(self.values.values()), (
                    "a receipt for what is not recorded"
                )

    def _count_lost(self, process: Process) -> None:
        """Add up what the last net of all ackers has caught."""
        self._lost_of[process.pid] = process.part._counts["lost"]
        self.lost = sum(self._lost_of.values())

    def finished(self, world: "World") -> None:
        """Judge the end."""
        totals = self.store.totals()
        assert (totals.open, totals.waiting) == (0, 0)
        assert totals.accepted == totals.completed + totals.failed
        recorded = set(map(repr, self.values.values()))
        for process in world.feeds:
            if process.alive:
                assert {repr(value) for values in process.part.batches.values() for value in values} <= recorded


def expected(value: Any) -> set[Any]:
    """Return every item of the tree of a root, by the node that has to process it."""
    from tests.simulation.world import fan_out

    if isinstance(value, str):
        return {("d", repr(value))}
    children = [[value, place] for place in range(fan_out(value))]
    return {("a", repr(value)), *((node, repr(child)) for node in "bcd" for child in children)}


def open_positions(store: MemoryStore) -> list[int]:
    """Return the positions that the store has as open, in chunks or in rows."""
    found = [row.position for row in store.waiting(0, 100_000)]
    for row in store.open_chunks(0, 100_000):
        done = np.zeros(row.chunk.count, dtype=bool)
        if row.done:
            packed = np.frombuffer(row.done, dtype=np.uint8)
            done = np.unpackbits(packed, count=row.chunk.count, bitorder="little").astype(bool)
        found += [row.chunk.first + int(index) for index in np.flatnonzero(~done)]
    return found
