"""Weighters of losses, against their papers' formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.loss_weighting import AgainstReference, DynamicWeightAverage, Uncertainty
from model.task_weights import Fixed, normalise
from model.weighting import Weighting


def test_fixed_weights_keep_their_ratios() -> None:
    np.testing.assert_allclose(Fixed([1.0, 1.0, 4.0]).update([9, 1, 1], [1, 1, 1]), [0.5, 0.5, 2.0])


def test_dwa_gives_the_weights_of_the_paper() -> None:
    """Worked by hand: r = (1, .5, 1.5), exp(r / 2) = (1.6487, 1.2840, 2.1170), sum 5.0497."""
    weighter = DynamicWeightAverage([1.0] * 3, temperature=2.0, window=2)
    for loss in ([1.0, 1.0, 2.0], [3.0, 1.0, 2.0]):
        weights = weighter.update(loss, [10, 10, 10])
    np.testing.assert_allclose(weights, np.ones(3))
    for loss in ([2.0, 0.4, 3.0], [2.0, 0.6, 3.0]):
        weights = weighter.update(loss, [10, 10, 10])
    np.testing.assert_allclose(weights, [0.97949, 0.76283, 1.25769], atol=2e-5)


def test_dwa_means_are_over_labels_not_over_steps() -> None:
    weighter = DynamicWeightAverage([1.0] * 2, window=2)
    for loss, count in (([1.0, 1.0], [1, 3]), ([5.0, 5.0], [3, 1])) * 2:
        weighter.update(loss, count)
    np.testing.assert_allclose(weighter.state()["last"], [4.0, 2.0])


def test_dwa_keeps_the_loss_of_a_task_without_a_label() -> None:
    weighter = DynamicWeightAverage([1.0] * 2, window=1)
    weighter.update([1.0, 2.0], [5, 5])
    weighter.update([1.0, np.nan], [5, 0])
    np.testing.assert_allclose(weighter.weights, [1.0, 1.0])
    weighter.update([1.0, 4.0], [5, 5])  # against the 2.0 of two windows before
    assert weighter.weights[1] == pytest.approx(2 * np.e / (np.e + np.exp(0.5)))


def test_uncertainty_descends_the_papers_loss() -> None:
    """Against torch's own gradient of sum exp(-s) L + s / 2, by its own SGD."""
    draw = np.random.default_rng(1)
    weighter = Uncertainty([1.0, 1.0, 2.0], rate=0.1)
    s = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.SGD([s], lr=0.1)
    for _ in range(50):
        loss = draw.uniform(0.1, 2.0, 3)
        optimiser.zero_grad()
        (torch.exp(-s) * torch.from_numpy(loss) + s / 2).sum().backward()
        optimiser.step()
        weights = weighter.update(loss, [4, 4, 4])
    expected = normalise(np.array([1.0, 1.0, 2.0]) * np.exp(-s.detach().numpy()))
    np.testing.assert_allclose(weights, expected, rtol=1e-12)


def test_uncertainty_comes_to_weights_inverse_to_steady_losses() -> None:
    weighter = Uncertainty([1.0, 1.0], rate=0.1)
    for _ in range(400):
        weights = weighter.update([0.2, 0.6], [4, 4])
    np.testing.assert_allclose(weights, [1.5, 0.5], rtol=1e-6)


def test_a_task_worse_than_its_own_past_gets_more_whatever_its_scale() -> None:
    weighter = AgainstReference([1.0, 1.0, 1.0], power=2.0, window=5)
    for _ in range(50):
        weights = weighter.update([0.1, 10.0, 1.0], [4, 4, 4])
    np.testing.assert_allclose(weights, np.ones(3), rtol=1e-12)
    weights = weighter.update([0.1, 20.0, 1.0], [4, 4, 0])
    # Worked by hand: recent 10 + (20 - 10) / 5 = 12, reference 10 + 10 / 50 = 10.2.
    worse = (12 / 10.2) ** 2
    np.testing.assert_allclose(weights, normalise([1.0, worse, 1.0]), rtol=1e-12)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: Fixed([]), "weights is"),
        (lambda: Fixed([1.0, 0.0]), "weights is"),
        (lambda: normalise([1.0, np.nan]), "weights is"),
        (lambda: DynamicWeightAverage([1.0], temperature=0.0), "temperature is 0.0"),
        (lambda: DynamicWeightAverage([1.0], window=0), "window is 0"),
        (lambda: DynamicWeightAverage([1.0] * 2).update([1.0], [1]), "losses and counts have"),
        (lambda: Weighting("uncertainty", rate=0.0).build([1.0]), "rate is 0.0"),
        (lambda: Weighting("reference", power=-1.0).build([1.0]), "power is -1.0"),
        (lambda: Weighting("gradnorm", power=-1.0).build([1.0]), "power is -1.0"),
        (lambda: Weighting("pcgrd"), "'pcgrad'"),
        (lambda: Weighting("pcgrad", gradients="all"), "gradients is 'all'"),
    ],
)
def test_a_wrong_setting_is_named(build, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        build()
