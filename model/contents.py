"""What a table of embedding rows holds, as one number that goes with its changes.

Each (key, row) has a hash of 64 bits, and the table the sum of them: so it is the same in whatever
order rows came, and a change costs what it changes (Bellare, Micciancio, Eurocrypt 1997; for
updates of many replicas, Lewi et al., "Securing Update Propagation with Homomorphic Hashing",
2019). It tells apart what went astray; against what was made on purpose stands the SHA-256 of the
bytes that a table is told in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from model.digest import tree_hash
from model.idmap import EMPTY, mix64
from model.kernel import free_kernel, kernel
from model.places import Places, lengthened


def factors(width: int) -> np.ndarray:
    """uint64 [width]: what each column of a row counts in its hash."""
    return np.array([int(mix64(np.uint64(column))) | 1 for column in range(width)], np.uint64)


@kernel
def row_hash(key, row, factors):  # type: ignore[no-untyped-def]
    """Of a key and its row, uint32 [width], multilinear over the columns."""
    total = mix64(np.uint64(key))
    for c in range(row.shape[0]):
        total += factors[c] * np.uint64(row[c])
    return mix64(total)


@free_kernel
def row_hashes(keys, rows, factors, out):  # type: ignore[no-untyped-def]
    """uint64 [n] of keys int64 [n] and rows uint32 [n, width]."""
    for i in range(keys.shape[0]):
        out[i] = row_hash(keys[i], rows[i], factors)


class Contents:
    """The sum over the rows of `places` as they were last told, from the hash of each, and whether
    all of them are finite: 9 bytes a row."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._hashes: np.ndarray | None = None
        self._bad = np.zeros(0, np.bool_)
        self._total = 0

    @property
    def known(self) -> bool:
        """Whether all rows were told once."""
        return self._hashes is not None

    @property
    def finite(self) -> bool:
        """Whether all numbers of all rows are."""
        return not self._bad.any()

    def tell(self, at: np.ndarray, rows: np.ndarray, whole: bool, gone: bool) -> int:
        """The sum once the rows at the places `at`, float32 [n, width], are told: all that are
        there where `whole`, and else all that changed since the last call; `gone`: some left."""
        keys = self._places.keys[at]
        told = np.empty(len(at), np.uint64)
        bits = np.ascontiguousarray(rows).view(np.uint32)
        row_hashes(keys, bits, factors(rows.shape[1]), told)
        if whole:
            self._hashes = np.zeros(self._places.room, np.uint64)
            self._bad = np.zeros(self._places.room, np.bool_)
        hashes = self._hashes
        assert hashes is not None
        if len(hashes) < self._places.room:
            hashes = self._hashes = lengthened(hashes, self._places.room)
            self._bad = lengthened(self._bad, self._places.room)
        left = np.empty(0, np.int64)
        if gone:
            used = self._places.used
            left = np.flatnonzero((hashes[:used] != 0) & (self._places.keys[:used] == EMPTY))
        before = int(hashes[at].sum()) + int(hashes[left].sum())
        hashes[at], hashes[left] = told, 0
        self._bad[at], self._bad[left] = ~np.isfinite(rows).all(1), False
        since = 0 if whole else self._total
        self._total = (since + int(told.sum()) - before) % 2**64
        return self._total


def content(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray], n: int, total: int) -> str:
    """Hex SHA-256 of a whole model: `meta`, the dense `arrays` (what else is in them is left out),
    and n embedding rows of that sum."""
    dense = {name: array for name, array in arrays.items() if not name.startswith("embedding/")}
    return tree_hash({"meta": dict(meta), "dense": dense, "rows": [n, total]})
