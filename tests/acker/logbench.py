"""An input log on a store in memory, whose clock, thread and ledger move when the test says so."""

import numpy as np

from consecutiond.acker.inputlog import InputLog
from consecutiond.acker.lanes import Entry, Ready
from consecutiond.acker.ledger import Closed, Emission
from consecutiond.acker.policies import Policies, Policy
from consecutiond.acker.stores.base import Origin
from consecutiond.acker.stores.memory import MemoryStore
from consecutiond_broker import codec, wire
from consecutiond_broker.clock import FakeClock
from tests.acker.stepping import SteppedCommitter

IN: Entry = ("in",)
INSIDE: Entry = ("inside",)


class JumpingClock(FakeClock):
    """A clock whose wall time can jump."""

    jump = 0.0

    def wall(self) -> float:
        return super().wall() + self.jump


class Log:
    """An input log on a store in memory, with the ledger's part played by hand."""

    def __init__(self, policy: Policy, retain_s: float = 0.0) -> None:
        self.policies = Policies(policy)
        self.retain_s = retain_s
        self.clock = JumpingClock()
        self.store = MemoryStore()
        self.store.open()
        self.sequence = 0
        self.start()

    def start(self) -> None:
        self.committer = SteppedCommitter(self.store)
        self.log = InputLog(self.committer, self.clock, self.policies, IN, self.retain_s)  # type: ignore[arg-type]

    def append(self, *values: object, entry: Entry = IN) -> None:
        self.sequence += 1
        origin = Origin(b"one", self.sequence)
        self.log.append(codec.encode(values), len(values), entry, origin, lambda: None)

    def turn(self) -> None:
        for _ in range(4):
            self.log.load(anywhere)
            self.log.flush()
            self.committer.settle()

    def emitted(self, entry: Entry = IN) -> list[tuple[Emission, Ready]]:
        """Take everything that is ready."""
        self.turn()
        lane = self.log.lanes.get(entry)
        taken = []
        while lane is not None and lane.has_ready:
            ready = self.log.take(lane)
            taken.append((Emission(0, ready.positions, entry, ready.chunk, ready.positions), ready))
        return taken

    def values(self, entry: Entry = IN) -> list[object]:
        return [value for _, ready in self.emitted(entry) for value in codec.decode(ready.body)]


def closed(emission: Emission, *places: int) -> Closed:
    return Closed(emission, np.array(places or range(len(emission.positions)), dtype=np.intp))


def anywhere(_entry: Entry) -> bool:
    return True


def nowhere(_entry: Entry) -> bool:
    return False


def fail(kind: str = "raised", node: str = "parse", error: str = "ValueError: no") -> wire.Fail:
    return wire.Fail(kind, True, b"", node, error, "Traceback …")
