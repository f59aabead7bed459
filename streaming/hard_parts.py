"""Five hard parts of learning tasks together, each with its measure, taken while the model learns.

Conflict, over-fitting and opacity are looked at every `EVERY` steps, imbalance and cost at the
report. Nothing that is learnt depends on it. The remedies: infra/hard-parts.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from model.affinity import cosine
from model.batch import Batch, Layout
from model.example_losses import mean_losses
from model.metrics import CLIP, Metrics
from model.network import Network
from model.schema import Schema
from model.surrogate import Surrogate
from model.train import StepReport, Trainer

EVERY = 32
"""Steps from one look to the next: a look costs about as much as a step."""
REMEDIES = {
    "conflict": "weighting.kind=pcgrad, or groups of tasks (freshet affinity)",
    "imbalance": "Task.weight, learnt_negatives, a chain (Task.given)",
    "cost": "fewer experts, trainer.network.bf16, larger batches",
    "over_fitting": "trainer.dense.l2, trainer.network.dropout, early_stopping.threshold",
    "opacity": "features that say more; freshet features show",
}


class HardParts:
    """Looks on while `trainer` learns: `before` a step, and `after` it."""

    def __init__(self, schema: Schema, layout: Layout) -> None:
        tasks = len(schema.tasks)
        self._schema = schema
        self._logit = np.array(
            [t.kind != "regression" for t in schema.tasks for _ in range(t.outputs)]
        )
        self._against, self._pairs = np.zeros((tasks, tasks)), np.zeros((tasks, tasks))
        self._progressive, self._trained = np.zeros(tasks), np.zeros(tasks)
        self._looks = np.zeros(tasks, np.int64)
        self._plain = np.array([name not in schema.columns_of_grids for name in layout.dense], bool)
        self._surrogate = Surrogate(int(self._plain.sum()), schema.outputs)

    def due(self, trainer: Trainer) -> bool:
        return trainer.steps % EVERY == EVERY - 1

    def before(self, trainer: Trainer, batch: Batch) -> None:
        """Of a batch that the next step is of: do the tasks pull against each other?"""
        if len(self._schema.tasks) < 2 or not isinstance(trainer.predictor.network, Network):
            return
        found = cosine(trainer, batch)
        known = np.isfinite(found)
        self._pairs += known
        self._against += np.where(known, found, 0) < 0

    def after(self, trainer: Trainer, batch: Batch, report: StepReport) -> None:
        """Of the step: what it gained on its own batch, and whether numbers explain its scores."""
        if not report.finite:
            return
        again = trainer.predict(batch.inputs)
        known = batch.mask.any(0)
        for sums, predictions in ((self._progressive, report.predictions), (self._trained, again)):
            found = mean_losses(self._schema, predictions, batch.labels, batch.mask)
            sums += np.where(known, found, 0)
        self._looks += known
        p = report.predictions.astype(np.float64)
        q = p.clip(CLIP, 1 - CLIP)
        scores = np.where(self._logit, np.log(q / (1 - q)), p)
        read = trainer.predictor.standardised(batch.inputs)[:, self._plain]
        self._surrogate.update(read, scores)

    def figures(self, trainer: Trainer, served: Metrics) -> dict[str, dict[str, Any]]:
        """By hard part its figures, and the `remedy`:

        conflict      by pair of tasks, the share of looks with a negative cosine of gradients
        imbalance     by task its labels, and for a binary one the positives and the effective ones,
                      1 / (1 / positives + 1 / negatives): what an average of labels is sure of
        cost          dense weights, and how many times those of one task alone
        over_fitting  by task, progressive less training loss, as a share of the progressive
        opacity       by task, the share of its scores' variance that a linear surrogate explains
        """
        names = [task.name for task in self._schema.tasks]
        with np.errstate(all="ignore"):
            against = self._against / self._pairs
            gap = 1 - self._trained / self._progressive
        fidelity = self._surrogate.fidelity()
        slices = self._schema.output_slices
        weights, alone = _weights(trainer), _weights_of_one(trainer)
        parts: dict[str, dict[str, Any]] = {
            "conflict": {
                f"{a}, {b}": float(against[i, j])
                for i, a in enumerate(names)
                for j, b in enumerate(names)
                if i < j and self._pairs[i, j]
            },
            "imbalance": {name: _effective(served, k) for k, name in enumerate(names)},
            "cost": {"weights": weights, "times_one_task": weights / alone},
            "over_fitting": {n: float(gap[k]) for k, n in enumerate(names) if self._looks[k]},
            "opacity": {n: float(np.mean(fidelity[slices[n]])) for n in names},
        }
        return {name: {**figures, "remedy": REMEDIES[name]} for name, figures in parts.items()}

    def state(self) -> dict[str, Any]:
        return {
            "against": self._against.copy(),
            "pairs": self._pairs.copy(),
            "progressive": self._progressive.copy(),
            "trained": self._trained.copy(),
            "looks": self._looks.copy(),
            "surrogate": self._surrogate.state(),
        }

    def load(self, tree: Mapping[str, Any]) -> None:
        for name in ("against", "pairs", "progressive", "trained", "looks"):
            setattr(self, f"_{name}", tree[name].copy())
        self._surrogate.load(tree["surrogate"])


def _effective(served: Metrics, k: int) -> dict[str, Any]:
    out: dict[str, Any] = {"labels": int(served.counts[k])}
    if served.schema.tasks[k].kind == "binary":
        negatives, positives = (int(n) for n in served.confusion[k, :2].sum(1))
        total = negatives + positives
        out["positives"] = positives
        out["effective"] = negatives * positives / total if total else 0.0
    return out


def _weights(trainer: Trainer) -> int:
    return sum(p.numel() for p in trainer.predictor.network.parameters())


def _weights_of_one(trainer: Trainer) -> float:
    """Dense weights of a model of one task alone, the mean over the tasks."""
    counts = []
    for task in trainer.schema.tasks:
        schema = replace(trainer.schema, tasks=(replace(task, given=""),))
        config = trainer.config.network
        if config.apart or config.sharing == "single_task":
            config = replace(config, apart="", sharing="shared_bottom")
        net = Network(
            schema, trainer.layout, config, trainer.predictor.embedding.dim, torch.Generator()
        )
        counts.append(sum(p.numel() for p in net.parameters()))
    return float(np.mean(counts))
