"""How sure a change is: where it lies, how large it is, and whether the budget allows it.

Values are block means of one signal. They may depend on each other, so what counts is the
effective number of them: with the correlation r of neighbours, n (1 - r) / (1 + r) (Bartlett 1946).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from streaming.drift_kernels import fitted

AFTER = 3
"""Least values after a change: one wild block must not look like one."""
BEFORE = 12
"""Values before a change that tell the spread alone."""
STILL = 1e-12
"""A spread of no more than this of the level is none, but for rounding."""
DEPENDENT = 0.4
"""A correlation of neighbours above which blocks are too short, and are made longer."""


class Change(NamedTuple):
    """`split` values lie before it. `before` and `after` are means, `low` and `high` bound their
    difference with 95 %, and `score` is it in its standard errors, of so many degrees of `freedom`.
    `correlation` is that of neighbours, before the change or with it taken out."""

    split: int
    before: float
    after: float
    low: float
    high: float
    score: float
    freedom: float
    correlation: float


def strongest(values: NDArray[np.float64], unit: float, clip: float) -> Change:
    """The split of at least two values where the means differ most significantly.

    Its score counts what is within `clip` times `unit` of the middle, as the detectors do.
    """
    n, k = len(values), np.arange(1, len(values))
    sums = np.cumsum(values)
    before, after = sums[:-1] / k, (sums[-1] - sums[:-1]) / (n - k)
    best = int(np.argmax(np.abs(after - before) * np.sqrt(k * (n - k) / n)))
    split = best + 1
    middle = float(np.median(values[:split]))
    near = np.clip(values, middle - clip * unit, middle + clip * unit)
    means = near[:split].mean(), near[split:].mean()
    if split >= BEFORE:  # after it, a model that learns anew is on the move
        told = split
        _, _, spread, found = fitted(near[:split])
    else:
        told, rest = n, near - np.where(np.arange(n) < split, *means)
        spread = math.sqrt(float((rest * rest).sum()) / max(1, n - 2))
        found = float((rest[1:] * rest[:-1]).sum()) / (spread**2 * max(1, n - 2) or 1.0)
    correlation = corrected(found, told)
    spread = unit if spread <= STILL * abs(middle) else spread
    inflation = inflation_of(correlation, told)
    freedom = max(1.0, (told - 2) / inflation)
    error = spread * math.sqrt(inflation * (1 / split + 1 / (n - split)))
    reach = error * float(stdtrit(freedom, 0.975))
    size = float(after[best] - before[best])
    return Change(
        split, float(before[best]), float(after[best]), size - reach, size + reach,
        float(means[1] - means[0]) / error, freedom, correlation,
    )  # fmt: skip


def corrected(found: float, n: int) -> float:
    """A correlation in deviations from two fitted figures, less the bias of that (Kendall 1954)."""
    return min(0.99, found + 2 * (1 + 4 * found) / n)


def inflation_of(correlation: float, n: int) -> float:
    """How much wider a mean of n such values spreads than one of independent ones; 1 where the
    correlation could be chance."""
    if correlation <= 2 / math.sqrt(n):
        return 1.0
    return (1 + correlation) / (1 - correlation)


def dependent(correlation: float, n: int) -> bool:
    """Whether neighbours are so alike that blocks should be longer."""
    return correlation > max(DEPENDENT, 3 / math.sqrt(n))


def asked(freedom: float, looks: float) -> float:
    """The score that chance reaches in one of so many looks (two-sided t)."""
    return float(stdtrit(freedom, 1 - min(0.5, 0.5 / looks)))
