from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from model.batch import Batch, Inputs
from model.embedding import EmbeddingConfig
from model.metrics import Metrics
from model.optim import KINDS, DenseOptimiser, RowOptimiser
from model.train import Trainer


def run(small: SimpleNamespace, model: Trainer, seeds: range) -> Trainer:
    for seed in seeds:
        assert model.step(small.batch(seed)).finite
    return model


def part(inputs: Inputs, rows: np.ndarray) -> Inputs:
    return Inputs(inputs.keys[rows], inputs.weights[rows], inputs.dense[rows])


def test_two_trainers_of_the_same_batches_have_one_hash_and_another_seed_another(
    small: SimpleNamespace,
) -> None:
    hashes = [run(small, small.trainer(seed), range(20)).state_hash() for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_predicting_changes_nothing(small: SimpleNamespace) -> None:
    model = run(small, small.trainer(), range(5))
    before = model.state_hash()
    model.predict(small.batch(99, 200, ids=10_000).inputs)
    assert model.state_hash() == before
    assert (
        run(small, model, range(5, 8)).state_hash()
        == run(small, small.trainer(), range(8)).state_hash()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_trainer_loaded_from_state_goes_on_bit_for_bit(small: SimpleNamespace, kind: str) -> None:
    settings = {"dense": DenseOptimiser(kind, lr=0.01), "rows": RowOptimiser(kind, lr=0.01)}
    one, two = run(small, small.trainer(**settings), range(10)), small.trainer(**settings)
    one.adjust(np.array([1.0, 2.0, 0.5]), np.array([1.0, 0.5, 2.0]), 0.7)
    two.load(one.state())
    assert two.state_hash() == one.state_hash()
    for seed in range(10, 20):
        a, b = one.step(small.batch(seed)), two.step(small.batch(seed))
        assert (a.predictions == b.predictions).all() and a.step == b.step
    assert two.state_hash() == one.state_hash()


def test_state_is_no_view_of_what_goes_on_learning(small: SimpleNamespace) -> None:
    model = run(small, small.trainer(), range(3))
    kept = model.state()
    before = small.trainer()
    before.load(kept)
    run(small, model, range(3, 6))
    after = small.trainer()
    after.load(kept)
    assert before.state_hash() == after.state_hash()


def test_state_of_another_seed_is_refused(small: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="seed 3"):
        small.trainer(4).load(small.trainer(3).state())


def test_a_step_predicts_before_it_learns(small: SimpleNamespace) -> None:
    model = run(small, small.trainer(), range(5))
    data = small.batch(5)
    expected = model.predict(data.inputs)
    assert (model.step(data).predictions == expected).all()
    assert (model.predict(data.inputs) != expected).any()


def test_changing_labels_or_dense_of_a_batch_changes_no_prediction_of_the_others_in_it(
    small: SimpleNamespace,
) -> None:
    one, two = run(small, small.trainer(), range(5)), run(small, small.trainer(), range(5))
    a, b = small.batch(5), small.batch(5)
    b.labels[:, 0], b.labels[:, 2] = 1 - b.labels[:, 0], -b.labels[:, 2]
    b.inputs.dense[32:] += 100
    assert (one.step(a).predictions[:32] == two.step(b).predictions[:32]).all()


def test_predictions_do_not_depend_on_how_many_rows_are_asked_for(small: SimpleNamespace) -> None:
    model = run(small, small.trainer(), range(5))
    inputs = small.batch(7, 200).inputs
    whole = model.predict(inputs)
    for n in (1, 3, 63, 64, 65, 129, 200):
        assert (model.predict(inputs[:n]) == whole[:n]).all()
    for start in (0, 64, 128):
        assert (model.predict(inputs[start : start + 64]) == whole[start : start + 64]).all()


def test_masked_labels_teach_nothing(small: SimpleNamespace) -> None:
    one, two = run(small, small.trainer(), range(3)), run(small, small.trainer(), range(3))
    a, b = small.batch(3), small.batch(3)
    b.labels[~b.mask] = np.nan
    assert one.step(a).finite and two.step(b).finite
    assert one.state_hash() == two.state_hash()


def test_a_task_without_labels_has_no_loss_and_leaves_the_others_alone(
    small: SimpleNamespace,
) -> None:
    model, data = run(small, small.trainer(), range(3)), small.batch(3)
    data.mask[:, 0] = False
    report = model.step(data)
    assert np.isnan(report.loss[0]) and report.count[0] == 0
    assert np.isfinite(report.loss[1:]).all() and report.finite


@pytest.mark.parametrize(
    "what", ["dense", "weights", "label", "class", "half a class", "click of 2", "huge label"]
)
def test_a_step_that_is_not_finite_changes_nothing(small: SimpleNamespace, what: str) -> None:
    model, data = run(small, small.trainer(), range(3)), small.batch(3)
    data.mask[:] = True
    data.inputs.keys[0, 0] = 123_456_789
    match what:
        case "dense":
            data.inputs.dense[5, 1] = np.nan
        case "weights":
            data.inputs.weights[5, 0] = np.inf
        case "label":
            data.labels[5, 2] = np.nan
        case "class":
            data.labels[5, 1] = 3
        case "half a class":
            data.labels[5, 1] = 0.5
        case "click of 2":
            data.labels[5, 0] = 2
        case "huge label":
            data.labels[5, 2] = np.inf
    before = model.state_hash()
    report = model.step(data)
    assert not report.finite and report.step == 3
    assert model.state_hash() == before
    assert (
        run(small, model, range(3, 6)).state_hash()
        == run(small, small.trainer(), range(6)).state_hash()
    )


@pytest.mark.parametrize("label", [np.inf, -np.inf, np.nan])
def test_a_first_batch_with_a_label_that_is_not_finite_changes_nothing(
    small: SimpleNamespace, label: float
) -> None:
    model, data = small.trainer(), small.batch(0)
    data.mask[5, 2], data.labels[5, 2] = True, label
    before = model.state_hash()
    assert not model.step(data).finite
    assert model.state_hash() == before
    data.mask[5, 2] = False
    assert model.step(data).finite


def test_a_short_batch_is_as_a_padded_one(small: SimpleNamespace) -> None:
    model, data = run(small, small.trainer(), range(3)), small.batch(3, 10)
    report = model.step(data)
    assert report.predictions.shape == (10, small.SCHEMA.outputs) and report.examples == 10
    rows = np.r_[np.arange(10), np.zeros(54, int)]
    padded = Batch(part(data.inputs, rows), data.labels[rows], data.mask[rows])
    padded.mask[10:] = False
    other = run(small, small.trainer(), range(3))
    assert (other.step(padded).predictions[:10] == report.predictions).all()
    assert (
        model.state()["model"]["network"]["linear"] == other.state()["model"]["network"]["linear"]
    ).all()


def test_a_tower_rate_of_zero_keeps_the_tasks_own_weights(small: SimpleNamespace) -> None:
    model = run(small, small.trainer(), range(3))
    model.adjust(np.ones(3), np.array([0.0, 1.0, 1.0]), 1.0)
    before = model.state()["model"]["network"]
    model.step(small.batch(3))
    after = model.state()["model"]["network"]
    assert (after["towers.out"][0] == before["towers.out"][0]).all()
    assert (after["towers.out"][1] != before["towers.out"][1]).any()
    assert (after["linear"][:, 0] == before["linear"][:, 0]).all()
    assert (after["linear"][:, 1] != before["linear"][:, 1]).any()


def test_a_row_rate_of_zero_keeps_all_known_rows(small: SimpleNamespace) -> None:
    model = run(small, small.trainer(), range(10))
    model.adjust(np.ones(3), np.ones(3), 0.0)
    before = model.state()["model"]["embedding"]
    model.step(small.batch(3))
    assert (model.state()["model"]["embedding"]["rows"] == before["rows"]).all()


def test_a_task_weight_of_zero_stops_its_learning(small: SimpleNamespace) -> None:
    model = run(small, small.trainer(), range(3))
    model.adjust(np.array([0.0, 1.0, 1.0]), np.ones(3), 1.0)
    before = model.state()["model"]["network"]["linear"]
    model.step(small.batch(3))
    assert (model.state()["model"]["network"]["linear"][:, 0] == before[:, 0]).all()


def test_all_kinds_of_task_are_learnt(small: SimpleNamespace) -> None:
    model, found = small.trainer(), Metrics(small.SCHEMA)
    for seed in range(200):
        data = small.batch(seed)
        report = model.step(data)
        if seed >= 100:
            found.update(report.predictions, data.labels, data.mask)
    figures = found.figures()
    assert figures["click"]["auc"] > 0.97  # type: ignore[operator]
    assert figures["kind"]["accuracy"] > 0.85  # type: ignore[operator]
    assert figures["time"]["mse"] < 0.1 * (5**2 * 3)  # type: ignore[operator]


def test_a_class_probability_row_sums_to_one(small: SimpleNamespace) -> None:
    found = run(small, small.trainer(), range(3)).predict(small.batch(4).inputs)
    assert found[:, 1:4].sum(1) == pytest.approx(np.ones(64), abs=1e-6)
    assert ((found[:, 0] > 0) & (found[:, 0] < 1)).all()


def test_wrong_inputs_are_named(small: SimpleNamespace) -> None:
    model, data = small.trainer(), small.batch(0)
    with pytest.raises(ValueError, match=r"Inputs.keys is float32"):
        model.predict(Inputs(data.inputs.weights, data.inputs.weights, data.inputs.dense))
    with pytest.raises(ValueError, match=r"Batch.labels are \(64, 2\)"):
        model.step(Batch(data.inputs, data.labels[:, :2], data.mask))
    with pytest.raises(ValueError, match="65 examples"):
        model.step(small.batch(0, 65))
    assert small.LAYOUT.slots == 6


def test_predictions_start_from_the_base_rates_of_the_labels_learnt(small: SimpleNamespace) -> None:
    tiny = {"dense": DenseOptimiser("sgd", lr=1e-9), "rows": RowOptimiser("sgd", lr=1e-9)}
    model, labels = small.trainer(**tiny), []
    for seed in range(20):
        data = small.batch(seed)
        data.labels[:, 0], data.mask[:] = np.arange(64) % 50 == 0, True
        labels.append(data.labels)
        model.step(data)
    found = model.predict(small.batch(99).inputs)
    assert np.median(found[:, 0]) < 0.1
    assert abs(np.median(found[:, 4]) - np.concatenate(labels)[:, 2].mean()) < 5


def test_learning_rates_rise_over_the_warmup(small: SimpleNamespace) -> None:
    def first_move(warmup: int) -> np.ndarray:
        model = small.trainer(
            dense=DenseOptimiser("sgd", lr=0.1), rows=RowOptimiser("sgd"), warmup=warmup
        )
        before = model.state()["model"]["network"]["bias"]
        model.step(small.batch(0))
        return model.state()["model"]["network"]["bias"] - before

    assert first_move(3) == pytest.approx(first_move(0) / 4, rel=1e-4)
    with pytest.raises(ValueError, match="warmup is -1"):
        small.trainer(warmup=-1)


LIMITED = EmbeddingConfig(8, admit_after=2, capacity=60, max_age_ms=900)


def test_a_trainer_that_admits_and_evicts_goes_on_the_same_after_a_load(small) -> None:
    one = small.trainer(embedding=LIMITED)
    one.predictor.embedding.changes.clean()
    for seed in range(12):
        one.step(replace(small.batch(seed, ids=200), time_ms=100 * seed))
    two = small.trainer(embedding=LIMITED)
    two.load(one.state())
    assert two.state_hash() == one.state_hash() and len(one.predictor.embedding) == 62
    for seed in range(12, 30):
        batch = replace(small.batch(seed, ids=200), time_ms=100 * seed)
        assert np.array_equal(one.step(batch).predictions, two.step(batch).predictions)
        assert two.state_hash() == one.state_hash()
    theirs, ours = (t.predictor.embedding.changes.state() for t in (one, two))
    assert {k: v.tolist() for k, v in theirs.items()} == {k: v.tolist() for k, v in ours.items()}


def test_what_is_only_for_learning_is_in_no_snapshot_and_what_is_told_in_no_hash(small) -> None:
    trainer = small.trainer(embedding=LIMITED)
    trainer.step(small.batch(0))
    assert {n for n in trainer.snapshot()[0] if n.startswith("embedding/")} == {
        "embedding/keys",
        "embedding/rows",
    }
    before = trainer.state_hash()
    trainer.predictor.embedding.changes.clean()
    assert trainer.state_hash() == before
