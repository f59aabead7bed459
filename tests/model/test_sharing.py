"""Each way of sharing against a plain loop of torch's modules with the same weights, in float64."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from model.batch import Layout
from model.metrics import Metrics
from model.schema import Schema
from model.score import Scorer
from model.sharing import PLE, CrossStitch, MMoE, sharing
from model.structure import SHARING, NetworkConfig
from model.train import Trainer

INPUTS, TASKS, WIDTH, N = 5, 3, 4, 6


def built(**settings: object) -> nn.Module:
    """With weights drawn anew, so that no gate is equal and no bias 0."""
    torch.manual_seed(0)
    config = NetworkConfig(width=WIDTH, **settings)  # type: ignore[arg-type]
    module = sharing(config, INPUTS, TASKS, torch.Generator()).double()
    for p in module.parameters():
        nn.init.normal_(p)
    return module


def linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    """torch's layer of weight [inputs, width]."""
    layer = nn.Linear(*weight.shape).double()
    layer.load_state_dict({"weight": weight.t(), "bias": bias.reshape(-1)})
    return layer


def experts(weight: torch.Tensor, bias: torch.Tensor, count: int) -> list[nn.Module]:
    parts = zip(weight.split(WIDTH, 1), bias.reshape(-1).split(WIDTH), strict=False)
    layers: list[nn.Module] = [nn.Sequential(linear(w, b), nn.ReLU()) for w, b in parts]
    return layers[:count]


def weighed(gate: nn.Linear, reads: torch.Tensor, outputs: list[torch.Tensor]) -> torch.Tensor:
    share = gate(reads).softmax(1)
    return torch.stack([share[:, i : i + 1] * o for i, o in enumerate(outputs)]).sum(0)


def same(ours: torch.Tensor, loops: list[torch.Tensor]) -> None:
    assert ours.shape == (TASKS, N, WIDTH)
    assert (ours - torch.stack(loops)).abs().max() < 1e-6


def test_mmoe_is_a_loop_of_experts_and_gates() -> None:
    mmoe, x = built(sharing="mmoe", experts=2), torch.randn(N, INPUTS).double()
    assert isinstance(mmoe, MMoE)
    parts = [e(x) for e in experts(mmoe.weight.data, mmoe.bias.data, 2)]
    loops = []
    for k in range(TASKS):
        at = slice(2 * WIDTH + 2 * k, 2 * WIDTH + 2 * k + 2)
        loops.append(weighed(linear(mmoe.weight.data[:, at], mmoe.bias.data[at]), x, parts))
    same(mmoe(x), loops)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_ple_is_a_loop_of_experts_and_gates(levels: int) -> None:
    ple, x = built(sharing="ple", experts=2, own_experts=3, levels=levels), torch.randn(N, INPUTS)
    assert isinstance(ple, PLE)
    of_all, split = x.double(), 3 * WIDTH
    reads = [of_all] * TASKS
    for number, level in enumerate(ple.levels):
        weight, bias = level.weight.data, level.bias.data  # type: ignore[union-attr]
        shared = [e(of_all) for e in experts(weight, bias, 2)]  # type: ignore[arg-type]
        every, loops = [], []
        for k in range(TASKS):
            w, b = level.own_weight.data[k], level.own_bias.data[k, 0]  # type: ignore[union-attr, index]
            own = [e(reads[k]) for e in experts(w, b, 3)]
            loops.append(weighed(linear(w[:, split:], b[split:]), reads[k], [*own, *shared]))
            every += own
        if number + 1 < levels:
            gate = linear(weight[:, 2 * WIDTH :], bias[2 * WIDTH :])  # type: ignore[index, arg-type]
            of_all = weighed(gate, of_all, [*every, *shared])
        reads = loops
    same(ple(x.double()), reads)


@pytest.mark.parametrize("levels", [1, 2])
def test_cross_stitch_is_a_loop_of_branches_and_their_mixtures(levels: int) -> None:
    module, x = built(sharing="cross_stitch", levels=levels), torch.randn(N, INPUTS).double()
    assert isinstance(module, CrossStitch)
    reads = [x] * TASKS
    for weight, bias, stitch in zip(module.weights, module.biases, module.stitches, strict=True):
        branch = [linear(weight[k], bias[k])(reads[k]).relu() for k in range(TASKS)]
        reads = [sum(stitch[k, j] * branch[j] for j in range(TASKS)) for k in range(TASKS)]  # type: ignore[misc]
    same(module(x), reads)


def settings(name: str) -> NetworkConfig:
    return NetworkConfig(name, levels=2, experts=2, own_experts=2)


def trained(small: SimpleNamespace, name: str, steps: int, seed: int = 0) -> Trainer:
    model = small.trainer(seed, network=settings(name))
    for number in range(steps):
        assert model.step(small.batch(number)).finite
    return model  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", SHARING)
def test_a_seed_decides_all_and_a_loaded_state_and_a_scorer_go_on_from_it(
    small: SimpleNamespace, name: str
) -> None:
    one, two = trained(small, name, 6), trained(small, name, 3)
    loaded = small.trainer(network=settings(name))
    loaded.load(two.state())
    for number in range(3, 6):
        data = small.batch(number)
        expected = loaded.predict(data.inputs)
        assert (loaded.step(data).predictions == expected).all()
    assert loaded.state_hash() == one.state_hash() != trained(small, name, 6, seed=1).state_hash()
    arrays, meta = one.snapshot()
    scorer = Scorer(arrays, json.loads(json.dumps(meta)))
    inputs = small.batch(50, 150, ids=80).inputs
    whole = one.predict(inputs)
    for n in (1, 63, 64, 65, 150):
        assert (scorer.predict(inputs[:n]) == whole[:n]).all()


@pytest.mark.parametrize("name", SHARING)
def test_each_structure_learns(small: SimpleNamespace, name: str) -> None:
    model, found = trained(small, name, 120), Metrics(small.SCHEMA)
    for number in range(120, 140):
        data = small.batch(number)
        found.update(model.predict(data.inputs), data.labels, data.mask)
    figures = found.figures()
    assert figures["click"]["auc"] > 0.96  # type: ignore[operator]
    assert figures["kind"]["accuracy"] > 0.8  # type: ignore[operator]
    assert figures["time"]["mse"] < 0.15 * (5**2 * 3)  # type: ignore[operator]


@pytest.mark.parametrize("name", ["ple", "cross_stitch", "single_task"])
def test_a_tower_rate_of_zero_keeps_all_that_is_a_tasks_own(
    small: SimpleNamespace, name: str
) -> None:
    model = trained(small, name, 3)
    model.adjust(np.ones(3), np.array([0.0, 1.0, 1.0]), 1.0)
    before = model.state()["model"]["network"]
    model.step(small.batch(3))
    after = model.state()["model"]["network"]
    if name == "single_task":
        moved = {n.split(".")[1] for n in before if (before[n] != after[n]).any()}
        assert moved == {"1", "2"}
        return
    own = [n for n in before if n.startswith("sharing.") and len(before[n]) == 3]
    assert len(own) == (4 if name == "ple" else 6)
    for n in own:
        assert (before[n][0] == after[n][0]).all() and (before[n][1] != after[n][1]).any()


def test_single_tasks_learn_nothing_of_one_another(small: SimpleNamespace) -> None:
    """Bit for bit: the first task is the same whatever the others' labels are."""
    one, two = trained(small, "single_task", 5), small.trainer(network=settings("single_task"))
    for number in range(5):
        data = small.batch(number)
        data.labels[:, 1:] = data.labels[::-1, 1:]
        data.mask[:, 2] = False
        two.step(data)
    found, other = (m.predict(small.batch(9).inputs) for m in (one, two))
    assert (found[:, 0] == other[:, 0]).all() and (found[:, 1:] != other[:, 1:]).any()


def test_a_single_task_is_a_model_of_that_task_only(small: SimpleNamespace) -> None:
    """A trainer of one task from the same first weights goes the same way, wide part and all."""
    several = small.trainer(network=settings("single_task"))
    schema: Schema = replace(small.SCHEMA, tasks=small.SCHEMA.tasks[:1])
    layout: Layout = small.LAYOUT
    one = Trainer(schema, layout, Trainer.Config(settings("single_task")), 0)
    for number in range(20):
        data = small.batch(number)
        several.step(data)
        one.step(replace(data, labels=data.labels[:, :1], mask=data.mask[:, :1]))
    inputs = small.batch(30).inputs
    assert several.predict(inputs)[:, 0] == pytest.approx(one.predict(inputs)[:, 0], abs=1e-5)


def test_a_wrong_structure_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"NetworkConfig\.sharing is 'mmo': did you mean 'mmoe'"):
        NetworkConfig("mmo")
    with pytest.raises(ValueError, match=r"NetworkConfig\.own_experts is 0: expected 1 or more"):
        NetworkConfig("ple", own_experts=0)
