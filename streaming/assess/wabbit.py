"""Vowpal Wabbit, one model a task: a weight an id and a number, and user with item crossed."""

from __future__ import annotations

from typing import Any

import numpy as np
import vowpalwabbit

from model.batch import Inputs, Layout
from model.schema import Schema, Task
from streaming.assess.rival import guesses

BITS = 22


class Wabbit:
    def __init__(self, schema: Schema, layout: Layout, rate: float) -> None:
        self._schema = schema
        names = [bag.name for bag in layout.bags]
        self._bag_of_slot = [f"b{bag}" for bag in layout.bag_of_slot]
        crossed = ""
        if schema.item in names:
            # namespaces are told apart by their first letter, so the two have ones of their own
            for letter, name in (("u", schema.user), ("i", schema.item)):
                slot = int(np.flatnonzero(layout.bag_of_slot == names.index(str(name)))[0])
                self._bag_of_slot[slot] = letter
            crossed = "-q ui"
        self._models: list[Any] = [
            vowpalwabbit.Workspace(f"--quiet -b {BITS} -l {rate} {crossed} {_of(task)}")
            for task in schema.tasks
        ]

    def predict(self, inputs: Inputs) -> np.ndarray:
        out = guesses(self._schema, len(inputs))
        for row in range(len(inputs)):
            said = self._line(inputs, row)
            for task, model in zip(self._schema.tasks, self._models, strict=True):
                out[row, self._schema.output_slices[task.name]] = model.predict(said)
        return out

    def learn(self, inputs: Inputs, labels: np.ndarray, mask: np.ndarray, closed_ms: int) -> None:
        for row in range(len(inputs)):
            said = self._line(inputs, row)
            for k, (task, model) in enumerate(zip(self._schema.tasks, self._models, strict=True)):
                if mask[row, k]:
                    model.learn(f"{_label(task, float(labels[row, k]))} {said}")

    def _line(self, inputs: Inputs, row: int) -> str:
        keys, weights = inputs.keys[row].tolist(), inputs.weights[row].tolist()
        ids = [
            f"|{bag} {key}:{weight:.6g}"
            for bag, key, weight in zip(self._bag_of_slot, keys, weights, strict=True)
            if key
        ]
        numbers = [f"{n}:{v:.6g}" for n, v in enumerate(inputs.dense[row].tolist()) if v]
        return " ".join([*ids, "|d", *numbers])


def _of(task: Task) -> str:
    if task.kind == "binary":
        return "--loss_function logistic --link logistic"
    if task.kind == "multiclass":
        return f"--oaa {task.classes} --probabilities --loss_function logistic"
    return ""


def _label(task: Task, label: float) -> str:
    if task.kind == "binary":
        return "1" if label > 0.5 else "-1"
    return str(int(label) + 1) if task.kind == "multiclass" else f"{label:.9g}"
