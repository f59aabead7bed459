from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from model.losses import Objective
from model.schema import Field, Schema, Task

TASKS = (
    Task("a", "binary", 0),
    Task("b", "regression", 0),
    Task("c", "multiclass", 0, classes=3),
    Task("d", "binary", 0),
)
OBJECTIVE = Objective(Schema((Field("user", "id"),), TASKS, "user"))
WEIGHTS = np.array([1.0, 0.5, 2.0, 3.0])
SIZE = 10


def case() -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    logits = torch.tensor(draw.normal(0, 3, (8, 6)), dtype=torch.float32, requires_grad=True)
    labels = np.column_stack(
        [
            draw.integers(0, 2, 8),
            draw.normal(size=8),
            draw.integers(0, 3, 8),
            draw.integers(0, 2, 8),
        ]
    )
    return logits, labels.astype(np.float32), draw.random((8, 4)) < 0.7


def losses_of_torch(logits: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
    y = torch.from_numpy(labels)
    columns = [
        F.binary_cross_entropy_with_logits(logits[:, 0], y[:, 0], reduction="none"),
        F.mse_loss(logits[:, 1], y[:, 1], reduction="none") / 2,
        F.cross_entropy(logits[:, 2:5], y[:, 2].long(), reduction="none"),
        F.binary_cross_entropy_with_logits(logits[:, 5], y[:, 3], reduction="none"),
    ]
    return torch.stack(columns, 1)


def test_losses_are_torchs_masked_means() -> None:
    logits, labels, mask = case()
    targets, _ = OBJECTIVE.targets(labels, mask, WEIGHTS, SIZE)
    found = OBJECTIVE.losses(logits.detach().numpy(), targets, mask)
    each = losses_of_torch(logits, labels).detach().numpy()
    for k in range(4):
        assert found[k] == pytest.approx(each[mask[:, k], k].mean(), rel=1e-6)


def test_prediction_minus_target_is_autograds_gradient_of_the_weighted_sum() -> None:
    logits, labels, mask = case()
    targets, counts = OBJECTIVE.targets(labels, mask, WEIGHTS, SIZE)
    error = (OBJECTIVE.link(logits).detach().numpy() - targets[:8]) * counts[:8]
    total = losses_of_torch(logits, labels) * torch.from_numpy(mask * WEIGHTS)
    (total.sum() / SIZE).backward()
    assert logits.grad is not None
    assert error == pytest.approx(logits.grad.numpy(), abs=1e-6)
    assert (counts[8:] == 0).all()


def test_a_class_out_of_range_is_not_finite_and_a_task_without_labels_has_no_loss() -> None:
    logits, labels, mask = case()
    mask[:] = True
    mask[:, 0] = False
    labels[3, 2] = 3
    targets, _ = OBJECTIVE.targets(labels, mask, WEIGHTS, SIZE)
    found = OBJECTIVE.losses(logits.detach().numpy(), targets, mask)
    assert np.isnan(targets[3, 2]) and np.isfinite(targets[:3]).all()
    assert np.isnan(found[0]) and np.isfinite(found[1])


def test_far_logits_lose_finitely() -> None:
    targets, mask = np.array([[1.0, 0, 1, 0, 0, 0]], np.float32), np.ones((1, 4), bool)
    logits = np.array([[-200.0, 0, -200, 200, 0, 200]], np.float32)
    assert OBJECTIVE.losses(logits, targets, mask).tolist() == [200, 0, 400, 200]
