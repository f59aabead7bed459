"""Thresholds by block bootstrap: the budget is kept on the log's own noise, and the delay told."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from streaming import drift_calibration
from streaming.__main__ import cli
from streaming.apps.simulated import calm
from streaming.drift import DriftMonitor, Key
from streaming.drift_calibration import Noise, calibrate

SIZE = 64


def noise(correlation: float, steps: int = 4_000, keys: int = 8) -> Noise:
    """Label rates around .3 that follow AR(1)."""
    r, value, rows = np.random.default_rng(0), np.zeros(keys), []
    for _ in range(steps):
        value = correlation * value + r.normal(size=keys) * np.sqrt(1 - correlation**2)
        rows.append((0.3 + 0.03 * value) * SIZE)
    names = tuple(Key(f"t{i}", "label_rate") for i in range(keys))
    return Noise(names, np.array(rows), np.full((steps, keys), SIZE), SIZE)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift_calibration, "LEAST", 300_000)
    monkeypatch.setattr(drift_calibration, "RUNS", 2)
    monkeypatch.setattr(drift_calibration, "CANDIDATES", ())


@pytest.mark.parametrize("correlation", [0.0, 0.95])
def test_the_evidence_found_keeps_the_budget_and_sees_a_change(quick, correlation: float) -> None:
    config = DriftMonitor.Config(detector="adwin", budget=100_000)
    found = drift_calibration._calibrated(noise(correlation), config, seed=1)
    assert found.false_events <= found.examples / found.config.budget
    seen, after = found.delays[0.5]
    assert seen == 1 and after is not None and after < (60_000 if correlation else 3_000)
    assert found.delays[0.1][0] <= seen


def test_slow_changes_of_the_log_are_no_noise(quick) -> None:
    flat = noise(0.0)
    steps = len(flat.counts)
    slope = np.linspace(0, 0.3, steps)[:, None] * SIZE
    again = Noise(flat.keys, flat.sums + slope, flat.counts, SIZE)
    inner = slice(again.block * drift_calibration.SLOW, -again.block * drift_calibration.SLOW)
    assert np.std(again.sums[inner]) < 1.1 * np.std(flat.sums[inner])


def test_the_command_says_what_to_set_and_that_can_be_set(quick) -> None:
    args = ["drift", "calibrate", "streaming/apps/simulated.py:calm", "--budget", "1/100_000"]
    run = CliRunner().invoke(cli, [*args, "--limit", "20000", "--json"], catch_exceptions=False)
    out = json.loads(run.output)
    assert out["budget"] == 100_000
    (first,) = out["tried"]
    assert first["false_events"] <= first["examples"] / out["budget"]
    assert [d["change"] for d in first["delays"]] == [0.1, 0.5]
    changed = calm.with_settings(first["settings"]).drift
    assert changed.budget == 100_000 and changed.evidence >= 0.7


def test_a_log_that_is_too_short_and_a_wrong_budget_are_said() -> None:
    with pytest.raises(ValueError, match="expected 200 or more to calibrate by"):
        calibrate(calm, None, 1_000_000, limit=5_000)
    with pytest.raises(ValueError, match="expected 1/N"):
        CliRunner().invoke(
            cli, ["drift", "calibrate", "simulated", "--budget", "2"], catch_exceptions=False
        )
