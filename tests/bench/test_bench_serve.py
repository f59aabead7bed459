"""The benchmarks of serving: their rows are there, each beside what it is measured against."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from streaming.__main__ import cli
from streaming.bench import features, http, overload, score


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score, "TIMES", 4)
    monkeypatch.setattr(features, "TIMES", 4)
    monkeypatch.setattr(features, "BY_FEAST", 2)
    monkeypatch.setattr(http, "SETTLED_S", 0.5)
    monkeypatch.setattr(http, "STEPS", -2)
    monkeypatch.setattr(overload, "CAPACITY_S", 0.5)
    monkeypatch.setattr(overload, "ROUNDS", 1)
    monkeypatch.setattr(overload, "FIRST_RATE", 1_000.0)
    monkeypatch.setattr(overload, "MORE", 4.0)
    monkeypatch.setattr(score, "_onnx", lambda model, work: {})  # exporting takes seconds


def rows(*words: str) -> list[dict[str, Any]]:
    given = ["bench", "serve", "--json", "--runs", "1", *words]
    found: list[dict[str, Any]] = json.loads(
        CliRunner().invoke(cli, given, catch_exceptions=False).stdout
    )
    assert all(row["value"] > 0 and row["baseline"]["value"] > 0 for row in found)
    return found


def test_scoring_is_beside_the_naive_network() -> None:
    found = {(row["name"], row["baseline"]["name"]) for row in rows("--row", "score")}
    assert {("serve.score", "naive"), ("serve.score_apart", "naive")} <= found


def test_features_are_beside_feasts_own_reading() -> None:
    (row,) = rows("--row", "features")
    assert (row["name"], row["baseline"]["name"]) == ("serve.features", "feast")


def test_requests_are_beside_a_naive_server_and_overload_beside_capacity() -> None:
    row, over = rows(*("--row", "http", "--row", "overload", "--seconds", "0.5", "--p99", "20000"))
    assert set(row["ms"]) == {"ours", "naive"} and row["ms"]["ours"]["p50"] > 0
    assert set(over["statuses"]) <= {"200", "503"} and over["ms"]["next"] > 0
