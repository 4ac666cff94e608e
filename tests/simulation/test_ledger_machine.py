"""The ledger under random trees: a root is complete when all of its items are consumed, and never before."""

import random
from collections import Counter
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from consecutiond.acker.brokers import Brokers
from consecutiond.acker.ledger import Closed, Ledger
from consecutiond_broker import wire
from consecutiond_broker.ids import as_u64, child_ids, mix, name_salt, root_ids, root_keys
from tests.simulation.machine import long, short

EDGES = ("in", "left", "right")
SALTS = {edge: name_salt(edge) for edge in EDGES}
#: the node that every edge leads to pushes to these
BELOW = {"in": ("left", "right"), "left": ("left",), "right": ()}
REACH = {"in": ("in",), "left": ("in", "left"), "right": ("in", "right")}
DEEPEST = 4

#: a root key, an item's id, how deep in its tree
Item = tuple[int, int, int]


class Ledgers(RuleBasedStateMachine):
    """Brokers report what workers have consumed and produced: late, in any order of theirs, again and again."""

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.positions = 0
        self.epoch = 0
        #: items in somebody's hands, by edge
        self.pending: dict[str, list[Item]] = {edge: [] for edge in EDGES}
        #: reports that each broker keeps: number, acker epoch, frames, and how many items each root consumes with it
        self.kept: dict[str, list[tuple[int, int, list[bytes], Counter[int]]]] = {edge: [] for edge in EDGES}
        self.numbers = dict.fromkeys(EDGES, 0)
        self.broker_epochs = dict.fromkeys(EDGES, 1)
        self.start()

    def start(self) -> None:
        self.epoch += 1
        self.ledger = Ledger(self.epoch)
        self.brokers = Brokers(lambda *_message: True, REACH, self.epoch)
        #: items of each open root of this acker that are not consumed by a report that was applied
        self.left: Counter[int] = Counter()
        self.open: set[int] = set()
        self.entered: dict[int, tuple[str, ...]] = {}
        for edge in EDGES:
            self.broker_joins(edge)

    def broker_joins(self, edge: str) -> None:
        head = wire.EdgeJoin(wire.VERSION, edge, self.broker_epochs[edge], 8, 8)
        entries = self.brokers.join(f"E:{edge}".encode(), head)
        self.closed_without_completion(self.ledger.sweep(entries))
        # Those are tried anew, in new trees; who works on the old ones does not know it.
        for root in [root for root in self.open if not entries.isdisjoint(self.entered[root])]:
            self.open.discard(root)

    def closed_without_completion(self, closed: Any) -> None:
        for each in closed:
            for key in self.keys(each):
                assert key in self.open
                self.open.discard(key)

    def keys(self, closed: Closed) -> list[int]:
        emission = closed.emission
        keys = root_keys(self.epoch, emission.number, len(emission.positions))
        return [int(key) for key in keys[closed.indices]]

    # --- steps -----------------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 6), entry=st.sampled_from([("in",), ("left",), ("left", "right")]))
    def emit(self, count: int, entry: tuple[str, ...]) -> None:
        positions = np.arange(self.positions, self.positions + count, dtype=np.uint64)
        self.positions += count
        ids = [root_ids(1, positions, SALTS[edge]) for edge in entry]
        xors = np.bitwise_xor.reduce(np.stack(ids), axis=0)
        _, keys = self.ledger.emit(positions, xors, entry, 1)
        for edge, mine in zip(entry, ids, strict=True):
            self.pending[edge] += [(int(key), int(id), 0) for key, id in zip(keys, mine, strict=True)]
        for key in map(int, keys):
            self.left[key] += len(entry)
            self.open.add(key)
            self.entered[key] = entry

    @rule(edge=st.sampled_from(EDGES), most=st.integers(1, 5))
    def work(self, edge: str, most: int) -> None:
        """A worker consumes some items and produces others; one report says both."""
        mine = self.pending[edge]
        self.random.shuffle(mine)
        # A batch is of one acker, and so is the report on it.
        batch = [item for item in mine if self.epoch_of(item[0]) == self.epoch_of(mine[0][0])][:most]
        if not batch:
            return
        for item in batch:
            mine.remove(item)
        report: dict[int, int] = {}
        consumed: Counter[int] = Counter()
        for root, id, depth in batch:
            report[root] = report.get(root, 0) ^ id
            consumed[root] += 1
            for below in BELOW[edge] if depth < DEEPEST else ():
                ordinals = np.arange(self.random.randint(0, 3), dtype=np.uint64)
                for child in child_ids(np.uint64(id) + np.zeros_like(ordinals), ordinals, SALTS[below]).tolist():
                    report[root] ^= child
                    consumed[root] -= 1
                    self.pending[below].append((root, child, depth + 1))
        roots, xors = (np.array(list(column), dtype="<u8").tobytes() for column in (report.keys(), report.values()))
        self.numbers[edge] += 1
        self.kept[edge].append((self.numbers[edge], self.epoch_of(batch[0][0]), [roots, xors, b""], consumed))

    def epoch_of(self, root: int) -> int:
        return root >> 48

    @precondition(lambda self: any(self.kept.values()))
    @rule(data=st.data(), edge=st.sampled_from(EDGES))
    def report(self, data: st.DataObject, edge: str) -> None:
        """A broker sends what it keeps from some place on, be it for the first time or again."""
        kept = self.kept[edge]
        if not kept:
            return
        applied = self.brokers.edges[edge].applied
        # Never with a gap: whoever greets a new acker is told where it stands.
        start = data.draw(st.integers(0, max(0, min(len(kept) - 1, applied))))
        run = kept[start : start + data.draw(st.integers(1, 4))]
        head = wire.Reports(self.broker_epochs[edge], run[0][0], tuple(report[1] for report in run))
        expected = [number for number, epoch, _, _ in run if number > applied and epoch == self.epoch]
        places = list(self.brokers.new_reports(f"E:{edge}".encode(), head))
        assert [run[place][0] for place in places] == expected, "a report is applied once, and none of a dead acker"
        for place in places:
            _, _, frames, consumed = run[place]
            self.left.subtract(consumed)
            self.apply(frames)

    def apply(self, frames: list[bytes]) -> None:
        for closed in self.ledger.apply(as_u64(frames[0]), as_u64(frames[1])):
            for key in self.keys(closed):
                assert self.left[key] == 0, "a false completion"
                assert key in self.open, "completed twice, or after its failure"
                self.open.discard(key)

    @precondition(lambda self: self.entered)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        roots = data.draw(st.lists(st.sampled_from(sorted(self.entered)), min_size=1, max_size=4))
        closed = list(self.ledger.take(np.array(roots, dtype=np.uint64)))
        assert {key for each in closed for key in self.keys(each)} == self.open & set(roots)
        self.closed_without_completion(closed)

    @rule(edge=st.sampled_from(EDGES))
    def broker_dies(self, edge: str) -> None:
        """A new one has no reports, and nothing of what was in the old one's hands."""
        self.broker_epochs[edge] += 1
        self.kept[edge].clear()
        self.pending[edge].clear()
        self.numbers[edge] = 0
        self.broker_joins(edge)

    @rule()
    def acker_dies(self) -> None:
        """Reports on the trees of the dead one may still come."""
        for edge in EDGES:
            self.kept[edge].clear()
            self.numbers[edge] = 0
            self.broker_epochs[edge] += 1
        self.start()

    @rule(root=st.integers(0, 2**64 - 1))
    def nonsense_is_reported(self, root: int) -> None:
        closed = list(self.ledger.apply(np.array([root], dtype="<u8"), np.array([mix(root)], dtype="<u8")))
        assert not closed

    # --- what always holds -----------------------------------------------------------------------------------

    @invariant()
    def the_open_roots_are_those_with_something_left(self) -> None:
        if not hasattr(self, "ledger"):
            return
        assert self.ledger.open == len(self.open)
        # What consumes a child may be told before what produced it: until then the count alone says nothing.
        untold = {
            root
            for edge in EDGES
            for number, epoch, _, consumed in self.kept[edge]
            if number > self.brokers.edges[edge].applied and epoch == self.epoch
            for root in consumed
        }
        stuck = [key for key in self.open - untold if self.left[key] == 0]
        assert not stuck, "everything is consumed and reported, and the tree is open"


TestLedgers = short(Ledgers, 150, 60)
TestLedgersLong = long(Ledgers, 1500, 150)
