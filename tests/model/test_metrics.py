from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import entropy as divergence
from sklearn import metrics as sk

from model import grouped
from model.idmap import table_keys
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
        ("kappa", sk.cohen_kappa_score),
    ):
        assert found[name] == pytest.approx(score(y, p >= 0.5), abs=1e-9), name
    apart = divergence([1 - rate, rate], [1 - p.mean(), p.mean()])
    assert found["kl_divergence"] == pytest.approx(apart, abs=1e-9)


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
    assert found["kappa"] == pytest.approx(sk.cohen_kappa_score(y, p.argmax(1)), abs=1e-9)
    apart = divergence(np.bincount(y) / len(y), p.mean(0))
    assert found["kl_divergence"] == pytest.approx(apart, abs=1e-6)


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


def test_the_roc_curve_is_scikit_learns() -> None:
    predictions, labels, mask = data = stream(20_000, 7)
    found = in_batches(data, 64)
    for task, label, seen, p, y in (
        ("click", 1, mask[:, 0], predictions[:, 0], labels[:, 0] > 0.5),
        ("kind", 2, mask[:, 1], predictions[:, 3], labels[:, 1] == 2),
    ):
        false, true = found.roc(task, label)
        their_false, their_true, _ = sk.roc_curve(y[seen], p[seen])
        at = np.linspace(0, 1, 201)
        assert false[0] == true[0] == 0 and false[-1] == true[-1] == 1
        ours, theirs = np.interp(at, false, true), np.interp(at, their_false, their_true)
        np.testing.assert_allclose(ours, theirs, atol=2e-3)
        assert sk.auc(false, true) == pytest.approx(sk.roc_auc_score(y[seen], p[seen]), abs=1e-4)
    for task, label in (("time", 1), ("kind", 3), ("click", 0)):
        with pytest.raises(ValueError, match=f"{task}.*no ROC curve of label {label}"):
            found.roc(task, label)


def by_user(users: np.ndarray, data: tuple[np.ndarray, ...], last: int) -> float:
    """The grouped AUC of task click, by scikit-learn, of each user's `last` impressions."""
    predictions, labels, mask = data
    total, weight = 0.0, 0
    for user in np.unique(users):
        of = np.flatnonzero((users == user) & mask[:, 0])[-last:]
        if 0 < labels[of, 0].sum() < len(of):
            total += len(of) * sk.roc_auc_score(labels[of, 0], predictions[of, 0])
            weight += len(of)
    return total / weight


def with_users(users: np.ndarray, data: tuple[np.ndarray, ...], size: int = 64) -> Metrics:
    found = Metrics(SCHEMA)
    for start in range(0, len(users), size):
        part = slice(start, start + size)
        found.update(*(a[part] for a in data), users=users[part])
    return found


def test_auc_by_user_is_scikit_learns_over_each_users_last() -> None:
    data = stream(4_000, 8)
    data[0][:] = data[0].round(2)  # so that some are equal
    users = table_keys(1, np.random.default_rng(8).geometric(0.02, 4_000))
    assert (np.unique(users, return_counts=True)[1] > grouped.LAST).any()
    found = with_users(users, data).figures()["click"]["grouped_auc"]
    assert found == pytest.approx(by_user(users, data, grouped.LAST), abs=1e-9)


def test_auc_by_user_keeps_a_sample_of_users_that_no_order_changes(monkeypatch) -> None:
    monkeypatch.setattr(grouped, "USERS", 50)
    data = stream(4_000, 9)
    users = table_keys(1, np.random.default_rng(9).integers(0, 400, 4_000))
    least = np.unique(users)[:50]
    of_least = np.isin(users, least)
    expected = by_user(users[of_least], tuple(a[of_least] for a in data), grouped.LAST)
    by_key = np.argsort(
        -users, kind="stable"
    )  # the worst order: each user is pushed out by the next
    for order in (slice(None), by_key):
        found = with_users(users[order], tuple(a[order] for a in data)).grouped
        np.testing.assert_array_equal(found.keys, least)
        assert found.figures()[0] == pytest.approx(expected, abs=1e-9)


def test_auc_by_user_of_two_partitions_merges_into_that_of_all(monkeypatch) -> None:
    monkeypatch.setattr(grouped, "USERS", 60)
    data = stream(4_000, 10)
    ids = np.random.default_rng(10).integers(0, 90, 4_000)
    users = table_keys(1, ids)
    whole = with_users(users, data).figures()
    parts = [with_users(users[h], tuple(a[h] for a in data)) for h in (ids % 2 == 0, ids % 2 == 1)]
    parts[0].merge(parts[1])
    merged = parts[0].figures()
    assert merged["click"]["grouped_auc"] == pytest.approx(whole["click"]["grouped_auc"], abs=1e-12)


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


@pytest.mark.parametrize("column", range(5))
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_predictions_that_are_not_finite_are_left_out(column: int, bad: float) -> None:
    data = predictions, labels, mask = stream(1_000, 11)
    users = table_keys(1, np.arange(1_000) % 37)
    found, without = with_users(users, data), mask.copy()
    without[:, [0, 1, 1, 1, 2][column]] = False
    broken = predictions.copy()
    broken[:, column] = bad
    found.update(broken, labels, mask, users)
    expected = with_users(users, data)
    expected.update(predictions, labels, without, users)
    assert found.figures() == expected.figures()


def test_a_loaded_state_goes_on_exactly() -> None:
    data = stream(1_000, 6)
    users = table_keys(1, np.arange(1_000) % 37)
    one, two = with_users(users, data), Metrics(SCHEMA)
    two.load(one.state())
    one.update(*data, users=users)
    two.update(*data, users=users)
    assert one.figures() == two.figures()


def test_the_figures_of_each_kind_are_the_documented_ones() -> None:
    found = {task: set(figures) for task, figures in Metrics(SCHEMA).figures().items()}
    of_classes = {
        "auc", "log_loss", "normalised_entropy", "calibration", "kl_divergence", "accuracy",
        "kappa", "precision", "recall", "f1",
    }  # fmt: skip
    assert found["click"] == {"kind", "count", "grouped_auc", *of_classes}
    assert found["kind"] == {"kind", "count", *of_classes}
    assert found["time"] == {"kind", "count", "mae", "mse"}


def test_figures_without_labels_are_none() -> None:
    found = Metrics(SCHEMA).figures()
    assert found["click"]["auc"] is None and found["time"]["mse"] is None
    assert found["kind"]["count"] == 0 and found["kind"]["f1"] is None
    assert found["kind"]["kappa"] is None and found["kind"]["kl_divergence"] is None
    assert found["click"]["grouped_auc"] is None
