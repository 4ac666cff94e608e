"""Identities: that no two items of a tree share one, that runs do not cancel, and that all of them are stable."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consecutiond_broker import ids
from consecutiond_broker.ids import EPOCH_MODULUS, MAX_EMISSION, MAX_ROOTS, U64

word = st.integers(0, 2**64 - 1)


def u64(*values: int) -> U64:
    return np.array(values, dtype=np.uint64)


def test_the_mixer_is_splitmix64() -> None:
    """The first outputs of the published generator for seed 1234567."""
    gamma = 0x9E3779B97F4A7C15
    states = [(1234567 + gamma * n) % 2**64 for n in range(3)]
    assert [ids.mix(state) for state in states] == [
        6457827717110365317, 3203168211198807973, 9817491932198370423
    ]  # fmt: skip


@given(st.lists(word, min_size=1))
def test_the_array_mixer_is_the_mixer_of_each_element(values: list[int]) -> None:
    assert ids.mix_array(u64(*values)).tolist() == [ids.mix(value) for value in values]


def test_mixing_leaves_its_argument_alone() -> None:
    given_ = u64(1, 2)
    ids.mix_array(given_)
    assert given_.tolist() == [1, 2]


def test_contiguous_ids_would_cancel_and_mixed_ones_do_not() -> None:
    """Aligned runs of four XOR to zero: a tree would look complete with all four of its items still open."""
    run = np.arange(4, 4 + 4 * 250, dtype=np.uint64).reshape(250, 4)
    assert not np.bitwise_xor.reduce(run, axis=1).any()
    assert np.bitwise_xor.reduce(ids.mix_array(run), axis=1).all()


def test_siblings_in_any_aligned_run_do_not_cancel() -> None:
    parents, ordinals = np.repeat(u64(77), 4096), np.arange(4096, dtype=np.uint64)
    children = ids.child_ids(parents, ordinals, ids.name_salt("a->b"))
    for run in (2, 4, 8, 64, 4096):
        assert np.bitwise_xor.reduce(children.reshape(-1, run), axis=1).all()


@given(word, st.text(), st.text())
def test_the_copies_of_a_broadcast_have_an_id_each(parent: int, one: str, other: str) -> None:
    """One id on two edges would cancel itself."""
    if one != other:
        copies = [ids.child_ids(u64(parent), u64(0), ids.name_salt(edge)) for edge in (one, other)]
        assert copies[0] ^ copies[1] != 0


def test_children_of_many_items_on_many_edges_never_share_an_id() -> None:
    salts = [ids.name_salt(f"a->{name}") for name in "bcdefghi"]
    parents = np.repeat(ids.mix_array(np.arange(1000, dtype=np.uint64)), 20)
    ordinals = np.tile(np.arange(20, dtype=np.uint64), 1000)
    every = np.concatenate([ids.child_ids(parents, ordinals, salt) for salt in salts])
    assert len(np.unique(every)) == len(every) == 160_000


def test_ids_and_salts_are_the_same_in_every_process_and_for_ever() -> None:
    """They are on disk and on the wire between versions: a change here is a change of the protocol."""
    assert ids.name_salt("a->b") == 0x1CB9407EEF95707
    assert ids.root_ids(1, u64(2), 3).tolist() == [0xBCA402F674DDD08D]
    assert ids.child_ids(u64(1), u64(2), 3).tolist() == [0xE9FD6049D65AF21E]


def test_names_that_differ_only_in_length_or_past_the_eighth_byte_have_salts_of_their_own() -> None:
    names = ["", "\0", "\0\0", "abcdefgh", "abcdefgh\0", "abcdefghi", "abcdefghj", "ä->ö"]
    assert len({ids.name_salt(name) for name in names}) == len(names)


def test_two_logs_and_two_entry_edges_give_one_position_different_ids() -> None:
    position = u64(5)
    every = [ids.root_ids(store, position, edge).item() for store in (1, 2) for edge in (3, 4)]
    assert len(set(every)) == 4


@given(st.integers(0, 2**40), st.integers(0, MAX_EMISSION), st.integers(1, MAX_ROOTS))
def test_a_root_key_says_epoch_emission_and_place(epoch: int, emission: int, count: int) -> None:
    keys = ids.root_keys(epoch, emission, count)
    assert len(keys) == count
    for index in (0, count - 1):
        key = keys[index].item()
        assert (key >> 48, key >> 12 & MAX_EMISSION, key & MAX_ROOTS - 1) == (
            epoch % EPOCH_MODULUS, emission, index,
        )  # fmt: skip


@given(st.lists(word))
def test_a_raw_frame_is_little_endian(values: list[int]) -> None:
    frame = b"".join(value.to_bytes(8, "little") for value in values)
    assert ids.as_u64(frame).tolist() == values


def test_a_frame_that_is_no_array_of_words_is_an_error() -> None:
    with pytest.raises(ValueError, match="multiple"):
        ids.as_u64(b"123456789")
