from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from model.optim import KINDS, DenseOptimiser, RowOptimiser, update_in_torch

TORCHS = {
    "sgd": lambda p, l2: torch.optim.SGD(p, lr=0.1, weight_decay=l2),
    "adam": lambda p, l2: torch.optim.Adam(p, lr=0.1, betas=(0.8, 0.95), weight_decay=l2),
    "rmsprop": lambda p, l2: torch.optim.RMSprop(p, lr=0.1, alpha=0.95, weight_decay=l2),
    "adagrad": lambda p, l2: torch.optim.Adagrad(p, lr=0.1, eps=1e-8, weight_decay=l2),
}


def of_kind(kind: str, l2: float = 0.0, l1: float = 0.0) -> RowOptimiser:
    return RowOptimiser(kind, lr=0.1, wide_lr=0.1, l1=l1, l2=l2, momentum=0.8, decay=0.95)


def start(optimiser: RowOptimiser, dim: int, outputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = np.random.default_rng(0)
    rows = torch.tensor(draw.normal(size=(9, dim + outputs)), dtype=torch.float32)
    return rows, torch.from_numpy(np.tile(optimiser.fresh(dim, outputs), (9, 1)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_a_row_of_one_number_moves_as_in_torch(kind: str, l2: float) -> None:
    """With dim 1 a row's mean square is its only one; every row is in every step, as an absent
    row keeps its age and moments here, and in torch does not."""
    optimiser = of_kind(kind, l2)
    rows, state = start(optimiser, 1, 2)
    oracle = nn.Parameter(rows.clone())
    theirs = TORCHS[kind]([oracle], l2)
    draw = np.random.default_rng(1)
    for _ in range(20):
        grads = torch.tensor(draw.normal(size=(9, 3)), dtype=torch.float32)
        oracle.grad = grads.clone()
        theirs.step()
        order = torch.from_numpy(draw.permutation(9))
        optimiser.update(rows, state, order, grads[order], torch.full((3,), 0.1))
    assert rows.numpy() == pytest.approx(oracle.detach().numpy(), abs=2e-6)


def test_adagrad_divides_the_deep_part_by_its_mean_square_and_wide_weights_each_by_its_own() -> (
    None
):
    optimiser = RowOptimiser("adagrad", initial=0.5)
    rows, state = start(optimiser, 4, 2)
    before, grads = rows[3].numpy().copy(), np.array([[1, 2, 3, 4, 5, 6]], np.float32)
    rates = torch.tensor([0.1, 0.2, 0.3])
    optimiser.update(rows, state, torch.tensor([3]), torch.from_numpy(grads.copy()), rates)
    mean = (1 + 4 + 9 + 16) / 4
    moved = np.concatenate(
        [
            0.1 * grads[0, :4] / np.sqrt(0.5 + mean),
            [0.2 * 5 / np.sqrt(25.5), 0.3 * 6 / np.sqrt(36.5)],
        ]
    )
    assert rows[3].numpy() == pytest.approx(before - moved, abs=1e-6)
    assert state[3].tolist() == [0.5 + mean, 25.5, 36.5]


@pytest.mark.parametrize("kind", KINDS)
def test_only_touched_rows_and_their_state_move(kind: str) -> None:
    optimiser = of_kind(kind, 0.1)
    rows, state = start(optimiser, 4, 2)
    before, kept = rows.clone(), state.clone()
    optimiser.update(rows, state, torch.tensor([7, 2]), torch.ones(2, 6), torch.full((3,), 0.1))
    still = [0, 1, 3, 4, 5, 6, 8]
    assert (rows[still] == before[still]).all() and (state[still] == kept[still]).all()
    assert (rows[[2, 7]] != before[[2, 7]]).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("l2", "l1"), [(0.0, 0.0), (0.1, 0.0), (0.1, 0.3)])
def test_kernels_and_torch_operations_agree(kind: str, l2: float, l1: float) -> None:
    optimiser, draw = of_kind(kind, l2, l1), np.random.default_rng(2)
    (rows, state), (rows2, state2) = start(optimiser, 8, 3), start(optimiser, 8, 3)
    rates = torch.tensor([0.1, 0.2, 0.3, 0.05])
    for _ in range(10):
        touched = torch.from_numpy(draw.permutation(9)[:5])
        grads = torch.tensor(draw.normal(size=(5, 11)), dtype=torch.float32)
        optimiser.update(rows, state, touched, grads.clone(), rates)
        numbers = (optimiser.l1, optimiser.l2, optimiser.momentum, optimiser.decay, optimiser.eps)
        update_in_torch(KINDS.index(kind), *numbers, rows2, state2, touched, grads, rates)
    assert rows.numpy() == pytest.approx(rows2.numpy(), abs=1e-5)
    assert state.numpy() == pytest.approx(state2.numpy(), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_dense_optimisers_are_torchs(kind: str) -> None:
    made = DenseOptimiser(kind, lr=0.5, l2=0.1).build(torch.zeros(3))
    assert type(made).__name__.lower() == kind
    assert made.param_groups[0]["lr"] == 0.5 and made.param_groups[0]["weight_decay"] == 0.1


def proximal(kind: str, grads: np.ndarray, w: np.ndarray, decay: float, groups: list) -> np.ndarray:
    """w [numbers] after a step a row of grads, row-wise in `groups`; lr .1, l1 .3: in float64."""
    second, first, w = np.zeros(len(w)), np.zeros(len(w)), w.astype(np.float64)
    for age, g in enumerate(grads.astype(np.float64), 1):
        mean = np.concatenate([np.full(len(g[part]), np.square(g[part]).mean()) for part in groups])
        second = second + mean if kind == "adagrad" else decay * second + (1 - decay) * mean
        root, move = np.sqrt(second), g
        if kind == "adam":
            first = 0.8 * first + 0.2 * g
            root, move = np.sqrt(second / (1 - decay**age)), first / (1 - 0.8**age)
        if kind == "sgd":
            root = np.ones(len(w))
        w = w - 0.1 * move / (root + (0 if kind == "sgd" else 1e-8))
        reach = 0.1 * np.minimum(0.3 / root, 1.0)
        w = np.sign(w) * np.maximum(np.abs(w) - reach, 0)
    return w


@pytest.mark.parametrize("kind", KINDS)
def test_l1_is_a_proximal_step_in_the_metric_of_the_optimiser(kind: str) -> None:
    draw = np.random.default_rng(3)
    start, grads = draw.normal(size=6) * 0.2, draw.normal(size=(25, 6)).astype(np.float32)
    grads[:, 1] *= 0.1  # a number that L1 outweighs
    optimiser = of_kind(kind, l1=0.3)
    rows = torch.tensor(start[None], dtype=torch.float32)
    state = torch.from_numpy(optimiser.fresh(4, 2)[None])
    for g in grads:
        optimiser.update(
            rows, state, torch.tensor([0]), torch.tensor(g[None]), torch.full((3,), 0.1)
        )
    expected = proximal(kind, grads, start, 0.95, [slice(0, 4), slice(4, 5), slice(5, 6)])
    assert rows[0].numpy() == pytest.approx(expected, abs=2e-6)

    flat, dense = torch.tensor(start, dtype=torch.float32), DenseOptimiser(kind, lr=0.1, l1=0.3)
    made = dense.build(flat)
    if kind in ("adam", "rmsprop"):
        made.param_groups[0].update({"betas": (0.8, 0.95), "alpha": 0.95})
    for g in grads:
        flat.grad = torch.tensor(g)
        dense.step(made, 0.1)
    expected = proximal(kind, grads, start, 0.95, [slice(i, i + 1) for i in range(6)])
    assert flat.numpy() == pytest.approx(expected, abs=2e-6)
    assert flat[1] == 0


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"RowOptimiser\.kind is 'adamw': expected one of sgd"):
        RowOptimiser("adamw")
    with pytest.raises(ValueError, match=r"DenseOptimiser\.lr is 0"):
        DenseOptimiser(lr=0)
    with pytest.raises(ValueError, match=r"RowOptimiser\.l1 is -1: expected 0 or more"):
        RowOptimiser(l1=-1)
