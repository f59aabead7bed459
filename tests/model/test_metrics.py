from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from model.metrics import Metrics
from model.schema import Field, Schema, Task

TASKS = (
    Task("click", "binary", 0),
    Task("kind", "multiclass", 0, classes=3),
    Task("time", "regression", 0),
)
SCHEMA = Schema((Field("user", "id"),), TASKS, "user")


def stream(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    logits = draw.normal(-2, 1.2, n)
    click = draw.random(n) < 1 / (1 + np.exp(-logits + draw.normal(0, 1, n)))
    scores = draw.normal(0, 1, (n, 3))
    kind = (scores + draw.normal(0, 1, (n, 3))).argmax(1)
    shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    time = draw.normal(5, 2, n)
    p = 1 / (1 + np.exp(-logits))
    predictions = np.column_stack([p, shares, time + draw.normal(0, 1, n)]).astype(np.float32)
    labels = np.column_stack([click, kind, time]).astype(np.float32)
    return predictions, labels, draw.random((n, 3)) < 0.8


def in_batches(data: tuple[np.ndarray, ...], size: int) -> Metrics:
    found = Metrics(SCHEMA)
    for start in range(0, len(data[0]), size):
        found.update(*(a[start : start + size] for a in data))
    return found


def test_binary_figures_are_scikit_learns() -> None:
    predictions, labels, mask = data = stream(20_000, 1)
    found = in_batches(data, 64).figures()["click"]
    seen = mask[:, 0]
    p, y = predictions[seen, 0].astype(float), labels[seen, 0]
    loss, rate = sk.log_loss(y, p), y.mean()
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    assert found["count"] == seen.sum()
    assert found["auc"] == pytest.approx(sk.roc_auc_score(y, p), abs=1e-4)
    assert found["log_loss"] == pytest.approx(loss, abs=1e-6)
    assert found["normalised_entropy"] == pytest.approx(loss / entropy, abs=1e-6)
    assert found["calibration"] == pytest.approx(p.sum() / y.sum(), abs=1e-6)
    for name, score in (
        ("accuracy", sk.accuracy_score),
        ("precision", sk.precision_score),
        ("recall", sk.recall_score),
        ("f1", sk.f1_score),
    ):
        assert found[name] == pytest.approx(score(y, p >= 0.5), abs=1e-9), name


def test_multiclass_figures_are_scikit_learns() -> None:
    predictions, labels, mask = data = stream(20_000, 2)
    found = in_batches(data, 64).figures()["kind"]
    seen = mask[:, 1]
    p, y = predictions[seen, 1:4].astype(float), labels[seen, 1].astype(int)
    p /= p.sum(1, keepdims=True)
    auc = np.mean([sk.roc_auc_score(y == c, p[:, c]) for c in range(3)])
    assert found["auc"] == pytest.approx(auc, abs=1e-4)
    assert found["log_loss"] == pytest.approx(sk.log_loss(y, p), abs=1e-6)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(y, p.argmax(1)), abs=1e-9)
    assert found["f1"] == pytest.approx(sk.f1_score(y, p.argmax(1), average="macro"), abs=1e-9)


def test_regression_figures_are_scikit_learns() -> None:
    predictions, labels, mask = data = stream(5_000, 3)
    found = in_batches(data, 100).figures()["time"]
    seen = mask[:, 2]
    p, y = predictions[seen, 4], labels[seen, 2]
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(y, p), abs=1e-6)
    assert found["mse"] == pytest.approx(sk.mean_squared_error(y, p), abs=1e-6)


def test_auc_of_a_rare_task_with_close_predictions_is_within_a_thousandth() -> None:
    draw = np.random.default_rng(4)
    logits = draw.normal(-5, 0.3, 40_000)
    y = draw.random(40_000) < 1 / (1 + np.exp(-logits - draw.normal(0, 1, 40_000)))
    p = (1 / (1 + np.exp(-logits))).astype(np.float32)
    found = Metrics(Schema((Field("u", "id"),), TASKS[:1], "u"))
    found.update(p[:, None], y.astype(np.float32)[:, None], np.ones((40_000, 1), bool))
    assert found.figures()["click"]["auc"] == pytest.approx(sk.roc_auc_score(y, p), abs=1e-3)


def test_merging_two_halves_is_the_whole() -> None:
    data = stream(4_000, 5)
    whole = in_batches(data, 64).figures()
    first, second = (in_batches(tuple(a[part] for a in data), 64) for part in (
        slice(0, 1_000), slice(1_000, None)))  # fmt: skip
    first.merge(second)
    for task, figures in first.figures().items():
        for name, value in figures.items():
            expected = whole[task][name]
            if isinstance(expected, float):
                expected = pytest.approx(expected, rel=1e-12)
            assert value == expected, (task, name)


def test_a_loaded_state_goes_on_exactly() -> None:
    data = stream(1_000, 6)
    one, two = in_batches(data, 64), Metrics(SCHEMA)
    two.load(one.state())
    one.update(*data)
    two.update(*data)
    assert one.figures() == two.figures()


def test_figures_without_labels_are_none() -> None:
    found = Metrics(SCHEMA).figures()
    assert found["click"]["auc"] is None and found["time"]["mse"] is None
    assert found["kind"]["count"] == 0 and found["kind"]["f1"] is None
