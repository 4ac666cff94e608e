"""The set of keys: what a set of ints would say, batch by batch."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from consecutiond.outputs.keyset import KeySet

key = st.one_of(st.integers(0, 40), st.sampled_from([2**63, 2**64 - 1]))


def u64(keys: list[int]) -> Any:
    return np.array(keys, dtype=np.uint64)


@given(st.lists(key, unique=True), st.lists(st.lists(key, max_size=12), max_size=12))
def test_it_says_what_a_set_of_ints_says(start: list[int], batches: list[list[int]]) -> None:
    keys, model = KeySet(u64(start)), set(start)
    for batch in batches:
        expected = []
        for each in batch:
            expected.append(each not in model)
            model.add(each)
        fresh = keys.fresh(u64(batch))
        assert fresh.tolist() == expected
        keys.add(u64(batch)[fresh])
        assert len(keys) == len(model)


def test_many_small_batches_become_few_arrays() -> None:
    keys = KeySet()
    for number in range(5000):
        keys.add(u64([number]))
    assert len(keys) == 5000
    assert len(keys._runs) < 14
    assert not keys.fresh(np.arange(5000, dtype=np.uint64)).any()
