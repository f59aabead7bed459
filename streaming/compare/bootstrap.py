"""Intervals of paired differences over time, by resampling blocks of it (Künsch 1989; here blocks
that do not overlap, Carlstein 1986).

Neighbours in time are alike, so single examples are no independent draws; blocks that are long
against what ties neighbours nearly are. With few blocks the percentile interval is too narrow; it
is stretched as Student's t is wider than the normal, and by sqrt(b / (b - 1)) (Hesterberg 2015,
section 3.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

BLOCKS, DRAWS = 50, 1_000
CONFIDENCE = 0.95
BINS = 4_096
LEAST = 8


@dataclass(frozen=True)
class Interval:
    """A figure, and between what it lies, at `CONFIDENCE`; NaN where there is too little."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}

    def times(self, factor: float) -> Interval:
        ends = sorted((self.low * factor, self.high * factor))
        return Interval(self.value * factor, *ends)


class Blocks:
    """`n` examples in the order of time, cut into `blocks` of one size (of `least`, or fewer
    blocks), and draws of them."""

    def __init__(
        self, n: int, blocks: int = BLOCKS, draws: int = DRAWS, seed: int = 0, least: int = LEAST
    ) -> None:
        self.n, self.count = n, max(1, min(blocks, n // least))
        self._starts = np.linspace(0, n, self.count, endpoint=False).astype(np.int64)
        rng = np.random.default_rng(seed)
        chances = np.full(self.count, 1 / self.count)
        self._times = rng.multinomial(self.count, chances, size=draws).astype(np.float64)

    def mean(self, values: np.ndarray) -> Interval:
        """Of the mean of `values` [n]."""
        if not self.n:
            return Interval(math.nan, math.nan, math.nan)
        sums = np.add.reduceat(values.astype(np.float64), self._starts)
        sizes = np.diff(np.append(self._starts, self.n))
        return self._around(float(values.mean()), (self._times @ sums) / (self._times @ sizes))

    def ratio(self, over: np.ndarray, under: np.ndarray) -> Interval:
        """Of the sum of `over` over that of `under`, both [n]."""
        sums = [np.add.reduceat(v.astype(np.float64), self._starts) for v in (over, under)]
        with np.errstate(all="ignore"):
            drawn = (self._times @ sums[0]) / (self._times @ sums[1])
        return self._around(float(over.sum() / under.sum()), drawn)

    def auc_gain(self, labels: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> Interval:
        """Of the AUC of predictions `ours` less that of `theirs`, both [n]."""
        value = auc(labels, ours) - auc(labels, theirs)
        a, b = (self._aucs(labels > 0.5, predictions) for predictions in (ours, theirs))
        return self._around(value, a - b)

    def _aucs(self, positive: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """The AUC of each draw; predictions in bins of about equal numbers."""
        edges = np.unique(np.quantile(predictions, np.linspace(0, 1, BINS + 1)[1:-1]))
        bins = np.searchsorted(edges, predictions, side="right")
        sizes = np.diff(np.append(self._starts, self.n))
        cell = (np.repeat(np.arange(self.count), sizes) * 2 + positive) * BINS + bins
        held = np.bincount(cell, minlength=self.count * 2 * BINS).astype(np.float64)
        drawn = (self._times @ held.reshape(self.count, -1)).reshape(-1, 2, BINS)
        negatives, positives = drawn[:, 0], drawn[:, 1]
        below = negatives.cumsum(1) - negatives / 2
        with np.errstate(invalid="ignore"):
            pairs = negatives.sum(1) * positives.sum(1)
            return np.asarray((positives * below).sum(1) / pairs)

    def _around(self, value: float, drawn: np.ndarray) -> Interval:
        drawn = drawn[np.isfinite(drawn)]
        if self.count < 2 or len(drawn) < 2 or not math.isfinite(value):
            return Interval(value, math.nan, math.nan)
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(drawn, [tail, 1 - tail])
        wider = _stretch(self.count)
        return Interval(
            value, value - wider * (value - float(low)), value + wider * (float(high) - value)
        )


def auc(labels: np.ndarray, predictions: np.ndarray) -> float:
    """The chance that a positive is above a negative (Mann-Whitney); NaN without one of them."""
    positive = labels > 0.5
    order = np.argsort(predictions, kind="stable")
    _, first, sizes = np.unique(predictions[order], return_index=True, return_counts=True)
    ranks = np.empty(len(labels))
    ranks[order] = np.repeat(first + (sizes + 1) / 2, sizes)
    p = int(positive.sum())
    pairs = p * (len(labels) - p)
    return float((ranks[positive].sum() - p * (p + 1) / 2) / pairs) if pairs else math.nan


def _stretch(blocks: int) -> float:
    """How much wider than the percentiles (Student's t by Cornish and Fisher's expansion)."""
    z, v = NormalDist().inv_cdf((1 + CONFIDENCE) / 2), blocks - 1
    t = z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
    return t / z * math.sqrt(blocks / v)
