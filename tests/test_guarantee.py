"""What a receipt is worth, in one sentence, for each place that accounts and values can be in."""

import itertools

import pytest

from consecutiond.guarantee import MEMORY, OFF, Kept, sentence

ON_DISK = "SQLite file /log: a receipted item is on the disk and survives a power cut."
PLACES: tuple[Kept, ...] = ("off", "memory", "disk")


def test_accounts_and_values_in_the_store_are_what_the_store_says() -> None:
    assert sentence(ON_DISK, "disk", "disk") == ON_DISK


@pytest.mark.parametrize("values", PLACES)
def test_without_accounts_there_is_nothing_to_promise(values: Kept) -> None:
    assert sentence(ON_DISK, "off", values) == OFF


def test_values_in_memory_die_with_the_acker() -> None:
    assert "becomes a failed item without a value." in sentence(ON_DISK, "disk", "memory")


@pytest.mark.parametrize("accounts", ["memory", "disk"])
def test_values_that_are_kept_nowhere_cannot_be_tried_again(accounts: Kept) -> None:
    assert "cannot be tried again." in sentence(ON_DISK, accounts, "off")


def test_accounts_in_memory_repeat_what_is_in_the_store() -> None:
    assert "tried again as a whole, from the first attempt on." in sentence(ON_DISK, "memory", "disk")


def test_nothing_in_the_store_says_nothing_of_it() -> None:
    assert sentence(ON_DISK, "memory", "memory") == MEMORY
    assert "SQLite" not in sentence(ON_DISK, "memory", "off")


@pytest.mark.parametrize(("accounts", "values"), [("disk", "memory"), ("memory", "disk")])
def test_a_store_in_memory_is_one_place(accounts: Kept, values: Kept) -> None:
    assert sentence(MEMORY, accounts, values) == MEMORY


def test_each_is_one_sentence() -> None:
    for accounts, values in itertools.product(PLACES, PLACES):
        assert ". " not in sentence(ON_DISK, accounts, values)
