"""What the state machines share: their settings, and the steps of those that run the simulated world."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.database import DirectoryBasedExampleDatabase
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.simulation.network import Faults
from tests.simulation.processes import Process
from tests.simulation.world import World

#: examples that failed, kept where a user's caches are
_CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "consecutiond" / "hypothesis"
#: batches that a producer hands over before it looks for receipts
_AHEAD: Final = 4


def short(machine: type[RuleBasedStateMachine], examples: int, steps: int) -> Any:
    """Return the test case of a machine that takes seconds."""
    case = machine.TestCase
    # A history of thousands of small steps takes longer to shrink than a test may; what has failed is kept.
    phases = [phase for phase in Phase if phase not in (Phase.shrink, Phase.explain)]
    case.settings = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck),
        database=DirectoryBasedExampleDatabase(_CACHE), phases=phases, report_multiple_bugs=False,
    )  # fmt: skip
    return case


def long(machine: type[RuleBasedStateMachine], examples: int, steps: int) -> Any:
    """Return the test case of a machine that takes minutes; only `make chaos` runs it."""
    case = short(type(f"{machine.__name__}Long", (machine,), {}), examples, steps)
    case.pytestmark = [pytest.mark.long, pytest.mark.chaos, pytest.mark.timeout(3600)]
    return case


class Simulation(RuleBasedStateMachine):
    """The world, to which faults happen: to the network, and to the parts in ``victims``."""

    faults = Faults()
    #: the beginnings of the names of parts that die
    victims: tuple[str, ...] = ()
    #: the probability that a node raises
    fails = 0.1

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.world = World(Path(self.directory.name), seed, self.faults, self.fails)
        for _ in range(2):
            self.world.start_feed()

    def living(self, kind: Callable[[Process], bool] = lambda _process: True) -> list[Process]:
        everybody = [*self.world.parts.values(), *self.world.feeds]
        return [each for each in everybody if each.alive and kind(each)]

    def draw_victim(self, data: st.DataObject) -> Process | None:
        found = self.living(lambda process: process.name.startswith(self.victims))
        return data.draw(st.sampled_from(found)) if found else None

    @rule(steps=st.integers(1, 150))
    def run_on(self, steps: int) -> None:
        self.world.run(steps)

    @rule(which=st.integers(0, 5), count=st.integers(1, 6))
    def append(self, which: int, count: int) -> None:
        feeds = [each for each in self.world.feeds if each.alive and not each.part.ended]
        feeds = [each for each in feeds if each.part.recorder.outstanding < _AHEAD and not each.part.recorder.refused]
        if feeds:
            self.world.append(feeds[which % len(feeds)], count)

    @rule(data=st.data())
    def break_a_connection(self, data: st.DataObject) -> None:
        if self.world.network.connections:
            self.world.network.break_(data.draw(st.sampled_from(self.world.network.connections)))

    @precondition(lambda self: self.victims)
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        victim = self.draw_victim(data)
        if victim is not None:
            self.world.kill(victim)

    @precondition(lambda self: self.victims)
    @rule(data=st.data(), messages=st.integers(0, 6))
    def kill_at_a_message(self, data: st.DataObject, messages: int) -> None:
        victim = self.draw_victim(data)
        if victim is not None:
            victim.fuse = messages

    @rule(seconds=st.sampled_from([0.06, 1.0, 6.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.clock.advance(seconds)

    @precondition(lambda self: len(self.world.oracle.values) > 10)
    @rule()
    def end_input(self) -> None:
        self.world.end_input()

    def teardown(self) -> None:
        """Heal, let everything come to its end, and judge that."""
        if not hasattr(self, "world"):
            return
        try:
            self.world.drain()
            self.judge()
        finally:
            self.world.close()
            self.directory.cleanup()

    def judge(self) -> None:
        """Nothing was ever lost, unless the network does what ZeroMQ does not."""
        assert self.world.oracle.lost == 0, "roots were in nobody's hands"
