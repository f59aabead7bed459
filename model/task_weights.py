"""Task weights, and what is the same in every weighter: a function of statistics, with a state.

A weighter has `weights` float64 [task], positive and summing to the number of tasks;
`update(losses, counts, gram)`, which takes one step's mean losses [task], their numbers of labels
[task] and, where it reads gradients, their inner products [task, task], and returns the weights of
the next step; and `state()` and `load(tree)`. A loss that is not finite, or of no label, is passed
over. It holds no model, no optimiser.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Weights = NDArray[np.float64]


def normalise(weights: ArrayLike) -> Weights:
    """The weights [task], scaled to sum to their number. ValueError for one not above zero."""
    w = np.asarray(weights, np.float64)
    if w.ndim != 1 or not w.size or not np.all(np.isfinite(w) & (w > 0)):
        raise ValueError(f"weights is {w.tolist()}: expected a list of finite numbers above 0")
    w = w / w.max()  # so that no sum overflows
    return np.asarray(w * (len(w) / w.sum()))


class Weighter:
    """Starts from `base` [task], the tasks' own weights.

    `gradients` says whose inner products it reads: "representation", of the losses' gradients by
    what the towers read; "parameters", by all shared parameters; or "", none. The gradients are
    those of the losses before any weight.
    """

    gradients = ""

    def __init__(self, base: Sequence[float]) -> None:
        self._base = normalise(base)
        self._weights = self._base.copy()

    @property
    def weights(self) -> Weights:
        return self._weights.copy()

    def combine(self, gram: ArrayLike, weights: ArrayLike) -> Weights:
        """The weights [task] of the tasks' gradients by what they share, in this very step.

        `weights` [task] is what they would be, and are unless the weighter is one that combines
        gradients; it changes nothing.
        """
        return np.array(weights, np.float64)

    def update(
        self, losses: ArrayLike, counts: ArrayLike, gram: ArrayLike | None = None
    ) -> Weights:
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        return {"weights": self.weights}

    def load(self, tree: Mapping[str, Any]) -> None:
        """Goes on from a `state()`. Raises ValueError where it is of another number of tasks."""
        if np.shape(tree["weights"]) != self._weights.shape:
            raise ValueError(
                f"the state has weights of shape {np.shape(tree['weights'])}: "
                f"expected {self._weights.shape}"
            )
        self._weights = np.array(tree["weights"], np.float64)

    def _known(self, losses: ArrayLike, counts: ArrayLike) -> tuple[Weights, NDArray[np.int64]]:
        """Losses and counts [task], both 0 where there is no loss to go by."""
        loss, count = np.asarray(losses, np.float64), np.asarray(counts, np.int64)
        if loss.shape != self._weights.shape or count.shape != self._weights.shape:
            raise ValueError(
                f"losses and counts have shapes {loss.shape} and {count.shape}: "
                f"expected {self._weights.shape}"
            )
        known = np.isfinite(loss) & (count > 0)
        return np.where(known, loss, 0.0), np.where(known, count, 0)


class Fixed(Weighter):
    """Weights that stay as given, scaled to sum to the number of tasks."""

    def update(
        self, losses: ArrayLike, counts: ArrayLike, gram: ArrayLike | None = None
    ) -> Weights:
        return self.weights


class LossWindows:
    """Mean losses over windows of so many steps, each label counting once: a part of weighters.

    `update` says whether it closed a window; then `last` [task] is that window's, and before it the
    one's before. A task with no label in a window keeps its loss; NaN until it has had one.
    """

    def __init__(self, tasks: int, steps: int) -> None:
        self.size, self.steps = steps, 0
        self.sums = np.zeros(tasks)
        self.counts = np.zeros(tasks, np.int64)
        self.last = np.full(tasks, np.nan)

    def update(self, losses: Weights, counts: NDArray[np.int64]) -> bool:
        with np.errstate(over="ignore"):
            self.sums += losses * counts
        self.counts += counts
        self.steps += 1
        if self.steps < self.size:
            return False
        with np.errstate(all="ignore"):
            mean = np.where(self.counts > 0, self.sums / self.counts, self.last)
        self.last = np.where(np.isfinite(mean), mean, self.last)
        self.steps = 0
        self.sums, self.counts = np.zeros_like(self.sums), np.zeros_like(self.counts)
        return True

    def state(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "sums": self.sums.copy(),
            "counts": self.counts.copy(),
            "last": self.last.copy(),
        }

    def load(self, tree: Mapping[str, Any]) -> None:
        self.steps = int(tree["steps"])
        self.sums = np.array(tree["sums"], np.float64)
        self.counts = np.array(tree["counts"], np.int64)
        self.last = np.array(tree["last"], np.float64)
