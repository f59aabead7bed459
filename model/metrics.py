"""Figures of predictions against labels: streaming, mergeable, in bounded memory.

AUC is read off histograms over the logit, where ties within a bin count half (`BINS` of them: the
error is far below 1e-3 unless nearly all predictions agree to two decimals of their logit).
Log loss clips probabilities to [CLIP, 1 - CLIP].
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from model.schema import Schema

BINS = 16_384
WIDEST_LOGIT = 16.0
CLIP = 1e-7

_KINDS = {"binary": 0, "multiclass": 1, "regression": 2}
# The columns of `sums`: predictions, labels, log loss, absolute and squared errors.
_PREDICTED, _LABELS, _LOG_LOSS, _ABSOLUTE, _SQUARED = range(5)


class Metrics:
    """Counts and sums of the tasks of a schema.

    Sums are float64 in the order of updates; `merge` adds them, so its figures may differ from
    one stream's in the last digits.
    """

    def __init__(self, schema: Schema):
        self.schema = schema
        outputs, tasks = schema.outputs, len(schema.tasks)
        most = max(max(t.outputs, 2) for t in schema.tasks)
        self._kinds = np.array([_KINDS[t.kind] for t in schema.tasks])
        self._starts = np.array([schema.output_slices[t.name].start for t in schema.tasks])
        self._widths = np.array([t.outputs for t in schema.tasks])
        self.sums = np.zeros((tasks, 5))
        self.counts = np.zeros(tasks, np.int64)
        self.confusion = np.zeros((tasks, most, most), np.int64)
        self.histogram = np.zeros((outputs, 2, BINS), np.int64)

    def update(self, predictions: np.ndarray, labels: np.ndarray, mask: np.ndarray) -> None:
        """predictions float32 [n, outputs], labels float32 and mask bool [n, task].

        A class out of range is left out.
        """
        _update(
            predictions, labels, mask, self._kinds, self._starts, self._widths,
            self.sums, self.counts, self.confusion, self.histogram,
        )  # fmt: skip

    def merge(self, other: Metrics) -> None:
        """Adds what `other`, of the same schema, has seen."""
        self.sums += other.sums
        self.counts += other.counts
        self.confusion += other.confusion
        self.histogram += other.histogram

    def figures(self) -> dict[str, dict[str, float | int | str | None]]:
        """By task: `kind`, `count` and its figures, None where the labels do not define them.

        binary, multiclass: auc (multiclass: the mean of one class against the rest), log_loss,
        normalised_entropy (log loss over the labels' own entropy, He et al. 2014), calibration
        (sum of predictions over sum of labels; binary), accuracy, precision, recall, f1 (binary
        at 0.5; multiclass: the classes' mean). regression: mae, mse.
        """
        return {task.name: self._of(k) for k, task in enumerate(self.schema.tasks)}

    def _of(self, k: int) -> dict[str, float | int | str | None]:
        kind, n, sums = self.schema.tasks[k].kind, int(self.counts[k]), self.sums[k]
        head: dict[str, float | int | str | None] = {"kind": kind, "count": n}
        if kind == "regression":
            return head | {
                "mae": _ratio(sums[_ABSOLUTE], n),
                "mse": _ratio(sums[_SQUARED], n),
            }
        start, width = self._starts[k], self._widths[k]
        classes = max(width, 2)
        confusion = self.confusion[k, :classes, :classes].astype(float)
        hits, actual, said = np.diag(confusion), confusion.sum(1), confusion.sum(0)
        which = slice(1, 2) if kind == "binary" else slice(0, classes)
        aucs = [_auc(self.histogram[c]) for c in range(start, start + width)]
        log_loss = _ratio(sums[_LOG_LOSS], n)
        with np.errstate(all="ignore"):
            share = actual[actual > 0] / n if n else np.zeros(0)
            entropy = -float((share * np.log(share)).sum())
            precision = np.where(said > 0, hits / said, 0.0)
            recall = np.where(actual > 0, hits / actual, 0.0)
            f1 = np.where(actual + said > 0, 2 * hits / (actual + said), 0.0)
        seen = (actual + said > 0)[which]
        binary = kind == "binary"
        return head | {
            "auc": None if any(a is None for a in aucs) else math.fsum(aucs) / width,  # type: ignore[arg-type]
            "log_loss": log_loss,
            "normalised_entropy": None if log_loss is None else _ratio(log_loss, entropy),
            "calibration": _ratio(sums[_PREDICTED], sums[_LABELS]) if binary else None,
            "accuracy": _ratio(hits.sum(), n),
            "precision": _mean(precision[which][seen]),
            "recall": _mean(recall[which][seen]),
            "f1": _mean(f1[which][seen]),
        }

    def state(self) -> dict[str, Any]:
        return {
            "sums": self.sums.copy(),
            "counts": self.counts.copy(),
            "confusion": self.confusion.copy(),
            "histogram": self.histogram.copy(),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.sums = state["sums"].copy()
        self.counts = state["counts"].copy()
        self.confusion = state["confusion"].copy()
        self.histogram = state["histogram"].copy()


def _ratio(a: float, b: float) -> float | None:
    return float(a) / float(b) if b else None


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


def _auc(histogram: np.ndarray) -> float | None:
    """The chance that a positive is above a negative (Mann-Whitney), of counts [2, bins]."""
    negatives, positives = histogram[0].astype(float), histogram[1].astype(float)
    pairs = negatives.sum() * positives.sum()
    if pairs == 0:
        return None
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + 0.5 * negatives)).sum() / pairs)


@numba.njit(cache=True)
def _count(histogram, p, positive) -> None:  # type: ignore[no-untyped-def]
    p = min(max(p, CLIP), 1.0 - CLIP)
    place = (math.log(p / (1.0 - p)) / WIDEST_LOGIT + 1.0) * 0.5 * BINS
    histogram[positive, min(max(np.int64(place), 0), BINS - 1)] += 1


@numba.njit(cache=True)
def _update(  # type: ignore[no-untyped-def]
    predictions, labels, mask, kinds, starts, widths, sums, counts, confusion, histogram
) -> None:
    for k in range(kinds.shape[0]):
        start = starts[k]
        for i in range(labels.shape[0]):
            if not mask[i, k]:
                continue
            p, y = np.float64(predictions[i, start]), np.float64(labels[i, k])
            if kinds[k] == 1 and not 0 <= y < widths[k]:
                continue
            counts[k] += 1
            if kinds[k] == 2:
                sums[k, _ABSOLUTE] += abs(p - y)
                sums[k, _SQUARED] += (p - y) * (p - y)
            elif kinds[k] == 0:
                positive = 1 if y > 0.5 else 0
                sums[k, _PREDICTED] += p
                sums[k, _LABELS] += y
                of_label = p if positive else 1.0 - p
                sums[k, _LOG_LOSS] -= math.log(min(max(of_label, CLIP), 1.0 - CLIP))
                confusion[k, positive, 1 if p >= 0.5 else 0] += 1
                _count(histogram[start], p, positive)
            else:
                best, label = 0, np.int64(y)
                for c in range(widths[k]):
                    if predictions[i, start + c] > predictions[i, start + best]:
                        best = c
                    share = np.float64(predictions[i, start + c])
                    _count(histogram[start + c], share, 1 if c == label else 0)
                of_label = np.float64(predictions[i, start + label])
                sums[k, _LOG_LOSS] -= math.log(min(max(of_label, CLIP), 1.0 - CLIP))
                confusion[k, label, best] += 1
