"""Is a model worse than another by more than a margin? A sequential test on pairs of predictions.

For each label, both models' squared errors are compared: d = (candidate - y)^2 - (anchor - y)^2. Of
H0, that given the past the mean of d is at most m, a bet on the contrary multiplies a stake by
1 + lambda (d - m), which is a martingale at most: so under H0 the stake ever reaches 1 / error with
probability `error` at most, however often one looks, and whatever depends on what (Ville, 1939;
Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", 2023). The stake
is the mean over a grid of lambdas; each is cut, for a whole batch, so that no label can cost it
all: that much is known from the predictions before the labels are. Of each stake 1 / (j (j + 1)) is
kept back for the j-th batch: so a change late in a round, after much that went well, is seen too.

m is `margin` times the label's variance as seen so far: with a margin of .02, a model that explains
8 % of it may not fall to 6 %.
"""

from __future__ import annotations

import math

import numpy as np

from model.batch import Batch
from model.schema import Schema, Task

LAMBDAS = np.array([0.25, 1.0, 4.0, 16.0, 64.0])
MOST_STAKED = 0.5
SPREADS = 4.0
"""Values of a regression further from the mean than so many deviations count as that far."""
LEAST_SEEN = 100
"""Labels before a task is judged: its variance is not known till then."""


class Evidence:
    """Of one task: that the candidate is `worse` than the anchor by more than the margin, since the
    last `restart`, and that it is `no_worse`, since the moment after the last `doubt` that speaks
    for it most. Both are logarithms of stakes that began at 1."""

    def __init__(self, task: Task, margin: float) -> None:
        self._task, self._margin = task, margin
        self._count, self._mean, self._spread = 0, np.zeros(max(1, task.classes or 1)), 0.0
        self.restart()

    def restart(self) -> None:
        self._stakes, self._batches = np.full(len(LAMBDAS), -math.inf), 0
        self._for_it = np.zeros(len(LAMBDAS))
        self.labels, self.excess = 0, 0.0

    def doubt(self) -> None:
        """From here on it has to be shown anew that it is no worse."""
        self._for_it[:] = 0

    @property
    def worse(self) -> float:
        kept_back = -math.log(self._batches + 1)
        parts = np.append(self._stakes - math.log(len(LAMBDAS)), kept_back)
        return float(np.logaddexp.reduce(parts))

    @property
    def no_worse(self) -> float:
        return float(np.logaddexp.reduce(self._for_it) - math.log(len(LAMBDAS)))

    def update(self, candidate: np.ndarray, anchor: np.ndarray, labels: np.ndarray) -> None:
        """Predictions [n, outputs of the task], and labels [n] that are known. What is not finite
        counts as the worst there is."""
        if len(labels) and self._count >= LEAST_SEEN:
            margin = self._margin * self._variance()
            d, most = self._compared(candidate, anchor, labels)
            self._batches += 1
            begin = -math.log(self._batches * (self._batches + 1))
            bets = np.minimum(LAMBDAS, MOST_STAKED / (most + margin))[:, None]
            self._stakes = np.logaddexp(self._stakes, begin)
            self._stakes += np.log1p(bets * (d - margin)).sum(1)
            self._for_it = np.maximum(self._for_it, 0)
            self._for_it += np.log1p(bets * (margin - d)).sum(1)
            self.labels += len(labels)
            self.excess += (float(d.mean()) - self.excess) * len(labels) / self.labels
        self._absorb(labels)

    def _variance(self) -> float:
        if self._task.kind == "regression":
            return max(self._spread / self._count, 1e-12)
        p = self._mean
        return max(float((p * (1 - p)).sum()), 1e-6)

    def _absorb(self, labels: np.ndarray) -> None:
        task = self._task
        values = labels[:, None].astype(np.float64)
        if task.kind == "multiclass":
            values = (values == np.arange(task.classes)).astype(np.float64)
        if n := len(values):  # two samples into one: Chan, Golub, LeVeque, 1979
            mean, count = values.mean(0), self._count + n
            apart = mean - self._mean
            self._spread += float(((values - mean) ** 2).sum())
            self._spread += float((apart**2).sum()) * self._count * n / count
            self._mean = self._mean + apart * (n / count)
            self._count = count

    def _compared(
        self, candidate: np.ndarray, anchor: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, float]:
        """d of each label [n], and how far from 0 any could have been."""
        kind = self._task.kind
        if kind == "multiclass":
            one, two = (np.nan_to_num(p.astype(np.float64), nan=1.0) for p in (candidate, anchor))
            of_class = (one**2 - two**2).sum(1, keepdims=True) - 2 * (one - two)
            at = labels.astype(np.int64)
            return of_class[np.arange(len(at)), at], float(np.abs(of_class).max())
        low, high = 0.0, 1.0
        if kind == "regression":
            spread = SPREADS * math.sqrt(self._variance())
            low, high = self._mean[0] - spread, self._mean[0] + spread
        known = np.nan_to_num(anchor[:, 0].astype(np.float64), nan=(low + high) / 2)
        y, anchor_says = np.clip(labels, low, high), np.clip(known, low, high)
        says = np.clip(candidate[:, 0].astype(np.float64), low, high)
        worst = np.where(y - low > high - y, low, high)
        says = np.where(np.isfinite(candidate[:, 0]), says, worst)
        apart, middle = says - anchor_says, says + anchor_says
        most = np.abs(apart) * np.maximum(np.abs(middle - 2 * low), np.abs(middle - 2 * high))
        return apart * (middle - 2 * y), float(most.max())


class Paired:
    """The evidence of all tasks that can be compared; `error` is shared among them, and among
    rounds: to round j falls 1 / (j (j + 1)) of it, so it holds for all of them together."""

    def __init__(self, schema: Schema, error: float, margin: float) -> None:
        self._schema, self._error = schema, error
        self.tasks = {task.name: Evidence(task, margin) for task in schema.tasks}
        self.round = 1

    def update(self, batch: Batch, candidate: np.ndarray, anchor: np.ndarray) -> None:
        """Takes in a batch that both have predicted, [n, outputs], before any of its labels."""
        for k, task in enumerate(self._schema.tasks):
            here, columns = batch.mask[:, k], self._schema.output_slices[task.name]
            labels = batch.labels[here, k]
            self.tasks[task.name].update(candidate[here, columns], anchor[here, columns], labels)

    def worse(self) -> list[str]:
        """The tasks of which it is shown that the candidate is worse."""
        share = self._error / (len(self.tasks) * self.round * (self.round + 1))
        return [name for name, one in self.tasks.items() if one.worse >= -math.log(share)]

    def no_worse(self, names: list[str]) -> bool:
        """Whether it is shown of each of these tasks that it is not worse by the margin."""
        least = -math.log(self._error / len(self.tasks))
        return all(self.tasks[name].no_worse >= least for name in names)

    def restart(self) -> None:
        """The next round, with another anchor: evidence begins anew, variances are kept."""
        self.round += 1
        for one in self.tasks.values():
            one.restart()
