"""Embedding rows as a server holds them: to be read, and now and then replaced by a delta's.

Places are in no order. A key that leaves gives its place to the next new one. All loops over rows
let other threads go on, so that this can be made ready beside another one that is scored with.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from model.batch import Layout
from model.contents import factors, row_hash
from model.embedding import find_or_unseen
from model.idmap import EMPTY, IdMap, drop, find, put, table_salt
from model.kernel import free_kernel
from model.places import map_slots
from model.pooling import pool

SIZE, HIGH, FREE = range(3)
SPARE = 8
"""Room grows by one part in so many."""


class ServedRows:
    """Rows [places, dim + outputs] and where each key's is; `total` is the sum of their hashes, as
    `model.contents` has it. The rows of each table for ids not seen stand first."""

    def __init__(self, layout: Layout, outputs: int, dim: int) -> None:
        self.layout, self.dim, self.outputs = layout, dim, outputs
        self._width = dim + outputs
        self._unseen = np.array([-1 - table_salt(table) for table in layout.tables], np.int64)
        self.unseen_of_slot = layout.table_of_slot
        self._factors = factors(self._width)
        self.ids = IdMap()
        self.load({"keys": self._unseen, "rows": self._zeros(len(self._unseen))})

    def __len__(self) -> int:
        return int(self._at[SIZE])

    @property
    def rows(self) -> torch.Tensor:
        """float32 [places, dim + outputs], as they are in memory."""
        return torch.from_numpy(self._rows)

    @property
    def total(self) -> int:
        return int(self._total[0])

    def find(self, keys: np.ndarray) -> np.ndarray:
        """int64 [n, slots]: the row that each key reads, its table's unseen row if it is not here;
        -1 for an empty slot."""
        index = np.empty(keys.shape, np.int64)
        find_or_unseen(self.ids.keys, self.ids.values, keys, self.unseen_of_slot, index)
        return index

    def pool(
        self, index: np.ndarray, weights: np.ndarray, deep: torch.Tensor, wide: torch.Tensor
    ) -> None:
        """Fills deep [n, bags, dim] and wide [n, outputs] from the rows `index` (see `find`)."""
        pool(self.rows, index, weights, self.layout.bag_of_slot, self.dim, deep, wide)

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Takes over `keys` and `rows`, in any order, and leaves what it had. ValueError where they
        are of another shape, or a table's row for unseen ids is not among them."""
        keys, rows = self._checked(arrays)
        slots = map_slots(len(keys))
        self.ids.keys, self.ids.values = np.empty(slots, np.int64), np.empty(slots, np.int64)
        self._rows, self._free = (
            np.empty((len(keys), self._width), np.float32),
            np.empty(0, np.int64),
        )
        self._at, self._total = np.zeros(3, np.int64), np.zeros(1, np.uint64)
        _clear(self.ids.keys)
        _enter(self.ids.keys, self.ids.values, self._at, self._unseen)
        self._write(keys, rows, len(self._unseen))
        if len(self) != len(keys) or not all((keys == key).any() for key in self._unseen):
            says = "one comes twice, or a table's for unseen ids is not there"
            raise ValueError(f"embedding/keys: {says}")

    def apply(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Takes in a delta: `keys` and `rows` that are new or changed, and `gone`, keys that left.
        ValueError where they are of another shape."""
        keys, rows = self._checked(arrays)
        gone = arrays["gone"]
        if gone.dtype != np.int64 or gone.ndim != 1 or np.isin(self._unseen, gone).any():
            raise ValueError("embedding/gone: expected int64 [n], none of a row for unseen ids")
        free = np.empty(int(self._at[FREE]) + len(gone), np.int64)
        free[: self._at[FREE]] = self._free[: self._at[FREE]]
        self._free = free
        _remove(
            self.ids.keys, self.ids.values, self._rows.view(np.uint32), self._free, self._at, gone,
            self._factors, self._total,
        )  # fmt: skip
        self._make_room(len(keys))
        self._write(keys, rows, 0)

    def pinned(self) -> dict[str, np.ndarray]:
        """A snapshot's arrays of the rows for ids not seen, alone."""
        n = len(self._unseen)
        return {"embedding/keys": self._unseen, "embedding/rows": self._rows[:n]}

    def arrays(self) -> dict[str, np.ndarray]:
        """A snapshot's arrays, `keys` ascending."""
        there = self.ids.keys != EMPTY
        keys, places = self.ids.keys[there], self.ids.values[there]
        order = np.argsort(keys)
        rows = np.empty((len(keys), self._width), np.float32)
        _gather(self._rows, places[order], rows)
        return {"embedding/keys": keys[order], "embedding/rows": rows}

    def copy(self) -> ServedRows:
        """One more of the same rows."""
        other = ServedRows(self.layout, self._width - self.dim, self.dim)
        other.ids.keys, other.ids.values = _copied(self.ids.keys), _copied(self.ids.values)
        for name in ("_rows", "_free", "_at", "_total"):
            setattr(other, name, _copied(getattr(self, name)))
        return other

    def _zeros(self, n: int) -> np.ndarray:
        return np.zeros((n, self._width), np.float32)

    def _checked(self, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        keys, rows = arrays["keys"], arrays["rows"]
        if keys.dtype != np.int64 or keys.ndim != 1:
            raise ValueError(f"embedding/keys are {keys.dtype} {keys.shape}: expected int64 [n]")
        if rows.dtype != np.float32 or rows.shape != (len(keys), self._width):
            raise ValueError(
                f"embedding/rows are {rows.dtype} {rows.shape}: expected float32 "
                f"{(len(keys), self._width)}"
            )
        return keys, rows

    def _make_room(self, more: int) -> None:
        size = len(self) + more
        if size * 5 > len(self.ids.keys) * 3:
            slots = map_slots(size)
            keys, places = np.empty(slots, np.int64), np.empty(slots, np.int64)
            _clear(keys)
            _rehash(self.ids.keys, self.ids.values, keys, places)
            self.ids.keys, self.ids.values = keys, places
        if (wanted := int(self._at[HIGH]) + more) > len(self._rows):
            rows = np.empty((wanted + wanted // SPARE, self._width), np.float32)
            _copy(self._rows.reshape(-1), rows.reshape(-1))
            self._rows = rows

    def _write(self, keys: np.ndarray, rows: np.ndarray, fresh: int) -> None:
        bits = np.ascontiguousarray(rows).view(np.uint32)
        _put_rows(
            self.ids.keys, self.ids.values, self._rows.view(np.uint32), self._free, self._at,
            keys, bits, self._factors, fresh, self._total,
        )  # fmt: skip


def _copied(array: np.ndarray) -> np.ndarray:
    fresh = np.empty_like(array)
    _copy(array.reshape(-1), fresh.reshape(-1))
    return fresh


@free_kernel
def _clear(keys):  # type: ignore[no-untyped-def]
    for i in range(keys.shape[0]):
        keys[i] = EMPTY


@free_kernel
def _copy(source, target):  # type: ignore[no-untyped-def]
    for i in range(source.shape[0]):
        target[i] = source[i]


@free_kernel
def _gather(rows, places, out):  # type: ignore[no-untyped-def]
    for i in range(places.shape[0]):
        for c in range(rows.shape[1]):
            out[i, c] = rows[places[i], c]


@free_kernel
def _rehash(old_keys, old_places, keys, places):  # type: ignore[no-untyped-def]
    for i in range(old_keys.shape[0]):
        if old_keys[i] != EMPTY:
            put(keys, places, old_keys[i], old_places[i])


@free_kernel
def _enter(map_keys, places, at, keys):  # type: ignore[no-untyped-def]
    """Gives keys, in an empty map, the first places."""
    for i in range(keys.shape[0]):
        put(map_keys, places, keys[i], i)
    at[SIZE] = at[HIGH] = keys.shape[0]


@free_kernel
def _put_rows(  # type: ignore[no-untyped-def]
    map_keys, places, rows, free, at, keys, new, factors, fresh, total
):
    """Writes rows where their keys are, or where there is room. Nothing stands at the places below
    `fresh` yet."""
    for i in range(keys.shape[0]):
        place = find(map_keys, places, keys[i])
        if place < 0:
            if at[FREE] > 0:
                at[FREE] -= 1
                place = free[at[FREE]]
            else:
                place = at[HIGH]
                at[HIGH] += 1
            at[SIZE] += 1
            put(map_keys, places, keys[i], place)
        elif place >= fresh:
            total[0] -= row_hash(keys[i], rows[place], factors)
        total[0] += row_hash(keys[i], new[i], factors)
        for c in range(rows.shape[1]):
            rows[place, c] = new[i, c]


@free_kernel
def _remove(map_keys, places, rows, free, at, gone, factors, total):  # type: ignore[no-untyped-def]
    for i in range(gone.shape[0]):
        place = drop(map_keys, places, gone[i])
        if place >= 0:
            total[0] -= row_hash(gone[i], rows[place], factors)
            free[at[FREE]] = place
            at[FREE] += 1
            at[SIZE] -= 1
