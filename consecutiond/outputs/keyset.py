"""Which keys have been taken: sorted arrays, 8 bytes a key, asked and filled a batch at a time."""

import numpy as np
import numpy.typing as npt

from consecutiond_broker.ids import U64


class KeySet:
    """A set of 64-bit keys.

    Each batch is a sorted array of its own, and neighbours of like size are merged. So there are few arrays, and a key
    is copied about as often as the number of keys can be halved. While the largest are merged, the set takes twice its
    memory for a moment.

    Args:
        keys: those that it begins with; the set keeps this array, and sorts it.
    """

    def __init__(self, keys: U64 | None = None) -> None:
        self._runs: list[U64] = []
        if keys is not None and len(keys):
            keys.sort()
            self._runs.append(keys)

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def fresh(self, keys: U64) -> npt.NDArray[np.bool_]:
        """Tell for each of some keys whether it is in neither the set nor the part before it."""
        # In order, because then the searches of one batch go through each array from its beginning to its end.
        ordered, first = np.unique(keys, return_index=True)
        unknown = np.ones(len(ordered), dtype=bool)
        for run in self._runs:
            places = run.searchsorted(ordered)
            places[places == len(run)] = 0
            unknown &= run[places] != ordered
        fresh = np.zeros(len(keys), dtype=bool)
        fresh[first[unknown]] = True
        return fresh

    def add(self, keys: U64) -> None:
        """Add keys that are not in the set."""
        run = np.sort(keys)
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            # Stable: the sort that finds the two runs and merges them in one pass.
            run = np.sort(np.concatenate((self._runs.pop(), run)), kind="stable")
        if len(run):
            self._runs.append(run)
