"""Variants over one log, and what each gains on the first, with intervals.

All of it is on served predictions: made at the impression's place in the order, before any of its
labels. Differences are paired, impression by impression, so that what is common to the variants
(hard hours, hard users) cancels; what chance made of first weights does not: for that, `seeds`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from features.events import Control
from model.example_losses import example_losses
from model.schema import Task
from streaming.compare.bootstrap import BLOCKS, CONFIDENCE, Blocks, Interval, auc
from streaming.compare.served import Collector, Served, Together, together
from streaming.compare.variants import Variant, check
from streaming.learner import Learner, Step
from streaming.replay import Replay
from streaming.report import finite

PERIODS, BLOCKS_OF_A_PERIOD = 20, 10


@dataclass
class Run:
    """One variant from one seed: what it served, and the reports of its applications."""

    variant: Variant
    seed: int
    served: dict[str, Served]
    reports: list[dict[str, Any]]


@dataclass
class Comparison:
    """What to compare, the first of the variants being what the others are compared with; each
    runs from as many `seeds`, counted from 0. `on_step` is told which run it is."""

    variants: Sequence[Variant]
    log: Path | None = None
    seeds: int = 1
    limit: int | None = None
    controls: Iterable[Control] = ()
    stop: Event = field(default_factory=Event)
    on_step: Callable[[str, Learner, Step], None] = lambda run, learner, step: None

    def run(self) -> dict[str, Any] | None:
        """The report (JSON); None where it was stopped. Raises what `Replay.run` raises."""
        check(self.variants)
        runs: list[Run] = []
        for number, variant in enumerate(self.variants, 1):
            for seed in range(self.seeds):
                said = f"{variant.name} ({number} of {len(self.variants)}"
                said += f", seed {seed})" if self.seeds > 1 else ")"
                run = self._run(variant, seed, said)
                if run is None:
                    return None
                runs.append(run)
        return report(runs, self.log)

    def _run(self, variant: Variant, seed: int, said: str) -> Run | None:
        served: dict[str, Served] = {}
        reports = []
        for app in variant.apps:
            collector = Collector(app.schema)

            run = f"{said}, {app.name}" if len(variant.apps) > 1 else said

            def on_step(
                learner: Learner, step: Step, keep: Collector = collector, run: str = run
            ) -> None:
                keep.step(learner, step)
                self.on_step(run, learner, step)

            job = Replay(
                app, self.log, seed=seed, limit=self.limit, controls=self.controls,
                stop=self.stop, on_step=on_step,
            )  # fmt: skip
            out = job.run()
            if out is None:
                return None
            served |= collector.served()
            reports.append(out)
        return Run(variant, seed, served, reports)


def report(runs: Sequence[Run], log: Path | None) -> dict[str, Any]:
    """All of a comparison, as JSON with stable keys.

    `tasks`: for each that all variants have, the variants' figures, and of each but the first its
    `gain`: that of `loss` (log loss, or squared error) and of `auc`, positive where it is better
    than the first, with the interval's ends; `relative` is the gain of loss as a share of the
    first's; `periods` the same over time. Over several seeds losses are means, and `seeds` gives
    the gain of each.
    """
    by_variant: dict[str, list[Run]] = {}
    for run in runs:
        by_variant.setdefault(run.variant.name, []).append(run)
    first = next(iter(by_variant.values()))
    tasks = {}
    for app in first[0].variant.apps:
        for task in app.schema.tasks:
            have = {
                name: of
                for name, of in by_variant.items()
                if all(task.name in run.served for run in of)
            }
            if first[0].variant.name in have:
                tasks[task.name] = of_task(
                    task, {n: [r.served[task.name] for r in of] for n, of in have.items()}
                )
    out = {
        "log": None if log is None else log.name,
        "baseline": first[0].variant.name,
        "confidence": CONFIDENCE,
        "blocks": BLOCKS,
        "seeds": len(first),
        "variants": {name: _about(of) for name, of in by_variant.items()},
        "tasks": tasks,
    }
    return dict(finite(out))


def of_task(task: Task, runs: dict[str, list[Served]]) -> dict[str, Any]:
    """One task's figures, by variant, each over its seeds; the first is compared with."""
    names = list(runs)
    flat = [served for of in runs.values() for served in of]
    paired = together(flat)
    kept = iter(paired.predictions)
    predictions = {name: [next(kept) for _ in runs[name]] for name in names}
    loss = {
        name: [example_losses(task, p, paired.labels) for p in predictions[name]] for name in names
    }  # by variant and seed, [n]
    base = np.mean(loss[names[0]], 0)
    out: dict[str, Any] = {
        "kind": task.kind,
        "count": len(paired.labels),
        "unpaired": paired.unpaired,
        "relabelled": paired.relabelled,
        "variants": {},
    }
    whole, periods = Blocks(len(base)), _periods(paired)
    for name in names:
        mine = np.mean(loss[name], 0)
        figures: dict[str, Any] = {"loss": float(mine.mean()) if len(mine) else None}
        if task.kind == "binary":
            figures["auc"] = _mean(auc(paired.labels, p[:, 0]) for p in predictions[name])
        if name != names[0]:
            gain = whole.mean(base - mine)
            figures["gain"] = {"loss": gain.as_dict(), "relative": _relative(gain, base)}
            if task.kind == "binary":
                figures["gain"]["auc"] = _auc_gain(
                    whole, paired.labels, predictions[name], predictions[names[0]]
                ).as_dict()
            if len(loss[name]) > 1:
                pairs = zip(loss[names[0]], loss[name], strict=True)
                figures["gain"]["seeds"] = [float((a - b).mean()) for a, b in pairs]
        figures["periods"] = [
            {**when, "loss": float(mine[part].mean())}
            | ({} if name == names[0] else {"gain": _in_period((base - mine)[part]).as_dict()})
            for when, part in periods
        ]
        out["variants"][name] = figures
    return out


def _in_period(gains: np.ndarray) -> Interval:
    return Blocks(len(gains), BLOCKS_OF_A_PERIOD).mean(gains)


def _auc_gain(
    blocks: Blocks, labels: np.ndarray, ours: list[np.ndarray], theirs: list[np.ndarray]
) -> Interval:
    """The mean over the seeds, value and ends."""
    of = [blocks.auc_gain(labels, a[:, 0], b[:, 0]) for a, b in zip(ours, theirs, strict=True)]
    return Interval(*(_mean(getattr(i, end) for i in of) for end in ("value", "low", "high")))


def _relative(gain: Interval, base: np.ndarray) -> dict[str, float]:
    """The gain as a share of the loss that there was."""
    whole = float(base.mean()) if len(base) else 0.0
    return gain.times(1 / whole if whole else float("nan")).as_dict()


def _periods(paired: Together) -> list[tuple[dict[str, int], slice]]:
    """Stretches of as many labels each, in the order of time."""
    n = len(paired.labels)
    ends = np.unique(np.linspace(0, n, min(PERIODS, n) + 1).astype(int))
    return [
        (
            {
                "from_ms": int(paired.times_ms[a]),
                "to_ms": int(paired.times_ms[b - 1]),
                "count": int(b - a),
            },
            slice(a, b),
        )
        for a, b in pairwise(ends)
    ]


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _about(runs: Sequence[Run]) -> dict[str, Any]:
    """What a variant is, and how its first run went."""
    variant, reports = runs[0].variant, runs[0].reports
    return {
        "applications": [r["application"] for r in reports],
        "settings": list(variant.settings),
        "about": variant.about,
        "examples": max(r["examples"] for r in reports),
        "seconds": round(sum(r["seconds"] for run in runs for r in run.reports) / len(runs), 3),
        "drift": [event for r in reports for event in r["drift"]],
        "decisions": [decision for r in reports for decision in r["decisions"]],
        "state_hashes": [r["state_hash"] for run in runs for r in run.reports],
    }
