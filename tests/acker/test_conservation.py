"""Nothing that was recorded is ever lost or doubled: random histories of the log and the ledger on a real store."""

import random
from collections import Counter

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from consecutiond.acker.inputlog import InputLog
from consecutiond.acker.lanes import Entry
from consecutiond.acker.ledger import Ledger
from consecutiond.acker.policies import Policies, Policy
from consecutiond.acker.stores.base import Origin
from consecutiond.acker.stores.memory import MemoryStore
from consecutiond_broker import codec, wire
from consecutiond_broker.clock import FakeClock
from consecutiond_broker.ids import U64
from tests.acker.stepping import SteppedCommitter

ENTRIES: list[Entry] = [("in",), ("mid",), ("mid", "out")]
MAX_ATTEMPTS = 3


class Conservation(RuleBasedStateMachine):
    """What the acker does with its log and its ledger, one step at a time, the store's thread lagging behind."""

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.clock = FakeClock()
        self.store = MemoryStore()
        self.store.open()
        self.epoch = self.sequence = self.receipted = 0
        #: everything that was ever sent out: the root keys, and the ids that complete their trees
        self.sent: list[tuple[U64, U64]] = []
        self.start()

    def start(self) -> None:
        self.epoch += 1
        self.committer = SteppedCommitter(self.store)
        self.ledger = Ledger(self.epoch)
        self.log = InputLog(self.committer, self.clock, Policies(Policy(MAX_ATTEMPTS, 1.0, 4.0)), ENTRIES[0])  # type: ignore[arg-type]

    # --- what the store has ----------------------------------------------------------------------------------

    def open_positions(self) -> list[int]:
        """Return the positions that the store has as open, in chunks or in rows."""
        found = [row.position for row in self.store.waiting(0, 10_000)]
        for row in self.store.open_chunks(0, 10_000):
            done = np.zeros(row.chunk.count, dtype=bool)
            if row.done:
                packed = np.frombuffer(row.done, dtype=np.uint8)
                done = np.unpackbits(packed, count=row.chunk.count, bitorder="little").astype(bool)
            found += [row.chunk.first + int(index) for index in np.flatnonzero(~done)]
        return found

    # --- steps -----------------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 12), entry=st.sampled_from(ENTRIES))
    def append(self, count: int, entry: Entry) -> None:
        self.sequence += 1
        sequence = self.sequence

        def recorded() -> None:
            # What has a receipt is in the store.
            assert self.store.last_sequence(b"one") >= sequence
            self.receipted += count

        body = codec.encode([[sequence, index] for index in range(count)])
        self.log.append(body, count, entry, Origin(b"one", sequence), recorded)

    @rule()
    def work(self) -> None:
        self.committer.work()

    @rule()
    def deliver(self) -> None:
        self.committer.deliver()

    @rule(everything=st.booleans())
    def flush(self, everything: bool) -> None:
        self.log.flush(everything=everything)

    @rule(seconds=st.sampled_from([0.01, 0.06, 1.0, 5.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def load(self) -> None:
        self.log.load(lambda _entry: True)

    @rule(most=st.integers(1, 5))
    def emit(self, most: int) -> None:
        for lane in self.log.lanes.values():
            for _ in range(most):
                if lane.has_ready:
                    self.emit_one(lane.entry)

    def emit_one(self, entry: Entry) -> None:
        ready = self.log.take(self.log.lanes[entry])
        assert set(ready.positions.tolist()) <= set(self.open_positions()), "completed, dead or never recorded"
        rows = {row.position: row.attempts for row in self.store.waiting(0, 10_000)}
        # The attempt before this one is on the disk.
        assert {rows.get(position, 0) for position in ready.positions.tolist()} == {ready.attempt - 1}
        assert len(codec.decode(ready.body)) == len(ready.positions)
        xors = np.array([self.random.getrandbits(64) for _ in ready.positions], dtype="<u8")
        _, keys = self.ledger.emit(ready.positions, xors.copy(), entry, ready.chunk)
        self.sent.append((keys, xors))

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        """Complete some trees; those of an emission long ago are late, and change nothing."""
        keys, xors = data.draw(st.sampled_from(self.sent))
        places = data.draw(st.sets(st.integers(0, len(keys) - 1), min_size=1).map(sorted))
        for closed in self.ledger.apply(keys[places], xors[places]):
            self.log.completed(closed)

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), charged=st.booleans())
    def fail(self, data: st.DataObject, charged: bool) -> None:
        keys, _ = data.draw(st.sampled_from(self.sent))
        places = data.draw(st.sets(st.integers(0, len(keys) - 1), min_size=1).map(sorted))
        self.fail_roots(keys[places], charged=charged)

    def fail_roots(self, roots: U64, *, charged: bool) -> None:
        for closed in self.ledger.take(roots):
            if charged:
                self.log.failed(closed, wire.Fail("raised", True, b"", "parse", "E", ""))
            else:
                self.log.again(closed)

    @rule(edge=st.sampled_from(["in", "mid", "out"]))
    def sweep(self, edge: str) -> None:
        for closed in self.ledger.sweep(frozenset({edge})):
            self.log.again(closed)

    @rule()
    def restart(self) -> None:
        """Kill the acker: what it had not committed is gone, and no receipt was given for it."""
        self.start()

    # --- what always holds -----------------------------------------------------------------------------------

    @invariant()
    def the_store_accounts_for_every_root(self) -> None:
        totals = self.store.totals()
        still_open = self.open_positions()
        assert len(still_open) == len(set(still_open)), "in a chunk and in a row"
        assert totals.accepted == totals.completed + totals.failed + len(still_open)
        assert totals.accepted >= self.receipted
        letters = {row.position: row.attempts for row in self.store.dead_letters(0, 10_000)}
        assert not letters.keys() & set(still_open)
        assert set(letters.values()) <= {MAX_ATTEMPTS}

    @invariant()
    def no_root_is_in_two_places(self) -> None:
        places = Counter(self.places())
        assert not [position for position, times in places.items() if times > 1]

    def places(self) -> list[int]:
        """Return the positions that are in a lane or in a tree; those being loaded or recorded are in neither."""
        found: list[int] = []
        for lane in self.log.lanes.values():
            found += [position for _, position in lane.waiting]
            for ready in (*lane._old, *lane._fresh):
                found += ready.positions.tolist()
            for number, indices in lane.todo:
                chunk = self.log._open[number].chunk
                found += [chunk.first + int(index) for index in (range(chunk.count) if indices is None else indices)]
        for emission in self.ledger._emissions.values():
            found += emission.positions[emission.open].tolist()
        return found

    @rule()
    def at_rest_every_open_root_is_somewhere(self) -> None:
        self.committer.settle()
        while not self.log.clean():
            self.log.flush(everything=True)
            self.committer.settle()
        assert sorted(self.places()) == sorted(self.open_positions())

    def teardown(self) -> None:
        """Let everything come to its end: nothing is left, and nothing was counted twice."""
        if not hasattr(self, "log"):
            return
        for _ in range(80):
            self.log.flush(everything=True)
            self.committer.settle()
            if not self.open_positions():
                break
            for keys, xors in self.sent:
                for closed in self.ledger.apply(keys, xors):
                    self.log.completed(closed)
            # Trees that a late report has upset complete in their next attempt.
            self.sent.clear()
            self.sweep("in")
            self.sweep("mid")
            self.clock.advance(5.0)
            self.load()
            self.committer.settle()
            self.emit(1000)
        totals = self.store.totals()
        assert (totals.open, totals.waiting, self.store.open_chunks()) == (0, 0, [])
        assert totals.accepted == totals.completed + totals.failed
        assert not self.log.moving(lambda _entry: True)


Conservation.TestCase.settings = settings(max_examples=120, stateful_step_count=60, deadline=None)
TestConservation = Conservation.TestCase
