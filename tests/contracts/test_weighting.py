"""What every weighter keeps: positive, finite, one sum, and a state that goes on bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.gradient_weighting import Combining, GradNorm
from model.loss_weighting import AgainstReference, DynamicWeightAverage, Uncertainty
from model.task_weights import Fixed, Weighter
from model.weighting import COMBINING, KINDS, Weighting

TASKS = 3
BASE = [1.0, 2.0, 0.5]
WEIGHTERS: dict[str, Callable[[], Weighter]] = {
    "fixed": lambda: Fixed([1.0, 1.0, 4.0]),
    "dwa": lambda: DynamicWeightAverage([1.0] * TASKS, window=1),
    "dwa-window": lambda: DynamicWeightAverage(BASE, temperature=0.1, window=3),
    "uncertainty": lambda: Uncertainty(BASE, rate=1.0),
    "reference": lambda: AgainstReference(BASE, power=10.0, window=2),
    "gradnorm": lambda: GradNorm(BASE, rate=1.0, window=2),
    **{kind: lambda kind=kind: Combining(BASE, kind, seed=3) for kind in COMBINING},  # type: ignore[misc]
}
every_weighter = pytest.mark.parametrize("make", WEIGHTERS.values(), ids=WEIGHTERS)
losses = st.lists(
    st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.floats(0.01, 5.0)),
    min_size=TASKS,
    max_size=TASKS,
)
counts = st.lists(st.integers(0, 1_000), min_size=TASKS, max_size=TASKS)


@st.composite
def grams(draw: st.DrawFn) -> np.ndarray:
    """Of gradients of unlike sizes, some 0, some opposed, some not finite."""
    signs = draw(st.lists(st.integers(-2, 2), min_size=TASKS * 3, max_size=TASKS * 3))
    sizes = draw(st.lists(st.integers(-80, 80), min_size=TASKS, max_size=TASKS))
    gradients = np.reshape(signs, (TASKS, 3)) * 10.0 ** np.array(sizes)[:, None]
    gram = gradients @ gradients.T
    gram[0, 0] += draw(st.sampled_from([0.0, 0.0, 0.0, 0.0, np.nan, np.inf]))
    return gram


steps = st.lists(st.tuples(losses, counts, grams()), max_size=12)


def take(weighter: Weighter, step: tuple) -> list[np.ndarray]:
    loss, count, gram = step
    combined = weighter.combine(gram, weighter.weights)
    return [combined, weighter.update(np.array(loss), np.array(count), gram)]


@every_weighter
@given(steps=steps)
@settings(max_examples=40)
def test_weights_are_positive_finite_and_of_one_sum(make: Callable[[], Weighter], steps) -> None:
    weighter = make()
    assert weighter.weights.dtype == np.float64
    for step in steps:
        for weights in take(weighter, step):
            assert weights.shape == (TASKS,)
            assert np.all(np.isfinite(weights)) and np.all(weights > 0)
            assert weights.sum() == pytest.approx(TASKS, rel=1e-12)
        np.testing.assert_array_equal(weights, weighter.weights)


@every_weighter
@given(steps=steps, cut=st.integers(0, 12))
@settings(max_examples=20)
def test_a_state_goes_on_bit_for_bit(make: Callable[[], Weighter], steps, cut: int) -> None:
    whole, first, second = make(), make(), make()
    for step in steps[:cut]:
        take(whole, step)
        take(first, step)
    second.load(first.state())
    for step in steps[cut:]:
        np.testing.assert_array_equal(take(whole, step), take(second, step))
    np.testing.assert_equal(second.state(), whole.state())


@every_weighter
def test_what_is_handed_out_is_no_way_in(make: Callable[[], Weighter]) -> None:
    weighter, gram = make(), np.eye(TASKS)
    before = weighter.weights
    weighter.weights[:] = 0.0
    weighter.combine(gram, before)[:] = 0.0
    weighter.update([1.0, 1.0, 1.0], [0, 0, 0])[:] = 0.0
    np.testing.assert_array_equal(weighter.weights, before)
    np.testing.assert_array_equal(gram, np.eye(TASKS))


@every_weighter
def test_a_state_of_other_tasks_is_refused(make: Callable[[], Weighter]) -> None:
    with pytest.raises(ValueError, match="expected \\(3,\\)"):
        make().load(Fixed([1.0]).state())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_one_line_of_an_application(kind: str) -> None:
    weighter = Weighting(kind).build(BASE, seed=1)
    assert bool(weighter.gradients) == Weighting(kind).reads
    np.testing.assert_allclose(weighter.weights, np.array(BASE) * 3 / 3.5)
