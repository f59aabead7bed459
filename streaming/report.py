"""The report of a run: JSON with documented, stable keys."""

from __future__ import annotations

import math
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

    `events`: `in` were read well (`duplicate` and `late` ones, which were dropped, among them, and
    `delayed` ones, which came out of order by more than the lateness and count from then on);
    `orphan` is feedback for no pending impression, `expired` feedback after its task had closed;
    `bad` went to the dead letters. `tasks`: for each its kind, the number
    of its labels, and the figures (`Metrics.figures`) of the predictions `served` and of those made
    in the step just before learning, `progressive`. `curve`: one served figure a task (AUC, or the
    mean squared error) for every 2,000 examples. `task_weights`: over event time, where they moved.
    `hard_parts`: five of them, measured (streaming/hard_parts.py).
    `warm_start`: what it began with of another model (`model.transfer.transfer`), None for nothing.
    `incidents`: drift events grouped by cause (`Incidents`);
    `blind` are signals that no drift can be seen in, and why. The others are lists of what
    happened, and what names this run.
    """
    events = {**learner.merge.released, **learner.join.counts, "bad": learner.bad}
    journal = learner.journal
    return finite(
        {
            "application": learner.app.name,
            "examples": learner.examples,
            "events": events,
            "seconds": round(seconds, 3),
            "examples_per_second": round(learner.examples / seconds, 1) if seconds > 0 else None,
            "steps": learner.trainer.steps,
            "quarantined": learner.quarantined,
            "warm_start": learner.warm_start,
            "tasks": learner.scores.figures(),
            "hard_parts": learner.hard_parts.figures(learner.trainer, learner.scores.served),
            "curve": learner.scores.curve,
            "drift": journal.drift,
            "incidents": learner.incidents.listed(),
            "blind": [b._asdict() for b in learner.blind()],
            "decisions": journal.decisions,
            "task_weights": journal.task_weights,
            "snapshots": journal.snapshots,
            "rollbacks": journal.rollbacks,
            "gaps": journal.gaps,
            "state_hash": learner.state_hash(),
            "fingerprint": fingerprint(learner.app.trainer.device),
            "config_hash": learner.app.config_hash(),
            "seed": learner.seed,
        }
    )


def finite(node: Any) -> Any:
    """The same tree with None for every number that JSON does not have."""
    if isinstance(node, dict):
        return {k: finite(v) for k, v in node.items()}
    if isinstance(node, list):
        return [finite(v) for v in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node
