"""Affinity says who helps whom, and touches nothing; groups follow from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model.affinity import LabelAffinity, affinity, cosines, transfer
from model.batch import Batch
from model.example_losses import mean_losses
from model.grouping import by_affinity, by_goal, by_source, partitions, total
from model.schema import Field, Schema, Task
from model.structure import NetworkConfig
from model.train import Trainer

TASKS = ("one", "twin", "foe", "other")


def stream(small, steps: int) -> tuple[Trainer, list[Batch]]:
    """`twin` has the labels of `one`, `foe` the opposite ones, `other` nothing to do with it."""
    schema = replace(small.SCHEMA, tasks=tuple(Task(name, "binary", 0) for name in TASKS))
    network = NetworkConfig("shared_bottom", width=8, tower=8, crossed=(), cross=0)
    trainer = Trainer(schema, small.LAYOUT, Trainer.Config(network), 0)
    batches = []
    for number in range(steps):
        data = small.batch(number)
        y = data.labels[:, 0]
        other = (data.inputs.dense[:, 1] > 3).astype(np.float32)
        labels = np.stack([y, y, 1 - y, other], 1)
        batches.append(replace(data, labels=labels, mask=np.ones(labels.shape, bool)))
    return trainer, batches


def test_it_leaves_the_trainer_exactly_as_it_was(small):
    trainer, batches = stream(small, 4)
    for batch in batches[:3]:
        trainer.step(batch)
    before = trainer.state_hash()
    affinity(trainer, batches[3])
    assert trainer.state_hash() == before
    undisturbed, _ = stream(small, 0)
    for batch in batches:
        undisturbed.step(batch)
    trainer.step(batches[3])
    assert trainer.state_hash() == undisturbed.state_hash()


def test_transfer_is_the_loss_after_a_step_over_that_after_none(small):
    trainer, batches = stream(small, 3)
    for batch in batches[:2]:
        trainer.step(batch)
    data, state = batches[2], trainer.state()
    found = transfer(trainer, data)
    after = {}
    for tasks in ((), (0,)):
        other, _ = stream(small, 0)
        other.load(state)
        mask = np.zeros_like(data.mask)
        mask[:, list(tasks)] = True
        other.step(replace(data, mask=mask))
        predictions = other.predict(data.inputs)
        after[tasks] = mean_losses(other.schema, predictions, data.labels, data.mask)
    assert found[0] == pytest.approx(1 - after[0,] / after[()])


def test_a_twin_helps_and_a_foe_hinders_once_the_towers_agree_on_a_direction(small):
    trainer, batches = stream(small, 60)
    found = []
    for number, batch in enumerate(batches):
        if number >= 40:
            found.append(affinity(trainer, batch))
        trainer.step(batch)
    moved = np.mean([a.transfer for a in found], 0)
    one, twin, _, other = range(4)
    assert moved[one, twin] > 0 and moved[twin, one] > 0
    assert moved[one, twin] > 3 * moved[other, twin]
    turned = np.mean([a.cosine for a in found], 0)
    assert turned == pytest.approx(turned.T)
    assert np.diag(turned) == pytest.approx(1)
    assert abs(turned[one, other]) < turned[one, twin]


def test_a_task_without_labels_in_a_batch_is_not_known(small):
    trainer, (batch,) = stream(small, 1)
    mask = batch.mask.copy()
    mask[:, 3] = False
    found = affinity(trainer, replace(batch, mask=mask))
    for matrix in (found.transfer, found.cosine):
        assert np.isnan(matrix[3]).all() and np.isnan(matrix[:, 3]).all()
        assert np.isfinite(matrix[:3, :3]).all()


def test_tasks_that_share_nothing_are_refused(small):
    alone = small.trainer(network=NetworkConfig("single_task", crossed=()))
    with pytest.raises(ValueError, match="this network shares nothing"):
        affinity(alone, small.batch(0))


def test_cosines_of_vectors():
    vectors = np.array([[1.0, 0], [1, 1], [-2, 0], [0, 0]])
    found = cosines(vectors @ vectors.T, np.array([True, True, True, True]))
    half = np.sqrt(0.5)
    assert found[:3, :3] == pytest.approx(
        np.array([[1, half, -1], [half, 1, -half], [-1, -half, 1]])
    )
    assert np.isnan(found[3]).all()


def test_labels_correlate_as_numpy_says_where_both_are_known():
    draw = np.random.default_rng(0)
    labels = draw.normal(size=(500, 3)) @ draw.normal(size=(3, 3))
    mask = draw.random((500, 3)) < 0.7
    found = LabelAffinity(3)
    for part in np.array_split(np.arange(500), 7):
        found.update(labels[part], mask[part])
    for i in range(3):
        for j in range(3):
            both = mask[:, i] & mask[:, j]
            expected = np.corrcoef(labels[both, i], labels[both, j])[0, 1]
            assert found.correlation()[i, j] == pytest.approx(expected)
            assert found.coverage()[i, j] == pytest.approx(both.sum() / mask[:, i].sum())


def test_the_best_grouping_is_found_and_a_planted_one_too_when_tasks_are_many():
    draw = np.random.default_rng(1)
    names = [f"t{n}" for n in range(5)]
    matrix = draw.normal(size=(5, 5))
    best = by_affinity(names, matrix, 2)
    scores = {
        tuple(map(tuple, p)): total(matrix, p) for p in partitions(list(range(5))) if len(p) == 2
    }
    assert total(matrix, [[names.index(n) for n in g] for g in best]) == max(scores.values())
    assert len(list(partitions(list(range(5))))) == 52  # Bell's number
    of = np.arange(12) % 3
    planted = np.where(of[:, None] == of, 1.0, -1.0)
    groups = by_affinity([f"t{n}" for n in range(12)], planted, 3)
    assert groups == tuple(tuple(f"t{n}" for n in range(12) if n % 3 == g) for g in range(3))
    with pytest.raises(ValueError, match="expected 1 to 5"):
        by_affinity(names, matrix, 6)


def test_groups_by_source_and_goal():
    def schema(*tasks: Task) -> Schema:
        return Schema((Field("user", "id"),), tasks, "user")

    tasks = [Task(n, "binary", 0) for n in "abc"]
    coverage = np.array([[1, 1, 0.1], [0.9, 1, 0.1], [0.2, 0.2, 1]])
    assert by_source(schema(*tasks), coverage) == (("a", "b"), ("c",))
    named = [
        replace(t, source=s, goal=g)
        for t, s, g in zip(tasks, "xyx", ("joy", "", "joy"), strict=True)
    ]
    assert by_source(schema(*named), coverage) == (("a", "c"), ("b",))
    assert by_goal(schema(*named)) == (("a", "c"), ("b",))
    assert by_goal(schema(*tasks)) is None
