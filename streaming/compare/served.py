"""What a run served, task by task, kept with the labels that came; and runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.schema import Schema
from streaming.learner import Learner, Step


@dataclass
class Served:
    """Predictions of one task, of one run, where a label came: `ids` int64 [n] of impressions,
    `times_ms` int64 [n] of theirs, `labels` float32 [n], `predictions` float32 [n, outputs]."""

    ids: np.ndarray
    times_ms: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray


class Collector:
    """Keeps what each step served (`Replay.on_step`)."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._parts: dict[str, list[tuple[np.ndarray, ...]]] = {t.name: [] for t in schema.tasks}

    def step(self, learner: Learner, step: Step) -> None:
        cut = step.cut
        for k, task in enumerate(self._schema.tasks):
            rows = np.flatnonzero(cut.closes[:, k] & cut.batch.mask[:, k])
            if len(rows):
                outputs = step.served[rows, self._schema.output_slices[task.name]]
                labels = cut.batch.labels[rows, k]
                self._parts[task.name].append((cut.ids[rows], cut.times[rows], labels, outputs))

    def served(self) -> dict[str, Served]:
        """By task, those that had a label."""
        return {
            name: Served(*(np.concatenate(column) for column in zip(*parts, strict=True)))
            for name, parts in self._parts.items()
            if parts
        }


@dataclass
class Together:
    """One task of several runs on the impressions that all of them served, in the order of time:
    `times_ms` [n], `labels` [n] of the first run, `predictions` a [n, outputs] for each run.
    `unpaired` impressions were not in all runs; of `relabelled` the label was not the same."""

    times_ms: np.ndarray
    labels: np.ndarray
    predictions: list[np.ndarray]
    unpaired: int
    relabelled: int


def together(runs: Sequence[Served]) -> Together:
    """The runs side by side, by impression."""
    ids = runs[0].ids
    for run in runs[1:]:
        ids = np.intersect1d(ids, run.ids, assume_unique=True)
    everything = max(len(run.ids) for run in runs)
    rows = [_rows(run.ids, ids) for run in runs]
    times = runs[0].times_ms[rows[0]]
    order = np.lexsort((ids, times))
    rows = [r[order] for r in rows]
    labels = [run.labels[r] for run, r in zip(runs, rows, strict=True)]
    differs = np.zeros(len(ids), bool)
    for other in labels[1:]:
        differs |= other != labels[0]
    return Together(
        times[order],
        labels[0],
        [run.predictions[r] for run, r in zip(runs, rows, strict=True)],
        everything - len(ids),
        int(differs.sum()),
    )


def _rows(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each of `wanted` stands in `ids`."""
    order = np.argsort(ids, kind="stable")
    return np.asarray(order[np.searchsorted(ids[order], wanted)])
