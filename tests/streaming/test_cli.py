"""The command line: it teaches, and a user's mistake is one line that names it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pyarrow.parquet as pq
import pytest


def freshet(*words: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "streaming", *words],
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


def test_help_shows_how_to_begin_and_loads_nothing_heavy():
    done = freshet("--help")
    assert done.returncode == 0
    for word in ("demo", "replay", "my_app.py:app"):
        assert word in done.stdout
    code = (
        "import sys, streaming.__main__; print([m for m in ('torch', 'river') if m in sys.modules])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("replay", "kuairnd"), "did you mean 'kuairand'"),
        (("replay", "nowhere.py:app"), "'nowhere.py' is no Python file"),
        (("replay", "kuairand"), "give --log PATH"),
        (("replay", "kuairand", "--log", "nothing.parquet"), "'nothing.parquet' is not there"),
        (("replay", "kuairand", "--set", "trainer.dense.learning=1"), "there is no 'learning'"),
        (("replay", "simulated", "--set", "tick_ms=soon"), "'soon': expected int"),
        (
            ("replay", "simulated", "--limit", "10", "--via", "kafka", "--broker", "127.0.0.1:9"),
            "127.0.0.1:9",
        ),
        (
            ("replay", "simulated", "--limit", "10", "--redis", "redis://:secret@127.0.0.1:9/0"),
            "127.0.0.1:9",
        ),
        (("replay", "simulated", "--limit", "10", "--redis", "127.0.0.1"), "registry url"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(words, message, tmp_path):
    done = freshet(*words, cwd=tmp_path)
    assert done.returncode in (1, 2) and not done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("freshet: ") and message in last
    assert "Traceback" not in done.stderr and "secret" not in done.stderr


def test_an_error_in_the_users_application_names_it(tmp_path):
    (tmp_path / "mine.py").write_text("from streaming.application import Aplication\n")
    done = freshet("replay", "mine.py:app", cwd=tmp_path)
    assert done.returncode == 2 and "Aplication" in done.stderr
    assert "Traceback" not in done.stderr
    (tmp_path / "mine.py").write_text("from streaming.apps.elec2 import app as price\n")
    done = freshet("replay", "mine.py:prise", cwd=tmp_path)
    assert done.returncode == 2 and "did you mean 'price'" in done.stderr


def test_a_replay_says_its_figures_and_keeps_its_predictions(tmp_path):
    words = ("--limit", "3000", "--predictions", "served.parquet", "--report", "report.json")
    done = freshet("replay", "simulated", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["state_hash"] in done.stdout and "click" in done.stdout
    served = pq.read_table(tmp_path / "served.parquet")
    assert served.column_names == ["event_id", "event_time_ms", "task", "prediction", "label"]
    assert served.num_rows == 3_000 * 3  # each impression, for each task
    assert served["label"].null_count == 3_000 - report["tasks"]["dwell"]["count"] > 0


def test_published_versions_stand_under_a_run_key_of_the_replays_own(redis_url, redis_client):
    done = freshet("replay", "simulated", "--limit", "2000", "--redis", redis_url, "--json")
    assert done.returncode == 0, done.stderr
    keys = [key.decode() for key in redis_client.keys("*")]
    assert json.loads(done.stdout)["snapshots"] and keys
    assert all(key.startswith("freshet:{simulated}:replay-") for key in keys)


def test_ctrl_c_without_checkpoints_says_that_nothing_was_kept(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-m", "streaming", "replay", "simulated", "--limit", "200000"],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert "examples" in process.stderr.readline()  # the first line of progress
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert "nothing was kept" in errors and "Traceback" not in errors
