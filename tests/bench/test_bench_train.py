"""The benchmarks of the model: their rows are there, and both sides learn the same task."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from model.train import Trainer
from model.weighting import KINDS
from streaming.__main__ import cli
from streaming.bench import drift_overhead, metrics, tasks, train, train_rivals, weigh
from streaming.bench.train_work import Work, layout, schema


@pytest.fixture
def small(monkeypatch):
    """Work of a second; what it says of speed means nothing."""
    monkeypatch.setattr(train, "EXAMPLES", 2_048)
    monkeypatch.setattr(train, "RIVER_EXAMPLES", 5)
    sizes = {"train.fp32": (800, 256), "train.bf16": (800, 256), "train.b64": (800, 64)}
    monkeypatch.setattr(train, "SIZES", sizes)
    monkeypatch.setattr(metrics, "STEPS", 3)
    monkeypatch.setattr(drift_overhead, "EXAMPLES", 2_048)
    monkeypatch.setattr(drift_overhead, "BEFORE", 4_096)
    monkeypatch.setattr(weigh, "SIZE", 64)
    monkeypatch.setattr(weigh, "STEPS", 2)
    monkeypatch.setattr(tasks, "SIZE", 64)
    monkeypatch.setattr(tasks, "STEPS", 2)


def rows(*words: str) -> dict[str, dict]:
    done = CliRunner().invoke(cli, ["bench", *words, "--runs", "1", "--json"])
    assert done.exit_code == 0, done.output
    return {row["name"]: row for row in json.loads(done.stdout)}


def test_the_train_step_is_timed_beside_its_baselines_at_their_losses(small):
    found = rows("train")
    rivals = [f"train.{rival}" for rival in train_rivals.installed()]
    names = ["train.fp32", "train.limit", "train.river_fm", *rivals, "train.bf16", "train.b64"]
    assert list(found) == names
    for row in found.values():
        assert row["value"] > 0 and row["baseline"]["value"] > 0 and row["unit"] == "examples/s"
    for name in ("train.fp32", "train.bf16", "train.b64"):
        assert 0 < found[name]["loss"] < 0.75 and 0 < found[name]["baseline"]["loss"] < 0.75


@pytest.mark.parametrize("rival", list(train_rivals.NAMES))
def test_another_librarys_step_learns_the_same_task(rival):
    pytest.importorskip(rival)
    work = Work(400, 64, 120)
    step = train_rivals.installed()[rival](work, 4, 16, 8, 4)
    losses = [step(number) for number in range(len(work.batches))]
    assert 0 < sum(losses[-20:]) < 0.97 * sum(losses[:20])


def test_both_sides_are_the_same_network():
    work = Work(400, 64, 1)
    ours = Trainer(schema, layout, train.config(64, "cpu"), seed=0).predictor.network
    theirs = train.naive(work, "cpu")
    wide = ("linear", "bias")
    numbers = sum(p.numel() for name, p in ours.named_parameters() if name not in wide)
    embeddings = sum(p.numel() for p in theirs.embeddings.parameters())
    assert numbers == sum(p.numel() for p in theirs.parameters()) - embeddings


def test_each_weighter_is_timed_beside_equal_weights(small):
    found = rows("weigh")
    kinds = {name.split(".")[1] for name in found}
    assert kinds == set(KINDS) - {"fixed"}
    assert "weigh.pcgrad" in found and "weigh.pcgrad.representation" in found
    for row in found.values():
        assert row["unit"] == "ms" and row["value"] > 0 and row["ratio"] > 0


def test_the_metrics_are_timed_beside_the_step(small):
    found = rows("metrics")
    assert list(found) == ["metrics.b64", "metrics.b1024", "drift.overhead", "drift.overhead.b64"]
    for row in found.values():
        assert row["unit"] == "ms" and row["value"] > 0 and 0 < row["ratio"]


def test_the_step_is_timed_from_one_task_to_thirty_two(small):
    found = rows("tasks")
    assert list(found) == [f"tasks.{n}" for n in (1, 2, 4, 8, 16, 32)]
    assert found["tasks.1"]["ratio"] == 1
    assert all(row["value"] > 0 for row in found.values())
