"""An application's weighter, in a learner: one line, and the same weights after any stop."""

from __future__ import annotations

from dataclasses import replace
from threading import Event

import pytest

from model.structure import NetworkConfig
from model.weighting import KINDS, Weighting
from streaming.__main__ import load_application
from streaming.replay import Replay

LIMIT = 1_500
app = load_application("simulated")


def run(weighting: Weighting, stop_after: int = 10**9, **options) -> dict | None:
    stop, counted = Event(), iter(range(1, 10**9))

    def on_step(*_: object) -> None:
        if next(counted) == stop_after:
            stop.set()

    weighed = replace(app, weighting=weighting)
    return Replay(weighed, limit=LIMIT, stop=stop, on_step=on_step, **options).run()


@pytest.fixture(scope="module")
def fixed() -> str:
    report = run(Weighting())
    assert report is not None
    return report["state_hash"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "fixed"])
def test_a_replay_stopped_half_way_ends_in_the_same_hash(kind: str, fixed: str, tmp_path) -> None:
    weighting = Weighting(kind, window=5)
    whole = run(weighting)
    assert whole is not None and whole["quarantined"] == 0
    assert whole["state_hash"] != fixed
    assert len(whole["task_weights"]) > 1, "the weights never moved"
    assert run(weighting, stop_after=11, checkpoints=tmp_path) is None
    again = run(weighting, checkpoints=tmp_path)
    assert again is not None and again["state_hash"] == whole["state_hash"]


def test_all_parameters_make_other_weights_than_the_representation() -> None:
    first, second = (
        run(Weighting("upgrad", gradients=of)) for of in ("representation", "parameters")
    )
    assert first is not None and second is not None
    assert first["state_hash"] != second["state_hash"]


def test_tasks_that_share_nothing_are_not_weighed_by_what_they_share() -> None:
    alone = replace(app.trainer, network=NetworkConfig("single_task"))
    with pytest.raises(ValueError, match=r"'pcgrad'.*'single_task'"):
        replace(app, trainer=alone, weighting=Weighting("pcgrad"))
