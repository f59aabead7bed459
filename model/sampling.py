"""Which negatives are learnt from, where a task learns from a share of them only.

An impression's id decides, for all tasks alike, so one that no task learns from costs no step; and
each run over a log, however it came, leaves out the same. Positives are all learnt from, and all
labels are scored. Predictions are corrected for it, as where a log was sampled (model/labels.py).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from model.batch import Batch, Inputs
from model.idmap import mix64, table_salt
from model.kernel import kernel
from model.schema import Schema

_SALT = np.uint64(table_salt("negatives"))
_S11 = np.uint64(11)


class NegativeSampling:
    """False where all is learnt from."""

    def __init__(self, schema: Schema) -> None:
        self.shares = np.array([task.learnt_negatives for task in schema.tasks])

    def __bool__(self) -> bool:
        return bool((self.shares < 1).any())

    def take(self, batch: Batch, ids: np.ndarray) -> Batch:
        """Of a batch of impressions `ids`, int64 [n]: the examples and labels to learn from."""
        places = np.empty(len(ids))
        _places(ids, places)
        chosen = places[:, None] < self.shares
        mask = batch.mask & (chosen | (batch.labels != 0))
        rows = mask.any(1)
        read = batch.inputs
        inputs = Inputs(read.keys[rows], read.weights[rows], read.dense[rows])
        return replace(batch, inputs=inputs, labels=batch.labels[rows], mask=mask[rows])


@kernel
def _places(ids, out) -> None:  # type: ignore[no-untyped-def]
    """Of each id its own place in [0, 1), evenly spread."""
    for i in range(ids.shape[0]):
        out[i] = (mix64(np.uint64(ids[i]) + _SALT) >> _S11) * 2.0**-53
