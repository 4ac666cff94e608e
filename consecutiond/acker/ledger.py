"""The XOR ledger: which trees are open. Pure arithmetic on arrays, keyed by emission.

Storm's tracking ("Guaranteeing message processing", Apache Storm): the ledger of a tree is the XOR of the ids of all
items that were produced and of all that were consumed, so it is zero when everything that was produced was consumed.
An *emission* is up to 4096 roots that went out together; their ledgers are one array, and a report on them is one
array operation. A retry is never a second run inside an old emission, but a new one, with new root keys; whatever
still arrives for the old keys finds them closed and changes nothing.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from consecutiond_broker.errors import ConsecutiondError
from consecutiond_broker.ids import (
    EMISSION_BITS,
    EPOCH_MODULUS,
    INDEX_BITS,
    MAX_EMISSION,
    MAX_ROOTS,
    U64,
    root_keys,
)

_INDEX_MASK = np.uint64(MAX_ROOTS - 1)
_INDEX_SHIFT = np.uint64(INDEX_BITS)


class EpochUsedUpError(ConsecutiondError):
    """All emission numbers of this epoch are used; the acker must start again, with a new epoch."""


class Emission:
    """Roots that were emitted together.

    Args:
        number: its number within the epoch.
        positions: the positions of its roots in the input log.
        entry: the edges where they entered.
        chunk: the chunk of the log they came from; 0 when each has a row of its own.

    """

    __slots__ = ("chunk", "entry", "number", "open", "positions", "remaining", "xors")

    def __init__(self, number: int, positions: U64, entry: tuple[str, ...], chunk: int, xors: U64) -> None:
        self.number = number
        self.positions = positions
        self.entry = entry
        self.chunk = chunk
        self.xors = xors
        self.open = np.ones(len(positions), dtype=bool)
        self.remaining = len(positions)


class Closed(NamedTuple):
    """Roots of one emission that left the ledger together."""

    emission: Emission
    indices: "np.ndarray[tuple[int], np.dtype[np.intp]]"

    @property
    def positions(self) -> U64:
        """Their positions in the log."""
        return self.emission.positions[self.indices]

    def split(self, chosen: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> "tuple[Closed, Closed]":
        """Return those that are chosen, and the others."""
        return Closed(self.emission, self.indices[chosen]), Closed(self.emission, self.indices[~chosen])


class Ledger:
    """All open trees of one acker epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self._prefix = (epoch % EPOCH_MODULUS) << EMISSION_BITS
        self._emissions: dict[int, Emission] = {}
        self._next = 0
        self.open = 0

    def emit(self, positions: U64, xors: U64, entry: tuple[str, ...], chunk: int) -> tuple[Emission, U64]:
        """Open the trees of some roots.

        Args:
            positions: where they stand in the log; at most 4096.
            xors: for each the XOR of the ids of its copies on the entry edges.
            entry: the names of those edges.
            chunk: the chunk of the log that holds them, 0 for rows of their own.

        Returns:
            The emission, and the root keys to send with the items.

        Raises:
            EpochUsedUpError: no emission number is left.

        """
        if self._next > MAX_EMISSION:
            raise EpochUsedUpError("all emission numbers of this acker epoch are used")
        emission = Emission(self._next, positions, entry, chunk, xors)
        self._emissions[self._next] = emission
        self._next += 1
        self.open += len(positions)
        return emission, root_keys(self.epoch, emission.number, len(positions))

    def apply(self, roots: U64, xors: U64) -> Iterator[Closed]:
        """Add a report; yield the roots whose trees it completed."""
        for emission, indices, mine in self._locate(roots):
            values = xors if mine is None else xors[mine]
            if len(indices) == 1 or (indices[1:] > indices[:-1]).all():
                emission.xors[indices] ^= values
            else:
                np.bitwise_xor.at(emission.xors, indices, values)
            done = indices[(emission.xors[indices] == 0) & emission.open[indices]]
            if len(done):
                yield self._close(emission, np.unique(done))

    def take(self, roots: U64) -> Iterator[Closed]:
        """Close trees that have failed; roots that are closed already are passed over."""
        for emission, indices, _ in self._locate(roots):
            failed = np.unique(indices[emission.open[indices]])
            if len(failed):
                yield self._close(emission, failed)

    def sweep(self, edges: frozenset[str]) -> Iterator[Closed]:
        """Close all open trees that entered at one of these edges."""
        for emission in list(self._emissions.values()):
            if not edges.isdisjoint(emission.entry):
                yield self._close(emission, np.flatnonzero(emission.open))

    def _close(self, emission: Emission, indices: "np.ndarray[tuple[int], np.dtype[np.intp]]") -> Closed:
        emission.open[indices] = False
        emission.remaining -= len(indices)
        self.open -= len(indices)
        if emission.remaining == 0:
            del self._emissions[emission.number]
        return Closed(emission, indices)

    def _locate(
        self, roots: U64
    ) -> Iterator[
        tuple[
            Emission,
            "np.ndarray[tuple[int], np.dtype[np.intp]]",
            "np.ndarray[tuple[int], np.dtype[np.bool_]] | None",
        ]
    ]:
        """Yield ``(emission, indices, mask)`` for the root keys of this epoch whose emission is open."""
        if not len(roots):
            return
        numbers = roots >> _INDEX_SHIFT
        indices = (roots & _INDEX_MASK).astype(np.intp)
        first = numbers[0]
        if first == numbers[-1] and (numbers == first).all():
            emission = self._find(int(first), indices)
            if emission is not None:
                yield emission, indices, None
            return
        for number in np.unique(numbers):
            mask = numbers == number
            mine = indices[mask]
            emission = self._find(int(number), mine)
            if emission is not None:
                yield emission, mine, mask

    def _find(self, number: int, indices: "np.ndarray[tuple[int], np.dtype[np.intp]]") -> Emission | None:
        if number >> EMISSION_BITS << EMISSION_BITS != self._prefix:
            return None
        emission = self._emissions.get(number - self._prefix)
        if emission is None or int(indices.max()) >= len(emission.positions):
            return None
        return emission

    def __len__(self) -> int:
        """Count the open emissions."""
        return len(self._emissions)
