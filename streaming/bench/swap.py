"""`swap.*`: what it costs a server to take deltas in: rankings of 500 candidates, back to back,
while another process publishes 5 % of a million rows again and again, against none coming.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from streaming.bench.publish import DIRTY, ROWS, Publisher
from streaming.bench.train_work import Work, layout, schema
from streaming.redis_registry import RedisRegistry
from streaming.serve.versions import Versions

EVERY_S = 0.5
CANDIDATES = 500


def run(url: str, seconds: float, rows: int = ROWS) -> list[dict[str, Any]]:
    """The rows, in seconds: a ranking, and how long it stood still in that: neither at work, nor
    waiting for a processor that others had."""
    context = multiprocessing.get_context("spawn")
    go, stop, ready = context.Event(), context.Event(), context.Event()
    publisher = context.Process(target=_publish, args=(url, rows, ready, go, stop), daemon=True)
    publisher.start()
    ready.wait()
    loads: list[int] = []
    with closing(RedisRegistry(url, "bench", "swap")) as registry:
        versions = Versions(
            registry, schema, layout, lambda: time.time_ns() // 1_000_000,
            lambda loaded: loads.append(loaded.manifest.version), _refused,
        )  # fmt: skip
        versions.start()
        try:
            while versions.current is None:
                time.sleep(0.01)
            _rank(versions, 1.0)
            still = _rank(versions, seconds)
            go.set()
            _until(loads, 3)  # the second side is made with the first delta
            before = len(loads)
            moving = _rank(versions, seconds)
            swaps = len(loads) - before
        finally:
            versions.close()
            stop.set()
    publisher.join()
    assert swaps > 0, "no version came"
    return [
        _row("swap.rank_p50", still[0], moving[0], 50, swaps),
        _row("swap.rank_p99", still[0], moving[0], 99, swaps),
        _row("swap.rank_p999", still[0], moving[0], 99.9, swaps),
        _row("swap.pause_p99", still[1], moving[1], 99, swaps),
        _row("swap.pause_most", still[1], moving[1], 100, swaps),
    ]


def _refused(reason: str) -> None:
    raise AssertionError(reason)


def _until(loads: list[int], n: int) -> None:
    while len(loads) < n:
        time.sleep(0.01)


def _rank(versions: Versions, seconds: float) -> np.ndarray:
    """[2, rankings]: the times of rankings in a thread of their own, as a server's, and of each how
    long it stood still."""
    inputs = Work(7_000, CANDIDATES, 1, seed=1).batches[0].inputs
    times: list[tuple[float, float]] = []

    def rank() -> None:
        end = time.perf_counter() + seconds
        queued = _Queued()
        while (began := time.perf_counter()) < end:
            worked, waited = time.thread_time(), queued()
            current = versions.current
            assert current is not None
            current.scorer.rank(inputs)
            del current
            took, waited = time.perf_counter() - began, queued() - waited
            times.append((took, max(0.0, took - (time.thread_time() - worked) - waited)))

    thread = threading.Thread(target=rank)
    thread.start()
    thread.join()
    return np.array(times).T


class _Queued:
    """Seconds that this thread was ready and had no processor: what others on the machine cost it
    (Linux; 0 elsewhere)."""

    def __init__(self) -> None:
        path = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        self._file = path.open("rb", 0) if path.exists() else None

    def __call__(self) -> float:
        if self._file is None:
            return 0.0
        self._file.seek(0)
        return int(self._file.read().split()[1]) / 1e9


def _publish(url: str, rows: int, ready: Any, go: Any, stop: Any) -> None:
    with closing(Publisher(url, rows, "swap")) as publisher:
        publisher.publish(True)
        ready.set()
        go.wait()
        while not stop.wait(EVERY_S):
            publisher.touch(DIRTY)
            publisher.publish(False)


def _row(
    name: str, still: np.ndarray, moving: np.ndarray, percent: float, swaps: int
) -> dict[str, Any]:
    value, baseline = (float(np.percentile(times, percent)) for times in (moving, still))
    return {
        "name": name,
        "value": round(value, 5),
        "unit": "s",
        "baseline": {"name": "no versions coming", "value": round(baseline, 5)},
        "ratio": round(baseline / max(value, 1e-9), 2),
        "runs": swaps,
    }
