"""Series and images: read by convolutions that all tasks share."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from model.batch import Bag, Batch, Inputs, Layout
from model.blocks import absorb, dropping
from model.convolution import BLOCKS, CHANNELS, KERNEL, Convolution
from model.explain import contributions
from model.metrics import Metrics
from model.schema import Field, Schema, Task
from model.score import Scorer
from model.structure import SHARING, NetworkConfig
from model.train import Trainer
from model.transfer import Source, transfer

SCHEMA = Schema(
    (
        Field("user", "id"),
        Field("pulse", "series", shape=(1, 24)),
        Field("age", "dense"),
        Field("face", "image", shape=(2, 6, 5)),
    ),
    (Task("up", "binary", 0), Task("bright", "regression", 0)),
    "user",
)
LAYOUT = Layout((Bag("user", "user"),), (*SCHEMA.columns, "hour"))
SMALL = NetworkConfig(width=16, tower=8, experts=2)


def trainer(network: NetworkConfig = SMALL, schema: Schema = SCHEMA, seed: int = 0) -> Trainer:
    layout = Layout(LAYOUT.bags, (*schema.columns, "hour"))
    return Trainer(schema, layout, Trainer.Config(network), seed)


def batch(seed: int, n: int = 64) -> Batch:
    """`up`: a wave rises somewhere in `pulse`, or falls; `bright`: the brightest of `face`."""
    draw = np.random.default_rng(seed)
    pulse, up = draw.normal(0, 0.3, (n, 24)), draw.random(n) < 0.5
    for row, start in enumerate(draw.integers(0, 16, n)):
        pulse[row, start : start + 8] += np.linspace(-2, 2, 8) * (1 if up[row] else -1)
    face = draw.normal(0, 1, (n, 60))
    age, hour = draw.normal(size=(2, n, 1))
    dense = np.concatenate([age, pulse, face, hour], 1).astype(np.float32)
    labels = np.column_stack([up, face.max(1)]).astype(np.float32)
    keys = np.ones((n, 1), np.int64)
    return Batch(
        Inputs(keys, keys.astype(np.float32), dense), labels, np.ones((n, 2), np.bool_), seed
    )


def learnt(model: Trainer, batches: int, first: int = 0) -> Trainer:
    for seed in range(first, first + batches):
        assert model.step(batch(seed)).finite
    return model


@pytest.mark.parametrize("shape", [(3, 21), (2, 9, 8), (1, 1), (1, 1, 2)])
def test_a_convolution_is_torchs_own_layers(shape: tuple[int, ...]) -> None:
    ours = Convolution(shape, 4, 0.0, torch.Generator().manual_seed(0))
    for p in ours.parameters():
        nn.init.normal_(p, std=0.3)
    dims = len(shape) - 1
    conv = nn.Conv1d if dims == 1 else nn.Conv2d
    pool = nn.MaxPool1d(2) if dims == 1 else nn.MaxPool2d(2)
    stem = conv(shape[0], CHANNELS, KERNEL, padding="same")
    stem.load_state_dict({"weight": ours.stem, "bias": ours.stem_bias})
    alone = [
        conv(CHANNELS, CHANNELS, KERNEL, padding="same", groups=CHANNELS, bias=False)
        for _ in range(BLOCKS)
    ]
    across = [conv(CHANNELS, CHANNELS, 1) for _ in range(BLOCKS)]
    norm, out = nn.BatchNorm1d(2 * CHANNELS, eps=1e-3).eval(), nn.Linear(2 * CHANNELS, 4)
    for block, a, b in zip(ours.blocks, alone, across, strict=True):
        a.load_state_dict({"weight": block.depthwise})
        b.load_state_dict({"weight": block.pointwise, "bias": block.bias})
    norm.weight.data, norm.bias.data = ours.norm.scale.flatten(), ours.norm.shift.flatten()
    out.load_state_dict({"weight": ours.out.t(), "bias": ours.bias})
    past, x = torch.randn(50, *shape), torch.randn(7, *shape)

    def pooled(x: torch.Tensor) -> torch.Tensor:
        x = stem(x).relu()
        for a, b in zip(alone, across, strict=True):
            x = pool(x) if min(x.shape[2:]) > 1 else x
            x = x + b(a(x.relu()))
        return torch.cat([x.flatten(2).mean(2), x.flatten(2).amax(2)], 1)

    with torch.no_grad():
        ours(past.flatten(1))
        absorb(nn.ModuleDict({"convolutions": ours}), 50, ["convolutions"])
        norm.running_mean = pooled(past).mean(0)
        norm.running_var = pooled(past).var(0, correction=0)
        kept = norm(pooled(x)).abs().amax() < 5  # ours clips there
        assert kept or ours.norm.scale.abs().max() > 0
        standard = (pooled(x) - norm.running_mean) / (norm.running_var + 1e-3).sqrt()
        wanted = out(standard.clamp(-5, 5) * norm.weight + norm.bias)
        assert torch.allclose(ours(x.flatten(1)), wanted, atol=1e-4)


def test_what_a_series_and_an_image_say_is_learnt() -> None:
    model, served = trainer(), Metrics(SCHEMA)
    for seed in range(150):
        one = batch(seed)
        if seed >= 100:
            served.update(model.predict(one.inputs), one.labels, one.mask)
        assert model.step(one).finite
    assert served.figures()["up"]["auc"] > 0.9
    new = batch(999, 2_000)
    x = np.column_stack([new.inputs.dense, np.ones(2_000)])
    line = x @ np.linalg.lstsq(x, new.labels[:, 1], rcond=None)[0]  # that these very rows fit best
    ours = model.predict(new.inputs)[:, 1]
    of_ours, of_line = (np.corrcoef(p, new.labels[:, 1])[0, 1] for p in (ours, line))
    assert of_ours > of_line, (of_ours, of_line)


@pytest.mark.parametrize("sharing", SHARING)
def test_a_snapshot_scores_the_same_and_a_state_goes_on_the_same(sharing: str) -> None:
    network = NetworkConfig(sharing, width=16, tower=8, experts=2, dropout=0.2)
    model = learnt(trainer(network), 3)
    arrays, meta = model.snapshot()
    scorer, new = Scorer(arrays, json.loads(json.dumps(meta))), batch(77).inputs
    assert np.array_equal(scorer.predict(new), model.predict(new))
    assert np.allclose(scorer.rank(new), model.predict(new), atol=1e-6)
    again = trainer(network)
    again.load(model.state())
    assert learnt(again, 3, 3).state_hash() == learnt(model, 3, 3).state_hash()
    assert learnt(trainer(network), 6).state_hash() == model.state_hash()


def test_a_prediction_does_not_see_its_batch_nor_a_dropout() -> None:
    model = learnt(trainer(NetworkConfig(width=16, tower=8, dropout=0.5)), 3)
    some = batch(5)
    alone = model.predict(some.inputs[:1])
    assert np.array_equal(model.step(some).predictions[:1], alone)


def test_numbers_that_are_not_finite_are_refused_and_change_nothing() -> None:
    model, some = learnt(trainer(), 2), batch(3)
    before = model.state_hash()
    some.inputs.dense[4, 1 + 7] = np.nan
    assert not model.step(some).finite
    assert model.state_hash() == before


def test_dropout_falls_on_what_a_convolution_makes() -> None:
    one = Convolution((1, 9), 4, 0.5, torch.Generator().manual_seed(0))
    x = torch.randn(5, 9)
    with dropping(one, 1, 1):
        dropped = one(x)
    assert not torch.equal(dropped, one(x))


def test_only_the_convolutions_learn_where_only_they_are_to() -> None:
    model = Trainer(SCHEMA, LAYOUT, Trainer.Config(SMALL, train_only=("convolutions",)), seed=0)
    before = model.state()["model"]
    learnt(model, 2)
    after = model.state()["model"]
    moved = {
        name
        for name, a in after["network"].items()
        if not np.array_equal(a, before["network"][name])
    }
    assert moved and all(name.startswith("convolutions.") for name in moved)
    assert any(name.endswith("norm.mean") for name in moved)
    assert np.array_equal(after["dense"]["mean"], before["dense"]["mean"])


def test_a_new_model_without_the_image_takes_over_the_series() -> None:
    old = learnt(trainer(), 5)
    fields = tuple(f for f in SCHEMA.fields if f.name != "face")
    new = trainer(schema=Schema(fields, SCHEMA.tasks, "user"), seed=1)
    taken = transfer(Source(old.predictor.meta(), old.predictor.state()), new)
    ours, theirs = (m.state()["model"]["network"] for m in (new, old))
    assert taken["network"]["convolutions"][0] == taken["network"]["convolutions"][1] > 0
    for name in ours:
        if name.startswith("convolutions.0."):
            assert np.array_equal(ours[name], theirs[name])


def test_a_series_is_explained_as_one_input() -> None:
    model = learnt(trainer(), 5)
    arrays, meta = model.snapshot()
    found = contributions(Scorer(arrays, meta), batch(1).inputs[:3])
    assert found.names == ["user", "age", "pulse", "face", "hour"]
    assert found.parts.shape == (3, 5, 2) and np.abs(found.parts[:, 2:4]).max() > 0


@pytest.mark.parametrize(
    ("kind", "shape", "words"),
    [
        ("series", (24,), r"\(channels, length\)"),
        ("series", (), r"\(channels, length\)"),
        ("image", (1, 0, 3), r"shape is \(1, 0, 3\)"),
        ("dense", (2,), r"\(\) for the other kinds"),
    ],
)
def test_a_shape_that_does_not_fit_its_kind_is_refused(kind, shape, words) -> None:
    with pytest.raises(ValueError, match=words):
        Field("x", kind, shape=shape)


def test_more_numbers_than_an_impression_may_hold_are_refused() -> None:
    fields = (Field("user", "id"), Field("x", "image", shape=(3, 64, 64)))
    with pytest.raises(ValueError, match=r"12,288 numbers: expected 4,096 at most"):
        Schema(fields, SCHEMA.tasks, "user")


def test_a_schema_with_shapes_comes_back_from_json_and_one_without_says_none() -> None:
    assert Schema.from_json(SCHEMA.to_json()) == SCHEMA
    assert "shape" not in Schema(SCHEMA.fields[::2], SCHEMA.tasks, "user").to_json()
