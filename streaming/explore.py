"""What to show beside the best known: how an application explores, and with which chances.

Without it a new item that nobody was shown stays unknown. What chance had a hand in is logged with
its propensity, so that other policies can be judged by the log.

epsilon   each place goes, with the chance `epsilon`, to any candidate that is left, all alike. The
          propensity is that of this candidate in this place, given those above it.
thompson  a draw of each task's last layer from what is not known of it, a normal distribution
          around its weights; the candidates are ranked by the draw (Agrawal, Goyal, ICML 2013, on
          features that a network learned: Riquelme, Tucker, Snoek, ICLR 2018). The propensity is
          the share of draws, this one and `DRAWS` more, by which the candidate is shown in any
          place: never 0, and too high by (1 - p) / (1 + `DRAWS`) in the mean.

What is not known: the inverse of P = I + sum of c h h', over the impressions that this server has
shown, with h a task's last hidden layer and c the variance p(1 - p) of a binary label, 1 of others.
Labels move the weights, by learning; P needs none. An h longer than `LONGEST` counts as that long,
and one that is not finite is left out: P stays a matrix that can be factored, whatever was shown.
Shapes: n candidates; task; w hidden numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from model.schema import Schema, nearest
from model.score import Scorer

KINDS = ("none", "epsilon", "thompson")
DRAWS = 64
LONGEST = 1_000.0
_LEAST = 1e-6


@dataclass(frozen=True)
class Explore:
    """`epsilon` of kind "epsilon"; `spread` scales the draws of "thompson", which forget what they
    were shown with a half-life of so many `impressions`."""

    kind: str = "none"
    epsilon: float = 0.05
    spread: float = 1.0
    impressions: int = 100_000

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"Explore.kind is {self.kind!r}: {nearest(self.kind, KINDS)}")
        if not 0 < self.epsilon <= 1:
            raise ValueError(f"Explore.epsilon is {self.epsilon}: expected above 0, 1 at most")
        if not self.spread > 0:
            raise ValueError(f"Explore.spread is {self.spread}: expected above 0")
        if self.impressions < 1:
            raise ValueError(f"Explore.impressions is {self.impressions}: expected 1 or more")


class Chosen(NamedTuple):
    """Rows of the candidates to show, in order, and each one's propensity."""

    rows: list[int]
    propensity: list[float]


def epsilon_greedy(scores: np.ndarray, k: int, epsilon: float, draw: np.random.Generator) -> Chosen:
    """Of scores [n] the k best, but each place goes to any that is left by chance `epsilon`."""
    left = np.argsort(-scores, kind="stable").tolist()
    rows, propensity = [], []
    for _ in range(min(k, len(left))):
        at = int(draw.integers(len(left))) if draw.random() < epsilon else 0
        propensity.append(epsilon / len(left) + (1 - epsilon if at == 0 else 0.0))
        rows.append(left.pop(at))
    return Chosen(rows, propensity)


class Thompson:
    """Draws of the last layers of one server's models. One thread at a time."""

    def __init__(self, schema: Schema, explore: Explore, seed: int | None = None) -> None:
        self._explore, self._draw = explore, np.random.default_rng(seed)
        self._keep = 0.5 ** (1 / explore.impressions)
        self._binary = np.array([t.kind == "binary" for t in schema.tasks])
        self._goals = np.array([t.kind != "multiclass" for t in schema.tasks])
        self._starts = np.array([schema.output_slices[t.name].start for t in schema.tasks])
        self._known: np.ndarray | None = None  # [task, w, w], beside I

    def drawn(
        self, scorer: Scorer, predicted: np.ndarray, hidden: np.ndarray, draws: int
    ) -> np.ndarray:
        """Predictions [n, outputs] of each of so many draws: [draws, n, outputs]."""
        tasks, _, width = hidden.shape
        if self._known is None or self._known.shape != (tasks, width, width):
            self._known = np.zeros((tasks, width, width))
        root = np.linalg.cholesky(np.eye(width) + self._known)
        noise = self._draw.standard_normal((tasks, width, draws))
        moves = np.linalg.solve(root.transpose(0, 2, 1), noise) * self._explore.spread
        moved = hidden @ moves.astype(np.float32)  # [task, n, draws]
        out = np.repeat(predicted[None], draws, 0)
        for task in np.flatnonzero(self._goals):
            at = self._starts[task]
            p = predicted[:, at]
            if self._binary[task]:
                p = p.clip(_LEAST, 1 - _LEAST)
                out[:, :, at] = 1 / (1 + (1 / p - 1) * np.exp(-moved[task].T.clip(-50, 50)))
            else:
                out[:, :, at] = p + moved[task].T * scorer.label_scale[at]
        return out

    def shown(self, predicted: np.ndarray, hidden: np.ndarray) -> None:
        """Takes in what was shown: predictions [k, outputs] and hidden [task, k, w]."""
        assert self._known is not None
        p = predicted[:, self._starts].T  # [task, k]
        counts = np.where(self._binary[:, None], p * (1 - p), 1.0)[:, :, None]
        fine = np.isfinite(hidden).all(2, keepdims=True) & np.isfinite(counts)
        h = np.where(fine, hidden, 0.0).astype(np.float64)
        length = np.linalg.norm(h, axis=2, keepdims=True)
        h *= np.sqrt(np.where(fine, counts, 0.0)) * (LONGEST / np.maximum(length, LONGEST))
        self._known *= self._keep ** len(predicted)
        self._known += h.transpose(0, 2, 1) @ h
