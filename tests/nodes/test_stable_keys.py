"""The keys of what is written: the same whenever an item comes again, and never those of anything else."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from consecutiond_broker import ids, wire
from consecutiond_nodes.keys import Keyed
from consecutiond_nodes.node import Node
from tests.nodes.bench import Bench, benches, fanned, node, numbers

EDGE = "*->output"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from benches(tmp_path)


def writing(count: int) -> Callable[[Node, Any], None]:
    def process(self: Node, value: Any) -> None:
        for number in range(count):
            self.write("even" if number % 2 == 0 else "odd", [value, number])

    return process


def keys(bench: Bench, edge: str) -> list[int]:
    return [key for _, raw, _ in bench.edge(edge).raw(wire.Batch) for key in numbers(raw)]


def by_value(bench: Bench, edge: str) -> list[tuple[Any, int]]:
    return sorted((value, key) for _, key, value in bench.edge(edge).items())


def deliver_twice(bench: Bench, *values: Any, edge: str, between: Callable[[], None] = lambda: None) -> Any:
    """Deliver items, and the same in another order and another tree, as a retry does; return what came each time."""
    count = len(values)
    bench.up.deliver(*values, roots=tuple(range(11, 11 + count)), ids=tuple(range(101, 101 + count)))
    bench.settle(1)
    first = by_value(bench, edge)
    bench.edge(edge).heard.clear()
    between()
    bench.up.deliver(
        *reversed(values), roots=tuple(range(911, 911 + count)), ids=tuple(reversed(range(101, 101 + count)))
    )
    bench.settle(2)
    return first, by_value(bench, edge)


def test_several_writes_of_one_process_have_keys_of_their_own_and_the_same_on_a_retry(bench: Bench) -> None:
    bench.start(node(writing(5)), output=True)
    first, second = deliver_twice(bench, "x", "y", "z", edge=EDGE)
    assert first == second
    assert len({key for _, key in first}) == len(first) == 15


def test_a_fan_out_that_is_sent_in_slices_has_the_same_keys_whatever_the_slices_are(bench: Bench) -> None:
    bench.edge("a->b").limit = 100_000
    bench.start(node(fanned(10_000)), "b")

    def smaller() -> None:
        bench.edge("a->b").hint = 7
        bench.edge("a->b").grant()
        bench.idle()

    first, second = deliver_twice(bench, "x", "y", edge="a->b", between=smaller)
    assert first == second
    assert len({key for _, key in first}) == len(first) == 20_000


@pytest.mark.parametrize("workers", [2, 3])
def test_children_that_part_among_the_workers_of_a_node_have_an_id_each(bench: Bench, workers: int) -> None:
    """Two equal ids would cancel each other in the ledger: the root would count as completed at once."""
    bench.start(node(fanned(6)), "b", keyed={"b": Keyed(workers, lambda value: value[1])})
    first, second = deliver_twice(bench, "x", "y", edge="a->b")
    assert first == second
    assert len({key for _, key in first}) == len(first) == 12
    assert len({head.partition for head in bench.edge("a->b").of(wire.Batch)}) > 1


def test_the_number_of_workers_does_not_change_the_keys(bench: Bench) -> None:
    bench.start(node(fanned(6)), "b", keyed={"b": Keyed(3, lambda value: value[1])})
    bench.up.deliver("x")
    bench.settle()
    expected = ids.child_ids(np.repeat(np.uint64(101), 6), np.arange(6, dtype=np.uint64), ids.name_salt("a->b"))
    assert by_value(bench, "a->b") == [(["x", number], key) for number, key in enumerate(expected.tolist())]


def test_what_a_failed_item_had_pushed_leaves_no_gap_in_the_numbers_of_others(bench: Bench) -> None:
    def process(self: Node, value: Any) -> None:
        for number in range(4):
            self.push([value, number])
        if value == "bad":
            raise ValueError(value)

    bench.start(node(process), "b", keyed={"b": Keyed(2, lambda value: value[1])})
    first, second = deliver_twice(bench, "x", "bad", "y", edge="a->b")
    assert first == second
    assert len(first) == len({key for _, key in first}) == 8


def test_a_million_writes_of_one_item_have_a_million_keys(bench: Bench) -> None:
    def process(self: Node, value: Any) -> None:
        for _ in range(1_000_000):
            self.write("out", value)

    bench.edge(EDGE).hint = 4096
    bench.edge(EDGE).limit = 10_000
    bench.start(node(process), output=True)
    bench.up.deliver(1)
    bench.settle()
    every = np.concatenate([np.frombuffer(raw[1], dtype="<u8") for raw in bench.edge(EDGE).raw(wire.Batch)])
    assert len(every) == len(np.unique(every)) == 1_000_000


def test_a_million_inputs_through_two_nodes_have_a_million_keys() -> None:
    roots = ids.root_ids(77, np.arange(1_000_000, dtype=np.uint64), ids.name_salt("input->a"))
    first = np.zeros(1_000_000, dtype=np.uint64)
    middle = ids.child_ids(roots, first, ids.name_salt("a->b"))
    assert len(np.unique(ids.child_ids(middle, first, ids.name_salt(EDGE)))) == 1_000_000
