"""64-bit identities: root keys, item ids, and the mixing that makes both safe to XOR.

Item ids are derived, never drawn: the id of a child is a hash of its parent's id, the edge and its place among the
outputs of that parent. It is therefore unlike every other id of the tree (each copy on each edge has its own, so a
broadcast cannot cancel itself), and the same on every retry, so that it serves users as the item's stable key.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]

#: Bits of a root key for the place in its emission; an emission therefore has at most 4096 roots.
INDEX_BITS: Final = 12
#: Bits for the number of the emission within its acker's epoch: 68 thousand million of them.
EMISSION_BITS: Final = 36
#: Most roots in one emission.
MAX_ROOTS: Final = 1 << INDEX_BITS
#: The last emission of an epoch; the acker ends before it and takes a new epoch.
MAX_EMISSION: Final = (1 << EMISSION_BITS) - 1
#: Epochs are taken modulo this in root keys.
EPOCH_MODULUS: Final = 1 << (64 - INDEX_BITS - EMISSION_BITS)

_MASK: Final = (1 << 64) - 1
_GAMMA: Final = 0x9E3779B97F4A7C15
_M1: Final = 0xBF58476D1CE4E5B9
_M2: Final = 0x94D049BB133111EB
_NP_GAMMA, _NP_M1, _NP_M2 = np.uint64(_GAMMA), np.uint64(_M1), np.uint64(_M2)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)


def mix(x: int) -> int:
    """Return splitmix64's output for the state ``x`` (Steele, Lea and Flood, OOPSLA 2014)."""
    x = (x + _GAMMA) & _MASK
    x = ((x ^ (x >> 30)) * _M1) & _MASK
    x = ((x ^ (x >> 27)) * _M2) & _MASK
    return x ^ (x >> 31)


def mix_array(x: U64) -> U64:
    """Return :func:`mix` of each element, as a new array."""
    x = x + _NP_GAMMA
    x = (x ^ (x >> _S30)) * _NP_M1
    x = (x ^ (x >> _S27)) * _NP_M2
    return x ^ (x >> _S31)


def name_salt(name: str) -> int:
    """Return a 64-bit number for the name of an edge, the same in every process and for ever."""
    salt = 0
    data = name.encode()
    for start in range(0, len(data), 8):
        salt = mix(salt ^ int.from_bytes(data[start : start + 8], "little"))
    return mix(salt ^ len(data))


def root_ids(store_salt: int, positions: U64, edge_salt: int) -> U64:
    """Return the item ids of roots on one edge.

    Args:
        store_salt: the random number of the input log, so that two logs never share an id.
        positions: the positions of the roots in the log.
        edge_salt: :func:`name_salt` of the edge where they enter.
    """
    return mix_array(mix_array(positions ^ np.uint64(store_salt)) ^ np.uint64(edge_salt))


def child_ids(parents: U64, ordinals: U64, edge_salt: int) -> U64:
    """Return the item ids of children.

    Args:
        parents: for each child the id of its parent.
        ordinals: for each child its place, from 0, among the outputs of that parent on this edge.
        edge_salt: :func:`name_salt` of the edge that the children travel.
    """
    return mix_array(parents ^ mix_array(ordinals ^ np.uint64(edge_salt)))


def root_keys(epoch: int, emission: int, count: int) -> U64:
    """Return the keys of the ``count`` roots of one emission."""
    base = (epoch % EPOCH_MODULUS) << (INDEX_BITS + EMISSION_BITS) | emission << INDEX_BITS
    return np.uint64(base) + np.arange(count, dtype=np.uint64)


def as_u64(frame: bytes) -> U64:
    """View a raw frame as unsigned 64-bit integers, without a copy."""
    return np.frombuffer(frame, dtype="<u8")
