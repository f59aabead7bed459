"""`drift.overhead*`: what looking for drift costs, beside the train step of the same batches.

6 tasks, 4 signals of each and the unseen ids of 8 fields, in the whole and in 20 segments: 672
detectors. All of a step's drift work is counted, of a model that has settled, and means are taken:
blocks fill together.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from model.train import Trainer
from streaming.bench.train import config
from streaming.bench.train_work import FIELDS, Work, layout, schema
from streaming.drift import DriftMonitor
from streaming.incidents import Incidents
from streaming.signals import Signals

SIZES = {"drift.overhead": 1_024, "drift.overhead.b64": 64}
SEGMENTS, EXAMPLES, BEFORE = 20, 60_000, 140_000
CONFIG = DriftMonitor.Config(
    signals=("loss", "calibration", "label_rate", "auc", "unseen"),
    segment="f0", segments=SEGMENTS, warm_up=0,
)  # fmt: skip


class _Watch:
    """All of the learner's drift work, warm: every detector has its reference."""

    def __init__(self, trainer: Trainer, work: Work) -> None:
        self.trainer = trainer
        self.signals = Signals(schema, layout, CONFIG)
        self.monitor = DriftMonitor([], CONFIG, self.signals.keys)
        self.incidents = Incidents(CONFIG)
        self.example, size = 0, len(work.batches[0])
        served = [trainer.predict(batch.inputs) for batch in work.batches]
        for n in range(BEFORE // size):
            at = n % len(work.batches)
            self.look(work, at, served[at])

    def look(self, work: Work, number: int, served: Any) -> None:
        batch = work.batches[number]
        self.example += len(batch)
        unseen = self.signals.unseen(self.trainer.predictor.embedding, batch.inputs)
        sums = self.signals.of(batch, served, unseen)
        events = self.signals.named(self.monitor.update(sums, self.example, self.example))
        self.signals.losses(sums)
        places = [self.signals.place(event) for event in events]
        self.incidents.update(events, places, [], sums, self.example, self.example)


def run(runs: int) -> list[dict[str, Any]]:
    """The rows: `ratio` is drift's time over the step's."""
    torch.set_num_threads(1)
    return [_row(name, size, runs) for name, size in SIZES.items()]


def _row(name: str, size: int, runs: int) -> dict[str, Any]:
    work = Work(SEGMENTS * FIELDS, size, EXAMPLES // size)
    costs, steps = [], []
    for _ in range(runs):
        trainer = Trainer(schema, layout, config(size, "cpu"), seed=0)
        for batch in work.batches:
            trainer.step(batch)
        watch = _Watch(trainer, work)
        step = cost = 0.0
        for number, batch in enumerate(work.batches):
            started = time.perf_counter()
            report = trainer.step(batch)
            stepped = time.perf_counter()
            watch.look(work, number, report.predictions)
            step, cost = step + stepped - started, cost + time.perf_counter() - stepped
        steps.append(1_000 * step / len(work.batches))
        costs.append(1_000 * cost / len(work.batches))
    return {
        "name": name,
        "value": round(statistics.median(costs), 4),
        "unit": "ms",
        "baseline": {"name": "the step", "value": round(statistics.median(steps), 4)},
        "ratio": round(statistics.median(a / b for a, b in zip(costs, steps, strict=True)), 4),
        "runs": runs,
    }
