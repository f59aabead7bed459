"""Every action of every round scored at its place in the order, before any of its labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.batch import Batch, Inputs
from model.train import Trainer
from streaming.application import Application
from streaming.assess.recording import Recording

BLOCK = 64


class Scored:
    """A trainer played over a recording (a `Rival`), which predicts the first task's reward of each
    of an impression's actions: `q` float32 [shown, actions], 0 for those that were not `there`."""

    def __init__(
        self, app: Application, recording: Recording, actions_of: Sequence[Sequence[int]],
        keys: np.ndarray, seed: int,
    ) -> None:  # fmt: skip
        assert app.schema.item is not None
        bag = recording.layout.bag(app.schema.item)
        self._slot = int(np.flatnonzero(recording.layout.bag_of_slot == bag)[0])
        self._trainer = Trainer(app.schema, recording.layout, app.trainer, seed)
        self._actions_of, self._keys = actions_of, keys
        self.q = np.zeros((len(recording), len(keys)), np.float32)
        self._at = 0

    def predict(self, inputs: Inputs) -> np.ndarray:
        for start in range(0, len(inputs), BLOCK):
            self._score(inputs[start : start + BLOCK])
        return self._trainer.predict(inputs)

    def learn(self, inputs: Inputs, labels: np.ndarray, mask: np.ndarray, closed_ms: int) -> None:
        self._trainer.step(Batch(inputs, labels, mask, closed_ms))

    def _score(self, inputs: Inputs) -> None:
        actions = self._actions_of[self._at : self._at + len(inputs)]
        rows = np.repeat(np.arange(len(inputs)), [len(a) for a in actions])
        columns = np.concatenate([np.asarray(a, np.int64) for a in actions])
        keys = inputs.keys[rows].copy()
        keys[:, self._slot] = self._keys[columns]
        candidates = Inputs(keys, inputs.weights[rows], inputs.dense[rows])
        self.q[self._at + rows, columns] = self._trainer.predict(candidates)[:, 0]
        self._at += len(inputs)
