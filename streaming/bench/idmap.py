"""`idmap.lookup`: ids a second from id to row, against pandas' index and against a dict."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from model.idmap import IdMap

KEYS, WANTED, REPEATS = 1_000_000, 8_192, 100


def run(runs: int) -> list[dict[str, Any]]:
    """The rows: 8,192 ids of a million, others each time, the three in turn."""
    draw = np.random.default_rng(0)
    keys = np.unique(draw.integers(1, 2**62, KEYS + 1_000))[:KEYS]
    draw.shuffle(keys)
    rows = np.arange(KEYS)
    ours, index = IdMap(KEYS), pd.Index(keys)
    ours.insert(keys, rows)
    plain = dict(zip(keys.tolist(), rows.tolist(), strict=True))
    wanted = [draw.choice(keys, WANTED) for _ in range(REPEATS)]
    assert (ours.lookup(wanted[0]) == index.get_indexer(wanted[0])).all()
    found: dict[str, list[float]] = {"ours": [], "pandas": [], "dict": []}
    for _ in range(runs):
        found["ours"].append(_rate(ours.lookup, wanted))
        found["pandas"].append(_rate(index.get_indexer, wanted))
        found["dict"].append(_rate(lambda ids: list(map(plain.get, ids.tolist())), wanted[:10]))
    value = statistics.median(found["ours"])
    return [
        {
            "name": name,
            "value": round(value),
            "unit": "ids/s",
            "baseline": {"name": against, "value": round(statistics.median(found[side]))},
            "ratio": round(value / statistics.median(found[side]), 2),
            "runs": runs,
        }
        for name, against, side in (
            ("idmap.lookup", "pandas get_indexer", "pandas"),
            ("idmap.lookup_dict", "dict", "dict"),
        )
    ]


def _rate(look_up: Callable[[np.ndarray], Any], wanted: list[np.ndarray]) -> float:
    start = time.thread_time()
    for ids in wanted:
        look_up(ids)
    return len(wanted) * WANTED / (time.thread_time() - start)
