"""The ledger: a tree is complete exactly when everything that was produced in it was consumed, in any order."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consecutiond.acker import ledger as ledger_module
from consecutiond.acker.ledger import Closed, EpochUsedUpError, Ledger
from consecutiond_broker.ids import MAX_EMISSION, MAX_ROOTS, U64, child_ids, name_salt, root_ids, root_keys

IN = ("in",)
EPOCH = 7


def u64(*values: int) -> U64:
    return np.array(values, dtype=np.uint64)


def emit(ledger: Ledger, xors: list[int], entry: tuple[str, ...] = IN, first: int = 100) -> list[int]:
    """Open one emission; return its root keys."""
    positions = np.arange(first, first + len(xors), dtype=np.uint64)
    _, keys = ledger.emit(positions, u64(*xors), entry, 1)
    return [int(key) for key in keys]


def positions(closed: "list[Closed]") -> list[int]:
    return [int(position) for each in closed for position in each.positions]


def apply(ledger: Ledger, *report: tuple[int, int]) -> list[int]:
    """Apply a report of ``(root key, xor)``; return the positions of the roots that it completed."""
    roots, xors = u64(*(root for root, _ in report)), u64(*(xor for _, xor in report))
    return positions(list(ledger.apply(roots, xors)))


def take(ledger: Ledger, *roots: int) -> list[int]:
    return positions(list(ledger.take(u64(*roots))))


class Tree:
    """A random tree, as the workers of a graph would report it.

    Every item is consumed once, by one report that carries its own id and those of its children; the items of a
    broadcast have a copy on each edge.
    """

    def __init__(self, root_id: int, shape: list[list[int]], edges: list[str]) -> None:
        self.reports: list[int] = []
        self.salts = [name_salt(edge) for edge in edges]
        self._grow(root_id, shape, 0)

    def _grow(self, item: int, shape: list[list[int]], level: int) -> None:
        xor = item
        fans = shape[level] if level < len(shape) else []
        for edge, fan in enumerate(fans):
            ids = child_ids(np.repeat(u64(item), fan), np.arange(fan, dtype=np.uint64), self.salts[edge])
            for child in ids.tolist():
                xor ^= child
                self._grow(child, shape, level + 1)
        self.reports.append(xor)


shapes = st.lists(st.lists(st.integers(0, 3), min_size=0, max_size=3), max_size=3)


@settings(max_examples=150, deadline=None)
@given(st.lists(shapes, min_size=1, max_size=4), st.data())
def test_trees_complete_exactly_with_their_last_report_in_any_order_and_grouping(
    all_shapes: list[list[list[int]]], data: st.DataObject
) -> None:
    """Fan-out, broadcast and merge; reports shuffled, split and with one root several times in one report."""
    ledger = Ledger(EPOCH)
    ids = root_ids(99, np.arange(len(all_shapes), dtype=np.uint64), name_salt("in")).tolist()
    keys = emit(ledger, ids)
    left = {}
    entries = []
    for number, (key, shape) in enumerate(zip(keys, all_shapes, strict=True)):
        tree = Tree(ids[number], shape, ["x", "y", "z"])
        left[100 + number] = len(tree.reports)
        entries += [(key, 100 + number, xor) for xor in tree.reports]
    entries = data.draw(st.permutations(entries))
    while entries:
        size = data.draw(st.integers(1, 6))
        report, entries = entries[:size], entries[size:]
        for _, position, _ in report:
            left[position] -= 1
        done = {position for _, position, _ in report if left[position] == 0}
        completed = apply(ledger, *((key, xor) for key, _, xor in report))
        assert sorted(completed) == sorted(done)
    assert ledger.open == len(ledger) == 0


class TestIds:
    """Why ids are what they are: with anything simpler a tree completes while its items are still on their way."""

    def tree_of(self, copies: list[int]) -> tuple[Ledger, list[int]]:
        """One root, consumed by a node that has pushed children with these ids."""
        ledger = Ledger(EPOCH)
        [key] = emit(ledger, [1000])
        xor = 1000
        for copy in copies:
            xor ^= copy
        return ledger, apply(ledger, (key, xor))

    def test_one_id_broadcast_to_two_edges_would_cancel_itself(self) -> None:
        ledger, completed = self.tree_of([55, 55])
        assert completed == [100], "this is the fault that an id for each copy prevents"
        ledger, completed = self.tree_of([int(child_ids(u64(55), u64(0), name_salt(e))[0]) for e in ("x", "y")])
        assert completed == []
        assert ledger.open == 1

    def test_a_run_of_contiguous_ids_would_cancel(self) -> None:
        _, completed = self.tree_of([8, 9, 10, 11])
        assert completed == [100], "this is the fault that mixing prevents"
        four = child_ids(np.repeat(u64(1000), 4), np.arange(4, dtype=np.uint64), name_salt("x"))
        _, completed = self.tree_of(four.tolist())
        assert completed == []


class TestReports:
    def test_a_root_that_several_items_of_one_report_belong_to_gets_all_of_them(self) -> None:
        ledger = Ledger(EPOCH)
        one, two = emit(ledger, [5, 6])
        assert apply(ledger, (one, 5 ^ 1 ^ 2), (two, 6 ^ 3), (one, 1), (one, 2), (two, 3)) == [100, 101]

    def test_a_root_that_completes_is_told_once_even_if_it_stands_in_the_report_twice(self) -> None:
        ledger = Ledger(EPOCH)
        [one] = emit(ledger, [5])
        assert apply(ledger, (one, 4), (one, 1)) == [100]
        assert ledger.open == 0

    def test_a_report_over_several_emissions_reaches_each(self) -> None:
        ledger = Ledger(EPOCH)
        [one] = emit(ledger, [5], first=100)
        two, three = emit(ledger, [6, 7], first=200)
        assert sorted(apply(ledger, (two, 6), (one, 5), (three, 1))) == [100, 200]
        assert apply(ledger, (three, 6)) == [201]

    def test_a_root_is_told_with_its_emission(self) -> None:
        ledger = Ledger(EPOCH)
        emission, keys = ledger.emit(u64(100, 101), u64(5, 6), ("in", "side"), 42)
        [closed] = ledger.apply(keys[1:], u64(6))
        assert closed.emission is emission
        assert (closed.emission.chunk, closed.emission.entry) == (42, ("in", "side"))
        assert closed.indices.tolist() == [1]

    @pytest.mark.parametrize("close", [lambda led, k: apply(led, (k, 5)), take, lambda led, _: list(led.sweep({"in"}))])
    def test_a_late_report_of_a_closed_root_changes_nothing(self, close: Callable[[Ledger, int], object]) -> None:
        ledger = Ledger(EPOCH)
        one, _two = emit(ledger, [5, 6])
        close(ledger, one)
        left = ledger.open
        assert apply(ledger, (one, 5), (one, 0), (one, 77), (one, 77 ^ 5)) == []
        assert take(ledger, one) == []
        assert ledger.open == left

    def test_a_closed_root_does_not_complete_again_while_its_neighbours_are_open(self) -> None:
        ledger = Ledger(EPOCH)
        one, two = emit(ledger, [5, 6])
        apply(ledger, (one, 5))
        assert apply(ledger, (one, 0), (two, 6)) == [101]

    @pytest.mark.parametrize("epoch", [EPOCH - 1, EPOCH + 1, 0])
    def test_a_report_of_another_epoch_changes_nothing(self, epoch: int) -> None:
        ledger = Ledger(EPOCH)
        emit(ledger, [5])
        [stranger] = root_keys(epoch, 0, 1).tolist()
        assert apply(ledger, (stranger, 5)) == take(ledger, stranger) == []
        assert ledger.open == 1

    def test_keys_that_were_never_given_out_change_nothing(self) -> None:
        ledger = Ledger(EPOCH)
        [one] = emit(ledger, [5])
        for key in (one + 1, one + MAX_ROOTS, 2**64 - 1, 0):
            assert apply(ledger, (key, 5)) == take(ledger, key) == []
        assert apply(ledger) == take(ledger) == []
        assert apply(ledger, (one, 5)) == [100]


class TestFailures:
    def test_failed_trees_are_closed_once_however_often_they_are_named(self) -> None:
        ledger = Ledger(EPOCH)
        one, two, _three = emit(ledger, [5, 6, 7])
        assert take(ledger, two, one, two) == [100, 101]
        assert take(ledger, one, two) == []
        assert ledger.open == 1

    def test_a_sweep_closes_what_entered_at_the_edges_and_nothing_else(self) -> None:
        ledger = Ledger(EPOCH)
        emit(ledger, [1, 2], ("in",), first=100)
        emit(ledger, [3], ("middle",), first=200)
        emit(ledger, [4], ("side", "middle"), first=300)
        assert positions(list(ledger.sweep(frozenset({"middle", "other"})))) == [200, 300]
        assert ledger.open == 2
        assert positions(list(ledger.sweep(frozenset({"middle"})))) == []

    def test_a_sweep_passes_over_what_is_closed_already(self) -> None:
        ledger = Ledger(EPOCH)
        one, _ = emit(ledger, [1, 2])
        apply(ledger, (one, 1))
        assert positions(list(ledger.sweep(frozenset(IN)))) == [101]

    def test_a_retry_is_a_new_tree_with_new_keys(self) -> None:
        ledger = Ledger(EPOCH)
        [first] = emit(ledger, [5])
        take(ledger, first)
        [second] = emit(ledger, [5])
        assert first != second
        assert apply(ledger, (first, 5)) == []
        assert apply(ledger, (second, 5)) == [100]


def test_an_emission_whose_roots_are_all_closed_is_forgotten() -> None:
    ledger = Ledger(EPOCH)
    one, two = emit(ledger, [5, 6])
    apply(ledger, (one, 5))
    assert (len(ledger), ledger.open) == (1, 1)
    take(ledger, two)
    assert (len(ledger), ledger.open) == (0, 0)


def test_when_the_numbers_of_an_epoch_are_used_up_nothing_is_emitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "MAX_EMISSION", 1)
    assert MAX_EMISSION > 1
    ledger = Ledger(EPOCH)
    emit(ledger, [5])
    emit(ledger, [6])
    with pytest.raises(EpochUsedUpError):
        emit(ledger, [7])
    assert ledger.open == 2
