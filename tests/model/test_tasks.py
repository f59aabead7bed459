"""What a schema says of its tasks' losses, learnt: chains, sampled negatives, weights, outliers."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from model.batch import Bag, Batch, Inputs, Layout
from model.optim import DenseOptimiser
from model.schema import Field, Schema, Task
from model.score import Scorer
from model.structure import NetworkConfig
from model.train import Trainer

FIELDS = (Field("user", "id"), Field("age", "dense"), Field("counts", "dense"))
LAYOUT = Layout((Bag("user", "user"),), ("age", "counts"))


def model(*tasks: Task, sharing: str = "mmoe", weight: str | None = None) -> Trainer:
    schema = Schema(FIELDS, tasks, "user", weight=weight)
    return Trainer(schema, LAYOUT, Trainer.Config(NetworkConfig(sharing)), 0)


def inputs(draw: np.random.Generator, n: int = 64) -> Inputs:
    keys = draw.integers(1, 50, (n, 1)) * 7919
    dense = np.column_stack([draw.normal(0, 1, n), np.ones(n)]).astype(np.float32)
    return Inputs(keys, np.ones((n, 1), np.float32), dense)


def chances(of: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """Of a click, and of a purchase once clicked: more age, more clicks, fewer purchases."""
    age = of.dense[:, 0].astype(float)
    return 1 / (1 + np.exp(1.5 - age)), 1 / (1 + np.exp(1 + age))


def batch(draw: np.random.Generator) -> Batch:
    read = inputs(draw)
    click, buy = chances(read)
    clicked = draw.random(64) < click
    labels = np.column_stack([clicked, clicked & (draw.random(64) < buy)]).astype(np.float32)
    return Batch(read, labels, np.ones(labels.shape, bool))


CHAIN = (Task("click", "binary", 0), Task("purchase", "binary", 0, given="click"))


@pytest.mark.parametrize("sharing", ["mmoe", "single_task"])
def test_a_chain_learns_what_follows_a_click_from_all_impressions(sharing: str) -> None:
    learner, draw = model(*CHAIN, sharing=sharing), np.random.default_rng(0)
    for _ in range(600):
        assert learner.step(batch(draw)).finite
    read = inputs(draw, 2_000)
    found, (click, buy) = learner.predict(read), chances(read)
    assert (found[:, 1] < found[:, 0]).all()
    assert np.abs(found[:, 0] - click).mean() < 0.25 * np.abs(click - click.mean()).mean()
    given = found[:, 1] / found[:, 0]  # never a label of its own, and right where no one clicks
    assert np.abs(given - buy).mean() < 0.35 * np.abs(buy - buy.mean()).mean()
    arrays, meta = learner.snapshot()
    assert (Scorer(arrays, json.loads(json.dumps(meta))).predict(read) == found).all()


def test_a_chain_starts_from_the_rates_of_its_labels() -> None:
    learner, draw = model(*CHAIN), np.random.default_rng(0)
    data = [batch(draw) for _ in range(50)]
    for one in data:
        learner.predictor.labels.absorb(one.labels, one.mask)
    rates = np.concatenate([one.labels for one in data]).mean(0)
    found = 1 / (1 + np.exp(-learner.predictor.labels.offset))
    assert found == pytest.approx([rates[0], rates[1] / rates[0]], abs=2e-3)


def test_predictions_are_as_of_all_where_the_log_holds_a_tenth_of_the_negatives() -> None:
    task = Task("click", "binary", 0, kept_negatives=0.1)
    learner, plain, draw = model(task), model(replace(task, kept_negatives=1.0)), (
        np.random.default_rng(0)
    )  # fmt: skip
    for _ in range(400):
        data = batch(draw)
        data.mask = (data.labels[:, :1] == 1) | (draw.random((64, 1)) < 0.1)
        data.labels = data.labels[:, :1]
        report, other = learner.step(data), plain.step(data)
        assert (report.loss == other.loss).all()  # both learn what the log holds
    read = inputs(draw, 4_000)
    click = chances(read)[0]
    assert learner.predict(read).mean() == pytest.approx(click.mean(), abs=0.02)
    assert plain.predict(read).mean() > click.mean() + 0.2
    assert np.abs(learner.predict(read)[:, 0] - click).mean() < 0.06
    arrays, meta = learner.snapshot()
    scorer = Scorer(arrays, json.loads(json.dumps(meta)))
    assert (scorer.predict(read) == learner.predict(read)).all()


def test_an_examples_weight_is_what_it_counts_and_no_input() -> None:
    """Weight 0 is a masked label, and half the examples at 2 are as those alone at twice the
    rate (by plain SGD)."""
    tasks, config = CHAIN[:1], Trainer.Config(dense=DenseOptimiser("sgd", lr=0.1))
    schema = Schema(FIELDS, tasks, "user", weight="counts")
    one, two = Trainer(schema, LAYOUT, config, 0), Trainer(schema, LAYOUT, config, 0)
    draw = np.random.default_rng(0)
    for _ in range(5):
        data = batch(draw)
        data.labels, data.mask = data.labels[:, :1], data.mask[:, :1]
        other = replace(data, inputs=replace(data.inputs, dense=data.inputs.dense.copy()))
        other.mask = data.mask.copy()
        data.inputs.dense[:, 1] = np.arange(64) % 2 * 2
        other.mask[::2] = False
        two.adjust(np.array([2.0]), np.ones(1), 1.0)
        expected = one.predict(data.inputs)
        assert (one.predict(other.inputs) == expected).all()  # no input
        one.step(data)
        two.step(other)
        names = ("linear", "towers.hidden", "sharing.weight")
        network, alike = (t.state()["model"]["network"] for t in (one, two))
        # The rates that predictions start from take every label as one.
        two.predictor.labels.load(one.predictor.labels.state())
        for name in names:
            assert network[name] == pytest.approx(alike[name], abs=1e-6)
    data.inputs.dense[3, 1] = -1
    before = one.state_hash()
    assert not one.step(data).finite and one.state_hash() == before


def test_huber_is_less_moved_by_outliers() -> None:
    task = Task("time", "regression", 0)
    far = []
    for huber in (0.0, 0.3):
        learner, draw = model(replace(task, huber=huber)), np.random.default_rng(0)
        for _ in range(300):
            read = inputs(draw)
            value = read.dense[:, :1] + draw.normal(0, 0.1, (64, 1))
            value[draw.random((64, 1)) < 0.05] += 20
            learner.step(Batch(read, value.astype(np.float32), np.ones((64, 1), bool)))
        read = inputs(draw, 1_000)
        far.append(np.abs(learner.predict(read)[:, 0] - read.dense[:, 0]).mean())
    assert far[1] < 0.6 * far[0]


def test_a_schema_comes_back_from_json_and_from_that_of_an_older_snapshot() -> None:
    tasks = (*CHAIN, Task("t", "regression", 0, huber=1.5), Task("s", "binary", 0))
    schema = Schema(FIELDS, (*tasks, Task("k", "binary", 0, kept_negatives=0.5)), "user",
                    weight="counts")  # fmt: skip
    assert Schema.from_json(schema.to_json()) == schema
    older = json.loads(Schema(FIELDS, CHAIN[:1], "user").to_json())
    del older["weight"]
    for name in ("huber", "given", "kept_negatives", "learnt_negatives"):
        del older["tasks"][0][name]
    assert Schema.from_json(json.dumps(older)) == Schema(FIELDS, CHAIN[:1], "user")


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ([CHAIN[0], Task("b", "binary", 0, given="clik")], "did you mean 'click'"),
        ([Task("b", "binary", 0, given="click"), Task("click", "binary", 0)], "before this"),
        ([Task("t", "regression", 0), Task("b", "binary", 0, given="t")], "expected a binary task"),
        (
            [Task("click", "binary", 0, kept_negatives=0.5), Task("b", "binary", 0, given="click")],
            "expected 1 in a chain",
        ),
    ],
)  # fmt: skip
def test_a_wrong_chain_is_named(tasks: list[Task], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Schema(FIELDS, tuple(tasks), "user")


def test_wrong_losses_are_named(small: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match=r"Task\('a'\)\.huber is 1\.0: expected 0, or more for"):
        Task("a", "binary", 0, huber=1.0)
    for name in ("kept_negatives", "learnt_negatives"):
        for share in (0.0, 1.5):
            with pytest.raises(ValueError, match=f"{name} is .*: expected more than 0, and 1"):
                Task("a", "binary", 0, **{name: share})
        with pytest.raises(ValueError, match="only a binary task has negatives"):
            Task("a", "regression", 0, **{name: 0.5})
    with pytest.raises(ValueError, match=r"Schema\.weight is 'count', .*: did you mean 'counts'"):
        Schema(FIELDS, CHAIN, "user", weight="count")
