from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.drift import DriftEvent
from streaming.rebalance import Rebalancer, compose

TASKS = ("click", "like")
BOTH = Rebalancer.Config("boost+focus", factor=2.0, lr_factor=1.5, row_factor=1.5, half_life=5_000)
POLICIES = ("none", "boost", "follow", "gradient", "focus", "boost+focus", "follow+gradient")


def event(task: str = "click", signal: str = "loss", example: int = 1_000) -> DriftEvent:
    return DriftEvent(task, signal, "up", 0.55, 0.70, example - 300, example, 5_000)


def test_a_boost_moves_weight_tower_and_rows_and_says_why() -> None:
    rebalancer = Rebalancer(TASKS, BOTH)
    decisions = rebalancer.apply(event())
    moves = [(d.task, d.what, d.before, d.after) for d in decisions]
    assert moves == [
        ("click", "weight", 1.0, 2.0),
        ("click", "tower_lr", 1.0, 1.5),
        ("", "row_lr", 1.0, 1.5),
    ]
    assert {(d.example, d.time_ms) for d in decisions} == {(1_000, 5_000)}
    assert decisions[0].reason == (
        "loss of click went up, 0.55 to 0.7, from example 700 (seen at 1000 by page_hinkley)"
    )
    assert decisions[0].as_dict()["what"] == "weight"
    adjustment = rebalancer.adjustment
    assert adjustment.task_weights.tolist() == [2.0, 1.0]
    assert adjustment.tower_lr.tolist() == [1.5, 1.0]
    assert adjustment.row_lr == 1.5


def test_boosts_halve_over_the_half_life_however_it_is_cut_and_end_with_a_decision() -> None:
    coarse, fine = Rebalancer(TASKS, BOTH), Rebalancer(TASKS, BOTH)
    for rebalancer in (coarse, fine):
        rebalancer.apply(event())
    assert coarse.update(5_000) == []
    for _ in range(50):
        fine.update(100)
    for rebalancer in (coarse, fine):
        np.testing.assert_allclose(rebalancer.adjustment.task_weights, [1.5, 1.0])
        np.testing.assert_allclose(rebalancer.adjustment.tower_lr, [1.25, 1.0])
        assert rebalancer.adjustment.row_lr == pytest.approx(1.25)
    ends = [d for _ in range(40) for d in coarse.update(1_000, time_ms=9_000)]
    assert [(d.task, d.what, d.after) for d in ends] == [
        ("click", "tower_lr", 1.0),
        ("", "row_lr", 1.0),
        ("click", "weight", 1.0),
    ]
    assert all("over" in d.reason and d.time_ms == 9_000 and d.example > 6_000 for d in ends)
    assert coarse.adjustment.task_weights.tolist() == [1.0, 1.0]


def test_events_of_one_change_do_not_stack() -> None:
    rebalancer = Rebalancer(TASKS, BOTH)
    rebalancer.apply(event())
    assert rebalancer.apply(event(signal="calibration")) == []
    assert rebalancer.adjustment.task_weights.tolist() == [2.0, 1.0]
    rebalancer.update(5_000)
    assert [d.what for d in rebalancer.apply(event(example=7_000))] == [
        "weight",
        "tower_lr",
        "row_lr",
    ]


def test_policy_none_moves_nothing() -> None:
    rebalancer = Rebalancer(TASKS, Rebalancer.Config(policy="none"))
    assert rebalancer.apply(event()) == []
    assert rebalancer.adjustment.task_weights.tolist() == [1.0, 1.0]
    assert rebalancer.adjustment.row_lr == 1.0


def test_frozen_holds_everything_until_the_release() -> None:
    rebalancer = Rebalancer(TASKS, BOTH)
    rebalancer.apply(event())
    assert [d.after for d in rebalancer.freeze()] == [1.0]
    assert rebalancer.freeze() == []
    assert rebalancer.apply(event("like")) == [] and rebalancer.update(50_000) == []
    assert rebalancer.frozen and rebalancer.adjustment.task_weights.tolist() == [2.0, 1.0]
    assert [d.what for d in rebalancer.release()] == ["frozen"]
    rebalancer.update(5_000)
    np.testing.assert_allclose(rebalancer.adjustment.task_weights, [1.5, 1.0])


def test_a_weight_set_by_an_operator_stays_when_boosts_are_over() -> None:
    rebalancer = Rebalancer(TASKS, BOTH)
    (decision,) = rebalancer.set("click", 3.0)
    assert (decision.before, decision.after) == (1.0, 3.0)
    rebalancer.apply(event())
    assert rebalancer.adjustment.task_weights.tolist() == [6.0, 1.0]
    (end,) = [d for d in rebalancer.update(100_000) if d.what == "weight"]
    assert (end.before, end.after) == (6.0, 3.0)
    assert rebalancer.adjustment.task_weights.tolist() == [3.0, 1.0]


def test_an_operators_weights_are_shared_out_and_a_drifts_come_on_top() -> None:
    rebalancer = Rebalancer(TASKS, BOTH)
    np.testing.assert_allclose(compose([0.5, 1.5], rebalancer.adjustment), [0.5, 1.5])
    rebalancer.set("like", 3.0)
    np.testing.assert_allclose(compose([0.5, 1.5], rebalancer.adjustment), [0.2, 1.8])
    rebalancer.apply(event())
    np.testing.assert_allclose(compose([0.5, 1.5], rebalancer.adjustment), [0.4, 1.8])


def lost(loss: float, task: str = "click") -> dict:
    return {(task, "loss"): (loss, 100)}


def test_follow_weighs_by_the_loss_against_what_it_was_and_ends_when_it_is_that_again() -> None:
    rebalancer = Rebalancer(TASKS, Rebalancer.Config("follow", factor=3.0, memory=100))
    for _ in range(20):
        assert rebalancer.update(100, signals=lost(0.4)) == []
    rebalancer.apply(event())
    weights = []
    for loss in (0.6, 0.8, 4.0, 0.4, 0.3):
        decisions = rebalancer.update(100, signals=lost(loss))
        weights.append(rebalancer.adjustment.task_weights.tolist())
    np.testing.assert_allclose(weights, [[1.5, 1], [2, 1], [3, 1], [1, 1], [1, 1]])
    rebalancer.update(100, signals={("click", "loss"): (float("nan"), 100)})
    assert rebalancer.adjustment.task_weights.tolist() == [1.0, 1.0]
    assert decisions == []


def test_gradients_are_combined_for_two_half_lives() -> None:
    rebalancer = Rebalancer(TASKS, Rebalancer.Config("gradient", half_life=1_000))
    assert rebalancer.weighter is None
    assert [(d.task, d.what, d.after) for d in rebalancer.apply(event())] == [("", "gradient", 1)]
    rebalancer.update(1_900)
    assert rebalancer.weighter is not None
    assert [(d.what, d.after) for d in rebalancer.update(200)] == [("gradient", 0)]
    assert rebalancer.weighter is None


def test_focus_moves_what_is_the_tasks_own_and_no_weight() -> None:
    config = Rebalancer.Config("focus", lr_factor=3.0, row_factor=2.0, keep=0.9, half_life=1_000)
    rebalancer = Rebalancer(TASKS, config)
    rebalancer.apply(event("like"))
    adjustment = rebalancer.adjustment
    assert adjustment.task_weights.tolist() == [1.0, 1.0]
    assert adjustment.tower_lr.tolist() == [1.0, 3.0] and adjustment.row_lr == 2.0
    np.testing.assert_allclose(adjustment.tower_keep, [1.0, 0.9])
    rebalancer.update(20_000)
    adjustment = rebalancer.adjustment
    assert adjustment.tower_lr.tolist() == adjustment.tower_keep.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("task", "signal"), [("", "mix:category"), ("", "mean:price"), ("click", "label_rate")]
)
def test_a_drift_of_inputs_or_of_a_label_rate_alone_moves_nothing(task: str, signal: str) -> None:
    rebalancer = Rebalancer(TASKS, BOTH)
    assert rebalancer.apply(event(task, signal)) == []
    assert rebalancer.adjustment.task_weights.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("signal", ["loss", "auc", "calibration"])
def test_a_drift_of_what_the_model_gets_wrong_is_answered(signal: str) -> None:
    rebalancer = Rebalancer(TASKS, BOTH)
    assert rebalancer.apply(event(signal=signal))
    assert rebalancer.adjustment.task_weights.tolist() == [2.0, 1.0]


act = st.one_of(
    st.sampled_from(["freeze", "release", "click", "like", "set"]),
    st.integers(0, 20_000),
    st.floats(0, 100),
)


def play(rebalancer: Rebalancer, act: str | int | float) -> list:
    if isinstance(act, float):
        return rebalancer.update(64, signals=lost(act) | lost(1.0, "like"))
    if isinstance(act, int):
        return rebalancer.update(act)
    if act in TASKS:
        return rebalancer.apply(event(act))
    if act == "set":
        return rebalancer.set("like", 0.5)
    return getattr(rebalancer, act)()


@given(policy=st.sampled_from(POLICIES), acts=st.lists(act, max_size=20), cut=st.integers(0, 20))
@settings(max_examples=200)
def test_any_policy_goes_on_bit_for_bit_from_its_state_keeps_its_bounds_and_goes_back(
    policy: str, acts: list, cut: int
) -> None:
    config = Rebalancer.Config(
        policy, factor=2.0, lr_factor=3.0, row_factor=1.5, keep=0.9, half_life=5_000, memory=500
    )
    whole, first, second = (Rebalancer(TASKS, config) for _ in range(3))
    for a in acts[:cut]:
        assert play(whole, a) == play(first, a)
    second.load(first.state())
    for a in acts[cut:]:
        assert play(whole, a) == play(second, a)
        now = whole.adjustment
        assert np.all((now.task_weights >= 0.5) & (now.task_weights <= 2.0))
        assert np.all((now.tower_lr >= 1.0) & (now.tower_lr <= 3.0)) and 1.0 <= now.row_lr <= 1.5
        assert np.all((now.tower_keep >= 0.9) & (now.tower_keep <= 1.0))
    np.testing.assert_equal(second.state(), whole.state())
    whole.release()
    whole.update(1_000_000)
    now, still = whole.adjustment, Rebalancer(TASKS).adjustment
    assert now.task_weights.tolist() == [1.0, 0.5 if "set" in acts else 1.0]
    assert np.array_equal(now.tower_lr, still.tower_lr) and now.row_lr == 1.0
    assert np.array_equal(now.tower_keep, still.tower_keep) and not now.gradient


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: Rebalancer.Config(policy="bost"), "policy is 'bost': did you mean 'boost'"),
        (lambda: Rebalancer.Config(policy="none+boost"), "policy is 'none.boost': expected"),
        (lambda: Rebalancer.Config(keep=0.1), "keep is 0.1"),
        (lambda: Rebalancer.Config(memory=0), "memory is 0"),
        (lambda: Rebalancer.Config(factor=0.5), "factor is 0.5"),
        (lambda: Rebalancer.Config(lr_factor=float("nan")), "lr_factor is nan"),
        (lambda: Rebalancer.Config(half_life=0), "half_life is 0"),
        (lambda: Rebalancer(TASKS).apply(event("buy")), "task is 'buy'"),
        (lambda: Rebalancer(TASKS).set("buy", 1.0), "task is 'buy'"),
        (lambda: Rebalancer(TASKS).set("like", 0.0), "weight of like is 0.0"),
        (lambda: Rebalancer(TASKS).load(Rebalancer(("a",)).state()), "the state is of tasks"),
    ],
)
def test_a_wrong_setting_is_named(build, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        build()
