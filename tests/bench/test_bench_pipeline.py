"""The benchmark of the pipeline: both sides make the same examples, and the rows are as said."""

from __future__ import annotations

import json
import subprocess
import sys

from replays import LOGS

from streaming.bench import weights


def test_the_columns_and_the_plain_version_make_the_same_examples(data_dir, kafka):
    """`run` raises where they do not."""
    words = ("bench", "pipeline", "--broker", kafka, "--log", str(data_dir / LOGS["kuairand"]))
    words += ("--row", "json", "--row", "latency", "--seconds", "2")
    done = subprocess.run(
        [sys.executable, "-m", "streaming", *words, "--events", "40000", "--runs", "1", "--json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    row, latency = json.loads(done.stdout)
    assert row["name"] == "pipeline.json" and row["unit"] == "events/s" and row["runs"] == 1
    assert row["value"] > 0 and row["ratio"] > 0 and row["baseline"]["name"] == "plain"
    assert latency["name"] == "pipeline.latency_p99_s" and latency["runs"] >= 1
    assert 0 < latency["baseline"]["value"] and 0 < latency["value"]


def test_the_learner_and_the_plain_one_by_one_are_timed_on_the_same_log(data_dir, kafka):
    row = weights.run(kafka, data_dir / LOGS["kuairand"], runs=1, rows=1_000)
    assert row["name"] == "pipeline.weights" and row["unit"] == "examples/s"
    assert row["value"] > 0 and row["baseline"]["value"] > 0
