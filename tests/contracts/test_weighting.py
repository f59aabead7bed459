"""What every weighter keeps: positive, finite, one sum, and a state that goes on bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.weighting import DynamicWeightAverage, Fixed, Weighter, normalise

TASKS = 3
WEIGHTERS: list[Callable[[], Weighter]] = [
    lambda: Fixed([1.0, 1.0, 4.0]),
    lambda: DynamicWeightAverage(TASKS, window=1),
    lambda: DynamicWeightAverage(TASKS, temperature=0.1, window=3, base=[1.0, 2.0, 0.5]),
]
every_weighter = pytest.mark.parametrize("make", WEIGHTERS, ids=["fixed", "dwa", "dwa-window"])
losses = st.lists(
    st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.floats(0.01, 5.0)),
    min_size=TASKS,
    max_size=TASKS,
)
counts = st.lists(st.integers(0, 1_000), min_size=TASKS, max_size=TASKS)
steps = st.lists(st.tuples(losses, counts), max_size=12)


@every_weighter
@given(steps=steps)
@settings(max_examples=150)
def test_weights_are_positive_finite_and_of_one_sum(make: Callable[[], Weighter], steps) -> None:
    weighter = make()
    assert weighter.weights.dtype == np.float64
    for loss, count in steps:
        weights = weighter.update(np.array(loss), np.array(count))
        assert weights.shape == (TASKS,)
        assert np.all(np.isfinite(weights)) and np.all(weights > 0)
        assert weights.sum() == pytest.approx(TASKS, rel=1e-12)
        np.testing.assert_array_equal(weights, weighter.weights)


@every_weighter
@given(steps=steps, cut=st.integers(0, 12))
@settings(max_examples=60)
def test_a_state_goes_on_bit_for_bit(make: Callable[[], Weighter], steps, cut: int) -> None:
    whole, first, second = make(), make(), make()
    for loss, count in steps[:cut]:
        whole.update(loss, count)
        first.update(loss, count)
    second.load(first.state())
    for loss, count in steps[cut:]:
        np.testing.assert_array_equal(whole.update(loss, count), second.update(loss, count))
    np.testing.assert_equal(second.state(), whole.state())


@every_weighter
def test_what_is_handed_out_is_no_way_in(make: Callable[[], Weighter]) -> None:
    weighter = make()
    before = weighter.weights
    weighter.weights[:] = 0.0
    weighter.update([1.0, 1.0, 1.0], [0, 0, 0])[:] = 0.0
    np.testing.assert_array_equal(weighter.weights, before)


def test_fixed_weights_keep_their_ratios() -> None:
    np.testing.assert_allclose(Fixed([1.0, 1.0, 4.0]).update([9, 1, 1], [1, 1, 1]), [0.5, 0.5, 2.0])


def test_dwa_gives_the_weights_of_the_paper() -> None:
    """Worked by hand: r = (1, .5, 1.5), exp(r / 2) = (1.6487, 1.2840, 2.1170), sum 5.0497."""
    weighter = DynamicWeightAverage(3, temperature=2.0, window=2)
    for loss in ([1.0, 1.0, 2.0], [3.0, 1.0, 2.0]):
        weights = weighter.update(loss, [10, 10, 10])
    np.testing.assert_allclose(weights, np.ones(3))
    for loss in ([2.0, 0.4, 3.0], [2.0, 0.6, 3.0]):
        weights = weighter.update(loss, [10, 10, 10])
    np.testing.assert_allclose(weights, [0.97949, 0.76283, 1.25769], atol=2e-5)


def test_dwa_means_are_over_labels_not_over_steps() -> None:
    weighter = DynamicWeightAverage(2, window=2)
    for loss, count in (([1.0, 1.0], [1, 3]), ([5.0, 5.0], [3, 1])) * 2:
        weighter.update(loss, count)
    np.testing.assert_allclose(weighter.state()["last"], [4.0, 2.0])


def test_dwa_keeps_the_loss_of_a_task_without_a_label() -> None:
    weighter = DynamicWeightAverage(2, window=1)
    weighter.update([1.0, 2.0], [5, 5])
    weighter.update([1.0, np.nan], [5, 0])
    np.testing.assert_allclose(weighter.weights, [1.0, 1.0])
    weighter.update([1.0, 4.0], [5, 5])  # against the 2.0 of two windows before
    assert weighter.weights[1] == pytest.approx(2 * np.e / (np.e + np.exp(0.5)))


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: Fixed([]), "weights is"),
        (lambda: Fixed([1.0, 0.0]), "weights is"),
        (lambda: normalise([1.0, np.nan]), "weights is"),
        (lambda: DynamicWeightAverage(0), "tasks is 0"),
        (lambda: DynamicWeightAverage(2, temperature=0.0), "temperature is 0.0"),
        (lambda: DynamicWeightAverage(2, window=0), "window is 0"),
        (lambda: DynamicWeightAverage(2, base=[1.0]), "base has 1 weights: expected 2"),
        (lambda: DynamicWeightAverage(2).update([1.0], [1]), "losses and counts have shapes"),
        (lambda: DynamicWeightAverage(2).load(Fixed([1.0]).state()), "expected \\(2,\\)"),
    ],
)
def test_a_wrong_setting_is_named(build, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        build()
