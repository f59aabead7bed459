"""`metrics.*`: what the figures of a run cost, beside the train step that they are of."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from model.train import Trainer
from streaming.bench.train import config
from streaming.bench.train_work import Work, layout, schema
from streaming.scores import Scores

SIZES = {"metrics.b64": 64, "metrics.b1024": 1_024}
ITEMS, STEPS, SETTLING = 7_000, 60, 4


def run(runs: int) -> list[dict[str, Any]]:
    """The rows: the time that the learner's scores take of a batch, of which they count what was
    served and what was predicted in the step. `ratio` is that time over the step's."""
    torch.set_num_threads(1)
    return [_row(name, Work(ITEMS, size, SETTLING + STEPS), runs) for name, size in SIZES.items()]


def _row(name: str, work: Work, runs: int) -> dict[str, Any]:
    costs, steps = [], []
    for _ in range(runs):
        trainer = Trainer(schema, layout, config(len(work.batches[0]), "cpu"), seed=0)
        scores = Scores(schema, layout)
        seconds = []
        for batch in work.batches:
            started = time.perf_counter()
            report = trainer.step(batch)
            stepped = time.perf_counter()
            scores.update(batch, report.predictions, report.predictions)
            seconds.append((stepped - started, time.perf_counter() - stepped))
        step, cost = (statistics.median(s) for s in zip(*seconds[SETTLING:], strict=True))
        steps.append(1_000 * step)
        costs.append(1_000 * cost)
    return {
        "name": name,
        "value": round(statistics.median(costs), 4),
        "unit": "ms",
        "baseline": {"name": "the step", "value": round(statistics.median(steps), 4)},
        "ratio": round(statistics.median(a / b for a, b in zip(costs, steps, strict=True)), 4),
        "runs": runs,
    }
