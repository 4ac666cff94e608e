"""The keys of roots: the same at every attempt, over a kill of the acker too, and never those of another root."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acker.bench import IN, Bench

Make = Callable[..., Bench]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path, "sqlite")
    yield bench
    bench.close()


def keys(batches: list[Any]) -> dict[Any, int]:
    return {value: key for batch in batches for value, key in zip(batch.values, batch.ids.tolist(), strict=True)}


def test_a_root_has_the_same_key_at_every_attempt_and_in_every_life_of_the_acker(bench: Bench) -> None:
    bench.up()
    producer = bench.producer()
    producer.append("a", "b")
    producer.append("c")
    producer.expect_receipt(2)
    bench.until(lambda: len(bench.entry.values) == 3)
    [*first] = bench.entry.take(len(bench.entry.batches))
    found = keys(first)
    assert len(set(found.values())) == 3
    for batch in first:
        bench.entry.fail(batch)
    bench.until(lambda: len(bench.entry.values) == 3)
    assert keys(bench.entry.batches) == found
    bench.restart()
    bench.up()
    bench.until(lambda: len(bench.entry.values) == 3)
    assert keys(bench.entry.batches) == found


def test_a_root_that_has_the_position_of_one_that_the_log_lost_has_another_key(bench: Bench) -> None:
    """Else an output that has taken the lost one's key would leave the new root out."""
    bench.up()
    bench.crash()
    before = bench.path.with_name("before")
    shutil.copy(bench.path, before)
    bench.part()
    bench.start()
    found = []
    for value in ("lost", "new"):
        bench.up()
        producer = bench.producer(value.encode())
        producer.append(value)
        producer.expect_receipt(1)
        bench.until(lambda: bench.entry.values)
        found += [key for batch in bench.entry.batches for key in batch.ids.tolist()]
        positions = [row.chunk.first for row in bench.chunks()]
        assert positions == [1]
        bench.crash()
        bench.part()
        for path in bench.path.parent.glob("store.sqlite*"):
            path.unlink()
        shutil.copy(before, bench.path)
        bench.start()
    assert len(found) == len(set(found)) == 2


def test_the_keys_of_one_batch_and_of_the_next_have_nothing_in_common(bench: Bench) -> None:
    entry = bench.up()
    assert entry.edge == IN
    producer = bench.producer()
    for number in range(20):
        producer.append(*range(100 * number, 100 * number + 100))
    producer.expect_receipt(20)
    bench.until(lambda: len(entry.values) == 2000)
    assert len(set(keys(entry.batches).values())) == 2000
