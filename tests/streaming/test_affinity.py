"""`freshet affinity`: a table, and groups that a comparison takes."""

from __future__ import annotations

import pytest

from streaming.__main__ import load_application
from streaming.affinity.measure import Measurement
from streaming.affinity.text import text
from streaming.compare.grouped import grouped


def test_it_measures_each_pair_and_proposes_groups_that_compare_can_try():
    app = load_application("simulated")
    report = Measurement(app, limit=1_500, probes=10).run()
    assert 10 <= report["probes"] < 20
    assert len(report["pairs"]) == 6
    pair = report["pairs"]["click>like"]
    assert pair["transfer"]["low"] < pair["transfer"]["high"]
    assert -1 <= pair["cosine"] <= 1 and 0 <= pair["conflict"] <= 1
    assert pair["labels"] > 0  # who likes has clicked
    assert {g["name"] for g in report["groups"]} >= {"affinity2"}
    for group in report["groups"]:
        assert len(grouped(app, group["word"]).apps) == len(group["groups"])
    said = text(report, "freshet compare simulated")
    assert "--groups 'affinity2:" in said


def test_an_application_of_one_task_is_refused():
    with pytest.raises(ValueError, match="has one task"):
        Measurement(load_application("elec2")).run()
