"""Variants that take away what tasks share, and tasks in groups."""

from __future__ import annotations

from dataclasses import replace

import pytest

from features.windows import Windows
from streaming.__main__ import load_application
from streaming.compare.ablation import ablation
from streaming.compare.compare import Comparison
from streaming.compare.grouped import grouped, in_groups
from streaming.compare.served import Collector
from streaming.compare.variants import Variant
from streaming.replay import Replay

ROWS = 1_200


def test_each_variant_takes_one_thing_away():
    app = load_application("simulated")
    of = {v.name: v for v in ablation(app)}
    assert list(of) == [
        "no shared features", "no shared parameters", "no transfer", "no dynamic weights",
        "single-task models",
    ]  # fmt: skip
    assert of["no shared features"].apps[0].trainer.network.apart == "rows"
    assert of["no shared parameters"].apps[0].trainer.network.apart == "network"
    assert of["no dynamic weights"].apps[0].rebalance.policy == "none"
    assert of["single-task models"].apps[0].trainer.network.sharing == "single_task"
    for task, alone in zip(app.schema.tasks, of["no transfer"].apps, strict=True):
        assert alone.schema.tasks == (task,)
        others = {t.name for t in app.schema.tasks} - {task.name}
        assert not any(o in name for o in others for name in alone.aggregates.names())
        assert others.isdisjoint(Windows(alone.schema, alone.aggregates).codec.kinds)


def test_what_is_as_it_is_anyway_is_left_out_and_nothing_to_take_away_is_said():
    app = load_application("simulated").with_settings(["rebalance.policy=none"])
    assert "no dynamic weights" not in [v.name for v in ablation(app)]
    with pytest.raises(ValueError, match="'elec2' has nothing to take away"):
        ablation(load_application("elec2"))


def test_all_variants_serve_every_task_of_the_same_impressions():
    app = load_application("simulated")
    report = Comparison([Variant("all", (app,)), *ablation(app)], limit=ROWS).run()
    assert list(report["tasks"]) == [t.name for t in app.schema.tasks]
    for task in report["tasks"].values():
        assert list(task["variants"]) == list(report["variants"])
        assert task["unpaired"] == task["relabelled"] == 0


def test_one_group_of_all_is_the_application_bit_for_bit():
    app = load_application("simulated")
    tasks = [t.name for t in app.schema.tasks]
    (whole,) = in_groups(app, "whole", [tasks]).apps
    one, other = (Replay(a, limit=ROWS).run() for a in (app, whole))
    assert one["tasks"] == other["tasks"]


def test_a_group_sees_the_counts_and_rates_of_the_others_and_learns_only_its_own_tasks():
    app = load_application("simulated")
    clicks, dwell = grouped(app, "two:click,like|dwell").apps
    assert clicks.aggregates == dwell.aggregates == app.aggregates
    collector = Collector(dwell.schema)
    report = Replay(dwell, limit=ROWS, on_step=collector.step).run()
    assert list(collector.served()) == ["dwell"]
    assert report["events"]["bad"] == 0


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("click|like", "expected name:task,task"),
        ("a:click,lik|dwell", "did you mean 'like'"),
        ("a:click|like", "expected each of"),
        ("a:click,like|like,dwell", "expected each of"),
    ],
)
def test_wrong_groups_are_named(word, message):
    with pytest.raises(ValueError, match=message):
        grouped(load_application("simulated"), word)


def test_a_chain_stays_together():
    app = load_application("simulated")
    click, like, dwell = app.schema.tasks
    chained = replace(
        app, schema=replace(app.schema, tasks=(click, replace(like, given="click"), dwell))
    )
    with pytest.raises(ValueError, match="'like' is given 'click': expected both in one group"):
        grouped(chained, "a:click|like,dwell")
