from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from model.network import Network, pairs
from model.score import Scorer
from model.sharing import MMoE, SharedBottom
from model.structure import SHARING, NetworkConfig


def noisy(module: torch.nn.Module) -> torch.nn.Module:
    for p in module.parameters():
        torch.nn.init.normal_(p)
    return module


def test_gates_start_equal() -> None:
    mmoe = MMoE(5, 3, 4, 2, torch.Generator().manual_seed(0))
    out = mmoe(torch.randn(6, 5))
    assert torch.equal(out[0], out[1]) and torch.equal(out[0], out[2])


def test_a_shared_bottom_is_the_same_for_all_tasks() -> None:
    bottom = noisy(SharedBottom(5, 3, 4, torch.Generator()))
    x = torch.randn(6, 5)
    expected = (x @ bottom.weight + bottom.bias).relu()
    assert torch.allclose(bottom(x), expected.expand(3, 6, 4), atol=1e-6)


def network(small: SimpleNamespace, seed: int = 0, **settings: object) -> Network:
    generator = torch.Generator().manual_seed(seed)
    config = NetworkConfig(crossed=(), **settings)  # type: ignore[arg-type]
    return Network(small.SCHEMA, small.LAYOUT, config, 4, generator)


@pytest.mark.parametrize("sharing", ["mmoe", "shared_bottom"])
def test_logits_are_towers_and_wide_and_linear(small: SimpleNamespace, sharing: str) -> None:
    net = network(small, sharing=sharing)
    deep, wide, dense = torch.randn(7, 3, 4), torch.randn(7, 5), torch.randn(7, 3)
    logits = net(deep, wide, dense)
    assert logits.shape == (7, 5)
    assert torch.allclose(net(deep, wide + 1, dense), logits + 1, atol=1e-5)
    with torch.no_grad():
        net.linear += 1
        net.bias += 2
    added = dense.sum(1, keepdim=True) + 2
    assert torch.allclose(net(deep, wide, dense), logits + added, atol=1e-5)


def test_padding_of_narrow_towers_reaches_no_logit(small: SimpleNamespace) -> None:
    net = network(small)
    deep, wide, dense = torch.randn(7, 3, 4), torch.zeros(7, 5), torch.randn(7, 3)
    logits = net(deep, wide, dense)
    with torch.no_grad():
        net.towers.out[0, :, 1:] += 1  # type: ignore[index, operator, union-attr]
        net.towers.out[2, :, 1:] += 1  # type: ignore[index, operator, union-attr]
    assert torch.equal(net(deep, wide, dense), logits)


def test_default_products_are_of_the_item_with_user_and_history(small: SimpleNamespace) -> None:
    assert pairs(small.SCHEMA, small.LAYOUT) == (("item", "user"), ("item", "seen"))
    without = network(small, products=())
    inputs = without.sharing.weight.shape[0]  # type: ignore[union-attr, index]
    assert inputs == 3 * 4 + 3
    assert network(small).sharing.weight.shape[0] == inputs + 2 * 4  # type: ignore[union-attr, index]


def test_a_seed_gives_the_same_weights_whatever_the_global_state(small: SimpleNamespace) -> None:
    torch.manual_seed(1)
    one = network(small, seed=5).sharing.weight
    torch.manual_seed(2)
    two = network(small, seed=5).sharing.weight
    other = network(small, seed=6).sharing.weight
    assert np.array_equal(one.detach(), two.detach())  # type: ignore[arg-type]
    assert not np.array_equal(one.detach(), other.detach())  # type: ignore[arg-type]


def test_wrong_settings_are_named(small: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match=r"NetworkConfig\.width is 0"):
        network(small, width=0)
    with pytest.raises(ValueError, match="no bag is called 'price'"):
        network(small, products=(("price", "user"),))


@pytest.mark.parametrize("sharing", SHARING)
def test_in_bf16_it_learns_the_same_within_its_precision(
    small: SimpleNamespace, sharing: str
) -> None:
    plain, half, again = (
        small.trainer(network=NetworkConfig(sharing, bf16=bf16)) for bf16 in (False, True, True)
    )
    losses = []
    for seed in range(30):
        steps = [model.step(small.batch(seed)) for model in (plain, half, again)]
        losses.append([step.loss for step in steps[:2]])
    assert half.state_hash() == again.state_hash() != plain.state_hash()
    fine, coarse = np.mean(losses[10:], axis=0)
    assert coarse == pytest.approx(fine, abs=0.01)
    assert all(p.dtype == torch.float32 for p in half.predictor.network.parameters())
    inputs = small.batch(99).inputs
    assert (Scorer(*half.snapshot()).predict(inputs) == half.predict(inputs)).all()
