"""Crosses and attention against plain loops over pairs, layers and slots, in float64."""

from __future__ import annotations

import json
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from model.batch import Bag, Batch, Inputs, Layout
from model.interactions import FM, Cross, TargetAttention
from model.metrics import Metrics
from model.schema import Field, Schema, Task
from model.score import Scorer
from model.structure import NetworkConfig
from model.train import Trainer

ALL = NetworkConfig(attention=("seen",), cross=2, fm=True)


def noisy(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for p in module.double().parameters():
        nn.init.normal_(p)
    return module


def test_fm_is_the_sum_over_pairs() -> None:
    fm, rows = FM(4, 3).double(), torch.randn(6, 5, 4).double()
    pairs = [(rows[:, a] * rows[:, b]).sum(1) for a, b in combinations(range(5), 2)]
    assert torch.allclose(fm(rows), torch.stack(pairs).sum(0)[:, None].expand(6, 3), atol=1e-9)
    weighted = noisy(fm)
    pairs = [(rows[:, a] * rows[:, b]) @ fm.weight for a, b in combinations(range(5), 2)]
    assert torch.allclose(weighted(rows), torch.stack(pairs).sum(0), atol=1e-9)


def test_cross_is_a_loop_of_layers_and_starts_as_nothing() -> None:
    x = torch.randn(6, 5).double()
    assert torch.equal(Cross(5, 2).double()(x), x)
    cross = noisy(Cross(5, 2))
    found = x
    for weight, bias in zip(cross.weights, cross.biases, strict=True):  # type: ignore[arg-type]
        layer = nn.Linear(5, 5).double()
        layer.load_state_dict({"weight": weight.t(), "bias": bias})
        found = x * layer(found) + found
    assert torch.allclose(cross(x), found, atol=1e-9)


def test_attention_is_a_loop_over_slots_and_starts_as_the_pooled_history() -> None:
    item, slots = torch.randn(6, 4).double(), torch.randn(6, 5, 4).double()
    slots[:, 3:] = 0
    fresh = TargetAttention(4, 7, torch.Generator()).double()
    assert torch.allclose(fresh(item, slots), slots.sum(1), atol=1e-12)
    din = noisy(fresh)
    net = nn.Sequential(nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 1)).double()
    weights = [din.hidden.t(), din.hidden_bias, din.out[None], din.out_bias]
    net.load_state_dict(dict(zip(net.state_dict(), weights, strict=True)))
    for i in range(6):
        each = [net(torch.cat([e, item[i], e * item[i]])) * e for e in slots[i, :3]]
        assert torch.allclose(din(item, slots)[i], torch.stack(each).sum(0), atol=1e-9)


def test_attention_at_first_is_the_network_with_the_history_twice(small: SimpleNamespace) -> None:
    """The rows of a spread bag are those that its pooling adds up, weights and all."""
    plain, spread = (
        small.trainer(),
        small.trainer(network=NetworkConfig(attention=("seen",), crossed=())),
    )
    block, other = (m.predictor.read(small.batch(0).inputs) for m in (plain, spread))
    bags, (attended,) = spread.predictor.network._pooled(other.deep)
    assert torch.allclose(bags, block.deep, atol=1e-7) and torch.equal(other.wide, block.wide)
    assert torch.allclose(attended, block.deep[:, 2], atol=1e-7)


@pytest.mark.parametrize("sharing", ["mmoe", "single_task"])
def test_a_network_with_all_of_them_repeats_itself_and_scores_as_it_predicts(
    small: SimpleNamespace, sharing: str
) -> None:
    config = NetworkConfig(sharing, attention=("seen",), cross=1, fm=True)
    one, two = small.trainer(network=config), small.trainer(network=config)
    for number in range(6):
        data = small.batch(number)
        expected = two.predict(data.inputs)
        assert (one.step(data).predictions == two.step(data).predictions).all()
        assert (one.predict(data.inputs) != expected).any()
    assert one.state_hash() == two.state_hash()
    arrays, meta = one.snapshot()
    scorer, inputs = Scorer(arrays, json.loads(json.dumps(meta))), small.batch(50, 150).inputs
    assert NetworkConfig.from_dict(json.loads(json.dumps(meta))["network"]) == config
    for n in (1, 65, 150):
        assert (scorer.predict(inputs[:n]) == one.predict(inputs)[:n]).all()


def test_a_tower_rate_of_zero_keeps_the_tasks_own_likeness(small: SimpleNamespace) -> None:
    model = small.trainer(network=ALL)
    model.adjust(np.ones(3), np.array([0.0, 1.0, 1.0]), 1.0)
    model.step(small.batch(0))
    model.step(small.batch(1))
    weight = model.state()["model"]["network"]["fm.weight"]
    assert (weight[:, 0] == 1).all() and (weight[:, 1:] != 1).any(0).all()


def auc(config: NetworkConfig) -> float:
    """Of "does an item of this kind stand in the history?", which no bag tells alone."""
    schema = Schema(
        (Field("user", "id"), Field("item", "id"), Field("seen", "ids", 6)),
        (Task("again", "binary", 0),), "user", "item",
    )  # fmt: skip
    layout = Layout((Bag("user", "user"), Bag("item", "item"), Bag("seen", "item", 6)))
    model, found = Trainer(schema, layout, Trainer.Config(config), 0), Metrics(schema)
    draw = np.random.default_rng(0)
    for step in range(400):
        keys = draw.integers(1, 31, (64, 8)) * 7919
        seen = keys[:, 2:] % 10 == keys[:, 1:2] % 10
        label = seen.any(1).astype(np.float32)[:, None]
        inputs = Inputs(keys, np.ones(keys.shape, np.float32), np.zeros((64, 0), np.float32))
        report = model.step(Batch(inputs, label, np.ones((64, 1), bool)))
        if step >= 300:
            found.update(report.predictions, label, np.ones((64, 1), bool))
    return found.figures()["again"]["auc"]  # type: ignore[return-value]


@pytest.mark.parametrize(
    "config",
    [
        NetworkConfig(products=(), crossed=(), cross=0, attention=("seen",)),
        NetworkConfig(products=(), crossed=(), cross=1),
        NetworkConfig(products=(), crossed=(), cross=0, fm=True),
    ],
    ids=["attention", "cross", "fm"],
)
def test_each_learns_from_how_bags_go_together(config: NetworkConfig) -> None:
    assert auc(config) > auc(NetworkConfig(products=(), crossed=(), cross=0)) + 0.03


def test_what_does_not_fit_is_named_with_the_nearest(small: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="no bag is called 'sen': did you mean 'seen'"):
        small.trainer(network=NetworkConfig(attention=("sen",)))
    with pytest.raises(ValueError, match=r"NetworkConfig\.cross is -1: expected 0 or more"):
        NetworkConfig(cross=-1)
    schema = Schema((Field("user", "id"),), (Task("a", "binary", 0),), "user")
    config = Trainer.Config(NetworkConfig(attention=("user",)))
    with pytest.raises(ValueError, match=r"attention needs an item: Schema\.item is None"):
        Trainer(schema, Layout((Bag("user", "user"),)), config, 0)


@pytest.mark.parametrize("sharing", ["mmoe", "single_task"])
def test_a_user_has_rows_of_its_own_with_each_id_of_a_list(sharing: str) -> None:
    schema = Schema(
        (Field("user", "id"), Field("kinds", "ids", 3)), (Task("like", "binary", 0),), "user"
    )
    layout = Layout((Bag("user", "user"), Bag("kinds", "kinds", 3)))
    draw = np.random.default_rng(0)
    users, kinds = draw.integers(1, 40, 25_600), draw.integers(0, 20, (25_600, 3))
    keys = np.concatenate([users[:, None], kinds * 7919], 1)  # kind 0 is an empty place
    weights = (keys > 0).astype(np.float32)
    liked = draw.random((40, 20)) < 0.5
    labels = (liked[users[:, None], kinds] & (kinds > 0)).any(1).astype(np.float32)[:, None]

    def auc(**settings: object) -> float:
        config = Trainer.Config(NetworkConfig(sharing, **settings))  # type: ignore[arg-type]
        model, found = Trainer(schema, layout, config, 0), Metrics(schema)
        for start in range(0, len(keys), 64):
            part = slice(start, start + 64)
            inputs = Inputs(keys[part], weights[part], np.zeros((64, 0), np.float32))
            batch = Batch(inputs, labels[part], np.ones((64, 1), bool))
            report = model.step(batch)
            if start >= 19_200:
                found.update(report.predictions, batch.labels, batch.mask)
        assert (Scorer(*model.snapshot()).predict(inputs) == model.predict(inputs)).all()
        return found.figures()["like"]["auc"]  # type: ignore[return-value]

    assert auc() > auc(crossed=()) + 0.02
    assert auc(crossed=(("user", "kinds"),)) == auc()
    with pytest.raises(ValueError, match="no bag is called 'kind'"):
        auc(crossed=(("user", "kind"),))


def test_crossed_rows_can_learn_alone(small: SimpleNamespace) -> None:
    one = small.trainer(network=NetworkConfig(), train_only=("embedding.user*seen",))
    before = one.predict(small.batch(0).inputs)
    one.step(small.batch(0))
    rows, tables = len(one.predictor.embedding), len(one.predictor.network.layout.tables)
    seen = small.batch(0).inputs
    pairs = {(u, i) for u, *items in seen.keys[:, [0, 2, 3, 4, 5]].tolist() for i in items if i}
    assert tables == 3 and rows == len(pairs) + tables
    assert (one.predict(small.batch(0).inputs) != before).any()
