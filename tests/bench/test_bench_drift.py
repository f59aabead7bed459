"""The planted suite: its streams change as they say, its runs are the learner's, its figures add
up; and a sample of it on two seeds."""

from __future__ import annotations

import json
import math
from functools import lru_cache, partial

import numpy as np
import pytest
from click.testing import CliRunner

from streaming.__main__ import cli
from streaming.bench import drift, drift_alarms
from streaming.bench.drift_outcomes import Outcome
from streaming.bench.drift_run import BATCH, Runner, Setting
from streaming.bench.drift_streams import DRIFTED, KINDS, ONE_TASK, Stream, stream
from streaming.bench.drift_table import Table
from streaming.bench.drift_worlds import WORLDS
from streaming.rebalance import Rebalancer

BEFORE, AFTER = 4_000, 2_000
planted = lru_cache(stream)


@pytest.mark.parametrize("world", WORLDS)
def test_both_concepts_label_the_same_examples_and_differ_in_every_task(world: str) -> None:
    made = WORLDS[world](2_000, 3)
    again = WORLDS[world](2_000, 3)
    for name in ("old", "new", "segment", "along"):
        np.testing.assert_array_equal(getattr(made, name), getattr(again, name))
    known = ~np.isnan(made.old) & ~np.isnan(made.new)
    assert np.all(((made.old != made.new) & known).mean(0) > 0.04)
    assert 0 < (made.segment == 1).mean() < 0.5 and len(made.inputs) == 2_000


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_changes_where_and_when_its_kind_says(kind: str) -> None:
    made = planted("led", kind, 3, BEFORE, AFTER)
    world, n = made.world, BEFORE + AFTER
    assert len(made.labels) == n and not made.fresh[:BEFORE].any()
    np.testing.assert_array_equal(made.labels[:BEFORE], world.old[:BEFORE])
    late, others = made.fresh[-400:], np.arange(3) != DRIFTED
    if kind in ("none", "feature"):
        assert not made.fresh.any()
    elif kind == "one_segment":
        np.testing.assert_array_equal(late[:, 0], world.segment[-400:] == 1)
    elif kind == "recurring":
        assert made.fresh[BEFORE : BEFORE + 1_500].all() and not late.any()
    else:
        assert late[:, DRIFTED].all() and late[:, others].all() == (kind not in ONE_TASK)
    if kind in ("gradual", "incremental"):
        assert 0.3 < made.fresh[BEFORE : BEFORE + 1_500].mean() < 0.7
    if kind == "label_rate":
        assert made.labels[BEFORE:, DRIFTED].mean() > world.old[BEFORE:, DRIFTED].mean() + 0.1
    if kind == "feature":
        assert (world.along[BEFORE:] < 0.5).mean() > 0.75 > (world.along[:BEFORE] < 0.5).mean()


@pytest.fixture(scope="module")
def made() -> Stream:
    return planted("led", "one_task", 3, BEFORE, AFTER)


@pytest.fixture(scope="module")
def runner(made: Stream) -> Runner:
    return Runner(made, made.labels, Setting(3.0), 3)


@pytest.mark.parametrize("policy", ["boost", "follow", "gradient", "focus", "boost+focus"])
def test_a_policy_goes_on_from_a_state_in_the_middle_of_its_answer(
    runner: Runner, policy: str
) -> None:
    config = Rebalancer.Config(policy, keep=0.95)
    whole = runner.run(config)
    moves = [d for d in whole.decisions if d.what != "row_lr" or policy == "focus"]
    assert moves and np.any(whole.loss != runner.none.loss)
    middle = (moves[0].example + 320) // BATCH * BATCH
    first, second = runner._learner(config), runner._learner(config)
    served = np.empty(whole.loss.shape)
    runner._learn(first, served, 0, middle)
    assert first.rebalancer.state()["alive"].any()
    second.load(first.state())
    for learner in (first, second):
        runner._learn(learner, served, middle, len(served))
    assert first.state_hash() == second.state_hash()
    again = runner._run(served).loss
    np.testing.assert_array_equal(again, whole.loss)


def test_told_the_events_of_its_own_run_a_policy_does_the_same(runner: Runner) -> None:
    config = Rebalancer.Config("boost")
    whole = runner.run(config)
    told = runner.told(config, whole.drifts)
    np.testing.assert_array_equal(told.loss, whole.loss)
    assert runner.told(config, []).decisions == []


def outcome(seed: int, policy: str, area: float, others: float, loss: float = 1.0) -> Outcome:
    return Outcome("led", "one_task", seed, policy, area, 500.0, 100.0, 0, loss, others)


def test_figures_are_ratios_of_sums_and_means_of_ratios_with_paired_intervals() -> None:
    none = [outcome(s, "none", area, 1.0) for s, area in enumerate((100.0, 200.0))]
    other = [outcome(s, "boost", a, o) for s, (a, o) in enumerate(((50.0, 1.01), (150.0, 1.03)))]
    table = Table([*other, *none], "boost")
    area, cost, row = table.rows()[:2] + table.rows()[-1:]
    assert area["name"] == "drift.one_task.area" and area["value"] == area["ratio"] == 1.5
    assert (area["low"], area["high"]) == (pytest.approx(4 / 3, 1e-4), 2.0)
    assert cost["name"] == "drift.other_tasks.cost" and cost["value"] == pytest.approx(0.02)
    assert (cost["low"], cost["high"]) == (0.01, 0.03)
    assert table.area("one_task", "none") == (1.0, 1.0, 1.0)
    assert row["detected"] == 1 and row["delay"] == 100 and row["runs"] == 2
    assert "boost" in table.text()


def test_a_sample_of_the_suite_gains_by_the_default_and_not_by_its_placebos(monkeypatch) -> None:
    monkeypatch.setattr(drift, "stream", partial(stream, before=6_000, after=3_000))
    monkeypatch.setattr(drift, "WORLDS_OF", {"one_task": ("led",), "none": ("led",)})
    monkeypatch.setattr(drift, "POLICIES", {p: drift.POLICIES[p] for p in ("none", drift.DEFAULT)})
    words = ["bench", "drift", "--seeds", "2", "--kind", "one_task", "--kind", "none", "--json"]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    area = rows["drift.one_task.area"]
    assert area["ratio"] > 1.1 and area["low"] <= area["value"] <= area["high"]
    assert abs(rows["drift.other_tasks.cost"]["value"]) < 0.02
    assert abs(rows["drift.stationary.cost"]["value"]) < 0.001
    for placebo in drift.PLACEBOS:
        assert rows[f"drift.one_task/{placebo}"]["area"][0] < area["value"]
    assert rows[f"drift.one_task/{drift.DEFAULT}"]["detected"] == 1
    assert all(math.isfinite(row["cost"][0]) for name, row in rows.items() if "/" in name)


def test_each_other_kind_is_run_as_a_sample_on_two_seeds(monkeypatch) -> None:
    others = [kind for kind in KINDS if kind not in ("one_task", "none")]
    monkeypatch.setattr(drift, "stream", partial(stream, before=4_000, after=2_000))
    monkeypatch.setattr(drift, "WORLDS_OF", dict.fromkeys(others, ("led",)))
    monkeypatch.setattr(drift, "POLICIES", {p: drift.POLICIES[p] for p in ("none", drift.DEFAULT)})
    words = [word for kind in others for word in ("--kind", kind)]
    words = ["bench", "drift", "--seeds", "2", *words, "--json"]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert len(others) == 7 and len(rows) == 2 * len(others)
    for kind in others:
        none, default = (rows[f"drift.{kind}/{policy}"] for policy in ("none", drift.DEFAULT))
        assert none["runs"] == default["runs"] == 2
        assert none["cost"] == [0.0] * 3 and all(map(math.isfinite, default["cost"]))
        assert ("area" in default) == (kind != "feature")
    for kind in ("sudden", "gradual", "incremental", "recurring", "label_rate"):
        row = rows[f"drift.{kind}/{drift.DEFAULT}"]
        assert row["detected"] > 0 and 0 < row["delay"] <= 2_000


def test_alarms_are_within_the_budget_and_changes_are_seen(monkeypatch) -> None:
    monkeypatch.setattr(drift_alarms, "EXAMPLES", 200_000)
    configs = {"page_hinkley": drift_alarms.CONFIGS["page_hinkley"]}
    monkeypatch.setattr(drift_alarms, "CONFIGS", configs)
    words = ["bench", "alarms", "--streams", "8"]
    done = CliRunner().invoke(cli, [*words, "--json"], catch_exceptions=False)
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert len(rows) == 8
    for noise in drift_alarms.CORRELATIONS:
        assert rows[f"drift.false.{noise}/page_hinkley"]["ratio"] <= 1
    sooner, later = (rows[f"drift.delay.independent.{n}/page_hinkley"] for n in (4, 2))
    assert sooner["seen"] == 8 and 0 < sooner["value"] < later["value"]
    said = CliRunner().invoke(cli, words, catch_exceptions=False).output
    assert "drift.delay.independent.4/page_hinkley: " in said and "by 8 of 8" in said


def test_a_kind_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="--kind is 'suden': did you mean 'sudden'"):
        CliRunner().invoke(cli, ["bench", "drift", "--kind", "suden"], catch_exceptions=False)
