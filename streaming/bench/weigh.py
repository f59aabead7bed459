"""`weigh.*`: the time of a train step with each weighter, over that of one with equal weights."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from model.train import Trainer
from model.weighting import Weighting
from streaming.bench.train import config
from streaming.bench.train_work import Work, layout, schema
from streaming.rebalance import Rebalancer, compose

SIZE, ITEMS = 1_024, 7_000
STEPS, SETTLING = 30, 4

SETTINGS = {
    "fixed": Weighting(),
    **{f"weigh.{kind}": Weighting(kind) for kind in ("uncertainty", "dwa", "reference")},
    **{
        f"weigh.{kind}{name}": Weighting(kind, gradients=of)
        for of, name in (("parameters", ""), ("representation", ".representation"))
        for kind in ("gradnorm", "pcgrad", "mgda", "upgrad")
    },
}
"""By row; of a weighter of gradients the plain row reads all shared parameters."""


class _Side:
    """A trainer and its weighter, as the learner has them."""

    def __init__(self, weighting: Weighting, size: int, device: str) -> None:
        self.trainer = Trainer(schema, layout, config(size, device), seed=0)
        self.weighter = weighting.build([1.0] * len(schema.tasks))
        self.adjustment = Rebalancer([t.name for t in schema.tasks]).adjustment
        self.seconds: list[float] = []

    def step(self, work: Work, number: int) -> None:
        started = time.perf_counter()
        report = self.trainer.step(work.batches[number], self.weighter)
        weights = self.weighter.update(report.loss, report.count, report.gram)
        weights = compose(weights, self.adjustment)
        if (weights != self.trainer.task_weights).any():
            self.trainer.adjust(weights, self.adjustment.tower_lr, self.adjustment.row_lr)
        if number >= SETTLING:
            self.seconds.append(time.perf_counter() - started)


def run(runs: int, device: str = "cpu") -> list[dict[str, Any]]:
    """The rows. Each step is taken with every weighter in turn, so that they share the machine's
    moods; `ratio` is of medians, below 1 faster than equal weights."""
    torch.set_num_threads(1)
    work = Work(ITEMS, SIZE, SETTLING + STEPS)
    times: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for _ in range(runs):
        sides = {name: _Side(weighting, SIZE, device) for name, weighting in SETTINGS.items()}
        for number in range(len(work.batches)):
            for side in sides.values():
                side.step(work, number)
        for name, side in sides.items():
            times[name].append(statistics.median(side.seconds))
    equal = times.pop("fixed")
    return [_row(name, mine, equal) for name, mine in times.items()]


def _row(name: str, mine: list[float], equal: list[float]) -> dict[str, Any]:
    return {
        "name": name,
        "value": round(1_000 * statistics.median(mine), 3),
        "unit": "ms",
        "baseline": {
            "name": "equal weights",
            "value": round(1_000 * statistics.median(equal), 3),
        },
        "ratio": round(statistics.median(a / b for a, b in zip(mine, equal, strict=True)), 3),
        "runs": len(mine),
    }
