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
    Task("e", "regression", 0, huber=1.5),
    Task("f", "binary", 0, given="a"),
    Task("g", "binary", 0, given="f"),
)
OBJECTIVE = Objective(Schema((Field("user", "id"),), TASKS, "user"))
WEIGHTS = np.array([1.0, 0.5, 2.0, 3.0, 0.7, 1.3, 0.9])
SIZE = 10


def case() -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    logits = torch.tensor(draw.normal(0, 3, (8, 9)), dtype=torch.float32, requires_grad=True)
    labels = np.column_stack(
        [
            draw.integers(0, 2, 8),
            draw.normal(size=8),
            draw.integers(0, 3, 8),
            draw.integers(0, 2, 8),
            draw.normal(size=8),
            draw.integers(0, 2, 8),
            draw.integers(0, 2, 8),
        ]
    )
    return logits, labels.astype(np.float32), draw.random((8, 7)) < 0.7


def losses_of_torch(logits: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
    y, logits = torch.from_numpy(labels).double(), logits.double()
    a, f, g = (logits[:, k].sigmoid() for k in (0, 7, 8))
    columns = [
        F.binary_cross_entropy_with_logits(logits[:, 0], y[:, 0], reduction="none"),
        F.mse_loss(logits[:, 1], y[:, 1], reduction="none") / 2,
        F.cross_entropy(logits[:, 2:5], y[:, 2].long(), reduction="none"),
        F.binary_cross_entropy_with_logits(logits[:, 5], y[:, 3], reduction="none"),
        F.huber_loss(logits[:, 6], y[:, 4], reduction="none", delta=1.5),
        F.binary_cross_entropy(a * f, y[:, 5], reduction="none"),
        F.binary_cross_entropy(a * f * g, y[:, 6], reduction="none"),
    ]
    return torch.stack(columns, 1)


def test_losses_are_torchs_masked_means() -> None:
    logits, labels, mask = case()
    targets, _ = OBJECTIVE.targets(labels, mask, WEIGHTS, SIZE)
    found = OBJECTIVE.losses(logits.detach().numpy(), targets, mask)
    each = losses_of_torch(logits, labels).detach().numpy()
    for k in range(7):
        assert found[k] == pytest.approx(each[mask[:, k], k].mean(), rel=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradient_is_autograds_of_the_weighted_sum(weighted: bool) -> None:
    logits, labels, mask = case()
    of_examples = np.arange(8, dtype=np.float32) if weighted else None
    targets, counts = OBJECTIVE.targets(labels, mask, WEIGHTS, SIZE, of_examples)
    x, aims = logits.detach(), [torch.from_numpy(a[:8]) for a in (targets, counts)]
    error = OBJECTIVE.gradient(x, OBJECTIVE.link(x), *aims).numpy()
    total = losses_of_torch(logits, labels) * torch.from_numpy(mask * WEIGHTS)
    if of_examples is not None:
        total = total * torch.from_numpy(of_examples)[:, None]
    (total.sum() / SIZE).backward()
    assert logits.grad is not None
    assert error == pytest.approx(logits.grad.numpy(), abs=1e-6)
    assert (counts[8:] == 0).all()


def test_a_chains_prediction_is_the_product_of_its_tasks() -> None:
    logits, _, _ = case()
    found = OBJECTIVE.link(logits.detach())
    p = logits.detach().sigmoid()
    assert torch.allclose(found[:, 0], p[:, 0]) and torch.allclose(found[:, 7], p[:, 0] * p[:, 7])
    assert torch.allclose(found[:, 8], p[:, 0] * p[:, 7] * p[:, 8], atol=1e-7)


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_chain_far_out_is_finite(sign: int) -> None:
    x = torch.full((1, 9), 200.0 * sign)
    targets = np.full((1, 9), float(sign < 0), np.float32)
    assert np.isfinite(OBJECTIVE.losses(x.numpy(), targets, np.ones((1, 7), bool))).all()
    aims = torch.from_numpy(targets), torch.ones(1, 9)
    assert OBJECTIVE.gradient(x, OBJECTIVE.link(x), *aims).isfinite().all()


def test_an_examples_weight_below_0_is_not_finite() -> None:
    _, labels, mask = case()
    of_examples = np.array([1, 1, -1, 1, np.nan, 1, 1, 1], np.float32)
    mask[:] = True
    _, counts = OBJECTIVE.targets(labels, mask, WEIGHTS, SIZE, of_examples)
    assert np.isnan(counts[[2, 4]]).all() and np.isfinite(counts[[0, 1, 3, 5]]).all()


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
    targets = np.array([[1.0, 0, 1, 0, 0, 0, 0, 1, 1]], np.float32)
    logits = np.array([[-200.0, 0, -200, 200, 0, 200, 10, 200, -200]], np.float32)
    found = OBJECTIVE.losses(logits, targets, np.ones((1, 7), bool))
    assert found.tolist() == [200, 0, 400, 200, 1.5 * (10 - 0.75), 200, 400]
