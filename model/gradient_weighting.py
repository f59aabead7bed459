"""Task weights from the inner products of the tasks' gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.combining import mgda, pcgrad, upgrad
from model.task_weights import LossWindows, Weighter, Weights, normalise

GRADIENTS = ("representation", "parameters")
LEAST = 1e-6
"""A task's least share of the others' mean weight: none is silent."""
SMALLEST = 1e-24
"""A gradient whose square is a lesser part of the largest's cannot be told from 0."""


class GradNorm(Weighter):
    """Weights that bring the tasks to learn at one pace (Chen et al., ICML 2018).

    The norm of task k's weighted gradient is drawn to the mean norm times base_k r_k^power, where
    r_k is L_k(t) / L_k(0) over the tasks' mean of it: by gradient descent at `rate` on the sum of
    the distances, in units of the mean norm (so that `rate` means the same in any network). L_k is
    the mean over a window of `window` steps, L_k(0) that of the first; until both, r_k = 1. A task
    without a label in a step stays where it is.
    """

    def __init__(
        self,
        base: Sequence[float],
        power: float = 1.0,
        rate: float = 0.01,
        window: int = 200,
        gradients: str = "representation",
    ) -> None:
        super().__init__(base)
        if not 0 <= power <= 10:
            raise ValueError(f"GradNorm.power is {power}: expected 0 to 10")
        if not 0 < rate <= 1:
            raise ValueError(f"GradNorm.rate is {rate}: expected above 0, at most 1")
        if window < 1:
            raise ValueError(f"GradNorm.window is {window}: expected 1 or more")
        self.power, self.rate, self.gradients = power, rate, gradients
        self._windows = LossWindows(len(self._base), window)
        self._first = np.full(len(self._base), np.nan)

    def update(
        self, losses: ArrayLike, counts: ArrayLike, gram: ArrayLike | None = None
    ) -> Weights:
        if self._windows.update(*self._known(losses, counts)):
            self._first = np.where(np.isnan(self._first), self._windows.last, self._first)
        if gram is None:
            return self.weights
        with np.errstate(all="ignore"):
            norm = np.sqrt(np.diag(np.asarray(gram, np.float64)))
            here = np.isfinite(norm) & (norm > 0)
            if not here.any():
                return self.weights
            norm = np.where(here, norm / norm[here].max(), 0.0)
            weighted = self._weights * norm
            mean = weighted[here].mean()
            pace = self._windows.last / self._first
            pace = np.where(np.isfinite(pace) & (pace > 0), pace.clip(0.01, 100), 1.0)
            aim = mean * self._base * (pace / pace.mean()) ** self.power
            slope = np.where(here, np.sign(weighted - aim) * norm / mean, 0.0)
        moved = self._weights - self.rate * slope
        self._weights = normalise(np.maximum(moved, 0.01))
        return self.weights

    def state(self) -> dict[str, Any]:
        return {**super().state(), **self._windows.state(), "first": self._first.copy()}

    def load(self, tree: Mapping[str, Any]) -> None:
        super().load(tree)
        self._windows.load(tree)
        self._first = np.array(tree["first"], np.float64)


class Combining(Weighter):
    """PCGrad, MGDA or UPGrad (`model.combining`): the gradients by what tasks share are weighted
    anew in each step; what is a task's own learns by `base`.

    PCGrad and UPGrad combine the gradients of the weighted losses, so their promises hold of what
    is learned. MGDA would take back any weight that it is given, so it combines those of the losses
    as they are, and its weights are multiplied by the given ones: with equal ones, no loss rises. A
    task without a gradient, such as one with no label in the batch, stays out of it. PCGrad's
    orders come of the seed and the step.
    """

    def __init__(
        self, base: Sequence[float], method: str, gradients: str = "representation", seed: int = 0
    ) -> None:
        super().__init__(base)
        self.method, self.gradients, self.seed = method, gradients, seed
        self._steps = 0

    def combine(self, gram: ArrayLike, weights: ArrayLike) -> Weights:
        g, given = np.asarray(gram, np.float64), np.array(weights, np.float64)
        size = np.diag(g)
        if not np.isfinite(g).all():
            return given
        here = size > SMALLEST * size.max()
        if here.sum() < 2:
            return given
        some = given[here]
        found = some * self._of(g[np.ix_(here, here)] / size.max(), some)
        found = np.maximum(found / found.sum(), LEAST / len(found))
        given[here] = found * (some.sum() / found.sum())
        return given

    def _of(self, gram: NDArray[np.float64], weights: Weights) -> NDArray[np.float64]:
        if self.method == "mgda":
            return mgda(gram)
        gram = gram * np.outer(weights, weights)
        if self.method == "upgrad":
            return upgrad(gram)
        draw = np.random.Generator(np.random.Philox(key=self.seed, counter=self._steps))
        tasks = len(gram)
        orders = draw.permuted(np.tile(np.arange(tasks), (tasks, 1)), axis=1)
        return np.asarray(pcgrad(gram, orders))

    def update(
        self, losses: ArrayLike, counts: ArrayLike, gram: ArrayLike | None = None
    ) -> Weights:
        self._steps += 1
        return self.weights

    def state(self) -> dict[str, Any]:
        return {**super().state(), "steps": self._steps}

    def load(self, tree: Mapping[str, Any]) -> None:
        super().load(tree)
        self._steps = int(tree["steps"])
