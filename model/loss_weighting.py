"""Task weights from the tasks' losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from model.task_weights import LossWindows, Weighter, Weights, normalise

_STEEPEST = 10.0  # of ratios of losses: one wild window must not silence the other tasks
_SLOWER = 10  # a reference loss remembers so many times what the recent one does


def _ratio(over: Weights, under: Weights) -> Weights:
    """over / under [task], at most `_STEEPEST`, and 1 where it is not known."""
    with np.errstate(all="ignore"):
        ratio = over / under
    return np.where(np.isfinite(ratio) & (ratio > 0), np.minimum(ratio, _STEEPEST), 1.0)


class DynamicWeightAverage(Weighter):
    """More weight to the tasks whose loss falls least (Liu, Johns, Davison, CVPR 2019).

    weight_k = K exp(r_k / T) / sum_i exp(r_i / T), r_k = L_k(t - 1) / L_k(t - 2)

    The paper's epoch is a window of `window` steps here, L_k the mean over its labels. A task with
    no label in a window keeps its loss; until it has had two, r_k = 1. `base` is multiplied in.
    """

    def __init__(self, base: Sequence[float], temperature: float = 2.0, window: int = 200) -> None:
        super().__init__(base)
        if not 0.1 <= temperature < np.inf:
            raise ValueError(
                f"DynamicWeightAverage.temperature is {temperature}: expected 0.1 or more"
            )
        if window < 1:
            raise ValueError(f"DynamicWeightAverage.window is {window}: expected 1 or more")
        self.temperature = temperature
        self._windows = LossWindows(len(self._base), window)

    def update(
        self, losses: ArrayLike, counts: ArrayLike, gram: ArrayLike | None = None
    ) -> Weights:
        before = self._windows.last
        if self._windows.update(*self._known(losses, counts)):
            ratio = _ratio(self._windows.last, before)
            self._weights = normalise(self._base * np.exp((ratio - ratio.max()) / self.temperature))
        return self.weights

    def state(self) -> dict[str, Any]:
        return {**super().state(), **self._windows.state()}

    def load(self, tree: Mapping[str, Any]) -> None:
        super().load(tree)
        self._windows.load(tree)


class Uncertainty(Weighter):
    """Less weight to the tasks that are noisier (Kendall, Gal, Cipolla, CVPR 2018).

    weight_k is in proportion to exp(-s_k), s_k = log of the variance of task k's noise, learned by
    gradient descent at `rate` on sum_k exp(-s_k) L_k + s_k / 2, a step at a time. (A regression's
    L_k is half its squared error already.) `base` is multiplied in.
    """

    WIDEST = 7.0  # of s_k: weights within a factor of a million

    def __init__(self, base: Sequence[float], rate: float = 0.01) -> None:
        super().__init__(base)
        if not 0 < rate <= 1:
            raise ValueError(f"Uncertainty.rate is {rate}: expected above 0, at most 1")
        self.rate = rate
        self._log_variance = np.zeros(len(self._base))

    def update(
        self, losses: ArrayLike, counts: ArrayLike, gram: ArrayLike | None = None
    ) -> Weights:
        loss, count = self._known(losses, counts)
        with np.errstate(over="ignore"):
            slope = 0.5 - np.minimum(np.exp(-self._log_variance) * loss, _STEEPEST)
        moved = self._log_variance - self.rate * np.where(count > 0, slope, 0.0)
        self._log_variance = moved.clip(-self.WIDEST, self.WIDEST)
        self._weights = normalise(self._base * np.exp(-self._log_variance))
        return self.weights

    def state(self) -> dict[str, Any]:
        return {**super().state(), "log_variance": self._log_variance.copy()}

    def load(self, tree: Mapping[str, Any]) -> None:
        super().load(tree)
        self._log_variance = np.array(tree["log_variance"], np.float64)


class AgainstReference(Weighter):
    """More weight to the tasks that do worse of late than they themselves used to.

    weight_k is in proportion to base_k (recent_k / reference_k)^power. Both are running means of
    task k's progressive losses, over the last `window` steps with a label of it or so, and over ten
    times as many; so a task is held against its own past, not against the others' scales.
    """

    def __init__(self, base: Sequence[float], power: float = 1.0, window: int = 200) -> None:
        super().__init__(base)
        if not 0 <= power <= 10:
            raise ValueError(f"AgainstReference.power is {power}: expected 0 to 10")
        if window < 1:
            raise ValueError(f"AgainstReference.window is {window}: expected 1 or more")
        self.power, self.window = power, window
        tasks = len(self._base)
        self._steps = np.zeros(tasks, np.int64)
        self._recent, self._reference = np.zeros(tasks), np.zeros(tasks)

    def update(
        self, losses: ArrayLike, counts: ArrayLike, gram: ArrayLike | None = None
    ) -> Weights:
        loss, count = self._known(losses, counts)
        self._steps += count > 0
        for mean, memory in ((self._recent, self.window), (self._reference, self.window * _SLOWER)):
            share = (count > 0) / np.clip(self._steps, 1, memory)
            mean += share * loss - share * mean
        ratio = _ratio(self._recent, self._reference).clip(1 / _STEEPEST)
        self._weights = normalise(self._base * ratio**self.power)
        return self.weights

    def state(self) -> dict[str, Any]:
        return {
            **super().state(),
            "steps": self._steps.copy(),
            "recent": self._recent.copy(),
            "reference": self._reference.copy(),
        }

    def load(self, tree: Mapping[str, Any]) -> None:
        super().load(tree)
        self._steps = np.array(tree["steps"], np.int64)
        self._recent = np.array(tree["recent"], np.float64)
        self._reference = np.array(tree["reference"], np.float64)
