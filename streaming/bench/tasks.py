"""`tasks.*`: the time of a train step as tasks are added to one network."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from model.schema import Task
from model.train import Trainer
from streaming.bench.train import config
from streaming.bench.train_work import Work, layout, schema

COUNTS = (1, 2, 4, 8, 16, 32)
SIZE, ITEMS = 1_024, 7_000
STEPS, SETTLING = 20, 4


def run(runs: int, device: str = "cpu") -> list[dict[str, Any]]:
    """The rows. Each batch is learnt with every number of tasks in turn, so that they share the
    machine's moods; `ratio` is of medians, over the step of a single task."""
    torch.set_num_threads(1)
    work = Work(ITEMS, SIZE, SETTLING + STEPS)
    times: dict[int, list[float]] = {count: [] for count in COUNTS}
    for _ in range(runs):
        trainers = {count: _trainer(count, device) for count in COUNTS}
        seconds: dict[int, list[float]] = {count: [] for count in COUNTS}
        for number, batch in enumerate(work.batches):
            for count, trainer in trainers.items():
                columns = np.arange(count) % batch.labels.shape[1]
                labels, mask = (
                    np.ascontiguousarray(a[:, columns]) for a in (batch.labels, batch.mask)
                )
                started = time.perf_counter()
                trainer.step(replace(batch, labels=labels, mask=mask))
                if number >= SETTLING:
                    seconds[count].append(time.perf_counter() - started)
        for count in COUNTS:
            times[count].append(statistics.median(seconds[count]))
    return [_row(count, times[count], times[1]) for count in COUNTS]


def _trainer(count: int, device: str) -> Trainer:
    tasks = tuple(Task(f"t{i}", "binary", 0) for i in range(count))
    return Trainer(replace(schema, tasks=tasks), layout, config(SIZE, device), seed=0)


def _row(count: int, mine: list[float], one: list[float]) -> dict[str, Any]:
    return {
        "name": f"tasks.{count}",
        "value": round(1_000 * statistics.median(mine), 3),
        "unit": "ms",
        "baseline": {"name": "one task", "value": round(1_000 * statistics.median(one), 3)},
        "ratio": round(statistics.median(a / b for a, b in zip(mine, one, strict=True)), 3),
        "runs": len(mine),
    }
