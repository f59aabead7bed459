from __future__ import annotations

import json
import math
import re
import signal
import subprocess
import sys
import threading
from itertools import islice
from pathlib import Path

import pytest

from features.simulate import Change
from streaming.application import Application
from streaming.apps import simulated
from streaming.demo_watch import outcomes
from streaming.replay import Replay

ROOT = Path(__file__).resolve().parents[2]
DEMO = [*(sys.executable, "-m", "streaming", "demo"), "--port", "0"]
NEWS = re.compile(r"example ([\d,]+): (planted|drift|rebalance): .* of click")
PATIENCE_S = 600.0


def until_both_changes_are_told(demo: subprocess.Popen[str]) -> str:
    """What the demo says until it has told what came of two planted changes, or of a fourth."""
    assert demo.stdout is not None
    said = ""
    told: dict[str, list[int]] = {"planted": [], "drift": [], "rebalance": []}
    for line in demo.stdout:
        said += line
        if found := NEWS.search(line):
            told[found[2]].append(int(found[1].replace(",", "")))
        planted = sorted(told["planted"])
        if len(planted) > 3:
            break
        if len(planted) > 1 and all(
            any(planted[0] < at <= planted[1] for at in told[kind])
            and any(planted[1] < at for at in told[kind])
            for kind in ("drift", "rebalance")
        ):
            break
    return said


def test_a_short_demo_learns_sees_both_changes_and_reports(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    with subprocess.Popen(
        [*DEMO, "--report", str(file)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as demo:  # fmt: skip
        watchdog = threading.Timer(PATIENCE_S, demo.kill)
        watchdog.start()
        said = until_both_changes_are_told(demo)
        demo.send_signal(signal.SIGINT)
        said += demo.communicate()[0]
        watchdog.cancel()
    assert demo.returncode == 0, said
    out = json.loads(file.read_text())
    assert "http://127.0.0.1:" in said and "drift: " in said
    assert out["events"]["late"] == out["events"]["bad"] == out["quarantined"] == 0
    assert out["examples"] > 20_000
    best = max(point["click"] for point in out["curve"])
    assert best > 0.65
    assert [(p["kind"], p["task"]) for p in out["planted"][:2]] == [
        ("preference", "click"),
        ("label_rate", "click"),
    ]
    for change in out["planted"][:2]:
        assert change["drift"]["task"] == "click"
        assert 0 < change["delay_examples"] < 4_000
        assert {d["what"] for d in change["rebalance"]} >= {"weight", "tower_lr"}
        assert all(d["reason"] for d in change["rebalance"])
    assert (out["planted"][1]["drift"]["signal"], out["planted"][1]["drift"]["direction"]) in {
        ("label_rate", "up"),
        ("calibration", "down"),
    }
    fresh = out["freshness"]
    assert fresh["count"] == out["examples"]
    assert 0 < fresh["p50_s"] <= fresh["p90_s"] <= fresh["p99_s"]
    assert out["snapshots"][-1]["version"] == out["steps"]
    assert out["ranked"]["shown"] > 100 and out["ranked"]["clicked"] > 0


def test_it_ends_after_the_minutes_it_was_given(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    done = subprocess.run(
        [*DEMO, "--minutes", "0.03", "--report", str(file)],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    out = json.loads(file.read_text())
    assert "for 0.03 min" in done.stdout and out["planted"] == []
    assert out["snapshots"][-1]["version"] == out["steps"] > 0


def replayed(app: Application, limit: int) -> dict:
    report = Replay(app.with_settings(["publish_every=1000"]), limit=limit).run()
    assert report is not None
    return report


def test_planted_changes_are_noticed_each_with_its_direction() -> None:
    report = replayed(simulated.app, 28_000)
    planted = [(c, c.at) for c in simulated.planted(2, 1)]
    first, second = outcomes(planted, report["drift"], report["decisions"])
    assert (first["drift"]["signal"], first["drift"]["direction"]) == ("loss", "up")
    assert (second["drift"]["signal"], second["drift"]["direction"]) == ("label_rate", "up")
    assert second["drift"]["after"] == pytest.approx(0.5, abs=0.05)
    for change in (first, second):
        assert 0 < change["delay_examples"] < 3_000
        assert any(d["what"] == "weight" and d["after"] > 1 for d in change["rebalance"])


def test_without_planted_changes_one_event_at_most_is_noticed_and_it_learns() -> None:
    report = replayed(simulated.calm, 200_000)
    assert report["examples"] == 200_000 and len(report["drift"]) <= 1
    last = report["curve"][-10:]
    assert sum(p["click"] for p in last) / 10 > 0.78  # the truth itself has 0.83
    assert sum(p["like"] for p in last) / 10 > 0.78


def test_the_stream_is_the_same_each_time() -> None:
    assert simulated.app.source is not None
    one, two = (list(islice(simulated.app.source(), 500)) for _ in range(2))
    assert one == two and len({row.id for row in one}) == 500


def test_no_feedback_comes_after_the_window() -> None:
    assert simulated.app.source is not None
    latest = max(t.after_ms for row in islice(simulated.app.source(), 20_000) for t in row.told)
    window = {t.window_ms for t in simulated.app.schema.tasks}
    assert window == {simulated.app.schema.longest_window_ms} and latest < window.pop()


def test_an_outcome_is_the_changes_own_event_and_what_was_decided_then() -> None:
    planted = [(Change(10, "preference", "click"), 10), (Change(50, "label_rate", "like"), 55)]
    drift = [
        {"task": "click", "signal": "label_rate", "example": 9},
        {"task": "like", "signal": "loss", "example": 20},
        {"task": "click", "signal": "loss", "example": 30},
        {"task": "like", "signal": "loss", "example": 70},
        {"task": "like", "signal": "label_rate", "example": 80},
    ]
    decisions = [{"example": 30, "what": "weight"}, {"example": 70, "what": "weight"}]
    first, second = outcomes(planted, drift, decisions)
    assert (first["drift"], first["delay_examples"]) == (drift[2], 20)
    assert first["rebalance"] == [decisions[0]]
    assert (second["drift"], second["delay_examples"]) == (drift[4], 25)
    assert second["rebalance"] == [decisions[1]]
    (alone,) = outcomes(planted[:1], drift[:1], [])
    assert alone["drift"] is None and alone["rebalance"] == []
    assert not math.isnan(alone["example"])


def test_a_port_in_use_and_a_folder_that_is_not_there_are_said_in_one_line(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for options, says in (
            (["--port", port], f"port is {port}"),
            (["--report", str(tmp_path / "no" / "r.json"), "--port", "0"], "its folder"),
        ):
            done = subprocess.run(
                [sys.executable, "-m", "streaming", "demo", "--minutes", "0.01", *options],
                cwd=ROOT, capture_output=True, text=True, timeout=120,
            )  # fmt: skip
            assert done.returncode == 2 and done.stderr.startswith("freshet: ")
            assert says in done.stderr and done.stderr.count("\n") == 1
