from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from model.blocks import BatchNorm, DepthwiseSeparable, Dropout, Residual, dropping
from model.metrics import Metrics
from model.score import Scorer
from model.structure import NetworkConfig

ALL = NetworkConfig(norm=True, residual=2, dropout=0.3)


def test_batch_norm_is_torchs_with_the_statistics_of_the_past() -> None:
    norm, draw = BatchNorm(2, 3), torch.Generator().manual_seed(0)
    batches = [torch.randn(2, n, 3, generator=draw) * 4 + 7 for n in (10, 1, 33)]
    some = batches[0].clamp(-5, 5)
    assert torch.allclose(norm(batches[0]), some, atol=5e-3)  # nothing is known yet
    for x in batches:
        norm(torch.cat([x, torch.full((2, 5, 3), 1e6)], 1))
        norm.absorb(x.shape[1])
    whole, new = torch.cat(batches, 1), torch.randn(2, 8, 3)
    for k in range(2):
        oracle = nn.BatchNorm1d(3, eps=1e-3).eval()
        oracle.running_mean = whole[k].mean(0)
        oracle.running_var = whole[k].var(0, correction=0)
        assert torch.allclose(norm(new)[k], oracle(new[k]), atol=1e-5)


def test_batch_norm_takes_nothing_from_an_empty_batch() -> None:
    norm = BatchNorm(1, 2)
    norm(torch.tensor([0.0, 1.0]).expand(1, 30, 2))
    for n in (0, 30, 0):
        norm.absorb(n)
    assert norm.mean.flatten().tolist() == [0, 1] and norm.count.item() == 30


def test_what_never_moved_before_is_told_as_far_and_no_further() -> None:
    norm = BatchNorm(1, 2)
    norm(torch.tensor([0.0, 1.0]).expand(1, 30, 2))
    norm.absorb(30)
    assert norm(torch.tensor([[[7.0, -3.0]]])).tolist() == [[[5, -5]]]


def test_batch_norm_forgets_what_is_longer_ago_than_its_memory() -> None:
    norm = BatchNorm(1, 1, memory=50)
    for number in range(100):
        norm(torch.randn(1, 20, 1) + (10 if number >= 50 else 0))
        norm.absorb(20)
    assert norm.mean.item() == pytest.approx(10, abs=0.5)


def test_dropout_leaves_out_its_share_in_learning_only_and_the_same_at_each_replay() -> None:
    dropout, x = Dropout(0.25), torch.ones(3, 64, 100)
    assert torch.equal(dropout(x), x)
    found = []
    for seed, step in ((1, 7), (1, 7), (1, 8), (2, 7)):
        with dropping(dropout, seed, step):
            found.append(dropout(x))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2]) and not torch.equal(found[0], found[3])
    assert found[0].unique().tolist() == [0, pytest.approx(4 / 3)]
    assert (found[0] == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert torch.equal(dropout(x), x)


def test_a_residual_is_one_small_network_a_task_and_starts_as_nothing() -> None:
    block, x = Residual(3, 4, torch.Generator().manual_seed(0)).double(), torch.randn(3, 6, 4)
    x = x.double()
    assert torch.equal(block(x), x)
    for p in block.parameters():
        nn.init.normal_(p)
    for k in range(3):
        net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)).double()
        weights = [block.inner[k].t(), block.inner_bias[k, 0]]
        weights += [block.outer[k].t(), block.outer_bias[k, 0]]
        net.load_state_dict(dict(zip(net.state_dict(), weights, strict=True)))
        assert torch.allclose(block(x)[k], x[k] + net(x[k]), atol=1e-9)


@pytest.mark.parametrize("dims", [1, 2])
def test_a_depthwise_separable_convolution_is_torchs_two(dims: int) -> None:
    block = DepthwiseSeparable(4, 6, 3, dims, torch.Generator().manual_seed(0)).double()
    conv = nn.Conv1d if dims == 1 else nn.Conv2d
    nn.init.normal_(block.bias)
    depthwise = conv(4, 4, 3, padding=1, groups=4, bias=False).double()
    pointwise = conv(4, 6, 1).double()
    depthwise.load_state_dict({"weight": block.depthwise})
    pointwise.load_state_dict({"weight": block.pointwise, "bias": block.bias})
    x = torch.randn(5, 4, *[9] * dims).double()
    assert torch.allclose(block(x), pointwise(depthwise(x)), atol=1e-9)
    with pytest.raises(ValueError, match="kernel is 2: expected an odd number"):
        DepthwiseSeparable(4, 6, 2, dims, torch.Generator())


def test_predictions_see_neither_the_batchs_statistics_nor_dropout(small: SimpleNamespace) -> None:
    one, two = small.trainer(network=ALL), small.trainer(network=ALL)
    for number in range(5):
        one.step(small.batch(number))
        two.step(small.batch(number))
    a, b = small.batch(5), small.batch(5)
    b.inputs.dense[32:] += 100
    expected = one.predict(a.inputs)
    assert (one.step(a).predictions == expected).all()
    assert (two.step(b).predictions[:32] == expected[:32]).all()


@pytest.mark.parametrize("sharing", ["mmoe", "single_task"])
def test_blocks_repeat_themselves_from_a_state_and_in_a_scorer(
    small: SimpleNamespace, sharing: str
) -> None:
    config = NetworkConfig(sharing, norm=True, residual=1, dropout=0.3)
    one, two = small.trainer(network=config), small.trainer(network=config)
    for number in range(3):
        one.step(small.batch(number))
    two.load(one.state())
    for number in range(3, 6):
        one.step(small.batch(number, 64 if number < 5 else 10))
        two.step(small.batch(number, 64 if number < 5 else 10))
    assert one.state_hash() == two.state_hash()
    kept = [a for name, a in one.state()["model"]["network"].items() if name.endswith("norm.count")]
    assert kept and all(count == 5 * 64 + 10 for count in kept)  # what was learnt, no padding
    arrays, meta = one.snapshot()
    scorer, inputs = Scorer(arrays, json.loads(json.dumps(meta))), small.batch(50, 150).inputs
    for n in (1, 65, 150):
        assert (scorer.predict(inputs[:n]) == one.predict(inputs)[:n]).all()


def test_a_refused_step_leaves_the_statistics_as_they_were(small: SimpleNamespace) -> None:
    model = small.trainer(network=ALL)
    model.step(small.batch(0))
    before, bad = model.state_hash(), small.batch(1)
    bad.labels[3, 2] = np.nan
    bad.mask[3, 2] = True
    assert not model.step(bad).finite and model.state_hash() == before


def test_a_network_with_blocks_learns(small: SimpleNamespace) -> None:
    model, found = small.trainer(network=ALL), Metrics(small.SCHEMA)
    for number in range(150):
        data = small.batch(number)
        report = model.step(data)
        if number >= 120:
            found.update(report.predictions, data.labels, data.mask)
    figures = found.figures()
    assert figures["click"]["auc"] > 0.96  # type: ignore[operator]
    assert figures["time"]["mse"] < 0.15 * (5**2 * 3)  # type: ignore[operator]


def test_a_dropout_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"NetworkConfig\.dropout is 1\.0: expected 0 or more"):
        NetworkConfig(dropout=1.0)
    with pytest.raises(ValueError, match=r"NetworkConfig\.residual is -1"):
        NetworkConfig(residual=-1)
