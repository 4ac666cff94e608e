"""What a service manager hears, over a real socket."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from consecutiond.supervision.atwork import AtWork
from consecutiond.supervision.notify import Notifier
from consecutiond.supervision.watch import Watch

COUNTS = {
    "accepted": 9,
    "completed": 5,
    "failed": 1,
    "discarded": 0,
    "emitted": 9,
    "reports": 5,
    "open": 3,
    "waiting": 0,
}


class Manager:
    """Listens as systemd does."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def heard(self) -> dict[str, list[str]]:
        """Return everything since the last time: name -> its values in order."""
        found: dict[str, list[str]] = {}
        while True:
            try:
                text = self.socket.recv(65536).decode()
            except BlockingIOError:
                return found
            for line in text.splitlines():
                name, _, value = line.partition("=")
                found.setdefault(name, []).append(value)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.socket.close()


def notifier(tmp_path: Path, watchdog_s: float = 0.0) -> Notifier:
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    if watchdog_s:
        environment["WATCHDOG_USEC"] = str(int(1e6 * watchdog_s))
    return Notifier(environment)


def test_nobody_listens_where_there_is_no_manager() -> None:
    silent = Notifier({})
    assert not silent
    silent.send(READY="1")
    silent.close()


def test_an_abstract_address_is_understood() -> None:
    name = f"consecutiond-test-{id(object())}"
    manager = Manager(f"\0{name}")
    told = Notifier({"NOTIFY_SOCKET": f"@{name}"})
    told.send(READY="1", STATUS="up")
    assert manager.heard() == {"READY": ["1"], "STATUS": ["up"]}
    told.close()
    manager.socket.close()


def test_a_manager_that_has_gone_is_no_fault(tmp_path: Path, manager: Manager) -> None:
    told = notifier(tmp_path)
    manager.socket.close()
    (tmp_path / "notify").unlink()
    told.send(READY="1")
    told.close()


class Watched:
    """A watch of a graph that the test plays, on a manager that listens."""

    def __init__(self, tmp_path: Path, manager: Manager, watchdog_s: float = 0.0) -> None:
        self.manager, self.asked = manager, 0
        self.notifier = notifier(tmp_path, watchdog_s)
        self.watch = Watch(AtWork(tmp_path, 10.0), self.notifier, 10.0, self._ask, 0.0)
        self.counts: dict[str, int] | None = dict(COUNTS)
        self.now = 0.0

    def _ask(self) -> None:
        self.asked += 1
        if self.counts is not None:
            self.watch.hear(self.counts, self.now)

    def pass_s(self, seconds: int, *, ready: bool = True, stopping: bool = False) -> dict[str, list[str]]:
        for _ in range(seconds):
            self.now += 1.0
            self.watch.look(self.now, ready=ready, stopping=stopping, parts="5 of 5 parts up")
        return self.manager.heard()


@pytest.fixture
def watched(tmp_path: Path, manager: Manager) -> Iterator[Callable[..., Watched]]:
    made: list[Watched] = []

    def make(watchdog_s: float = 0.0) -> Watched:
        made.append(Watched(tmp_path, manager, watchdog_s))
        return made[-1]

    yield make
    for each in made:
        each.notifier.close()


Make = Callable[..., Watched]


def test_ready_is_said_once_and_only_when_the_graph_is_up(watched: Make) -> None:
    graph = watched()
    heard = graph.pass_s(3, ready=False)
    assert set(heard) == {"STATUS"}
    assert heard["STATUS"][0] == "starting; 5 of 5 parts up"
    assert graph.asked == 0
    heard = graph.pass_s(5)
    assert heard["READY"] == ["1"]
    assert "running; 5 of 5 parts up; 0 inputs/s, 3 open, 1 failed" in heard["STATUS"]


def test_a_status_that_has_not_changed_is_not_repeated(watched: Make) -> None:
    graph = watched()
    graph.pass_s(3)
    assert graph.pass_s(5) == {}


def test_the_rate_is_that_of_the_last_second(watched: Make) -> None:
    graph = watched()
    graph.pass_s(2)
    graph.counts = {**COUNTS, "completed": 1005}
    assert "running; 5 of 5 parts up; 1,000 inputs/s, 3 open, 1 failed" in graph.pass_s(2)["STATUS"]


def test_a_stop_is_said_once(watched: Make) -> None:
    graph = watched()
    graph.pass_s(2)
    heard = graph.pass_s(3, stopping=True)
    assert heard["STOPPING"] == ["1"]
    assert heard["STATUS"][0].startswith("draining; ")


def test_the_watchdog_hears_of_a_graph_that_moves_or_has_nothing_to_do(watched: Make) -> None:
    graph = watched(watchdog_s=6.0)
    graph.counts = {**COUNTS, "open": 0}
    assert 9 <= len(graph.pass_s(30)["WATCHDOG"]) <= 16


def test_the_watchdog_hears_nothing_of_one_that_has_stalled_until_it_moves(watched: Make) -> None:
    graph = watched(watchdog_s=6.0)
    assert graph.pass_s(12)["STATUS"][-1].startswith("stalled; ")
    assert "WATCHDOG" not in graph.pass_s(30)
    graph.counts = {**COUNTS, "completed": 6}
    assert graph.pass_s(6)["WATCHDOG"]


def test_an_acker_that_never_answers_is_a_stall(watched: Make) -> None:
    graph = watched(watchdog_s=6.0)
    graph.counts = None
    graph.pass_s(12)
    assert "WATCHDOG" not in graph.pass_s(30)
