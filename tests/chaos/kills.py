"""kill -9 of parts of a daemon under load, at regular times."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.chaos.daemon import Daemon, alive, eventually
from tests.chaos.oracle import Verdict
from tests.chaos.table import Row
from tests.chaos.watch import Watch


@dataclass(frozen=True)
class Kill:
    """One death."""

    name: str
    #: monotonic seconds
    at: float
    #: the lowest id that had not been sent by then
    first: int


class Killer:
    """Kills one part after the other, chosen at random among those that are back from their last death."""

    def __init__(self, daemon: Daemon, names: Sequence[str]) -> None:
        self._daemon, self._names = daemon, names
        self._killed: dict[str, int] = {}
        self._before = {name: daemon.starts(name) for name in daemon.pids() if name != "root"}
        self.kills: list[Kill] = []

    def kill(self) -> Kill:
        """Kill one; wait for one that can be killed."""
        eventually(self._victims, "one of them is alive")
        name = random.choice(self._victims())
        pid = self._killed[name] = self._daemon.known_pids()[name]
        kill = Kill(name, time.monotonic(), self._daemon.oracle.sent)
        os.kill(pid, signal.SIGKILL)
        self.kills.append(kill)
        return kill

    def _victims(self) -> list[str]:
        pids = self._daemon.known_pids()
        return [name for name in self._names if pids[name] != self._killed.get(name) and alive(pids[name])]

    def check_others(self) -> None:
        """Make sure that each part was started again as many times as it was killed, once all are up."""
        eventually(self._daemon.is_up, "all are up")
        starts = {name: self._daemon.starts(name) - before for name, before in self._before.items()}
        assert {name: count for name, count in starts.items() if count} == Counter(kill.name for kill in self.kills)


def storm(
    daemon: Daemon,
    row: Row,
    names: Sequence[str],
    times: int,
    every_s: float,
    after: Callable[[Killer], None] = lambda killer: None,
) -> Verdict:
    """Kill parts at regular times under the load of a row, drain, have the oracle judge, and fill the row in.

    Args:
        daemon: it is up.
        row: of the table.
        names: of whom one is killed each time.
        times: how often.
        every_s: seconds between two kills.
        after: called when the kills are over, while the load is still there.
    """
    row.how = f"{times} times, one each {every_s:g} s"
    killer = Killer(daemon, names)
    with daemon.watch() as watch:
        load = daemon.load()
        eventually(lambda: watch.complete or load.error, "the load flows")
        for _ in range(times):
            due = time.monotonic() + every_s
            killer.kill()
            time.sleep(max(0.0, due - time.monotonic()))
            load.check()
        eventually(lambda: None not in recoveries(watch, killer.kills), "new inputs are completed after the last kill")
        after(killer)
        load.end()
        killer.check_others()
        verdict = daemon.drain()
    # What `after` killed had to wait for what else it did.
    row.recovery_s = [seconds for seconds in recoveries(watch, killer.kills[:times]) if seconds is not None]
    row.note_pause(load.longest_s)
    row.judged(verdict)
    row.grew(watch)
    return verdict


def recoveries(watch: Watch, kills: Sequence[Kill]) -> list[float | None]:
    """Return for each kill after how many seconds an input was completed that had been sent after it."""
    return [watch.recovery_s(kill.at, kill.first) for kill in kills]


def kill_all(daemon: Daemon) -> None:
    """Kill every process at once, the root first, so that it starts nobody."""
    pids = {"root": daemon.process.pid} | daemon.known_pids()
    for pid in pids.values():
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
    daemon.process.wait()
    eventually(lambda: not daemon.mentions(), "every process is dead")
