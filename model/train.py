"""The trainer: predict, score and learn, one batch at a time. No clock, no I/O, no global RNG.

Shapes: B the batch size, n <= B examples of a batch, task the tasks, outputs their predictions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from model.batch import Batch, Inputs, Layout
from model.blocks import dropping
from model.conflict import Split
from model.contents import content
from model.digest import tree_hash
from model.embedding import EmbeddingConfig
from model.keyed import Rows
from model.layers import flatten
from model.optim import DenseOptimiser, RowOptimiser
from model.partial import STATISTICS, Partial, slots_of
from model.schema import Schema
from model.score import Block, Predictor
from model.structure import NetworkConfig
from model.task_weights import Weighter


@dataclass(frozen=True)
class StepReport:
    """What a step did. `loss` float32 [task] is the mean over unmasked labels (NaN where there
    are none), `count` int64 [task] their number, `predictions` float32 [n, outputs] were made
    before learning. Where `finite` is False nothing was learnt and nothing has changed.
    `weights` float64 [task] are those of the gradients by what the tasks share; `gram` float64
    [task, task] the gradients' inner products, where a weighter reads them."""

    step: int
    examples: int
    loss: np.ndarray
    count: np.ndarray
    predictions: np.ndarray
    finite: bool
    weights: np.ndarray
    gram: np.ndarray | None = None


class Told(NamedTuple):
    """A version to be told: a snapshot's parts; whether it is `whole`, or a delta; and the content
    of the whole (`model.contents`), however it is told, and whether all of that is `finite`."""

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]
    whole: bool
    content: str
    finite: bool


class Trainer:
    """A model that learns. The same batches give the same bits, whatever came between."""

    @dataclass(frozen=True)
    class Config:
        """All of a model but its schema. `batch_size` is also the block in which scoring runs;
        learning rates rise to their full size over the first `warmup` steps. `train_only` names
        the parts that learn, where not all do (model/partial.py)."""

        network: NetworkConfig = field(default_factory=NetworkConfig)
        embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
        dense: DenseOptimiser = field(default_factory=DenseOptimiser)
        rows: RowOptimiser = field(default_factory=RowOptimiser)
        batch_size: int = 64
        warmup: int = 16
        device: str = "cpu"
        train_only: tuple[str, ...] = ()

        def __post_init__(self) -> None:
            if self.batch_size < 1:
                raise ValueError(f"batch_size is {self.batch_size}: expected 1 or more")
            if self.warmup < 0:
                raise ValueError(f"warmup is {self.warmup}: expected 0 or more")

    def __init__(self, schema: Schema, layout: Layout, config: Config, seed: int):
        if config.device == "cpu":
            torch.set_num_threads(1)
        self.schema, self.layout, self.config, self.seed = schema, layout, config, seed
        self.steps = 0
        self.predictor = Predictor(
            schema, layout, config.network, config.embedding, config.rows, config.batch_size,
            seed, config.device,
        )  # fmt: skip
        self._flat, self._grads = flatten(self.predictor.network)
        self._optimiser = config.dense.build(self._flat)
        self._partial: Partial | None = None
        if config.train_only:
            self._partial = Partial(self.predictor, self._flat, config.train_only)
            self.predictor.embedding.freeze(slots_of(self._partial.tables, self.predictor))
        weights = np.array([task.weight for task in schema.tasks])
        self.adjust(weights, np.ones(len(schema.tasks)), 1.0)

    def adjust(
        self,
        task_weights: np.ndarray,
        tower_lr: np.ndarray,
        row_lr: float,
        tower_keep: np.ndarray | None = None,
    ) -> None:
        """Sets the tasks' weights in the loss, and multipliers of learning rates: each task's own
        parameters (tower, own experts or branch, linear terms, wide weights) and
        all embedding rows. Of the squared gradients that AdaGrad has summed for a task's own
        network it keeps `tower_keep` at each step; the other kinds forget by themselves. All but
        `row_lr` are [task]."""
        self.task_weights = np.array(task_weights, np.float64)
        self.tower_lr = np.array(tower_lr, np.float64)
        self.row_lr = float(row_lr)
        of_output = self.predictor.objective.task_of_output
        rows, device = self.config.rows, self.config.device
        network = self.predictor.network
        wide_lr = rows.wide_lr / network.copies  # their sum moves as one
        rates = np.append(rows.lr, wide_lr * self.tower_lr[of_output]) * self.row_lr
        self._rates = torch.tensor(rates, dtype=torch.float32, device=device)
        self._moderated: list[tuple[torch.Tensor, torch.Tensor]] = []
        if (self.tower_lr != 1).any():
            by_task = torch.tensor(self.tower_lr, dtype=torch.float32, device=device)
            self._moderated = [(weights.data, rate) for weights, rate in network.own(by_task)]
        self.tower_keep = np.ones(len(self.schema.tasks)) if tower_keep is None else tower_keep
        self._kept: list[tuple[torch.Tensor, torch.Tensor]] = []
        if self.config.dense.kind == "adagrad" and (self.tower_keep != 1).any():
            by_task = torch.tensor(self.tower_keep, dtype=torch.float32, device=device)
            sums = self._optimiser.state[self._flat]["sum"]
            self._kept = [
                (sums[(at := w.data.storage_offset()) : at + w.numel()].view(w.shape), kept)
                for w, kept in network.own(by_task)
            ]

    def predict(self, inputs: Inputs) -> np.ndarray:
        """float32 [n, outputs]: probabilities, or values for a regression. Changes nothing."""
        return self.predictor.predict(inputs)

    def step(self, batch: Batch, weighter: Weighter | None = None) -> StepReport:
        """Predicts, scores and learns from a batch of at most B examples in one forward pass.

        A `weighter` that reads gradients is shown this step's, and weighs them; it stays as it is.
        Raises ValueError for a batch of another shape. What is not finite, among the labels used,
        the inputs or any gradient, changes nothing: the report's `finite` is False.
        """
        self._check(batch)
        n, model = len(batch), self.predictor
        labels, mask = model.labels.standard(batch.labels, batch.mask)
        targets, counts = model.objective.targets(
            labels, mask, self.task_weights, self.config.batch_size, model.counts(batch.inputs)
        )
        block = model.read(batch.inputs)
        reads = weighter.gradients if weighter is not None else ""
        logits, split = self._forward(block, bool(reads))
        taught = logits
        if self.config.network.dropout:  # predictions have none
            with dropping(model.network, self.seed, self.steps):
                taught, split = self._forward(block, bool(reads))
        with torch.no_grad():
            linked = model.objective.link(logits)
            said = linked if taught is logits else model.objective.link(taught)
            aims = (torch.from_numpy(a).to(linked.device) for a in (targets, counts))
            error = model.objective.gradient(taught, said, *aims)
        self._grads.zero_()
        block.deep.grad = None
        taught.backward(error)
        weights, gram = self.task_weights, None
        if split is not None and weighter is not None:
            gram = split.gram(reads, weights)
            weights = weighter.combine(gram, weights)
            split.backward(weights / self.task_weights)
        loss = model.objective.losses(logits.detach().cpu().numpy(), targets, mask)
        predictions = model.values(linked)[:n]
        of_pooled = block.deep.grad
        assert of_pooled is not None
        finite = self._finite(of_pooled)
        if finite:
            self._learn(batch, block, of_pooled, error)
        counts = mask.sum(0)
        return StepReport(self.steps, n, loss, counts, predictions, finite, weights, gram)

    def _forward(self, block: Block, cut: bool) -> tuple[torch.Tensor, Split | None]:
        """The logits, and the pass that made them where it is `cut` at what the tasks share."""
        if not cut:
            return self.predictor.network(block.deep, block.wide, block.dense), None
        split = Split(self.predictor.network, block)
        return split.logits, split

    def _check(self, batch: Batch) -> None:
        n, tasks = len(batch), len(self.schema.tasks)
        batch.inputs.check(self.layout)
        if batch.labels.shape != (n, tasks) or batch.mask.shape != (n, tasks):
            raise ValueError(
                f"Batch.labels are {batch.labels.shape} and Batch.mask {batch.mask.shape}: "
                f"expected both {(n, tasks)}"
            )
        if n > self.config.batch_size:
            raise ValueError(f"Batch holds {n} examples: expected {self.config.batch_size} at most")

    def _finite(self, of_pooled: torch.Tensor) -> bool:
        norm = torch.linalg.vector_norm
        return math.isfinite((norm(self._grads) + norm(of_pooled)).item())

    def _learn(
        self, batch: Batch, block: Block, of_pooled: torch.Tensor, error: torch.Tensor
    ) -> None:
        model, n = self.predictor, len(batch)
        warm = min(1.0, (self.steps + 1) / (self.config.warmup + 1))
        if self._partial is None:
            self._move(warm)
        else:
            self._partial.step(self._optimiser, lambda: self._move(warm))
        # A wide weight enters its logit as it is, so its gradient is the logit's.
        model.embedding.learn(
            block.keys[:n], block.index[:n], block.weights[:n],
            of_pooled[:n], error[:n], warm * self._rates, batch.time_ms,
        )  # fmt: skip
        model.absorb(batch, STATISTICS if self._partial is None else self._partial.statistics)
        self.steps += 1

    def _move(self, warm: float) -> None:
        """A step of all dense weights, each at its rate."""
        for sums, kept in self._kept:
            sums.mul_(kept)
        before = [weights.clone() for weights, _ in self._moderated]
        self.config.dense.step(self._optimiser, warm * self.config.dense.lr)
        for (weights, rate), old in zip(self._moderated, before, strict=True):
            weights.copy_(old + rate * (weights - old))

    def state(self, embedding: Rows | None = None) -> dict[str, Any]:
        """All that decides the future, as a tree; embedding rows in the order of their keys, or
        `embedding` in their place."""
        optimiser = self._optimiser.state_dict()["state"].get(0, {})
        return {
            "step": self.steps,
            "seed": self.seed,
            "model": self.predictor.state(embedding),
            "optimiser": {name: value.cpu().numpy().copy() for name, value in optimiser.items()},
            "task_weights": self.task_weights.copy(),
            "tower_lr": self.tower_lr.copy(),
            "row_lr": self.row_lr,
            "tower_keep": self.tower_keep.copy(),
            "changes": self.predictor.embedding.changes.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from `state()` of a trainer of the same schema, layout and config, exactly."""
        if state["seed"] != self.seed:
            raise ValueError(f"state is of seed {state['seed']}: expected this one's, {self.seed}")
        self.steps = state["step"]
        self.predictor.load(state["model"])
        optimiser = self._optimiser.state_dict()
        optimiser["state"] = {}
        if state["optimiser"]:
            tensors = {n: torch.from_numpy(v.copy()) for n, v in state["optimiser"].items()}
            optimiser["state"] = {0: tensors}
        self._optimiser.load_state_dict(optimiser)
        self.adjust(state["task_weights"], state["tower_lr"], state["row_lr"], state["tower_keep"])
        self.predictor.embedding.changes.load(state["changes"])

    def state_hash(self) -> str:
        """The hex SHA-256 of `state()`, but for what a delta has still to tell."""
        return tree_hash({name: part for name, part in self.state().items() if name != "changes"})

    def snapshot(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays by name and a meta dict (JSON): what `model.score.Scorer` needs."""
        return self.predictor.arrays(), {**self.predictor.meta(), "step": self.steps}

    def version(self, whole: bool) -> Told:
        """The model as a version tells it: all of it, or, unless `whole`, what changed since `told`
        was called last, where not all did."""
        arrays, total = self.predictor.tell(whole)
        meta = {**self.predictor.meta(), "step": self.steps}
        says = content(meta, arrays, len(self.predictor.embedding), total)
        finite = self.predictor.embedding.contents.finite
        finite &= all(_sound(name, array) for name, array in arrays.items())
        return Told(arrays, meta, "embedding/gone" not in arrays, says, finite)

    def told(self) -> None:
        """From here on: what `version` gave last is where the next one begins."""
        self.predictor.embedding.changes.clean()


def _sound(name: str, array: np.ndarray) -> bool:
    """Whether an array of a version is finite; the bounds of labels are not before there was one,
    and the embedding's rows are looked at as they change."""
    if name.startswith("embedding/"):
        return True
    if name in ("labels/low", "labels/high"):
        return not np.isnan(array).any()
    return bool(np.isfinite(array).all())
