"""`embed.day_rss`: memory over 24 hours of event time, with admission and eviction on."""

from __future__ import annotations

from typing import Any

import numpy as np
import psutil

from model.embedding import EmbeddingConfig
from model.train import Trainer
from streaming.bench.train_work import FIELDS, Work, layout, schema

IDS, EVENTS_S, HOURS, STEP, WARM = 10_000_000, 50, 24, 64, 200
LIMITS = EmbeddingConfig(admit_after=2, capacity=500_000, max_age_ms=6 * 3_600_000)


def run(hours: float = HOURS) -> dict[str, Any]:
    """The row: what the resident memory grew by at most, against the bound of the table's.

    50 events a second of 8 ids each, drawn from ten million, half of the sightings on a thousandth.
    """
    trainer = Trainer(schema, layout, Trainer.Config(embedding=LIMITS, batch_size=STEP), seed=0)
    draw, batches, process = (
        np.random.default_rng(0),
        Work(7_000, STEP, 100).batches,
        psutil.Process(),
    )
    table = trainer.predictor.embedding
    start = most = 0
    for step in range(int(hours * 3_600 * EVENTS_S / STEP)):
        batch = batches[step % len(batches)]
        batch.inputs.keys[:] = 1 + IDS * draw.random((STEP, FIELDS)) ** 10
        batch.time_ms = step * STEP * 1_000 // EVENTS_S
        trainer.step(batch)
        if step == WARM:
            start = process.memory_info().rss
        elif step % 100 == 0:
            most = max(most, process.memory_info().rss)
    bound = table.most_bytes
    assert bound is not None
    return {
        "name": "embed.day_rss",
        "value": round((most - start) / 1e6, 1),
        "unit": "MB",
        "baseline": {"name": "the bound of its settings", "value": round(bound / 1e6, 1)},
        "ratio": round(bound / max(most - start, 1), 2),
        "runs": 1,
        "rows": len(table),
    }
