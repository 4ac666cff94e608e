"""Rules that no other test shows when they are taken out (`tests.simulation.rules` has all of them)."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from consecutiond_broker import codec
from consecutiond_broker.epochs import next_epoch
from consecutiond_nodes.item import Item
from consecutiond_nodes.node import Node
from tests.simulation.processes import Process
from tests.simulation.world import BATCH_ITEMS, EDGE_WINDOW, MAX_ATTEMPTS, NODES, WORKER_WINDOW, World

NODES_BELOW = ("b.0", "b.1", "c.0", "d.0")
#: values of which ``a`` pushes one child each
ONE, OTHER, THIRD = 1, 4, 7


class JoiningWorld(World):
    """A world whose ``b`` holds what it gets, and passes on two at a time; it has one worker, so that two meet."""

    nodes = NODES | {"b": ("b.0",)}

    def _node(self, name: str, process: Process) -> Node:
        if name == "b":
            return Pairs(self, process)
        return super()._node(name, process)

    def _process(self, node: Node, process: Process, value: Any) -> None:
        if node.name != "d":
            super()._process(node, process, value)
            return
        job = process.part._job
        for entry in job.entries(process.part.cell.words[5] - 1):
            for part in value:
                self.oracle.processed(int(job.roots[entry]), "d", part)

    def feed(self, *values: int) -> None:
        feed = self.feeds[0] if self.feeds else self.start_feed()
        with self._inside(feed):
            number = feed.part.recorder.append(codec.encode(values), len(values))
        feed.part.batches[number] = list(values)


class Pairs(Node):
    """Makes one value of two."""

    holds_items = True
    hold_timeout_s = 1e6

    def __init__(self, world: World, process: Process) -> None:
        self.name, self.world, self.here, self.held = "b", world, process, []

    def process(self, item: Item) -> None:
        self.held.append(item)
        if self.here.alive:
            self.world.oracle.processed(int(item.job.roots[item.position]), "b", item.value)  # type: ignore[union-attr]
        if len(self.held) == 2:
            self.push(self.new_item([each.value for each in self.held], self.held))
            for each in self.held:
                each.ack()
            self.held.clear()

    def end(self) -> None:
        for each in self.held:
            self.world.oracle.blame(each.value[0])
        self.held.clear()


@pytest.fixture
def joining(tmp_path: Path) -> Iterator[JoiningWorld]:
    world = JoiningWorld(tmp_path, seed=3, fails=0.0)
    world.run(600)
    yield world
    world.close()


def acker(world: World) -> Any:
    return world.parts["acker"].part


def test_an_epoch_is_counted_up_under_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one process reads and writes the counter, no other can have the lock."""
    looked: list[str] = []

    def locked(call: Any) -> Any:
        def run(fd: int, *rest: Any) -> Any:
            other = os.open(tmp_path / "a.0.epoch", os.O_RDWR)
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(other)
            looked.append(call.__name__)
            return call(fd, *rest)

        return run

    monkeypatch.setattr(os, "pread", locked(os.pread))
    monkeypatch.setattr(os, "pwrite", locked(os.pwrite))
    assert [next_epoch(tmp_path, "a.0") for _ in range(2)] == [1, 2]
    assert looked == 2 * ["pread", "pwrite"]


class TestHeldItems:
    def test_what_is_held_completes_nothing_and_fails_when_its_node_ends_with_it(self, joining: JoiningWorld) -> None:
        joining.feed(ONE)
        joining.run(3000)
        assert acker(joining).ledger.open == 1
        joining.drain()
        [letter] = joining.store.dead_letters()
        assert (letter.kind, letter.attempts) == ("held to the end", MAX_ATTEMPTS)
        assert joining.oracle.lost == 0

    def test_a_join_is_a_child_in_the_tree_of_each(self, joining: JoiningWorld) -> None:
        below = joining.parts["d.0"]
        below.busy = True
        joining.feed(ONE, OTHER)
        joining.run(3000)
        assert acker(joining).ledger.open == 2, "neither is complete before the join is"
        below.busy = False
        joining.run(3000)
        assert acker(joining).ledger.open == 0
        assert acker(joining)._counts["lost"] == 0

    def test_what_a_dead_worker_had_held_is_tried_anew_at_once(self, joining: JoiningWorld) -> None:
        joining.feed(ONE)
        joining.run(2000)
        joining.kill(joining.parts["b.0"])
        joining.feed(OTHER)
        joining.run(4000)
        assert acker(joining).ledger.open == 0
        assert acker(joining)._counts["lost"] == 0


class Unbounded(World):
    """A world in which the edges alone hold up the input."""

    max_pending = 1000


class TestBackPressure:
    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[World]:
        world = Unbounded(tmp_path, seed=5, fails=0.0)
        world.run(600)
        yield world
        world.close()

    def test_a_node_that_stands_still_holds_up_those_above_it_within_their_bounds_and_all_goes_on_with_it(
        self, world: World
    ) -> None:
        for name in NODES_BELOW:
            world.parts[name].busy = True
        feed = world.start_feed()
        held_up = False
        for _ in range(40):
            if feed.part.recorder.outstanding < 4:
                world.append(feed, 6)
            world.run(100)
            held_up |= any(port.unsent for name in ("a.0", "a.1") for port in world.parts[name].part.down.values())
        assert held_up, "nothing ever waited for credit, so this test shows nothing"
        assert feed.part.recorder.withheld, "receipts are withheld"
        for name in NODES_BELOW:
            world.parts[name].busy = False
        world.drain()
        assert world.oracle.lost == 0

    def test_every_socket_is_set_up_for_what_zeromq_does_not_promise(self, world: World) -> None:
        routers, dealers = list(world.network.bound.values()), world.network.dealers
        assert len(routers) == 5
        assert len(dealers) > 20
        for router in routers:
            assert router.options[zmq.ROUTER_MANDATORY] == router.options[zmq.ROUTER_HANDOVER] == 1
        identities = [(dealer.uri, dealer.identity) for dealer in dealers]
        assert all(identity for _, identity in identities)
        assert len(set(identities)) == len(identities)
        # Batches by credit, and as many grants, settlements, receipts, turns and answers at the utmost.
        most = 100 * (EDGE_WINDOW + WORKER_WINDOW) * BATCH_ITEMS
        for each in (*routers, *dealers):
            assert each.options[zmq.SNDHWM] > most
            assert each.options[zmq.RCVHWM] > most
