"""The report of a run: JSON with documented, stable keys."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streaming.learner import Learner

LIBRARIES = ("freshet", "torch", "numpy", "numba", "river")


def fingerprint(device: str) -> dict[str, Any]:
    """What a state hash holds for: another fingerprint is another lineage."""
    import torch

    return {
        **{name: version(name) for name in LIBRARIES},
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": device,
        "threads": torch.get_num_threads(),
        "world_size": 1,
    }


def report(learner: Learner, seconds: float) -> dict[str, Any]:
    """What was learned, from what, and how it went. Times are of the wall, in seconds.

    `events`: `in` were read well (duplicates and late ones among them), `bad` went to the dead
    letters, `orphan` is feedback for no pending impression. `tasks`: for each its kind, the number
    of its labels, and the figures of the predictions `served` and of those made in the step just
    before learning, `progressive`. `curve`: one served figure a task (AUC, or the mean squared
    error) for every 2,000 examples. `task_weights`: over event time, where they moved. The others
    are lists of what happened, and what names this run.
    """
    events = {**learner.merge.released, "orphan": learner.join.counts["orphan"], "bad": learner.bad}
    journal = learner.journal
    return {
        "application": learner.app.name,
        "examples": learner.examples,
        "events": events,
        "seconds": round(seconds, 3),
        "examples_per_second": round(learner.examples / seconds, 1) if seconds > 0 else None,
        "steps": learner.trainer.steps,
        "quarantined": learner.quarantined,
        "tasks": learner.scores.figures(),
        "curve": learner.scores.curve,
        "drift": journal.drift,
        "decisions": journal.decisions,
        "task_weights": journal.task_weights,
        "snapshots": journal.snapshots,
        "state_hash": learner.state_hash(),
        "fingerprint": fingerprint(learner.app.trainer.device),
        "config_hash": learner.app.config_hash(),
        "seed": learner.seed,
    }
