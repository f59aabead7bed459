from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from model.labels import LabelPrior
from model.losses import Objective


def taught(small: SimpleNamespace) -> tuple[LabelPrior, np.ndarray, np.ndarray]:
    prior = LabelPrior(Objective(small.SCHEMA))
    data = [small.batch(seed) for seed in range(30)]
    for part in data:
        prior.absorb(part.labels, part.mask)
    labels, mask = (np.concatenate([getattr(d, n) for d in data]) for n in ("labels", "mask"))
    return prior, labels, mask


def test_offsets_predict_the_base_rates(small: SimpleNamespace) -> None:
    prior, labels, mask = taught(small)
    linked = prior.objective.link(torch.from_numpy(prior.offset[None]))
    found = prior.values(linked.numpy())[0]
    means = [labels[mask[:, k], k] for k in range(3)]
    expected = [means[0].mean(), *(np.mean(means[1] == c) for c in range(3)), means[2].mean()]
    assert found == pytest.approx(expected, abs=2e-3)


def test_without_labels_nothing_is_preferred(small: SimpleNamespace) -> None:
    prior = LabelPrior(Objective(small.SCHEMA))
    empty = np.zeros((1, 3), np.float32)
    prior.absorb(empty, np.zeros((1, 3), bool))
    linked = prior.objective.link(torch.from_numpy(prior.offset[None]))
    assert linked[0].tolist() == pytest.approx([0.5, 1 / 3, 1 / 3, 1 / 3, 0])
    _, mask = prior.standard(empty, np.ones((1, 3), bool))
    assert mask.tolist() == [[True, True, False]]


def test_a_class_never_seen_has_a_finite_offset(small: SimpleNamespace) -> None:
    prior = LabelPrior(Objective(small.SCHEMA))
    prior.absorb(np.zeros((50, 3), np.float32), np.ones((50, 3), bool))
    assert np.isfinite(prior.offset).all()


def test_regression_labels_and_values_are_each_others_inverse(small: SimpleNamespace) -> None:
    prior, labels, mask = taught(small)
    standard, _ = prior.standard(labels, mask)
    assert standard[mask[:, 2], 2].mean() == pytest.approx(0, abs=1e-4)
    assert standard[mask[:, 2], 2].std() == pytest.approx(1, abs=1e-4)
    assert (standard[:, :2] == labels[:, :2]).all()
    linked = np.zeros((len(labels), 5), np.float32)
    linked[:, 4] = standard[:, 2]
    assert prior.values(linked)[:, 4] == pytest.approx(labels[:, 2], rel=1e-5)
    far, _ = prior.standard(np.full((2, 3), 1e9, np.float32), np.ones((2, 3), bool))
    assert far[0, 2] == 8


def test_a_regression_is_predicted_within_the_labels_seen(small: SimpleNamespace) -> None:
    prior, labels, mask = taught(small)
    seen = labels[mask[:, 2], 2]
    linked = np.zeros((2, 5), np.float32)
    linked[:, 4] = -50, 50
    assert prior.values(linked)[:, 4].tolist() == [seen.min(), seen.max()]
    again = LabelPrior(prior.objective)
    again.load(prior.state())
    assert (again.values(linked) == prior.values(linked)).all()
