"""What each kind of task predicts and loses.

binary      sigmoid, cross entropy          multiclass   softmax, cross entropy
regression  identity, half squared error (or Huber's), in units of the labels' running standard
            deviation
a chain     the product of its tasks' sigmoids, cross entropy (model/chains.py)

These are the canonical links, so the gradient of each loss by its logits is
prediction - target; Huber's is that, clipped. The loss of a step is
    sum over tasks of weight x (sum of unmasked losses x weights of examples) / batch_size;
divided by the batch's size and not by the labels there, a lone label counts as any other.

Shapes: n examples; outputs; task.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from model.chains import Chains
from model.kernel import kernel
from model.schema import Schema

_KINDS = {"binary": 0, "multiclass": 1, "regression": 2}


class Objective:
    """The tasks of a schema, as functions of their logits."""

    def __init__(self, schema: Schema, device: str = "cpu"):
        self.outputs = schema.outputs
        self.kinds = np.array([_KINDS[t.kind] for t in schema.tasks])
        self.starts = np.array([schema.output_slices[t.name].start for t in schema.tasks])
        self.ends = np.array([schema.output_slices[t.name].stop for t in schema.tasks])
        self.task_of_output = np.repeat(np.arange(len(self.kinds)), self.ends - self.starts)
        self.is_regression = self.kinds == _KINDS["regression"]
        kept = np.array([t.kept_negatives * t.learnt_negatives for t in schema.tasks], np.float32)
        self.kept_negatives = kept[self.task_of_output]
        of_output = self.is_regression[self.task_of_output]
        self._regression_outputs = torch.from_numpy(of_output).to(device)
        self.chains = Chains(schema)
        self._reach = np.array([t.huber or np.inf for t in schema.tasks], np.float32)
        self._clip: torch.Tensor | None = None
        if np.isfinite(self._reach).any():
            self._clip = torch.from_numpy(self._reach[self.task_of_output]).to(device)
        self._multiclass = [
            schema.output_slices[t.name] for t in schema.tasks if t.kind == "multiclass"
        ]

    def link(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits -> predictions, both [n, outputs]; a regression's in standard units."""
        logits = self.chains.joint(logits)
        predictions = torch.where(self._regression_outputs, logits, logits.sigmoid())
        for columns in self._multiclass:
            predictions[:, columns] = logits[:, columns].softmax(1)
        return predictions

    def gradient(
        self,
        logits: torch.Tensor,
        linked: torch.Tensor,
        targets: torch.Tensor,
        counts: torch.Tensor,
    ) -> torch.Tensor:
        """Of the step's loss by `logits`, of which `linked` are the predictions: [n, outputs]."""
        error = linked - targets
        if self._clip is not None:
            error = error.clamp(-self._clip, self._clip)
        error *= counts
        return self.chains.gradient(logits, error)

    def targets(
        self,
        labels: np.ndarray,
        mask: np.ndarray,
        weights: np.ndarray,
        size: int,
        of_examples: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """What predictions should be, and what a difference counts: both float32 [size, outputs].

        labels and mask [n, task] with n <= size, weights [task], of_examples [n]; a count is
        weight / size, times the example's, and 0 where masked or past n. A label outside of 0 to 1,
        a class that there is not, or an example's weight below 0, gives NaN, so that its step is
        refused.
        """
        targets = np.zeros((size, self.outputs), np.float32)
        counts = np.zeros((size, self.outputs), np.float32)
        _targets(labels, mask, weights, self.kinds, self.starts, self.ends, targets, counts)
        if of_examples is not None:
            counts[: len(of_examples)] *= np.where(of_examples >= 0, of_examples, np.nan)[:, None]
        return targets, counts

    def losses(self, logits: np.ndarray, targets: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The mean of each task's unmasked losses, float32 [task], NaN where there are none.

        Without the weights of examples."""
        out = np.full(len(self.kinds), np.nan, np.float32)
        if self.chains:
            logits = self.chains.joint(torch.from_numpy(logits)).numpy()
        _losses(logits, targets, mask, self.kinds, self.starts, self.ends, self._reach, out)
        return out


@kernel
def _targets(labels, mask, weights, kinds, starts, ends, out, counts) -> None:  # type: ignore[no-untyped-def]
    for k in range(kinds.shape[0]):
        count = weights[k] / out.shape[0]
        for i in range(labels.shape[0]):
            if not mask[i, k]:
                continue
            for c in range(starts[k], ends[k]):
                counts[i, c] = count
            label = labels[i, k]
            if kinds[k] == 2 or (kinds[k] == 0 and label >= 0 and label <= 1):
                out[i, starts[k]] = label
            elif kinds[k] == 1 and label >= 0 and label < ends[k] - starts[k] and label % 1 == 0:
                out[i, starts[k] + np.int64(label)] = 1.0
            else:
                out[i, starts[k]] = np.nan


@kernel
def _losses(logits, targets, mask, kinds, starts, ends, reach, out) -> None:  # type: ignore[no-untyped-def]
    for k in range(kinds.shape[0]):
        count, total = 0, 0.0
        for i in range(mask.shape[0]):
            if not mask[i, k]:
                continue
            count += 1
            z, y = logits[i, starts[k]], targets[i, starts[k]]
            if kinds[k] == 0:
                total += max(z, 0.0) - z * y + math.log1p(math.exp(-abs(z)))
            elif kinds[k] == 2:
                far = max(abs(z - y) - reach[k], 0.0)
                total += 0.5 * (z - y) ** 2 - 0.5 * far**2
            else:
                top = z
                for c in range(starts[k], ends[k]):
                    top = max(top, logits[i, c])
                exponentials, aim = 0.0, 0.0
                for c in range(starts[k], ends[k]):
                    exponentials += math.exp(logits[i, c] - top)
                    aim += targets[i, c] * logits[i, c]
                total += top + math.log(exponentials) - aim
        if count:
            out[k] = total / count
