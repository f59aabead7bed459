"""The benchmark of the pipeline: both sides make the same examples, and the rows are as said."""

from __future__ import annotations

import json
import subprocess
import sys

from replays import LOGS


def test_the_columns_and_the_plain_version_make_the_same_examples(data_dir, kafka):
    """`run` raises where they do not."""
    words = ("bench", "pipeline", "--broker", kafka, "--log", str(data_dir / LOGS["kuairand"]))
    done = subprocess.run(
        [sys.executable, "-m", "streaming", *words, "--events", "40000", "--runs", "1", "--json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["name"] == "pipeline.json" and row["unit"] == "events/s" and row["runs"] == 1
    assert row["value"] > 0 and row["ratio"] > 0 and row["baseline"]["name"] == "plain"
