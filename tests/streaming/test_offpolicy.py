"""Off-policy estimates are what their definitions say, on cases worked out by hand and on a log
whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from streaming.__main__ import load_application
from streaming.offpolicy.estimators import estimates
from streaming.offpolicy.evaluate import Evaluation
from streaming.offpolicy.policies import greedy, proportional, uniform
from streaming.offpolicy.text import text


def test_a_small_case_by_hand():
    """Two actions; the log took the first with 1/4, the policy takes it with 3/4."""
    reward = np.array([1.0, 0, 1, 0])
    weight = np.array([3, 1 / 3, 1 / 3, 3])  # first, second, second, first
    q = np.array([0.5, 0.25, 0.25, 0.5])
    v = np.full(4, 0.75 * 0.5 + 0.25 * 0.25)  # 7/16
    found = estimates(reward, weight, q, v)
    assert found.ips.value == pytest.approx((3 + 1 / 3) / 4)  # 5/6
    assert found.snips.value == pytest.approx((3 + 1 / 3) / (6 + 2 / 3))  # 1/2
    left = 3 * 0.5 + 1 / 3 * -0.25 + 1 / 3 * 0.75 + 3 * -0.5
    assert found.dr.value == pytest.approx(7 / 16 + left / 4)
    assert found.direct.value == pytest.approx(7 / 16)
    assert found.mean_weight == pytest.approx(5 / 3)
    assert found.effective == pytest.approx((20 / 3) ** 2 / (18 + 2 / 9))
    assert found.largest_weight == 3


@pytest.mark.parametrize("good", [True, False])
def test_on_a_made_log_the_intervals_hold_the_truth_and_dr_is_right_with_wrong_predictions(good):
    """Five actions, worth .1 to .5; the log prefers the worst, the policy the best."""
    draw, n = np.random.default_rng(0), 2_000
    worth, logs = np.arange(1, 6) / 10, np.array([0.4, 0.3, 0.15, 0.1, 0.05])
    policy = logs[::-1]
    truth, held, wide = (
        float(policy @ worth),
        {"ips": 0, "snips": 0, "dr": 0},
        {"ips": 0.0, "dr": 0.0},
    )
    predicted = worth if good else np.full(5, 0.9)
    for _ in range(100):
        action = draw.choice(5, n, p=logs)
        reward = (draw.random(n) < worth[action]).astype(float)
        v = np.full(n, policy @ predicted)
        found = estimates(reward, (policy / logs)[action], predicted[action], v)
        for kind in held:
            interval = getattr(found, kind)
            held[kind] += interval.low <= truth <= interval.high
        for kind in wide:
            wide[kind] += getattr(found, kind).high - getattr(found, kind).low
    assert all(count >= 88 for count in held.values()), held
    assert wide["dr"] < wide["ips"] or not good


def test_policies_give_shares_to_what_is_there():
    q = np.array([[0.1, 0.3, 0.9], [0.2, 0.2, 0.2]])
    there = np.array([[True, True, False], [True, True, True]])
    assert uniform(q, there).tolist() == [[0.5, 0.5, 0], [1 / 3] * 3]
    assert proportional(q, there)[0] == pytest.approx([0.25, 0.75, 0])
    assert greedy(q, there)[0] == pytest.approx([0.05, 0.95, 0])
    assert greedy(q, there)[1] == pytest.approx([0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3])


def test_weights_that_are_none_are_refused():
    nothing = np.zeros(3)
    for weight in (nothing, np.array([1, -1, 1.0]), np.array([1, np.inf, 1])):
        with pytest.raises(ValueError, match="weights of a policy"):
            estimates(nothing, weight, nothing, nothing)


@pytest.fixture(scope="module")
def report(data_dir):
    log = data_dir / "openbandit_impressions.parquet"
    return Evaluation(load_application("openbandit"), log, limit=5_000).run()


def test_the_policy_that_logged_evaluated_on_its_own_log_is_its_mean_reward(report):
    """On Open Bandit what was logged at random is the uniform policy's."""
    of = report["logged_by"]["random"]
    found = of["policies"]["uniform"]
    assert found["mean_weight"] == pytest.approx(1, abs=1e-6) == found["largest_weight"]
    for kind in ("ips", "snips"):
        assert found[kind]["value"] == pytest.approx(of["reward"]["value"])
    assert found["effective"] == pytest.approx(of["rounds"])
    assert sum(by["rounds"] for by in report["logged_by"].values()) == 5_000


def test_what_the_other_policy_logged_tells_of_it_within_the_interval(report):
    truth = report["logged_by"]["random"]["reward"]
    told = report["logged_by"]["bts"]["policies"]["uniform"]
    assert told["ips"]["low"] < truth["high"] and truth["low"] < told["ips"]["high"]
    assert told["effective"] < 0.1 * told["rounds"]  # and says how little it stands on
    assert "logged by bts" in text(report)


def test_an_application_that_does_not_say_who_logged_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not say who logged what"):
        Evaluation(load_application("elec2"), tmp_path).run()
    app = load_application("openbandit")
    several = replace(app, schema=replace(app.schema, item=None))
    with pytest.raises(ValueError, match=r"expected Application\.logged, and Schema\.item"):
        Evaluation(several, tmp_path).run()
