"""Transfer: a model begins with what another, of another schema, has learnt.

Carried over is what both know by one name (model/axes.py): tables by the fields that they are of,
dense columns, tasks, and the weights between them, with the optimisers' state where its kind is the
same. What is new begins as in any new model, but for weights of what is known that read what is
new: these begin at 0, so that a field or a task more changes no other prediction at first (but by
FM, which weighs all pairs, and in PLE of more levels than one, where all experts are weighed).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.axes import axes, carry, of_outputs, of_task
from model.batch import Layout
from model.embedding import EmbeddingConfig
from model.layers import flat_sizes
from model.optim import RowOptimiser
from model.schema import Schema
from model.score import Predictor
from model.structure import NetworkConfig
from model.train import Trainer
from model.transfer_rows import transfer_rows


@dataclass(frozen=True)
class Source:
    """What another model learnt: `meta` as of `Predictor.meta`, `state` as of `Predictor.state`;
    and, where they are known, the dense `optimiser`'s state and the kind of the `rows` one."""

    meta: Mapping[str, Any]
    state: Mapping[str, Any]
    optimiser: Mapping[str, np.ndarray] | None = None
    rows: str = ""

    def predictor(self) -> Predictor:
        """A model of that shape, which has learnt nothing."""
        return Predictor(
            Schema.from_json(self.meta["schema"]), Layout.from_dict(self.meta["layout"]),
            NetworkConfig.from_dict(self.meta["network"]), EmbeddingConfig(dim=self.meta["dim"]),
            RowOptimiser("sgd"), batch_size=1, seed=0,
        )  # fmt: skip


def transfer(source: Source, trainer: Trainer) -> dict[str, Any]:
    """Lets a new trainer begin with what `source` knows; returns what was taken, as JSON.

    `tasks`, `tables` and `dense` name what was "taken", what is "new" here, and what was "left"
    there; `ids` is the number of rows taken; `network` says by part how many of its numbers were
    taken, of how many. A row tells no one of which table it is: all are taken where one is. Raises
    ValueError where `source` does not fit into the embedding's bounds.
    """
    theirs, ours = source.predictor(), trainer.predictor
    tree = trainer.state()
    network = _network(source, theirs, trainer, tree)
    rows = source.state["embedding"], source.rows
    ids = transfer_rows(*rows, theirs, ours, tree["model"]["embedding"])
    for part, names in (("dense", lambda m: m.layout.dense), ("labels", _outputs)):
        for name, values in tree["model"][part].items():
            carry(source.state[part][name], [names(theirs)], values, [names(ours)])
    trainer.load(tree)
    return {
        "tasks": _compared(theirs, ours, lambda m: {of_task(t): t.name for t in m.schema.tasks}),
        "tables": _compared(theirs, ours, lambda m: {t: t for t in m.embedding.layout.tables}),
        "dense": _compared(theirs, ours, lambda m: {c: c for c in m.layout.dense}),
        "ids": ids,
        "network": network,
    }


def _outputs(model: Predictor) -> Sequence[Hashable]:
    return of_outputs(model.schema)


def _compared(
    source: Predictor, target: Predictor, named: Callable[[Predictor], dict[Any, str]]
) -> dict[str, list[str]]:
    theirs, ours = named(source), named(target)
    return {
        "taken": [name for key, name in ours.items() if key in theirs],
        "new": [name for key, name in ours.items() if key not in theirs],
        "left": [name for key, name in theirs.items() if key not in ours],
    }


def _network(
    source: Source, theirs: Predictor, trainer: Trainer, tree: dict[str, Any]
) -> dict[str, list[int]]:
    """Carries weights, and the optimiser's state, into `tree`; says how many of each part."""
    there = {common: (name, names) for name, common, _, names, _ in axes(theirs)}
    ours, network = trainer.predictor, tree["model"]["network"]
    state = dict(source.optimiser or {})
    of_kind = trainer.config.dense.kind == KIND_OF.get(frozenset(state) - {"step"}, "")
    at, here = (flat_sizes(m.network) for m in (theirs, ours))
    total = sum(size for _, size in here.values())
    moments = {}
    if of_kind:
        moments = {n: tree["optimiser"].get(n, np.zeros(total, np.float32)) for n in state}
        moments |= {n: v.copy() for n, v in state.items() if v.size == 1}
        tree["optimiser"] = moments
    taken: dict[str, list[int]] = {}
    for name, common, tensor, names, inputs in axes(ours):
        count = taken.setdefault(name.split(".")[2 * name.startswith("networks.")], [0, 0])
        count[1] += tensor.numel()
        if common not in there:
            continue
        other, of_other = there[common]
        count[0] += carry(source.state["network"][other], of_other, network[name], names, inputs)
        if name not in here:
            continue
        for what, values in moments.items():
            if values.size > 1:
                (i, _), (j, _) = at[other], here[name]
                shape = [len(n) for n in of_other]
                part = state[what][i : i + math.prod(shape)].reshape(shape)
                to = values[j : j + tensor.numel()].reshape(tensor.shape)
                carry(part, of_other, to, names)
    return taken


KIND_OF = {
    frozenset({"sum"}): "adagrad",
    frozenset({"exp_avg", "exp_avg_sq"}): "adam",
    frozenset({"square_avg"}): "rmsprop",
}
"""Which optimiser has which state, its number of steps aside."""
