"""Weighters: task weights as functions of the tasks' losses. They hold no model, no optimiser.

Every weighter has `weights` float64 [task], positive and summing to the number of tasks;
`update(losses, counts)`, which takes one step's mean losses [task] and their numbers of labels
[task] and returns the new weights; and `state()` and `load(tree)`. A loss that is not finite, or of
no label, is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.schema import nearest

Weights = NDArray[np.float64]
_STEEPEST = 10.0  # of DWA's ratios: one wild window must not silence the other tasks


class Weighter(Protocol):
    @property
    def weights(self) -> Weights: ...
    def update(self, losses: ArrayLike, counts: ArrayLike) -> Weights: ...
    def state(self) -> dict[str, Any]: ...
    def load(self, tree: Mapping[str, Any]) -> None: ...


def normalise(weights: ArrayLike) -> Weights:
    """The weights [task], scaled to sum to their number. ValueError for one not above zero."""
    w = np.asarray(weights, np.float64)
    if w.ndim != 1 or not w.size or not np.all(np.isfinite(w) & (w > 0)):
        raise ValueError(f"weights is {w.tolist()}: expected a list of finite numbers above 0")
    w = w / w.max()  # so that no sum overflows
    return np.asarray(w * (len(w) / w.sum()))


class Fixed:
    """Weights that stay as given, scaled to sum to the number of tasks."""

    def __init__(self, weights: Sequence[float]) -> None:
        self._weights = normalise(weights)

    @property
    def weights(self) -> Weights:
        return self._weights.copy()

    def update(self, losses: ArrayLike, counts: ArrayLike) -> Weights:
        return self.weights

    def state(self) -> dict[str, Any]:
        return {"weights": self.weights}

    def load(self, tree: Mapping[str, Any]) -> None:
        self._weights = np.array(tree["weights"], np.float64)


class DynamicWeightAverage:
    """More weight to the tasks whose loss falls least (Liu, Johns, Davison, CVPR 2019).

    weight_k = K exp(r_k / T) / sum_i exp(r_i / T), r_k = L_k(t - 1) / L_k(t - 2)

    The paper's epoch is a window of `window` steps here, L_k the mean over its labels. A task with
    no label in a window keeps its loss; until it has had two, r_k = 1. `base` [task] are weights to
    multiply in, such as `Task.weight`; ones by default.
    """

    def __init__(
        self,
        tasks: int,
        temperature: float = 2.0,
        window: int = 200,
        base: Sequence[float] | None = None,
    ) -> None:
        if tasks < 1:
            raise ValueError(f"DynamicWeightAverage.tasks is {tasks}: expected 1 or more")
        if not 0.1 <= temperature < np.inf:
            raise ValueError(
                f"DynamicWeightAverage.temperature is {temperature}: expected 0.1 or more"
            )
        if window < 1:
            raise ValueError(f"DynamicWeightAverage.window is {window}: expected 1 or more")
        self._base = normalise(np.ones(tasks) if base is None else base)
        if len(self._base) != tasks:
            raise ValueError(
                f"DynamicWeightAverage.base has {len(self._base)} weights: expected {tasks}"
            )
        self.temperature, self.window = temperature, window
        self._weights = self._base.copy()
        self._steps = 0
        self._sums = np.zeros(tasks)
        self._counts = np.zeros(tasks, np.int64)
        self._last = np.full(tasks, np.nan)  # mean losses of the last whole window

    @property
    def weights(self) -> Weights:
        return self._weights.copy()

    def update(self, losses: ArrayLike, counts: ArrayLike) -> Weights:
        loss, count = np.asarray(losses, np.float64), np.asarray(counts, np.int64)
        if loss.shape != self._last.shape or count.shape != self._last.shape:
            raise ValueError(
                f"losses and counts have shapes {loss.shape} and {count.shape}: "
                f"expected {self._last.shape}"
            )
        known = np.isfinite(loss) & (count > 0)
        with np.errstate(over="ignore"):
            self._sums += np.where(known, loss, 0.0) * np.where(known, count, 0)
        self._counts += np.where(known, count, 0)
        self._steps += 1
        if self._steps == self.window:
            self._close()
        return self.weights

    def _close(self) -> None:
        with np.errstate(all="ignore"):
            mean = np.where(self._counts > 0, self._sums / self._counts, self._last)
            mean = np.where(np.isfinite(mean), mean, self._last)
            ratio = mean / self._last
        ratio = np.where(np.isfinite(ratio) & (ratio > 0), np.minimum(ratio, _STEEPEST), 1.0)
        self._weights = normalise(self._base * np.exp((ratio - ratio.max()) / self.temperature))
        self._last, self._steps = mean, 0
        self._sums, self._counts = np.zeros_like(self._sums), np.zeros_like(self._counts)

    def state(self) -> dict[str, Any]:
        return {
            "weights": self.weights,
            "steps": self._steps,
            "sums": self._sums.copy(),
            "counts": self._counts.copy(),
            "last": self._last.copy(),
        }

    def load(self, tree: Mapping[str, Any]) -> None:
        if np.shape(tree["weights"]) != self._weights.shape:
            raise ValueError(
                f"the state has weights of shape {np.shape(tree['weights'])}: "
                f"expected {self._weights.shape}"
            )
        self._weights = np.array(tree["weights"], np.float64)
        self._steps = int(tree["steps"])
        self._sums = np.array(tree["sums"], np.float64)
        self._counts = np.array(tree["counts"], np.int64)
        self._last = np.array(tree["last"], np.float64)


KINDS = ("fixed", "dwa")


@dataclass(frozen=True)
class Weighting:
    """Which weighter an application has: `fixed`, or `dwa` (its window is in steps).

    Both start from the tasks' own weights.
    """

    kind: str = "fixed"
    temperature: float = 2.0
    window: int = 200

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"Weighting.kind is {self.kind!r}: {nearest(self.kind, KINDS)}")

    def build(self, base: Sequence[float]) -> Weighter:
        """The weighter, for tasks whose own weights are `base` [task]."""
        if self.kind == "fixed":
            return Fixed(base)
        return DynamicWeightAverage(len(base), self.temperature, self.window, base)
