"""What single predictions cost, in the labels' own units."""

from __future__ import annotations

import numpy as np

from model.metrics import CLIP
from model.schema import Schema, Task


def example_losses(task: Task, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """float64 [n]: log loss, or the squared error of a regression, of predictions [n, outputs]."""
    p, y = predictions.astype(np.float64), labels.astype(np.float64)
    if task.kind == "regression":
        return np.asarray((p[:, 0] - y) ** 2)
    if task.kind == "binary":
        of_label = np.where(y > 0.5, p[:, 0], 1 - p[:, 0])
    else:
        of_label = p[np.arange(len(y)), y.astype(np.int64)]
    return np.asarray(-np.log(of_label.clip(CLIP)))


def mean_losses(
    schema: Schema, predictions: np.ndarray, labels: np.ndarray, mask: np.ndarray
) -> np.ndarray:
    """float64 [task]: the means over what is not masked; NaN without a label."""
    out = np.full(len(schema.tasks), np.nan)
    for k, task in enumerate(schema.tasks):
        rows = np.flatnonzero(mask[:, k])
        if len(rows):
            of_task = predictions[rows, schema.output_slices[task.name]]
            out[k] = example_losses(task, of_task, labels[rows, k]).mean()
    return out
