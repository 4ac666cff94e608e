"""Who is killed when a stop takes too long: one depth of the graph after the other, the bottom last."""

from typing import Any

import pytest

from consecutiond import Node
from consecutiond.effective import resolve
from consecutiond.heartoptions import HeartOptions
from consecutiond.plan import Places, make_plan
from consecutiond.supervision.killing import Killing
from consecutiond_nodes.graph import as_graph

TIERS = (("a",), ("b.0", "b.1"), ("c",))


class Processes:
    """Live until they are killed, and a while longer."""

    def __init__(self, *names: str) -> None:
        self.living = set(names)
        self.killed: list[str] = []

    def lives(self, name: str) -> bool:
        return name in self.living


@pytest.fixture
def processes() -> Processes:
    return Processes("a", "b.0", "b.1", "c")


@pytest.fixture
def killing(processes: Processes) -> Killing:
    return Killing(TIERS, processes.killed.append, processes.lives, 100.0)


def test_nobody_is_killed_before_the_acker_knows(killing: Killing, processes: Processes) -> None:
    assert not killing.step(101.0)
    assert processes.killed == []
    killing.announced = True
    assert not killing.step(101.0)
    assert processes.killed == ["a"]


def test_an_acker_that_says_nothing_is_waited_for_two_seconds(killing: Killing, processes: Processes) -> None:
    assert not killing.step(102.1)
    assert processes.killed == ["a"]


def test_a_depth_is_killed_when_all_of_the_one_above_are_dead(killing: Killing, processes: Processes) -> None:
    killing.announced = True
    killing.step(100.0)
    processes.living.discard("a")
    killing.step(100.0)
    assert processes.killed == ["a", "b.0", "b.1"]
    processes.living.discard("b.1")
    assert not killing.step(100.0)
    assert "c" not in processes.killed
    processes.living.discard("b.0")
    assert not killing.step(100.0)
    assert processes.killed == ["a", "b.0", "b.1", "c"]
    processes.living.discard("c")
    assert killing.step(100.0)


def test_one_that_does_not_die_holds_the_next_depth_up_for_two_seconds(killing: Killing, processes: Processes) -> None:
    killing.announced = True
    for now in (100.0, 101.9):
        killing.step(now)
    assert processes.killed == ["a"]
    killing.step(102.0)
    assert processes.killed == ["a", "b.0", "b.1"]


def test_who_is_dead_or_elsewhere_is_passed_over() -> None:
    processes = Processes("c")
    killing = Killing(TIERS, processes.killed.append, processes.lives, 100.0)
    killing.announced = True
    killing.step(100.0)
    assert processes.killed == ["c"]


def test_a_plan_puts_every_node_below_all_that_feed_it() -> None:
    """By the longest way down: `d` is below `c`, although `s` feeds it, too."""

    def node(name: str, count: int = 1) -> Any:
        found = Node(name)
        found.set_num_workers(count)
        return found

    graph = as_graph(node("a") | [node("b", 2) | node("c"), node("s")] | node("d"))
    places = Places(uri=lambda name: f"ipc:///{name}", plan="", pid_dir="", supervisor_socket="", store="memory://")
    heart = make_plan(graph, resolve({}).settings, "target", (), places, local_output=True).parts["heart"]
    assert isinstance(heart, HeartOptions)
    assert [set(tier) for tier in heart.kill_tiers] == [
        {"node-a.0"},
        {"node-b.0", "node-b.1", "node-s.0"},
        {"node-c.0"},
        {"node-d.0"},
    ]
