"""`serve.features`: the windowed features of 500 candidates, from a store on Redis, as the model's
inputs; against Feast's own reading of the same rows.

The application is KuaiRand's: rows of items and of pairs, one of the user with the history, and the
totals, one for each of 4 partitions.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from features.events import FEEDBACK, IMPRESSIONS, Feedback
from features.feast_store import FeastStore
from features.rows import entity_keys, pack_rows
from features.stored import StoredWindows
from features.windows import Windows
from streaming.apps.kuairand import USER_FIELDS, app
from streaming.bundled import BundledRedis
from streaming.collector import tune

CANDIDATES, PARTITIONS, TIMES, BY_FEAST = 500, 4, 200, 10
NOW, USER = 1_800_000_000_000, 7
SECOND = 1_000


def run(runs: int) -> dict[str, Any]:
    """The row, in seconds (median of wall times)."""
    windows = Windows(app.schema, app.aggregates)
    shown = learned(windows)
    with TemporaryDirectory(prefix="freshet-bench-") as folder:
        with closing(BundledRedis(Path(folder) / "redis")) as redis:
            with closing(FeastStore(redis.url, app.name, Path(folder) / "feast", windows)) as store:
                wanted = _filled(store, windows, shown)
                stored = StoredWindows(store.read, app.schema, app.aggregates, PARTITIONS)
                tune()
                ours, theirs = [], []
                for _ in range(runs):
                    ours.append(_p50(lambda: stored.read(shown), TIMES))
                    theirs.append(_p50(lambda: store.read_by_feast(wanted), BY_FEAST))
    value, baseline = statistics.median(ours), statistics.median(theirs)
    return {
        "name": "serve.features",
        "value": round(value, 6),
        "unit": "s",
        "baseline": {"name": "feast", "value": round(baseline, 6)},
        "ratio": round(baseline / value, 2),
        "runs": runs,
    }


def learned(windows: Windows) -> Any:
    """Has the windows take in that the candidates were shown, and every 20th played, by `USER`;
    returns them as they are to be shown, now."""
    codec = windows.codec
    fields = {"hour": 9, "log_duration": 1.0} | dict.fromkeys(USER_FIELDS, "unknown")
    impressions, told = [], []
    for item in range(CANDIDATES):
        values = fields | {"user_id": USER, "video_id": item}
        impressions.append(codec.encode(codec.impression(item, NOW - SECOND, values)))
        if item % 20 == 0:
            for number, kind in enumerate(("play_time", "long_view")):
                event = Feedback(number * 1000 + item, NOW, item, kind, 1.0, USER, item)
                told.append(codec.encode(event))
    times = [NOW - SECOND] * CANDIDATES
    shown, bad = codec.decode(IMPRESSIONS, 0, range(CANDIDATES), times, impressions)
    feedback, worse = codec.decode(FEEDBACK, 0, range(len(told)), times[: len(told)], told)
    assert not bad and not worse
    for events in (shown, feedback):
        events.e = events.time
        windows.update(events)
    shown.e = shown.time = np.full(CANDIDATES, NOW, np.int64)
    return shown


def _filled(store: FeastStore, windows: Windows, shown: Any) -> dict[str, np.ndarray]:
    """Writes all rows; returns the keys that the candidates read."""
    keys = entity_keys(windows, shown)
    keys["all"] = np.arange(PARTITIONS)
    as_of = {(topic, p): 1_000 for topic in (IMPRESSIONS, FEEDBACK) for p in range(PARTITIONS)}
    for kind, rows in pack_rows(windows, keys, as_of, NOW).items():
        store.write(kind, rows)
    return keys


def _p50(work: Callable[[], Any], times: int) -> float:
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[times // 4 :])
