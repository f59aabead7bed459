"""A comparison says what differs, by how much, and how sure that is."""

from __future__ import annotations

import json
import math
import os
from html.parser import HTMLParser

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score
from workers import Command

from model.example_losses import example_losses
from model.schema import Task
from streaming.__main__ import load_application
from streaming.compare.bootstrap import Blocks, auc
from streaming.compare.compare import Comparison
from streaming.compare.page import page
from streaming.compare.served import Served, together
from streaming.compare.text import text, verdict
from streaming.compare.variants import Variant, given
from streaming.replay import Replay

SETTINGS = "wild:trainer.dense.lr=1,trainer.rows.lr=1"


def test_an_interval_holds_the_truth_as_often_as_it_says_also_where_neighbours_are_alike():
    rng, held = np.random.default_rng(0), {50: 0, 10: 0}
    for _ in range(300):
        noise = rng.normal(size=2_000)
        values = np.empty(2_000)
        values[0] = noise[0]
        for i in range(1, 2_000):  # stationary, correlation .6 from one to the next
            values[i] = 0.6 * values[i - 1] + noise[i]
        for blocks in held:
            of = Blocks(2_000, blocks, draws=400).mean(values)
            held[blocks] += of.low <= 0 <= of.high
    assert all(0.9 <= count / 300 <= 0.985 for count in held.values()), held


def test_intervals_of_auc_are_those_of_resampled_blocks():
    rng = np.random.default_rng(1)
    labels = (rng.random(4_000) < 0.3).astype(np.float32)
    ours, theirs = (labels * gain + rng.normal(size=4_000) for gain in (1.0, 0.9))
    blocks = Blocks(4_000, 20, draws=200, seed=3)
    got = blocks.auc_gain(labels, ours, theirs)
    assert got.value == pytest.approx(roc_auc_score(labels, ours) - roc_auc_score(labels, theirs))
    parts, gains = np.arange(4_000).reshape(20, -1), []
    for times in np.random.default_rng(3).multinomial(20, np.full(20, 1 / 20), size=200):
        rows = np.concatenate([np.tile(parts[b], t) for b, t in enumerate(times)])
        a, b = (roc_auc_score(labels[rows], p[rows]) for p in (ours, theirs))
        gains.append(a - b)
    low, high = np.quantile(gains, [0.025, 0.975])
    assert got.high - got.low == pytest.approx(
        (high - low) * 2.0930 / 1.9600 * math.sqrt(20 / 19), rel=0.01
    )


def test_auc_and_losses_are_those_of_scikit_learn():
    rng = np.random.default_rng(2)
    labels, ties = (rng.random(500) < 0.4).astype(np.float32), rng.integers(1, 9, 500) / 10
    assert auc(labels, ties) == pytest.approx(roc_auc_score(labels, ties))
    assert math.isnan(auc(np.ones(5), np.arange(5.0)))
    binary, several = Task("a", "binary", 0), Task("b", "multiclass", 0, classes=3)
    assert example_losses(binary, ties[:, None], labels).mean() == pytest.approx(
        log_loss(labels, ties)
    )
    shares, classes = rng.dirichlet([1, 1, 1], 500), rng.integers(0, 3, 500)
    assert example_losses(several, shares, classes).mean() == pytest.approx(
        log_loss(classes, shares)
    )


def test_runs_stand_side_by_side_by_impression_in_the_order_of_time():
    def run(ids, times, labels):
        predictions = np.array(ids, np.float32)[:, None] / 10
        return Served(np.array(ids), np.array(times), np.array(labels, np.float32), predictions)

    both = together(
        [run([1, 2, 3], [30, 10, 20], [1, 0, 1]), run([3, 4, 1], [20, 5, 30], [0, 0, 1])]
    )
    assert both.times_ms.tolist() == [20, 30]
    assert both.labels.tolist() == [1, 1] and (both.unpaired, both.relabelled) == (1, 1)
    assert all(p[:, 0].tolist() == pytest.approx([0.3, 0.1]) for p in both.predictions)


@pytest.fixture(scope="module")
def report():
    app = load_application("simulated")
    twin = Variant("twin", (app,))
    return Comparison(
        [Variant("as it is", (app,)), twin, *given(app, [SETTINGS])], limit=4_000
    ).run()


def test_a_twin_gains_nothing_and_one_that_learns_wildly_loses(report):
    for name, task in report["tasks"].items():
        assert task["unpaired"] == task["relabelled"] == 0
        twin, wild = (task["variants"][v]["gain"]["loss"] for v in ("twin", "wild"))
        assert twin == {"value": 0, "low": 0, "high": 0} and verdict(twin) == "the same"
        assert wild["high"] < 0 and verdict(wild) == "worse", name
        assert len(task["variants"]["wild"]["periods"]) == 20


def test_the_figures_are_those_of_the_replay(report):
    replayed = Replay(load_application("simulated"), limit=4_000).run()
    assert report["variants"]["twin"]["state_hashes"] == [replayed["state_hash"]]
    for name, task in replayed["tasks"].items():
        figures, served = report["tasks"][name]["variants"]["as it is"], task["served"]
        loss = served["mse"] if task["kind"] == "regression" else served["log_loss"]
        assert figures["loss"] == pytest.approx(loss)
        if task["kind"] == "binary":
            assert figures["auc"] == pytest.approx(served["auc"], abs=1e-3)
    assert "worse" in text(report)


def test_the_page_stands_alone_and_is_well_formed(report):
    class Tags(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open, self.seen = [], []

        def handle_starttag(self, tag, attrs):
            self.seen.append(tag)
            assert not {"src", "href"} & {name for name, _ in attrs}
            if tag != "meta":
                self.open.append(tag)

        def handle_startendtag(self, tag, attrs):
            self.seen.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    tags = Tags()
    tags.feed(page(report).removeprefix("<!doctype html>"))
    assert not tags.open and tags.seen.count("svg") == 2 * len(report["tasks"])
    assert "script" not in tags.seen


def test_the_command_prints_json_and_writes_a_page(tmp_path):
    words = ["compare", "simulated", "--variant", SETTINGS, "--seeds", "2", "--limit", "600"]
    words += ["--json", "--html", str(tmp_path / "page.html")]
    with Command(words, os.environ, tmp_path / "said") as command:
        assert command.wait() == 0
    said = command.said.read_text()
    out = json.loads(said[said.index("{") :])
    assert len(out["tasks"]["click"]["variants"]["wild"]["gain"]["seeds"]) == 2
    assert "simulated" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a"], "expected name:setting=value"),
        (["a:rebalance.polcy=none"], "did you mean 'policy'"),
        (["a:publish_every"], "expected name=value"),
    ],
)
def test_a_wrong_variant_is_named(words, message):
    with pytest.raises(ValueError, match=message):
        given(load_application("simulated"), words)


def test_nothing_to_compare_with_is_said():
    only = Variant("alone", (load_application("simulated"),))
    with pytest.raises(ValueError, match="nothing to compare with"):
        Comparison([only]).run()
    with pytest.raises(ValueError, match="'alone' is there twice"):
        Comparison([only, only]).run()
    with pytest.raises(ValueError, match="'elec2' has no task of 'alone'"):
        Comparison([only, Variant("elec2", (load_application("elec2"),))]).run()
