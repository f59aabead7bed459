"""Models that are trained anew every so often on all that is known by then, and serve until the
next time: how most recommenders are run. Training takes no time here, which is in their favour."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from model.batch import Batch, Inputs, Layout
from model.schema import Schema
from model.train import Trainer
from streaming.assess.rival import Absent, guesses

DAY_MS = 86_400_000
MOST = 16


def period_ms(first_ms: int, last_ms: int) -> int:
    """A day, or as many days as make no more than `MOST` trainings; shorter only for a log of less
    than two days, which is cut in `MOST`."""
    span = max(last_ms - first_ms, 1)
    if span < 2 * DAY_MS:
        return max(span // MOST, 1)
    return DAY_MS * -(-span // (MOST * DAY_MS))


class Fitted(Protocol):
    def predict(self, inputs: Inputs) -> np.ndarray: ...


Fit = Callable[[Inputs, np.ndarray, np.ndarray, int], Fitted]
"""Inputs, labels and mask of all that is known, in the order in which it became known."""


class Retrained:
    """`fit` on everything so far, each time `every_ms` of event time begins anew."""

    def __init__(self, schema: Schema, every_ms: int, fit: Fit) -> None:
        self._schema, self._every_ms, self._fit = schema, every_ms, fit
        self._known: list[tuple[Inputs, np.ndarray, np.ndarray]] = []
        self._period: int | None = None
        self._model: Fitted | None = None
        self.trainings = 0

    def predict(self, inputs: Inputs) -> np.ndarray:
        if self._model is None:
            return guesses(self._schema, len(inputs))
        return self._model.predict(inputs)

    def learn(self, inputs: Inputs, labels: np.ndarray, mask: np.ndarray, closed_ms: int) -> None:
        period = closed_ms // self._every_ms
        if self._period is not None and period > self._period and self._known:
            parts, all_labels, masks = zip(*self._known, strict=True)
            together = Inputs(
                np.concatenate([p.keys for p in parts]),
                np.concatenate([p.weights for p in parts]),
                np.concatenate([p.dense for p in parts]),
            )
            known = (together, np.concatenate(all_labels), np.concatenate(masks))
            self._model = self._fit(*known, closed_ms)
            self._known = [known]
            self.trainings += 1
        self._period = period
        self._known.append((inputs, labels, mask))


def ours(schema: Schema, layout: Layout, config: Trainer.Config, seed: int) -> Fit:
    """Our own network from new weights, one pass in the order of the log (more overfit ids)."""

    def fit(inputs: Inputs, labels: np.ndarray, mask: np.ndarray, now_ms: int) -> Fitted:
        trainer, size = Trainer(schema, layout, config, seed), config.batch_size
        for at in range(0, len(inputs), size):
            part = slice(at, at + size)
            trainer.step(Batch(inputs[part], labels[part], mask[part], now_ms))
        return trainer

    return fit


def lightgbm(schema: Schema, layout: Layout) -> Fit:
    """Boosted trees, one model a task; rounds by the loss of the last tenth, then all of it.

    Ids of few values are categories; of those of many, the trees have the counts and rates only.
    Raises Absent where the package is not installed.
    """
    try:
        from streaming.assess.boosted import Boosted
    except ImportError:
        raise Absent("lightgbm is not installed: pip install 'freshet[rivals]'") from None
    return lambda inputs, labels, mask, now_ms: Boosted(schema, layout, inputs, labels, mask)
