"""Policies as shares of actions, from predicted rewards: [n, actions] in, [n, actions] out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

EXPLORE = 0.1

Policy = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Of predictions [n, actions], and which actions there are [n, actions], the shares."""


def uniform(q: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Each action alike."""
    return np.asarray(there / there.sum(1, keepdims=True))


def proportional(q: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Each action as often as it is likely to be rewarded."""
    shares = np.where(there, q, 0.0)
    return np.asarray(shares / shares.sum(1, keepdims=True))


def greedy(q: np.ndarray, there: np.ndarray) -> np.ndarray:
    """The likeliest to be rewarded (the first of several), and one time in ten any."""
    best = np.where(there, q, -np.inf).argmax(1)
    shares = EXPLORE * uniform(q, there)
    shares[np.arange(len(q)), best] += 1 - EXPLORE
    return shares


POLICIES: dict[str, Policy] = {
    "uniform": uniform,
    "proportional": proportional,
    "greedy": greedy,
}
