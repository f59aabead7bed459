"""LightGBM on the features that the network sees."""

from __future__ import annotations

from typing import Any

import lightgbm
import numpy as np

from model.batch import Inputs, Layout
from model.schema import Schema, Task
from streaming.assess.rival import guesses

MOST_CATEGORIES = 255
ROUNDS, PATIENCE, HELD_OUT = 400, 20, 10
LEAST = 200
OBJECTIVES = {"binary": "binary", "regression": "regression", "multiclass": "multiclass"}
PARAMETERS = {
    "learning_rate": 0.05, "num_leaves": 31, "min_data_in_leaf": 50, "feature_fraction": 0.7,
    "bagging_fraction": 0.8, "bagging_freq": 1, "verbosity": -1, "seed": 0, "deterministic": True,
}  # fmt: skip


class Boosted:
    """A model a task, where there are labels enough."""

    def __init__(
        self, schema: Schema, layout: Layout, inputs: Inputs, labels: np.ndarray, mask: np.ndarray
    ) -> None:
        self._schema = schema
        self._slots = [
            int(np.flatnonzero(layout.bag_of_slot == bag)[0])
            for bag, of in enumerate(layout.bags)
            if of.size == 1
        ]
        self._categories: dict[int, np.ndarray] = {}
        for slot in self._slots:
            values = np.unique(inputs.keys[:, slot])
            if len(values) <= MOST_CATEGORIES:
                self._categories[slot] = values
        x = self._columns(inputs)
        self._models: dict[str, Any] = {}
        self._means: dict[str, np.ndarray] = {}
        for k, task in enumerate(schema.tasks):
            rows = np.flatnonzero(mask[:, k])
            if len(rows):
                y = labels[rows, k]
                self._means[task.name] = _mean(task, y)
                if len(rows) >= LEAST and len(np.unique(y)) > 1:
                    self._models[task.name] = self._fit(task, x[rows], y)

    def predict(self, inputs: Inputs) -> np.ndarray:
        out, x = guesses(self._schema, len(inputs)), self._columns(inputs)
        for task in self._schema.tasks:
            where = self._schema.output_slices[task.name]
            if task.name in self._models:
                said = self._models[task.name].predict(x)
                out[:, where] = np.asarray(said).reshape(len(x), -1)
            elif task.name in self._means:
                out[:, where] = self._means[task.name]
        return out

    def _columns(self, inputs: Inputs) -> np.ndarray:
        codes = []
        for slot, values in self._categories.items():
            keys = inputs.keys[:, slot]
            place = np.searchsorted(values, keys).clip(max=len(values) - 1)
            codes.append(np.where(values[place] == keys, place, -1))
        columns = [c[:, None].astype(np.float32) for c in codes]
        return np.concatenate([*columns, inputs.dense], 1)

    def _fit(self, task: Task, x: np.ndarray, y: np.ndarray) -> Any:
        parameters = {**PARAMETERS, "objective": OBJECTIVES[task.kind]}
        if task.kind == "multiclass":
            parameters["num_class"] = task.classes
        names = list(range(len(self._categories)))
        whole = lightgbm.Dataset(x, y, categorical_feature=names, free_raw_data=False)
        kept = len(y) - len(y) // HELD_OUT
        first = lightgbm.train(
            parameters,
            whole.subset(range(kept)),
            ROUNDS,
            valid_sets=[whole.subset(range(kept, len(y)))],
            callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
        )
        return lightgbm.train(parameters, whole, max(first.best_iteration, 1))


def _mean(task: Task, labels: np.ndarray) -> np.ndarray:
    if task.kind == "multiclass":
        counts = np.bincount(labels.astype(np.int64), minlength=task.classes) + 1.0
        return np.asarray(counts / counts.sum())
    return np.asarray([labels.mean()])
