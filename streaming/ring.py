"""Columns that are appended to at one end and let go of at the other."""

from __future__ import annotations

from typing import Any

import numpy as np


class Ring:
    """Columns of rows by sequence number, in a ring of a power of two that grows by doubling."""

    def __init__(self, columns: dict[str, tuple[tuple[int, ...], Any]]) -> None:
        self.columns = {
            name: np.zeros((1024, *shape), kind) for name, (shape, kind) in columns.items()
        }

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def slots(self, first: int, last: int) -> np.ndarray:
        """Where the rows `first` to `last` (not included) stand."""
        return np.arange(first, last) & (len(self) - 1)

    def reserve(self, first: int, last: int, more: int) -> None:
        """Makes room for `more` rows after those from `first` to `last`."""
        size = len(self)
        while size < last - first + more:
            size *= 2
        if size > len(self):
            self._move(first, last, self.rows(first, last), size)

    def rows(self, first: int, last: int) -> dict[str, np.ndarray]:
        """A copy of the rows, in order."""
        slots = self.slots(first, last)
        return {name: column[slots] for name, column in self.columns.items()}

    def restore(self, first: int, last: int, rows: dict[str, np.ndarray]) -> None:
        size = len(self)
        while size < last - first:
            size *= 2
        self._move(first, last, rows, size)

    def _move(self, first: int, last: int, rows: dict[str, np.ndarray], size: int) -> None:
        for name, column in self.columns.items():
            self.columns[name] = np.zeros((size, *column.shape[1:]), column.dtype)
        slots = self.slots(first, last)
        for name, column in self.columns.items():
            column[slots] = rows[name]
