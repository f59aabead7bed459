"""The model taken back by a command: the same at every replay, cut short or not."""

from __future__ import annotations

from dataclasses import replace
from threading import Event

import numpy as np
import pytest

from features.events import Control
from streaming.apps.simulated import app as simulated
from streaming.replay import Replay
from streaming.rollback import AFTER, commands, step_of, steps_wanted

APP = replace(simulated.with_settings(["trainer.batch_size=16"]), publish_every=20)
ROWS = 1_600


def back(step: object, at_ms: int, id: str = "back") -> Control:
    return Control(id, at_ms, "model.rollback", {"step": step})


@pytest.fixture(scope="module")
def middle_ms() -> int:
    """When two thirds of the log have been."""
    seen: list[int] = []
    Replay(APP, limit=ROWS, on_step=lambda learner, step: seen.append(step.cut.closed_ms)).run()
    return seen[2 * len(seen) // 3]


def test_the_model_is_that_of_the_step_and_the_count_of_steps_goes_on(middle_ms):
    weights, steps, versions = {}, [], []

    def on_step(learner, step):
        if step.report is not None:
            steps.append(learner.trainer.steps)
            weights[steps[-1]] = learner.trainer.state()["model"]["dense"]
            versions[:] = [entry["version"] for entry in learner.journal.snapshots]

    def before(learner, step):
        if learner.journal.rollbacks and "seen" not in found:
            found["seen"] = learner.journal.rollbacks[0]
            found["learner"] = learner
        on_step(learner, step)

    found: dict = {}
    report = Replay(APP, limit=ROWS, controls=[back(20, middle_ms)], on_step=before).run()
    plain = Replay(APP, limit=ROWS).run()
    assert report is not None and plain is not None
    (rollback,) = report["rollbacks"]
    assert rollback["to"] == 20 < rollback["from"]
    taken_back = rollback["from"] + 1
    assert steps == [n for n in range(1, report["steps"] + 1) if n != taken_back]
    assert versions == sorted(set(versions))
    assert report["state_hash"] != plain["state_hash"]
    near, far = (weights[n] for n in (21, rollback["from"]))
    first = weights[taken_back + 1]
    moved = {name: np.abs(first[name] - near[name]).max() for name in first}
    assert max(moved.values()) < max(np.abs(first[name] - far[name]).max() for name in first)


@pytest.mark.parametrize("stop_at", [30, 65, 90])
def test_cut_short_before_or_after_it_the_end_is_the_same(stop_at, middle_ms, tmp_path):
    controls = [back(20, middle_ms), back(20, middle_ms, "back")]
    whole = Replay(APP, limit=ROWS, controls=controls).run()
    stop = Event()

    def on_step(learner, step):
        if learner.trainer.steps == stop_at:
            stop.set()

    cut = Replay(
        APP, limit=ROWS, controls=controls, checkpoints=tmp_path, checkpoint_every=7,
        stop=stop, on_step=on_step,
    )  # fmt: skip
    assert cut.run() is None
    went_on = Replay(
        APP, limit=ROWS, controls=controls, checkpoints=tmp_path, checkpoint_every=7
    ).run()
    assert whole is not None and went_on is not None
    assert went_on["state_hash"] == whole["state_hash"]
    assert went_on["rollbacks"] == whole["rollbacks"] and len(whole["rollbacks"]) == 1


def test_a_roll_back_to_what_an_earlier_one_made_is_one_to_where_that_went(middle_ms, tmp_path):
    """A live learner that ended between the two has a checkpoint of that number; a replay goes by
    it without one."""
    first = back(20, middle_ms)
    once = Replay(APP, limit=ROWS, controls=[first]).run()
    made = once["rollbacks"][0]["from"] + 1
    times: list[int] = []

    def on_step(learner, step):
        if learner.trainer.steps > made:
            times.append(step.cut.closed_ms)

    Replay(APP, limit=ROWS, controls=[first], on_step=on_step).run()
    later = times[len(times) // 2]
    hashes = set()
    for step in (20, made):
        folder = tmp_path / str(step)
        controls = [first, back(step, later, "again")]
        report = Replay(APP, limit=ROWS, controls=controls, checkpoints=folder).run()
        assert [r["to"] for r in report["rollbacks"]] == [20, step]
        hashes.add(report["state_hash"])
    assert len(hashes) == 1


def test_a_command_that_makes_no_sense_changes_nothing(middle_ms):
    senseless = [back(step, middle_ms, str(step)) for step in (0, -1, "20", 1e3, True, 10**9, None)]
    others = [Control(c.id, c.time_ms, "for somebody else") for c in senseless]
    plain, told = (Replay(APP, limit=ROWS, controls=c).run() for c in (others, senseless))
    assert plain is not None and told is not None
    assert told["state_hash"] == plain["state_hash"] and told["rollbacks"] == []
    assert steps_wanted(senseless) <= {10**9}
    assert step_of(Control("a", 1, "weights.set", {"step": 3})) is None
    of_another = Control("a", 1, "model.rollback", {"step": 3, "run": "shadow-x"})
    assert step_of(of_another) is None and step_of(of_another, "shadow-x") == 3
    assert commands([None, b"model.rollback", b'{"type":"end"}']) == []
    escaped = rb'{"type":"control","id":1,"time_ms":1,"command":"model.roll\u0062ack"}'
    assert [c.command for c in commands([escaped])] == ["model.rollback"]
    assert AFTER == 100
