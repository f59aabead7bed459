"""A small model and its batches, for the tests of this folder: the fixture `small`."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from model.batch import Bag, Batch, Inputs, Layout
from model.schema import Field, Schema, Task
from model.structure import NetworkConfig
from model.train import Trainer

SCHEMA = Schema(
    (Field("user", "id"), Field("item", "id"), Field("seen", "ids", 4), Field("age", "dense")),
    (
        Task("click", "binary", 0),
        Task("kind", "multiclass", 0, classes=3),
        Task("time", "regression", 0, weight=0.5),
    ),
    "user",
    "item",
)
LAYOUT = Layout(
    (Bag("user", "user"), Bag("item", "item"), Bag("seen", "item", 4)), ("age", "hour", "price")
)


def trainer(seed: int = 0, **settings: object) -> Trainer:
    settings.setdefault("network", NetworkConfig(crossed=()))
    return Trainer(SCHEMA, LAYOUT, Trainer.Config(**settings), seed)  # type: ignore[arg-type]


def batch(seed: int, n: int = 64, ids: int = 40) -> Batch:
    """Labels depend on the ids and the dense columns, so there is something to learn."""
    draw = np.random.default_rng(seed)
    keys = draw.integers(1, ids, (n, LAYOUT.slots)) * 7919
    keys[:, 2:][draw.random((n, 4)) < 0.3] = 0
    weights = np.ones(keys.shape, np.float32)
    weights[:, 2:] = 1 / np.maximum((keys[:, 2:] > 0).sum(1, keepdims=True), 1)
    dense = draw.normal(3, 2, (n, 3)).astype(np.float32)
    score = (keys[:, 0] % 5 - 2) + (dense[:, 0] - 3) / 2 + draw.normal(0, 0.3, n)
    labels = np.column_stack([score > 0, np.digitize(score, [-1, 1]), 20 + 5 * score])
    return Batch(Inputs(keys, weights, dense), labels.astype(np.float32), draw.random((n, 3)) < 0.9)


@pytest.fixture
def small(request: pytest.FixtureRequest) -> SimpleNamespace:
    device = request.config.getoption("--device")
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("--device cuda: torch finds no GPU here")

    def made(seed: int = 0, **settings: object) -> Trainer:
        return trainer(seed, **{"device": device, **settings})

    return SimpleNamespace(SCHEMA=SCHEMA, LAYOUT=LAYOUT, trainer=made, batch=batch)
