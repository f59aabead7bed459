"""Replays in this process, as the tests of the whole run them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from streaming.__main__ import load_application
from streaming.replay import Replay

LOGS = {
    "kuairand": "kuairand_events.parquet",
    "movielens": "movielens_small_ratings.parquet",
    "elec2": "elec2.parquet",
    "census": "census_income.parquet",
}


def replayed(name: str, data_dir: Path, settings: tuple[str, ...] = (), **options: Any) -> dict:
    """The report of a whole replay of a shipped application on its real log."""
    app = load_application(name).with_settings(settings)
    options.setdefault("log", data_dir / LOGS[name])
    report = Replay(app, **options).run()
    assert report is not None
    return report


def half_of(served: Any) -> Any:
    """The last half of served predictions, in the order of time."""
    return served.sort_values("event_time_ms", kind="stable").iloc[len(served) // 2 :]


def predictions(path: Path) -> Any:
    """Served predictions as a pandas frame."""
    return pq.read_table(path).to_pandas()


__all__ = ["LOGS", "half_of", "predictions", "replace", "replayed"]
