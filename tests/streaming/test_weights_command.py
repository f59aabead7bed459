"""An operator's weights, by the command line, through a real log and into a learner."""

from __future__ import annotations

import json
import uuid
from contextlib import closing

import pytest
from click.testing import CliRunner

from streaming.__main__ import cli
from streaming.sections import Kafka
from streaming.topics import create, open_log

MODULE = """
from dataclasses import replace
from streaming.apps.simulated import app as simulated
app = replace(simulated, name={name!r})
"""


def test_set_freeze_and_release_take_their_places_in_the_log(kafka, tmp_path, monkeypatch):
    monkeypatch.setenv("FRESHET_KAFKA__BOOTSTRAP", kafka)
    name = f"simulated-{uuid.uuid4().hex[:8]}"
    (tmp_path / "own.py").write_text(MODULE.format(name=name))
    app = f"{tmp_path / 'own.py'}:app"

    def freshet(*words: str) -> str:
        done = CliRunner().invoke(cli, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    create(Kafka(kafka, 1), name)
    try:
        freshet("produce", app, "--limit", "1600")
        assert "weights.set is in the log" in freshet("weights", "set", app, "like", "3")
        freshet("weights", "freeze", app)
        freshet("produce", app, "--skip", "1600", "--limit", "1800")
        freshet("weights", "release", app)
        freshet("produce", app, "--skip", "1800", "--limit", "2400", "--end")
        report = json.loads(freshet("replay", app, "--live", "--json"))
    finally:
        with closing(open_log(Kafka(kafka), name)) as log:
            log.delete_topics()
    moves = [(d["task"], d["what"], d["before"], d["after"]) for d in report["decisions"]]
    assert moves == [
        ("like", "weight", 1.0, 3.0),
        ("", "frozen", 0.0, 1.0),
        ("", "frozen", 1.0, 0.0),
    ]
    first, last = report["task_weights"][0], report["task_weights"][-1]
    assert first["weights"] == {"click": 1.0, "like": 1.0, "dwell": 1.0}
    assert last["weights"] == pytest.approx({"click": 0.6, "like": 1.8, "dwell": 0.6})
    assert 0 < first["example"] < last["example"]


def test_a_weight_that_cannot_be_is_refused_before_it_is_sent(tmp_path):
    for words, named in ((("buy", "2"), "task is 'buy'"), (("click", "0"), "weight of click is 0")):
        with pytest.raises(ValueError, match=named):
            CliRunner().invoke(cli, ["weights", "set", "simulated", *words], catch_exceptions=False)
