"""What people would pick instead, on the same features, with labels when they really came."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from model.batch import Inputs
from model.schema import Schema
from streaming.assess.recording import Recording
from streaming.compare.served import Served


class Rival(Protocol):
    """Predicts what is shown, and is told labels [n, task], of which those of `mask` are known."""

    def predict(self, inputs: Inputs) -> np.ndarray:
        """float32 [n, outputs], as `Trainer.predict` gives them. Changes nothing."""

    def learn(
        self, inputs: Inputs, labels: np.ndarray, mask: np.ndarray, closed_ms: int
    ) -> None: ...


class Absent(Exception):
    """The package of a rival is not installed: says which, and how to get it."""


def play(
    recording: Recording, rival: Rival, on_moment: Callable[[int, int], None]
) -> dict[str, Served]:
    """What the rival would have served: each impression predicted before any label that closed
    later, cut by cut, as the learner was. `on_moment` is told how many examples of how many."""
    inputs = recording.inputs()
    predictions = np.zeros((len(recording), recording.schema.outputs), np.float32)
    for moment in recording.moments:
        if moment.shown.stop > moment.shown.start:
            predictions[moment.shown] = rival.predict(inputs[moment.shown])
        if len(moment.rows):
            rows = moment.rows
            told = Inputs(inputs.keys[rows], inputs.weights[rows], inputs.dense[rows])
            rival.learn(told, moment.labels, moment.mask, moment.closed_ms)
        on_moment(moment.shown.stop, len(recording))
    return recording.served(predictions)


def guesses(schema: Schema, n: int) -> np.ndarray:
    """float32 [n, outputs]: of who knows nothing yet; one half, equal shares, 0."""
    out = np.zeros((n, schema.outputs), np.float32)
    for task in schema.tasks:
        if task.kind != "regression":
            out[:, schema.output_slices[task.name]] = 1 / max(task.outputs, 2)
    return out
