"""A linear stand-in for a model's scores, and how much of them it explains.

Ridge regression of the scores on the standardised dense columns, by sums that fade, so that it
follows a model that moves. Each batch is explained before it is taken in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

KEEP, RIDGE = 0.98, 1.0
FOR_A_COLUMN = 10
"""Examples for each column that it has learnt from before it explains any."""


class Surrogate:
    """For x [n, columns] and scores [n, outputs]."""

    def __init__(self, columns: int, outputs: int) -> None:
        self._inner = np.zeros((columns + 1, columns + 1))
        self._moment = np.zeros((columns + 1, outputs))
        self._weights: np.ndarray = np.zeros((columns + 1, outputs))
        self._seen = 0
        self._count, self._left = 0, np.zeros(outputs)
        self._sum, self._square = np.zeros(outputs), np.zeros(outputs)

    def update(self, x: np.ndarray, scores: np.ndarray) -> None:
        """Explains the scores of a batch, and then learns from them."""
        x = np.column_stack([x.astype(np.float64), np.ones(len(x))])
        y = scores.astype(np.float64)
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            return
        if self._seen >= FOR_A_COLUMN * len(self._inner):
            self._count += len(y)
            self._left += ((y - x @ self._weights) ** 2).sum(0)
            self._sum += y.sum(0)
            self._square += (y * y).sum(0)
        self._inner = KEEP * self._inner + x.T @ x
        self._moment = KEEP * self._moment + x.T @ y
        self._seen += len(y)
        self._solve()

    def _solve(self) -> None:
        held = self._inner + RIDGE * np.eye(len(self._inner))
        self._weights = np.linalg.solve(held, self._moment)

    def fidelity(self) -> np.ndarray:
        """float64 [outputs]: the share of the scores' variance that it explained (R squared, which
        is below 0 for one that is worse than their mean); NaN for scores that do not vary."""
        with np.errstate(all="ignore"):
            spread = self._square - self._sum**2 / self._count
            return np.where(spread > 0, 1 - self._left / spread, np.nan)

    def state(self) -> dict[str, Any]:
        return {
            "inner": self._inner.copy(),
            "moment": self._moment.copy(),
            "seen": self._seen,
            "count": self._count,
            "left": self._left.copy(),
            "sum": self._sum.copy(),
            "square": self._square.copy(),
        }

    def load(self, tree: Mapping[str, Any]) -> None:
        self._inner, self._moment = tree["inner"].copy(), tree["moment"].copy()
        self._count, self._left = int(tree["count"]), tree["left"].copy()
        self._sum, self._square = tree["sum"].copy(), tree["square"].copy()
        self._seen = int(tree["seen"])
        self._solve()
