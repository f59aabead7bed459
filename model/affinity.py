"""How tasks go together, measured on a model that learns: what a step for one does to another.

Shapes: n examples of a batch, task the tasks; in [task, task] the first acts on the second.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from model.batch import Batch
from model.conflict import Split
from model.example_losses import mean_losses
from model.train import Trainer


@dataclass(frozen=True)
class Affinity:
    """What one batch says; all float64 [task, task], NaN where a task has no label in it.

    `transfer` is the inter-task affinity (Fifty et al., NeurIPS 2021, equation 1): by what share
    the second task's loss on the batch falls when the first one's makes a step. `cosine` is that of
    their gradients by what the towers read.
    """

    transfer: np.ndarray
    cosine: np.ndarray


def affinity(trainer: Trainer, batch: Batch) -> Affinity:
    """Of a batch that the trainer has not learnt yet. Leaves the trainer exactly as it was.

    A step is the optimiser's own, rows and all, compared with one that no label drives: what
    momentum, decay and running statistics do is in both. Raises ValueError for a network whose
    tasks share nothing.
    """
    network = trainer.config.network
    if network.sharing == "single_task" or network.apart == "network":
        raise ValueError("affinity is of what tasks do to one another: this network shares nothing")
    return Affinity(transfer(trainer, batch), cosine(trainer, batch))


def transfer(trainer: Trainer, batch: Batch) -> np.ndarray:
    """See `Affinity`."""
    before = trainer.state()
    tasks = len(trainer.schema.tasks)
    try:
        nothing = _losses_after(trainer, batch, np.zeros(tasks, bool))
        out = np.full((tasks, tasks), np.nan)
        for task in range(tasks):
            if batch.mask[:, task].any():
                trainer.load(before)
                only = np.arange(tasks) == task
                out[task] = 1 - _losses_after(trainer, batch, only) / nothing
    finally:
        trainer.load(before)
    return out


def cosine(trainer: Trainer, batch: Batch) -> np.ndarray:
    """See `Affinity`."""
    model, even = trainer.predictor, np.ones(len(trainer.schema.tasks))
    labels, mask = model.labels.standard(batch.labels, batch.mask)
    aims = model.objective.targets(labels, mask, even, model.batch_size, model.counts(batch.inputs))
    split = Split(model.network, model.read(batch.inputs))
    with torch.no_grad():
        linked = model.objective.link(split.logits)
        targets, counts = (torch.from_numpy(a).to(linked.device) for a in aims)
        error = model.objective.gradient(split.logits, linked, targets, counts)
    split.logits.backward(error)
    return cosines(split.gram("representation", even), np.asarray(mask.any(0)))


def cosines(gram: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Of inner products [task, task]; NaN where a task is not `known`, or has no gradient."""
    size = np.sqrt(np.where(known, np.diag(gram), np.nan))
    with np.errstate(all="ignore"):
        out = gram / np.outer(size, size)
    return np.where(np.isfinite(out), out, np.nan).clip(-1, 1)


def _losses_after(trainer: Trainer, batch: Batch, tasks: np.ndarray) -> np.ndarray:
    """[task]: the losses on the batch once it was learnt with the labels of `tasks` only."""
    trainer.step(replace(batch, mask=batch.mask & tasks))
    return mean_losses(trainer.schema, trainer.predict(batch.inputs), batch.labels, batch.mask)


class LabelAffinity:
    """Pearson's correlation of tasks' labels, and how many they have together."""

    def __init__(self, tasks: int) -> None:
        self.counts = np.zeros((tasks, tasks), np.int64)
        self._sums, self._squares, self._products = (np.zeros((tasks, tasks)) for _ in range(3))

    def update(self, labels: np.ndarray, mask: np.ndarray) -> None:
        """Labels and mask [n, task]. Classes of a multi-class task count as numbers: their
        correlation says little."""
        known = mask.astype(np.float64)
        y = np.where(mask, labels, 0).astype(np.float64)
        self.counts += (known.T @ known).astype(np.int64)
        self._sums += y.T @ known  # of the first, where the second is known
        self._squares += (y * y).T @ known
        self._products += y.T @ y

    def correlation(self) -> np.ndarray:
        """float64 [task, task]; NaN where there are no two labels, or one does not vary."""
        with np.errstate(all="ignore"):
            n = self.counts.astype(np.float64)
            mean = self._sums / n
            spread = self._squares / n - mean**2
            out = (self._products / n - mean * mean.T) / np.sqrt(spread * spread.T)
        return np.where(np.isfinite(out), out, np.nan).clip(-1, 1)

    def coverage(self) -> np.ndarray:
        """float64 [task, task]: of the first one's labels, the share where the second has one."""
        with np.errstate(all="ignore"):
            return np.asarray(self.counts / np.diag(self.counts)[:, None])
