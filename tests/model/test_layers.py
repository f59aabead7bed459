from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from model.layers import Standardiser, flatten
from model.towers import Towers


def absorb(values: np.ndarray, size: int, **settings: float) -> Standardiser:
    found = Standardiser(values.shape[1], **settings)
    for start in range(0, len(values), size):
        part = values[start : start + size]
        found.update(part, np.ones(part.shape, bool))
    return found


def test_running_mean_and_variance_are_numpys() -> None:
    values = np.random.default_rng(0).normal([1e6, 0, -3], [1, 2, 1e-3], (1_000, 3))
    for size in (1, 7, 64):
        found = absorb(values, size)
        assert found.mean == pytest.approx(values.mean(0), rel=1e-12)
        assert found.variance == pytest.approx(values.var(0), rel=1e-6)
        assert found.count.tolist() == [1_000] * 3


def test_masked_values_are_not_taken_in() -> None:
    values, mask = np.arange(20.0).reshape(10, 2), np.zeros((10, 2), bool)
    mask[:5, 1] = True
    values[~mask] = np.nan
    found = Standardiser(2)
    found.update(values, mask)
    assert found.count.tolist() == [0, 5] and found.mean[0] == 0
    assert found.mean[1] == values[:5, 1].mean()


def test_a_column_never_seen_and_one_that_never_varied_are_finite() -> None:
    found = Standardiser(2)
    assert found.transform(np.full((1, 2), 7, np.float32)).tolist() == [[0, 0]]
    found.update(np.full((5, 2), 3.0), np.ones((5, 2), bool))
    assert found.transform(np.full((1, 2), 3, np.float32)).tolist() == [[0, 0]]
    assert found.scale.tolist() == [1, 1]


def test_values_are_clipped_and_what_is_not_finite_stays_visible() -> None:
    found = absorb(np.random.default_rng(0).normal(size=(100, 3)), 10)
    out = found.transform(np.array([[1e9, -1e9, np.nan], [np.inf, -np.inf, 0]], np.float32))
    assert out[0, :2].tolist() == [5, -5]
    assert np.isnan(out[0, 2]) and np.isnan(out[1, :2]).all()


def test_a_long_memory_follows_a_shift() -> None:
    draw = np.random.default_rng(0)
    values = np.concatenate([draw.normal(0, 1, (5_000, 1)), draw.normal(10, 3, (5_000, 1))])
    found = absorb(values, 50, memory=500)
    assert found.mean[0] == pytest.approx(10, abs=0.5)
    assert found.scale[0] == pytest.approx(3, abs=0.4)
    assert absorb(values, 50).mean[0] == pytest.approx(5, abs=0.2)


def test_towers_are_one_small_network_a_task() -> None:
    towers = Towers(3, 5, 4, 2, torch.Generator().manual_seed(0))
    for p in towers.parameters():
        nn.init.normal_(p)
    x = torch.randn(3, 6, 5)
    out = towers(x)
    for k in range(3):
        hidden, last = nn.Linear(5, 4), nn.Linear(4, 2)
        with torch.no_grad():
            hidden.weight.copy_(towers.hidden[k].t())
            hidden.bias.copy_(towers.hidden_bias[k, 0])
            last.weight.copy_(towers.out[k].t())
            last.bias.copy_(towers.out_bias[k, 0])
        expected = last(hidden(x[k]).relu())
        assert out[k].detach().numpy() == pytest.approx(expected.detach().numpy(), abs=1e-5)


def test_flattened_parameters_and_gradients_are_views_of_one_tensor() -> None:
    module = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    oracle = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    oracle.load_state_dict(module.state_dict())
    flat, grads = flatten(module)
    x = torch.randn(4, 3)
    module(x).square().sum().backward()
    oracle(x).square().sum().backward()
    for ours, theirs in zip(module.parameters(), oracle.parameters(), strict=True):
        assert ours.data_ptr() % 64 == 0 and ours.grad is not None and theirs.grad is not None
        assert torch.allclose(ours.grad, theirs.grad)
    assert grads.norm().item() == pytest.approx(
        torch.cat([p.grad.flatten() for p in oracle.parameters()]).norm().item(), rel=1e-6
    )
    torch.optim.SGD([flat], lr=0.1).step()
    torch.optim.SGD(oracle.parameters(), lr=0.1).step()
    assert torch.allclose(module(x), oracle(x))


def test_one_wild_value_does_not_ruin_the_scale_of_a_settled_column() -> None:
    rng = np.random.default_rng(0)
    exact = np.array([False, True])
    columns = Standardiser(2, exact=exact)
    columns.update(rng.normal(3.0, 1.0, (2_000, 2)).astype(np.float32), np.ones((2_000, 2), bool))
    before = columns.mean.copy(), columns.scale.copy()
    columns.update(np.full((1, 2), 1e8, np.float32), np.ones((1, 2), bool))
    assert abs(columns.mean[0] - before[0][0]) < 0.01 and columns.scale[0] < 1.1 * before[1][0]
    assert columns.mean[1] > 1e4  # base rates take every label as it is
