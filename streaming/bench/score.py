"""`serve.score`: 500 candidates of one user, one thread, against the naive network."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from model.score import Scorer
from model.train import Trainer
from streaming.bench.train import config, naive
from streaming.bench.train_work import Work, layout, schema

ITEMS, CANDIDATES, TIMES, LEARNED = 7_000, 500, 60, 20


@torch.no_grad()
def run(runs: int) -> dict[str, Any]:
    """The row, in seconds a ranking (median)."""
    torch.set_num_threads(1)
    trainer = Trainer(schema, layout, config(64, "cpu"), seed=0)
    with torch.enable_grad():
        for batch in Work(ITEMS, 64, LEARNED).batches:
            trainer.step(batch)
    scorer = Scorer(*trainer.snapshot())
    work = Work(ITEMS, CANDIDATES, 1, seed=1)
    inputs = work.batches[0].inputs
    model, ids = naive(work, "cpu").eval(), torch.from_numpy(work.ids[0])
    dense = torch.from_numpy(inputs.dense)
    ours = [_p50(lambda: scorer.predict(inputs)) for _ in range(runs)]
    theirs = [_p50(lambda: model(ids, dense).sigmoid().numpy()) for _ in range(runs)]
    value, baseline = statistics.median(ours), statistics.median(theirs)
    return {
        "name": "serve.score",
        "value": round(value, 6),
        "unit": "s",
        "baseline": {"name": "naive", "value": round(baseline, 6)},
        "ratio": round(baseline / value, 2),
        "runs": runs,
    }


def _p50(work: Callable[[], Any]) -> float:
    times = []
    for _ in range(TIMES):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times[TIMES // 4 :])
