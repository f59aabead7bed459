"""How good the predictions are: the served ones, and those of the step just before learning."""

from __future__ import annotations

from typing import Any

import numpy as np

from model.batch import Batch, Layout
from model.metrics import CLIP, Metrics
from model.schema import Schema

WINDOW = 2_000
"""Examples of one point of the curve."""
MOST_POINTS = 400


class Scores:
    """Figures over the whole stream, `served` and `progressive`, and the served ones over time."""

    def __init__(self, schema: Schema, layout: Layout) -> None:
        self.schema = schema
        self._user = int(np.argmax(layout.bag_of_slot == layout.bag(schema.user)))
        self.served, self.progressive, self.recent = (
            Metrics(schema),
            Metrics(schema),
            Metrics(schema),
        )
        self._complete: Metrics | None = None
        self.curve: list[dict[str, Any]] = []
        self.examples = 0

    def update(self, batch: Batch, served: np.ndarray, progressive: np.ndarray | None) -> None:
        """A batch, what was served for it, and what the step predicted before it learned."""
        known = batch.labels, batch.mask, np.ascontiguousarray(batch.inputs.keys[:, self._user])
        self.served.update(served, *known)
        self.recent.update(served, *known)
        if progressive is not None:
            self.progressive.update(progressive, *known)
        before, self.examples = self.examples, self.examples + len(batch.labels)
        if before // WINDOW != self.examples // WINDOW:
            self.curve.append({"example": self.examples, **_headline(self.recent)})
            del self.curve[:-MOST_POINTS]
            self._complete, self.recent = self.recent, Metrics(self.schema)

    def figures(self) -> dict[str, dict[str, Any]]:
        """By task: kind, count, and the figures of `served` and `progressive`."""
        served, progressive = self.served.figures(), self.progressive.figures()
        out = {}
        for name in served:
            head = {key: served[name].pop(key) for key in ("kind", "count")}
            for key in head:
                progressive[name].pop(key)
            out[name] = {**head, "served": served[name], "progressive": progressive[name]}
        return out

    def headline(self) -> dict[str, Any]:
        """One figure a task, of what was served lately: AUC, or the mean squared error."""
        return _headline(self.recent if self.recent.counts.any() else self.served)

    def lately(self) -> dict[str, dict[str, Any]]:
        """By task: the served figures of the last point of the curve; before the first one, since
        the start, of what there is."""
        return (self._complete or self.recent).figures()

    def state(self) -> dict[str, Any]:
        meters = {name: getattr(self, name).state() for name in ("served", "progressive", "recent")}
        return {**meters, "curve": list(self.curve), "examples": self.examples}

    def load(self, tree: dict[str, Any]) -> None:
        for name in ("served", "progressive", "recent"):
            getattr(self, name).load(tree[name])
        self.curve, self.examples = list(tree["curve"]), tree["examples"]


def _headline(metrics: Metrics) -> dict[str, Any]:
    out = {}
    for name, figures in metrics.figures().items():
        figure = figures["mse"] if figures["kind"] == "regression" else figures["auc"]
        out[name] = None if figure is None else float(figure)
    return out


def signals_of(
    schema: Schema, batch: Batch, served: np.ndarray
) -> dict[tuple[str, str], tuple[float, int]]:
    """Batch means with their counts, of each task: its loss, calibration and label rate.

    Loss is log loss, or the squared error of a regression; calibration the mean prediction less the
    mean label. A multiclass task has its loss only.
    """
    signals: dict[tuple[str, str], tuple[float, int]] = {}
    for k, task in enumerate(schema.tasks):
        here = batch.mask[:, k]
        n = int(here.sum())
        if n == 0:
            continue
        labels = batch.labels[here, k].astype(np.float64)
        predicted = served[here, schema.output_slices[task.name]].astype(np.float64)
        if task.kind == "multiclass":
            of_label = predicted[np.arange(n), labels.astype(np.int64)]
            signals[task.name, "loss"] = (float(-np.log(of_label.clip(CLIP)).mean()), n)
            continue
        p = predicted[:, 0]
        if task.kind == "binary":
            of_label = np.where(labels > 0.5, p, 1 - p).clip(CLIP)
            loss = -np.log(of_label)
        else:
            loss = (p - labels) ** 2
        signals[task.name, "loss"] = (float(loss.mean()), n)
        signals[task.name, "calibration"] = (float(p.mean() - labels.mean()), n)
        signals[task.name, "label_rate"] = (float(labels.mean()), n)
    return signals
