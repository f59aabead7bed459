"""Ids to rows: an open-addressing int64 -> int64 map over flat arrays.

`find`, `put` and `drop` are jitted and may be called from other jitted code on a map's own
`keys` and `values`; who calls `put` that way makes room first (`IdMap.reserve`) and writes the
number of entries back. Linear probing; the place of a key is a hash of it, so the arrays depend
on the order of insertion, while lookups never do. Every int64 is a key but `EMPTY`.
"""

from __future__ import annotations

import numpy as np
import xxhash
from numba import njit

from model.kernel import kernel

EMPTY = np.iinfo(np.int64).min
LEAST_CAPACITY = 64

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S1 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(1)
_ONE = np.uint64(1)
_MASK = 2**64 - 1


def table_salt(name: str) -> int:
    """A table's own 63 bits, from its name alone: xxh3_64 without the sign bit."""
    return xxhash.xxh3_64_intdigest(name.encode()) >> 1


@kernel
def mix64(x: np.uint64) -> np.uint64:
    """The finaliser of splitmix64 (Steele et al., OOPSLA 2014): a bijection of 64 bits."""
    x = np.uint64(x) + _GOLDEN
    x = (x ^ (x >> _S30)) * _MIX1
    x = (x ^ (x >> _S27)) * _MIX2
    return x ^ (x >> _S31)


@kernel
def table_key(salt: int, id: int) -> int:
    """The key of `id` in the table of `salt`: 1 .. 2^63 - 1, never 0."""
    key = mix64(np.uint64(id) + np.uint64(salt)) >> _S1
    return np.int64(max(key, _ONE))  # type: ignore[return-value]


def id_of(salt: int, key: int) -> str:
    """The id that `table_key` made this key of, for people: an integer below 2^40 as it is, any
    other, such as a hashed string, as # and the key in hex."""
    for low in (0, 1):
        x = (key << 1 | low) & _MASK
        x = x ^ x >> 31 ^ x >> 62
        x = x * pow(int(_MIX2), -1, 2**64) & _MASK
        x = x ^ x >> 27 ^ x >> 54
        x = x * pow(int(_MIX1), -1, 2**64) & _MASK
        x = x ^ x >> 30 ^ x >> 60
        found = (x - int(_GOLDEN) - salt) & _MASK
        if found < 2**40:
            return str(found)
    return f"#{key:016x}"


@njit(cache=True)
def table_keys(salt: int, ids: np.ndarray) -> np.ndarray:
    """`table_key` of each of `ids` (int64 [n]) -> int64 [n]."""
    out = np.empty(ids.shape[0], np.int64)
    for i in range(ids.shape[0]):
        out[i] = table_key(salt, ids[i])
    return out


@kernel
def _home(keys: np.ndarray, key: int) -> np.uint64:
    """A slot, unsigned: Numba looks at a signed index for being negative, a third of the time."""
    return mix64(np.uint64(key)) & np.uint64(keys.shape[0] - 1)


@kernel
def find(keys: np.ndarray, values: np.ndarray, key: int) -> int:
    """The value of `key`, or -1."""
    last = np.uint64(keys.shape[0] - 1)
    slot = _home(keys, key)
    while keys[slot] != EMPTY:
        if keys[slot] == key:
            return values[slot]
        slot = (slot + _ONE) & last
    return -1


@kernel
def put(keys: np.ndarray, values: np.ndarray, key: int, value: int) -> bool:
    """Sets `key` to `value`; True if it was not there. There must be an empty slot left."""
    last = np.uint64(keys.shape[0] - 1)
    slot = _home(keys, key)
    while keys[slot] != EMPTY:
        if keys[slot] == key:
            values[slot] = value
            return False
        slot = (slot + _ONE) & last
    keys[slot] = key
    values[slot] = value
    return True


@kernel
def drop(keys: np.ndarray, values: np.ndarray, key: int) -> int:
    """Removes `key` and returns its value, or -1. Shifts back what follows: no tombstones."""
    last = np.uint64(keys.shape[0] - 1)
    slot = _home(keys, key)
    while keys[slot] != key:
        if keys[slot] == EMPTY:
            return -1
        slot = (slot + _ONE) & last
    value = values[slot]
    hole = slot
    slot = (slot + _ONE) & last
    while keys[slot] != EMPTY:
        # An entry may fill the hole unless its home lies after it, between hole and slot.
        if ((slot - _home(keys, keys[slot])) & last) >= ((slot - hole) & last):
            keys[hole] = keys[slot]
            values[hole] = values[slot]
            hole = slot
        slot = (slot + _ONE) & last
    keys[hole] = EMPTY
    return value


@kernel
def _find_all(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray, out: np.ndarray) -> None:
    for i in range(wanted.shape[0]):
        out[i] = find(keys, values, wanted[i])


@kernel
def _put_all(keys: np.ndarray, values: np.ndarray, new: np.ndarray, rows: np.ndarray) -> int:
    added = 0
    for i in range(new.shape[0]):
        added += put(keys, values, new[i], rows[i])
    return added


@kernel
def _drop_all(keys: np.ndarray, values: np.ndarray, old: np.ndarray) -> int:
    removed = 0
    for i in range(old.shape[0]):
        removed += drop(keys, values, old[i]) != -1
    return removed


@kernel
def _put_others(keys: np.ndarray, values: np.ndarray, old: np.ndarray, rows: np.ndarray) -> None:
    for i in range(old.shape[0]):
        if old[i] != EMPTY:
            put(keys, values, old[i], rows[i])


class IdMap:
    """int64 keys to values of 0 and above, in memory of 16 bytes a slot, at most 60 % full."""

    def __init__(self, capacity: int = 0):
        self.size = 0
        self.keys = np.empty(0, np.int64)
        self.values = np.empty(0, np.int64)
        self.reserve(capacity)

    def __len__(self) -> int:
        return self.size

    def reserve(self, more: int) -> None:
        """Makes room for `more` new keys; the arrays double, and are new, where they must."""
        wanted = max(self.keys.size, LEAST_CAPACITY)
        while (self.size + more) * 5 > wanted * 3:
            wanted *= 2
        if wanted == self.keys.size:
            return
        keys, values = np.full(wanted, EMPTY, np.int64), np.zeros(wanted, np.int64)
        _put_others(keys, values, self.keys, self.values)
        self.keys, self.values = keys, values

    def lookup(self, keys: np.ndarray) -> np.ndarray:
        """The values of `keys` (int64, any shape), -1 where missing."""
        out = np.empty(keys.shape, np.int64)
        _find_all(self.keys, self.values, keys.reshape(-1), out.reshape(-1))
        return out

    def insert(self, keys: np.ndarray, values: np.ndarray) -> int:
        """Sets each of `keys` (int64 [n]) to its value; the last of equal keys wins.

        Returns how many are new. Raises ValueError for the reserved key `EMPTY`.
        """
        if (keys == EMPTY).any():
            raise ValueError(f"keys hold {EMPTY}, the mark of an empty slot: expected another")
        self.reserve(keys.size)
        added = _put_all(self.keys, self.values, keys, values)
        self.size += added
        return added

    def remove(self, keys: np.ndarray) -> int:
        """Removes `keys` (int64 [n]), those that are there, and returns how many were."""
        removed = _drop_all(self.keys, self.values, keys[keys != EMPTY])
        self.size -= removed
        return removed

    def items(self) -> tuple[np.ndarray, np.ndarray]:
        """All keys, ascending, and their values: the same whatever order they came in."""
        used = np.flatnonzero(self.keys != EMPTY)
        order = used[np.argsort(self.keys[used])]
        return self.keys[order], self.values[order]
