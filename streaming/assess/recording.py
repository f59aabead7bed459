"""What a learner was shown and told, cut by cut: the same inputs and labels, in the same order and
at the same moments, for whoever would predict instead."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from model.batch import Inputs, Layout
from model.schema import Schema
from streaming.compare.served import Served
from streaming.learner import Learner, Step


@dataclass
class Moment:
    """One cut: the impressions `shown` since the last one, to be predicted first, and `rows` of
    shown ones whose labels [n, task] closed by `closed_ms`, those of `mask` being known."""

    shown: slice
    rows: np.ndarray
    labels: np.ndarray
    mask: np.ndarray
    closed_ms: int


@dataclass
class Recording:
    """All cuts of a run. Impressions have numbers, in the order in which they were shown."""

    schema: Schema
    layout: Layout
    moments: list[Moment] = field(default_factory=list)
    _shown: list[Inputs] = field(default_factory=list)
    _count: int = 0
    _number: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    _ids: list[np.ndarray] = field(default_factory=list)
    _times: list[np.ndarray] = field(default_factory=list)

    def step(self, learner: Learner, step: Step) -> None:
        """Takes a step in (`Replay.on_step`)."""
        cut = step.cut
        n = len(cut.shown_slots)
        most = int(max(cut.shown_slots.max(initial=-1), cut.slots.max(initial=-1))) + 1
        if most > len(self._number):
            grown = np.full(most, -1, np.int64)
            grown[: len(self._number)] = self._number
            self._number = grown
        numbers = np.arange(self._count, self._count + n)
        self._number[cut.shown_slots] = numbers
        self._shown.append(cut.shown)
        rows, batch = self._number[cut.slots], cut.batch
        self.moments.append(
            Moment(
                slice(self._count, self._count + n), rows, batch.labels, batch.mask,
                cut.closed_ms,
            )
        )  # fmt: skip
        self._ids.append(cut.ids)
        self._times.append(cut.times)
        self._count += n

    def __len__(self) -> int:
        return self._count

    def inputs(self) -> Inputs:
        """Of all impressions that were shown."""
        parts = self._shown
        return Inputs(
            np.concatenate([p.keys for p in parts]),
            np.concatenate([p.weights for p in parts]),
            np.concatenate([p.dense for p in parts]),
        )

    def ids(self) -> np.ndarray:
        """int64 [shown]: the keys of all impressions; each has closed once all is over."""
        out = np.zeros(self._count, np.int64)
        for moment, ids in zip(self.moments, self._ids, strict=True):
            out[moment.rows] = ids
        return out

    def served(self, predictions: np.ndarray) -> dict[str, Served]:
        """`predictions` [shown, outputs] where a label came, by task."""
        out = {}
        for k, task in enumerate(self.schema.tasks):
            parts = list(self._known(k))
            if not parts:
                continue
            ids, times, labels, rows = (np.concatenate(c) for c in zip(*parts, strict=True))
            outputs = predictions[rows, self.schema.output_slices[task.name]]
            out[task.name] = Served(ids, times, labels, outputs)
        return out

    def _known(self, k: int) -> Iterator[tuple[np.ndarray, ...]]:
        for moment, ids, times in zip(self.moments, self._ids, self._times, strict=True):
            known = moment.mask[:, k]
            if known.any():
                yield ids[known], times[known], moment.labels[known, k], moment.rows[known]
