"""How to combine gradients that conflict, as weights of them: PCGrad, MGDA and UPGrad.

All three need of the gradients g_k no more than their inner products, `gram` float64 [task, task];
what they answer is the combination sum_k weights_k g_k. No gradient may be 0.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

_RIDGE = 1e-10  # added to a diagonal of ones, where gradients depend on each other
_MOST_TURNS = 1_000


@njit(cache=True)
def pcgrad(gram, orders):  # type: ignore[no-untyped-def]
    """Each gradient without its part against any other, summed (Yu et al., NeurIPS 2020, alg. 1).

    `orders` int64 [task, task]: the order in which row k's gradient meets the others.
    """
    tasks = gram.shape[0]
    total = np.zeros(tasks)
    for k in range(tasks):
        of = np.zeros(tasks)
        of[k] = 1.0
        for other in orders[k]:
            inner = 0.0
            for i in range(tasks):
                inner += of[i] * gram[i, other]
            if other != k and inner < 0.0:
                of[other] -= inner / gram[other, other]
        total += of
    return total


def mgda(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """The shortest convex combination, which no task's loss rises along (Désidéri 2012; Sener and
    Koltun, NeurIPS 2018).

    The x >= 0 that makes x'Gx / 2 - sum(x) least is that combination, but for its length.
    """
    found = least(gram, np.ones(len(gram)))
    return np.asarray(found / found.sum())


def upgrad(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each gradient moved as little as makes it conflict with none; their mean (Quinton and Rey
    2024).

    The projection of g_k onto the cone of directions d with d'g_i >= 0 is sum_i v_i g_i, with the
    v >= e_k that makes v'Gv least.
    """
    moved = [least(gram, -row) for row in gram]
    return np.asarray((np.eye(len(gram)) + moved).mean(0))


@njit(cache=True)
def least(gram, linear):  # type: ignore[no-untyped-def]
    """The x >= 0 [task] that makes x'Gx / 2 - linear'x least, exactly (Lawson and Hanson 1974).

    Solved in gradients of length 1, so that tasks of unlike scales do as well as others.
    """
    tasks = gram.shape[0]
    scale = np.empty(tasks)
    for i in range(tasks):
        scale[i] = 1.0 / np.sqrt(gram[i, i])
    g, b = np.empty((tasks, tasks)), np.empty(tasks)
    for i in range(tasks):
        b[i] = linear[i] * scale[i]
        for j in range(tasks):
            g[i, j] = gram[i, j] * scale[i] * scale[j]
        g[i, i] = 1.0 + _RIDGE
    enough = 1e-12 * np.abs(b).max()
    x, free = np.zeros(tasks), np.zeros(tasks, np.bool_)
    for _ in range(_MOST_TURNS):
        steepest, best = enough, -1
        for i in range(tasks):
            slope = b[i]
            for j in range(tasks):
                slope -= g[i, j] * x[j]
            if not free[i] and slope > steepest:
                steepest, best = slope, i
        if best < 0:
            break
        free[best] = True
        while True:
            s = _solve(g, b, free)
            reach, stop = 1.0, -1
            for i in range(tasks):
                if free[i] and s[i] <= 0.0:
                    here = x[i] / (x[i] - s[i]) if x[i] > s[i] else 0.0
                    if here < reach or stop < 0:
                        reach, stop = here, i
            x += reach * (s - x)
            if stop < 0:
                break
            x[stop], free[stop] = 0.0, False
    return x * scale


@njit(cache=True)
def _solve(g, b, free):  # type: ignore[no-untyped-def]
    """The s [task] with (g s = b) where free, and 0 elsewhere; by Cholesky's g = c c'."""
    at = np.flatnonzero(free)
    n = len(at)
    c, y, s = np.zeros((n, n)), np.zeros(n), np.zeros(len(b))
    for i in range(n):
        for j in range(i + 1):
            rest = g[at[i], at[j]]
            for m in range(j):
                rest -= c[i, m] * c[j, m]
            c[i, j] = np.sqrt(max(rest, _RIDGE / 100)) if i == j else rest / c[j, j]
        y[i] = b[at[i]]
        for m in range(i):
            y[i] -= c[i, m] * y[m]
        y[i] /= c[i, i]
    for i in range(n - 1, -1, -1):
        for m in range(i + 1, n):
            y[i] -= c[m, i] * s[at[m]]
        s[at[i]] = y[i] / c[i, i]
    return s
