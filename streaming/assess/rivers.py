"""River's pipelines, one example at a time: standardised numbers and ids as they are into linear
models; and adaptive Hoeffding trees on the numbers, which are its own answer to drift."""

from __future__ import annotations

from typing import Any

import numpy as np
from river import linear_model, multiclass, optim, preprocessing, tree

from model.batch import Inputs
from model.schema import Schema, Task
from streaming.assess.rival import guesses


class Linear:
    """Logistic, softmax or linear regression by AdaGrad, with a weight for each id."""

    def __init__(self, schema: Schema, rate: float) -> None:
        self._schema = schema
        self._scaler = preprocessing.StandardScaler()
        self._models: list[Any] = [_linear(task, rate) for task in schema.tasks]

    def predict(self, inputs: Inputs) -> np.ndarray:
        out = guesses(self._schema, len(inputs))
        for row in range(len(inputs)):
            x = _ids(inputs, row) | self._scaler.transform_one(_numbers(inputs, row))
            for task, model in zip(self._schema.tasks, self._models, strict=True):
                _say(task, model, x, out[row, self._schema.output_slices[task.name]])
        return out

    def learn(self, inputs: Inputs, labels: np.ndarray, mask: np.ndarray, closed_ms: int) -> None:
        for row in range(len(inputs)):
            numbers = _numbers(inputs, row)
            self._scaler.learn_one(numbers)
            x = _ids(inputs, row) | self._scaler.transform_one(numbers)
            _tell(self._schema, self._models, x, labels[row], mask[row])


class Trees:
    """Hoeffding adaptive trees (Bifet and Gavaldà 2009) on the dense columns."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._models: list[Any] = [
            tree.HoeffdingAdaptiveTreeRegressor(seed=0)
            if task.kind == "regression"
            else tree.HoeffdingAdaptiveTreeClassifier(seed=0)
            for task in schema.tasks
        ]

    def predict(self, inputs: Inputs) -> np.ndarray:
        out = guesses(self._schema, len(inputs))
        for row in range(len(inputs)):
            x = _numbers(inputs, row)
            for task, model in zip(self._schema.tasks, self._models, strict=True):
                _say(task, model, x, out[row, self._schema.output_slices[task.name]])
        return out

    def learn(self, inputs: Inputs, labels: np.ndarray, mask: np.ndarray, closed_ms: int) -> None:
        for row in range(len(inputs)):
            _tell(self._schema, self._models, _numbers(inputs, row), labels[row], mask[row])


def _linear(task: Task, rate: float) -> Any:
    if task.kind == "regression":
        return linear_model.LinearRegression(optim.AdaGrad(rate), intercept_lr=rate)
    binary = linear_model.LogisticRegression(optim.AdaGrad(rate), intercept_lr=rate)
    return binary if task.kind == "binary" else multiclass.OneVsRestClassifier(binary)


def _numbers(inputs: Inputs, row: int) -> dict[Any, float]:
    return dict(enumerate(inputs.dense[row].tolist()))


def _ids(inputs: Inputs, row: int) -> dict[Any, float]:
    keys, weights = inputs.keys[row].tolist(), inputs.weights[row].tolist()
    return {str(k): w for k, w in zip(keys, weights, strict=True) if k}


def _say(task: Task, model: Any, x: dict[Any, float], out: np.ndarray) -> None:
    if task.kind == "regression":
        out[0] = model.predict_one(x) or 0.0
        return
    shares = model.predict_proba_one(x)
    if not shares:
        return
    if task.kind == "binary":
        out[0] = shares.get(True, 0.0) if len(shares) > 1 or True in shares else 0.0
    else:
        out[:] = [shares.get(c, 0.0) for c in range(task.classes)]


def _tell(
    schema: Schema, models: list[Any], x: dict[Any, float], labels: np.ndarray, mask: np.ndarray
) -> None:
    for k, task in enumerate(schema.tasks):
        if mask[k]:
            y = float(labels[k])
            label = {"binary": y > 0.5, "multiclass": int(y), "regression": y}[task.kind]
            models[k].learn_one(x, label)
