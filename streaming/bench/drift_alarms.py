"""`drift.false.*` and `drift.delay.*`: false events in a million examples in which nothing changes,
and how soon a change is seen. Of batch means that are independent, or follow AR(1) with rho .95.

Each stream is watched as if it were alone, within a budget of its own.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from streaming.drift import DriftEvent, DriftMonitor, Key, Sums

CORRELATIONS = {"independent": 0.0, "ar95": 0.95}
RISES = (1.0, 2.0, 4.0)
"""In spreads of a batch mean, half-way."""
BATCH, EXAMPLES = 64, 1_000_000
CONFIGS = {
    "page_hinkley": DriftMonitor.Config(),
    "page_hinkley.eager": DriftMonitor.Config(allowance=0.5, threshold=14.0),
    "adwin": DriftMonitor.Config(detector="adwin"),
}


def replicates(
    config: DriftMonitor.Config, streams: int, correlation: float, batch: int, batches: int,
    rise: float = 0.0,
) -> list[DriftEvent]:  # fmt: skip
    """Events of so many streams of batch means of spread 1, in `task` "t0" and so on; half-way all
    rise by `rise`. The budget is that of each stream."""
    draw = np.random.default_rng(0)
    monitor = DriftMonitor(
        [],
        replace(config, budget=config.budget // streams),
        [Key(f"t{n}", "label_rate") for n in range(streams)],
    )
    values, counts = draw.normal(size=streams), np.full(streams, batch)
    events = []
    for i in range(batches):
        noise = draw.normal(size=streams) * math.sqrt(1 - correlation**2)
        values = correlation * values + noise
        shift = rise if i >= batches / 2 else 0.0
        events += monitor.update(Sums((values + shift) * batch, counts), (i + 1) * batch, i)
    return events


def run(streams: int) -> list[dict[str, Any]]:
    """The rows: `value` is false events of a stream, where its budget allows one (`ratio`: their
    share of that); or, of the streams that saw the change, `seen` of `runs`, the median number of
    examples until then (`ratio`: over those that a batch has)."""
    rows = []
    for name, config in CONFIGS.items():
        for noise, correlation in CORRELATIONS.items():
            rows.append(_false(f"drift.false.{noise}/{name}", config, streams, correlation))
            for rise in RISES:
                row = f"drift.delay.{noise}.{rise:g}/{name}"
                rows.append(_delay(row, config, streams, correlation, rise))
    return rows


def _false(
    name: str, config: DriftMonitor.Config, streams: int, correlation: float
) -> dict[str, Any]:
    events = replicates(config, streams, correlation, BATCH, EXAMPLES // BATCH)
    allowed = EXAMPLES / config.budget
    value = len(events) / streams
    return {
        "name": name, "value": round(value, 4), "unit": "false events in 10^6 examples",
        "baseline": {"name": "the budget", "value": allowed},
        "ratio": round(value / allowed, 4), "runs": streams,
    }  # fmt: skip


def _delay(
    name: str, config: DriftMonitor.Config, streams: int, correlation: float, rise: float
) -> dict[str, Any]:
    batches = EXAMPLES // BATCH
    changed = (batches + 1) // 2 * BATCH
    first: dict[str, int] = {}
    for event in replicates(config, streams, correlation, BATCH, batches, rise):
        if event.example > changed:
            first.setdefault(event.task, event.example - changed)
    median = float(np.median(list(first.values()))) if first else None
    return {
        "name": name, "value": median, "unit": "examples until it is seen",
        "baseline": {"name": "a batch", "value": BATCH},
        "ratio": None if median is None else round(median / BATCH, 2),
        "seen": len(first), "runs": streams,
    }  # fmt: skip
