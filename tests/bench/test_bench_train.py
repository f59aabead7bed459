"""The benchmarks of the model: their rows are there, and both sides learn the same task."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from model.weighting import KINDS
from streaming.__main__ import cli
from streaming.bench import metrics, score, train, weigh


@pytest.fixture
def small(monkeypatch):
    """Work of a second; what it says of speed means nothing."""
    monkeypatch.setattr(train, "EXAMPLES", 2_048)
    monkeypatch.setattr(train, "RIVER_EXAMPLES", 5)
    monkeypatch.setattr(train, "SIZES", {"train.fp32": (800, 256), "train.b64": (800, 64)})
    monkeypatch.setattr(score, "TIMES", 4)
    monkeypatch.setattr(metrics, "STEPS", 3)
    monkeypatch.setattr(weigh, "SIZE", 64)
    monkeypatch.setattr(weigh, "STEPS", 2)


def rows(*words: str) -> dict[str, dict]:
    done = CliRunner().invoke(cli, ["bench", *words, "--runs", "1", "--json"])
    assert done.exit_code == 0, done.output
    return {row["name"]: row for row in json.loads(done.stdout)}


def test_the_train_step_is_timed_beside_its_baselines_at_their_losses(small):
    found = rows("train")
    assert list(found) == ["train.fp32", "train.limit", "train.river_fm", "train.b64"]
    for row in found.values():
        assert row["value"] > 0 and row["baseline"]["value"] > 0 and row["unit"] == "examples/s"
    for name in ("train.fp32", "train.b64"):
        assert 0 < found[name]["loss"] < 0.75 and 0 < found[name]["baseline"]["loss"] < 0.75


def test_scoring_is_timed_beside_the_naive_network(small):
    row = rows("score")["serve.score"]
    assert row["unit"] == "s" and 0 < row["value"] and 0 < row["baseline"]["value"]


def test_each_weighter_is_timed_beside_equal_weights(small):
    found = rows("weigh")
    kinds = {name.split(".")[1] for name in found}
    assert kinds == set(KINDS) - {"fixed"}
    assert "weigh.pcgrad" in found and "weigh.pcgrad.representation" in found
    for row in found.values():
        assert row["unit"] == "ms" and row["value"] > 0 and row["ratio"] > 0


def test_the_metrics_are_timed_beside_the_step(small):
    found = rows("metrics")
    assert list(found) == ["metrics.b64", "metrics.b1024"]
    for row in found.values():
        assert row["unit"] == "ms" and row["value"] > 0 and 0 < row["ratio"]
