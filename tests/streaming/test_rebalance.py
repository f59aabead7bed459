from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.drift import DriftEvent
from streaming.rebalance import Rebalancer, compose

TASKS = ("click", "like")


def event(task: str = "click", signal: str = "loss", example: int = 1_000) -> DriftEvent:
    return DriftEvent(task, signal, "up", 0.55, 0.70, example - 300, example, 5_000)


def test_a_boost_moves_weight_tower_and_rows_and_says_why() -> None:
    rebalancer = Rebalancer(TASKS)
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
    coarse, fine = Rebalancer(TASKS), Rebalancer(TASKS)
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
    rebalancer = Rebalancer(TASKS)
    rebalancer.apply(event())
    assert rebalancer.apply(event(signal="label_rate")) == []
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
    rebalancer = Rebalancer(TASKS)
    rebalancer.apply(event())
    assert [d.after for d in rebalancer.freeze()] == [1.0]
    assert rebalancer.freeze() == []
    assert rebalancer.apply(event("like")) == [] and rebalancer.update(50_000) == []
    assert rebalancer.frozen and rebalancer.adjustment.task_weights.tolist() == [2.0, 1.0]
    assert [d.what for d in rebalancer.release()] == ["frozen"]
    rebalancer.update(5_000)
    np.testing.assert_allclose(rebalancer.adjustment.task_weights, [1.5, 1.0])


def test_a_weight_set_by_an_operator_stays_when_boosts_are_over() -> None:
    rebalancer = Rebalancer(TASKS)
    (decision,) = rebalancer.set("click", 3.0)
    assert (decision.before, decision.after) == (1.0, 3.0)
    rebalancer.apply(event())
    assert rebalancer.adjustment.task_weights.tolist() == [6.0, 1.0]
    (end,) = [d for d in rebalancer.update(100_000) if d.what == "weight"]
    assert (end.before, end.after) == (6.0, 3.0)
    assert rebalancer.adjustment.task_weights.tolist() == [3.0, 1.0]


def test_composed_weights_sum_to_the_number_of_tasks() -> None:
    rebalancer = Rebalancer(TASKS)
    rebalancer.apply(event())
    np.testing.assert_allclose(compose([0.5, 1.5], rebalancer.adjustment), [0.8, 1.2])


act = st.one_of(
    st.sampled_from(["freeze", "release", "click", "like", "set"]), st.integers(0, 20_000)
)


def play(rebalancer: Rebalancer, act: str | int) -> list:
    if isinstance(act, int):
        return rebalancer.update(act)
    if act in TASKS:
        return rebalancer.apply(event(act))
    if act == "set":
        return rebalancer.set("like", 0.5)
    return getattr(rebalancer, act)()


@given(acts=st.lists(act, max_size=20), cut=st.integers(0, 20))
@settings(max_examples=100)
def test_a_state_goes_on_bit_for_bit_within_the_bounds(acts: list, cut: int) -> None:
    whole, first, second = Rebalancer(TASKS), Rebalancer(TASKS), Rebalancer(TASKS)
    for a in acts[:cut]:
        assert play(whole, a) == play(first, a)
    second.load(first.state())
    for a in acts[cut:]:
        assert play(whole, a) == play(second, a)
        assert np.all(whole.adjustment.task_weights >= 0.5)
        assert np.all(whole.adjustment.task_weights <= 2.0)
        assert 1.0 <= whole.adjustment.row_lr <= 1.5
    np.testing.assert_equal(second.state(), whole.state())


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: Rebalancer.Config(policy="bost"), "policy is 'bost'"),
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
