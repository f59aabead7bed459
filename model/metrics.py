"""Figures of predictions against labels: streaming, mergeable, in bounded memory.

AUC is read off histograms over the logit, where ties within a bin count half (`BINS` of them: the
error is far below 1e-3 unless nearly all predictions agree to two decimals of their logit).
Log loss clips probabilities to [CLIP, 1 - CLIP]. AUC by user: model/grouped.py.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from model.grouped import GroupedAUC
from model.kernel import kernel
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
        self.predicted = np.zeros(outputs)  # sums of the classes' probabilities
        self.histogram = np.zeros((outputs, 2, BINS), np.int64)
        self._binary = np.flatnonzero(self._kinds == _KINDS["binary"])
        self.grouped = GroupedAUC(self._starts[self._binary], self._binary)

    def update(
        self,
        predictions: np.ndarray,
        labels: np.ndarray,
        mask: np.ndarray,
        users: np.ndarray | None = None,
    ) -> None:
        """predictions float32 [n, outputs], labels float32 and mask bool [n, task].

        A class out of range is left out, and a prediction that is not finite. `users` int64 [n] are
        keys, for `grouped_auc`.
        """
        if users is not None:
            self.grouped.update(users, predictions, labels, mask)
        _update(
            predictions, labels, mask, self._kinds, self._starts, self._widths,
            self.sums, self.counts, self.confusion, self.predicted, self.histogram,
        )  # fmt: skip

    def merge(self, other: Metrics) -> None:
        """Adds what `other`, of the same schema, has seen."""
        self.sums += other.sums
        self.counts += other.counts
        self.confusion += other.confusion
        self.predicted += other.predicted
        self.histogram += other.histogram
        self.grouped.merge(other.grouped)

    def figures(self) -> dict[str, dict[str, float | int | str | None]]:
        """By task: `kind`, `count` and its figures, None where the labels do not define them.

        binary, multiclass: auc (multiclass: the mean of one class against the rest), log_loss,
        normalised_entropy (log loss over the labels' own entropy, He et al. 2014), calibration
        (sum of predictions over sum of labels; binary), kl_divergence (of the classes' shares from
        their mean predictions, in nats), accuracy, kappa (Cohen 1960), precision, recall, f1
        (binary at 0.5; multiclass: the classes' mean); binary: grouped_auc (the users' mean).
        regression: mae, mse.
        """
        found = {task.name: self._of(k) for k, task in enumerate(self.schema.tasks)}
        for k, value in zip(self._binary, self.grouped.figures(), strict=True):
            found[self.schema.tasks[k].name]["grouped_auc"] = value
        return found

    def roc(self, task: str, label: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """The ROC curve of a class against the rest: false and true positive rates, from (0, 0) to
        (1, 1), a point for each bin of the histogram that holds a prediction; NaN where undefined.

        Raises ValueError for a regression, or a class that the task does not have.
        """
        names = [t.name for t in self.schema.tasks]
        k = names.index(task)
        of = self.schema.tasks[k]
        classes = range(1, 2) if of.kind == "binary" else range(self._widths[k])
        if of.kind == "regression" or label not in classes:
            raise ValueError(f"task {task!r} ({of.kind}) has no ROC curve of label {label}")
        histogram = self.histogram[self._starts[k] + (0 if of.kind == "binary" else label)]
        held = histogram[:, histogram.any(0)][:, ::-1].astype(float)
        points = np.concatenate([np.zeros((2, 1)), held.cumsum(1)], 1)
        with np.errstate(invalid="ignore"):
            rates = points / points[:, -1:]
        return rates[0], rates[1]

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
            chance = float((actual * said).sum()) / n**2 if n else 1.0
        seen = (actual + said > 0)[which]
        binary = kind == "binary"
        predicted = self.predicted[start : start + width]
        if binary:
            predicted = np.array([n - sums[_PREDICTED], sums[_PREDICTED]])
        agreed = float(hits.sum()) / n if n else 0.0
        return head | {
            "auc": None if any(a is None for a in aucs) else math.fsum(aucs) / width,  # type: ignore[arg-type]
            "log_loss": log_loss,
            "normalised_entropy": None if log_loss is None else _ratio(log_loss, entropy),
            "calibration": _ratio(sums[_PREDICTED], sums[_LABELS]) if binary else None,
            "kl_divergence": _divergence(actual / n, predicted / n) if n else None,
            "accuracy": _ratio(hits.sum(), n),
            "kappa": _ratio(agreed - chance, 1.0 - chance),
            "precision": _mean(precision[which][seen]),
            "recall": _mean(recall[which][seen]),
            "f1": _mean(f1[which][seen]),
        }

    def state(self) -> dict[str, Any]:
        return {
            "sums": self.sums.copy(),
            "counts": self.counts.copy(),
            "confusion": self.confusion.copy(),
            "predicted": self.predicted.copy(),
            "histogram": self.histogram.copy(),
            "grouped": self.grouped.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.sums = state["sums"].copy()
        self.counts = state["counts"].copy()
        self.confusion = state["confusion"].copy()
        self.predicted = state["predicted"].copy()
        self.histogram = state["histogram"].copy()
        self.grouped.load(state["grouped"])


def _ratio(a: float, b: float) -> float | None:
    return float(a) / float(b) if b else None


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


def _divergence(shares: np.ndarray, predicted: np.ndarray) -> float:
    """Kullback and Leibler's, of shares [class] from predicted ones."""
    there = shares > 0
    return float((shares[there] * np.log(shares[there] / predicted[there].clip(CLIP))).sum())


def _auc(histogram: np.ndarray) -> float | None:
    """The chance that a positive is above a negative (Mann-Whitney), of counts [2, bins]."""
    negatives, positives = histogram[0].astype(float), histogram[1].astype(float)
    pairs = negatives.sum() * positives.sum()
    if pairs == 0:
        return None
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + 0.5 * negatives)).sum() / pairs)


@kernel
def _count(histogram, p, positive) -> None:  # type: ignore[no-untyped-def]
    p = min(max(p, CLIP), 1.0 - CLIP)
    place = (math.log(p / (1.0 - p)) / WIDEST_LOGIT + 1.0) * 0.5 * BINS
    histogram[positive, min(max(np.int64(place), 0), BINS - 1)] += 1


@kernel
def _update(  # type: ignore[no-untyped-def]
    predictions, labels, mask, kinds, starts, widths,
    sums, counts, confusion, predicted, histogram,
) -> None:  # fmt: skip
    for k in range(kinds.shape[0]):
        start = starts[k]
        for i in range(labels.shape[0]):
            if not mask[i, k]:
                continue
            p, y = np.float64(predictions[i, start]), np.float64(labels[i, k])
            whole = 0.0
            for c in range(widths[k]):
                whole += np.float64(predictions[i, start + c])
            if not math.isfinite(whole):
                continue
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
                    predicted[start + c] += share
                    _count(histogram[start + c], share, 1 if c == label else 0)
                of_label = np.float64(predictions[i, start + label])
                sums[k, _LOG_LOSS] -= math.log(min(max(of_label, CLIP), 1.0 - CLIP))
                confusion[k, label, best] += 1
