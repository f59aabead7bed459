"""What is known of the labels before the network says anything: base rates, means and scales.

A network that starts from them has no large first errors, which would fill AdaGrad's sums of
squares for good (rare tasks suffer most) and swing the tasks that share with it.

Shapes: n examples; task; outputs, their predictions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from model.kernel import kernel
from model.layers import Standardiser
from model.losses import Objective


class LabelPrior:
    """Running means of the labels of each output, over those learnt so far.

    To logits it adds the log-odds of a binary task's base rate (the logs of a multiclass one's), in
    a chain that of the rate given the task before; a regression it predicts in units of the
    standard deviation, from the mean, and never beyond the labels learnt so far. Where negatives
    were sampled, predictions are corrected: p / (p + (1 - p) / kept), He et al., ADKDD 2014,
    section 6.3.
    """

    def __init__(self, objective: Objective):
        self.objective = objective
        exact = ~objective.is_regression[objective.task_of_output]
        self.seen = Standardiser(objective.outputs, clip=8.0, exact=exact)
        self.low = np.full(objective.outputs, np.inf, np.float32)
        self.high = -self.low
        self._regressions = np.flatnonzero(objective.is_regression)
        self._columns = objective.starts[self._regressions]
        self._sampled = objective.kept_negatives < 1
        self._as_update()

    def _as_update(self) -> None:
        self.offset = np.zeros(self.objective.outputs, np.float32)
        objective = self.objective
        _offsets(
            self.seen.count, self.seen.mean, objective.kinds, objective.starts, objective.ends,
            objective.chains.before, self.offset,
        )  # fmt: skip

    def standard(self, labels: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Labels [n, task] with regressions in standard units, and their mask without regressions
        never seen: a first batch only sets the scale. One that is not finite stays in it, as NaN,
        so that its step is refused."""
        if not self._regressions.size:
            return labels, mask
        known = (self.seen.count[self._columns] > 0) | ~np.isfinite(labels[:, self._regressions])
        labels, mask, at = labels.copy(), mask.copy(), self._columns
        _scale(labels, self._regressions, self.seen.mean[at], self.seen.scale[at], self.seen.clip)
        mask[:, self._regressions] &= known
        return labels, mask

    def values(self, linked: np.ndarray) -> np.ndarray:
        """Linked outputs [n, outputs] -> predictions in the labels' own units."""
        out = linked.copy()
        if self._regressions.size:
            at = self._columns
            values = self.seen.mean[at] + self.seen.scale[at] * out[:, at]
            known = self.seen.count[at] > 0
            out[:, at] = np.where(known, values.clip(self.low[at], self.high[at]), values)
        if self._sampled.any():
            p, kept = out[:, self._sampled], self.objective.kept_negatives[self._sampled]
            out[:, self._sampled] = p / (p + (1 - p) / kept)
        return out

    def absorb(self, labels: np.ndarray, mask: np.ndarray) -> None:
        """Takes in labels and mask [n, task] that have been predicted and learnt."""
        objective = self.objective
        weights = np.ones(len(objective.kinds))
        targets, counts = objective.targets(labels, mask, weights, len(labels))
        self.seen.update(targets, counts > 0)
        self.low = np.minimum(
            self.low, np.where(counts > 0, targets, np.inf).min(0, initial=np.inf)
        )
        self.high = np.maximum(
            self.high, np.where(counts > 0, targets, -np.inf).max(0, initial=-np.inf)
        )
        self._as_update()

    def state(self) -> dict[str, Any]:
        return {**self.seen.state(), "low": self.low.copy(), "high": self.high.copy()}

    def load(self, state: dict[str, Any]) -> None:
        self.seen.load(state)
        self.low, self.high = state["low"].copy(), state["high"].copy()
        self._as_update()


@kernel
def _scale(labels, columns, mean, scale, clip) -> None:  # type: ignore[no-untyped-def]
    for j in range(columns.shape[0]):
        for i in range(labels.shape[0]):
            z = (labels[i, columns[j]] - mean[j]) / scale[j]
            if np.isfinite(labels[i, columns[j]]):
                z = min(max(z, -clip), clip)
            else:
                z = np.nan
            labels[i, columns[j]] = z


@kernel
def _offsets(count, mean, kinds, starts, ends, before, out) -> None:  # type: ignore[no-untyped-def]
    for k in range(kinds.shape[0]):
        width = ends[k] - starts[k]
        for c in range(starts[k], ends[k]):
            # As if one more label had been seen, of all classes in equal parts.
            rate = (mean[c] * count[c] + 1.0 / max(width, 2)) / (count[c] + 1.0)
            if before[k] >= 0:
                of = starts[before[k]]
                given = (mean[of] * count[of] + 0.5) / (count[of] + 1.0)
                rate = min(rate / given, (count[c] + 0.5) / (count[c] + 1.0))
            if kinds[k] == 0:
                out[c] = np.log(rate / (1.0 - rate))
            elif kinds[k] == 1:
                out[c] = np.log(rate)
