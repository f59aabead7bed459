"""Drift events of one cause are one incident, which is followed until it is over."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
from click.testing import CliRunner

from streaming.__main__ import cli
from streaming.apps.simulated import app
from streaming.checkpoint_files import laid_out
from streaming.drift import DriftEvent, DriftMonitor, Sums
from streaming.history import topics
from streaming.incidents import Incidents
from streaming.learner import Learner
from streaming.publication import card
from streaming.rebalance import Decision
from streaming.replay import Replay
from streaming.serve.explain import OPEN

CONFIG = DriftMonitor.Config(block=64, cool_down=1_000)
LOSS, RATE = 0, 1


def event(signal: str, began: int, seen: int, task: str = "click") -> DriftEvent:
    return DriftEvent(task, signal, "up", 0.5, 0.9, began, seen, seen)


class Told:
    """Incidents, and 64 examples after another in which the loss and the label rate are so."""

    def __init__(self) -> None:
        self.incidents, self.example = Incidents(CONFIG), 0
        self.said: list[Decision] = []

    def go(self, to: int, loss: float = 0.5) -> None:
        while self.example < to:
            self.step([], [], loss)

    def step(self, events: list[DriftEvent], decisions: list[Decision], loss: float) -> None:
        self.example += 64
        sums = Sums(np.array([loss * 64, 20.0]), np.array([64, 64]))
        places = [LOSS if e.signal == "loss" else RATE for e in events]
        at = self.example
        self.said += self.incidents.update(events, places, decisions, sums, at, at)


def test_signals_of_one_cause_are_one_incident_and_another_cause_is_another() -> None:
    told = Told()
    told.go(6_400)
    told.step([event("loss", 5_900, 6_464), event("label_rate", 6_000, 6_464)], [], 0.9)
    told.step([event("calibration", 6_100, 6_528)], [], 0.9)
    told.go(9_600, 0.9)
    told.step([event("loss", 9_000, 9_664)], [], 0.9)
    first, second = told.incidents.listed()
    assert [s["signal"] for s in first["signals"]] == ["loss", "label_rate", "calibration"]
    assert (first["kind"], first["began_example"]) == ("labels", 5_900)
    assert (second["kind"], second["number"]) == ("concept", 2)
    assert [d.reason for d in told.said] == ["incident 1 opened", "incident 2 opened"]


def test_a_signal_that_moves_again_and_again_is_one_entry_and_many_signals_are_bounded() -> None:
    told = Told()
    told.go(6_400)
    for _ in range(50):
        told.step([event("loss", 6_000, told.example + 64)], [], 0.9)
    (incident,) = told.incidents.listed()
    assert len(incident["signals"]) == 1 and incident["more"] == 0
    each = [event("loss", 6_000, told.example + 64).of_segment(str(n)) for n in range(60)]
    told.step(each, [], 0.9)
    (incident,) = told.incidents.listed()
    assert (len(incident["signals"]), incident["more"]) == (40, 21)


def test_it_says_what_was_done_and_closes_when_the_loss_is_back() -> None:
    told = Told()
    boost = Decision(64, 64, "click", "weight", 1.0, 2.0, "loss went up")
    other = replace(boost, task="like")
    told.step([event("loss", 0, 64)], [boost, other], 0.9)
    told.go(640, 0.9)
    (open_one,) = told.incidents.listed()
    assert (open_one["outcome"], open_one["recovery"]) == (None, 0.0)
    assert [d["task"] for d in open_one["done"]] == ["click"]
    told.go(704, 0.52)
    (closed,) = told.incidents.listed()
    assert (closed["outcome"], closed["closed_example"]) == ("recovered", 704)
    assert closed["recovery"] == 0.95
    assert told.said[-1].reason.startswith("incident 1 closed: recovered (loss of click up")


def test_one_that_does_not_get_better_is_closed_after_a_while_and_told_so() -> None:
    told = Told()
    told.step([event("loss", 0, 64)], [], 0.9)
    told.go(20_000, 0.88)
    told.step([event("label_rate", 20_000, 20_064)], [], 0.9)
    told.go(40_000, 0.9)
    assert [i["outcome"] for i in told.incidents.listed()] == ["not recovered", "settled"]
    assert told.incidents.open() == 0


def test_a_stream_with_a_change_has_its_incident_in_the_report_the_checkpoint_and_the_commands(
    tmp_path,
) -> None:
    cards: list[int] = []  # how many open incidents a version of then would have named

    def on_step(learner, step) -> None:
        cards.append(len(card(learner)[OPEN]))
        assert cards[-1] == learner.incidents.open()

    report = Replay(app, limit=18_000, checkpoints=tmp_path / "kept", on_step=on_step).run()
    assert (max(cards), cards[0], cards[-1]) == (1, 0, 0)
    (incident,) = report["incidents"]
    assert incident["kind"] == "concept" and incident["outcome"] == "recovered"
    assert abs(incident["began_example"] - 14_000) < 600
    assert {d["what"] for d in incident["done"]} >= {"weight", "tower_lr"}
    reasons = [d["reason"] for d in report["decisions"] if d["what"] == "incident"]
    assert len(reasons) == 2 and reasons[1].startswith("incident 1 closed: recovered")

    def run(*args: str) -> str:
        kept = ("--checkpoints", str(tmp_path / "kept"))
        result = CliRunner().invoke(cli, ["drift", *args, *kept], catch_exceptions=False)
        assert result.exit_code == 0
        return result.output

    assert json.loads(run("list", "simulated", "--json"))["incidents"] == [incident]
    assert json.loads(run("show", "simulated", "1", "--json")) == incident
    assert "loss of click up" in run("list", "simulated")
    said = run("show", "simulated")
    assert "since example" in said and "weight of click 1 to " in said and "recovered" in said


def test_incidents_survive_a_checkpoint_and_change_no_hash() -> None:
    learner = Learner(app, topics(1), 0)
    before = learner.state_hash()
    told = Told()
    told.step([event("loss", 0, 64)], [], 0.9)
    learner.incidents = told.incidents
    assert learner.state_hash() == before
    laid_out(learner.state())  # it is a tree that a checkpoint takes
    again = Incidents(CONFIG)
    again.load(json.loads(json.dumps(told.incidents.state())))
    told.go(640, 0.7)
    for _ in range(9):
        sums = Sums(np.array([0.7 * 64, 20.0]), np.array([64, 64]))
        again.update([], [], [], sums, 0, 0)
    assert again.listed() == told.incidents.listed()


def test_stopped_and_gone_on_from_its_checkpoint_it_sees_the_same_drift(tmp_path) -> None:
    watched = app.with_settings(
        [
            'drift.signals=["loss", "calibration", "label_rate", "auc", "unseen", "mix"]',
            "drift.segment=category_id", "drift.warm_up=0", "drift.block=64",
            "drift.threshold=8", "drift.budget=1000",
        ]
    )  # fmt: skip
    whole = Replay(watched, limit=8_000).run()
    first = Replay(watched, limit=8_000, checkpoints=tmp_path, checkpoint_every=20)
    first.on_step = lambda learner, step: first.stop.set() if learner.examples > 5_000 else None
    assert first.run() is None
    again = Replay(watched, limit=8_000, checkpoints=tmp_path).run()
    for what in ("state_hash", "drift", "incidents", "blind", "decisions"):
        assert again[what] == whole[what], what
    assert whole["drift"]
