"""A share of rankings scored once more, by a shadow's version: what would it have shown?

It happens after the answer, in a thread of its own, of which few rankings wait at most: the rest
is skipped, and counted. Nothing that it finds is shown to anybody or logged as shown.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from model.batch import Inputs, Layout
from model.schema import Schema
from streaming.registry import Registry
from streaming.serve.metrics import Metrics
from streaming.serve.shares import in_share
from streaming.serve.versions import Versions

log = logging.getLogger("freshet.serve")
MOST_WAITING = 4


class Shadowing:
    """Compares with the versions of `registry`, those of the shadow `name`, for a `share` of users.

    `overlap` is, of what was shown, the share that the shadow would have shown; `difference`, by
    task, how far its prediction of what was shown is from the served one: means over all
    `compared`.
    """

    def __init__(
        self, name: str, share: float, registry: Registry, schema: Schema, layout: Layout,
        clock_ms: Callable[[], int], metrics: Metrics,
    ) -> None:  # fmt: skip
        self.name, self._share, self._metrics = name, share, metrics
        self._tasks = [(t.name, schema.output_slices[t.name]) for t in schema.tasks]
        self.versions = Versions(
            registry, schema, layout, clock_ms, lambda loaded: None, lambda reason: None
        )
        self._thread = ThreadPoolExecutor(1, "freshet-shadow")
        self._room = threading.BoundedSemaphore(MOST_WAITING)
        self.compared, self._overlap = 0, 0.0
        self._difference = np.zeros(len(self._tasks))

    def start(self) -> None:
        self.versions.start()

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
        self.versions.close()

    def see(
        self, user: int | str, inputs: Inputs, predicted: np.ndarray, shown: list[int],
        combine: Callable[[np.ndarray], np.ndarray],
    ) -> None:  # fmt: skip
        """Takes in a ranking: its inputs, predictions [n, outputs], and which rows were shown."""
        if self.versions.current is None or not in_share(user, self._share, self.name):
            return
        if not self._room.acquire(blocking=False):
            self._metrics.shadowed.labels("skipped").inc()
            return
        self._thread.submit(self._compare, inputs, predicted, shown, combine)

    def _compare(
        self, inputs: Inputs, predicted: np.ndarray, shown: list[int],
        combine: Callable[[np.ndarray], np.ndarray],
    ) -> None:  # fmt: skip
        try:
            loaded = self.versions.current
            assert loaded is not None
            other = loaded.scorer.rank(inputs)
            best = np.argsort(-combine(other), kind="stable")[: len(shown)]
            overlap = len(set(best.tolist()) & set(shown)) / len(shown)
            apart = np.abs(other[shown] - predicted[shown])
            by_task = np.array([float(apart[:, columns].mean()) for _, columns in self._tasks])
            self.compared += 1
            self._overlap += overlap
            self._difference += by_task
            self._metrics.shadowed.labels("compared").inc()
            self._metrics.shadow_overlap.observe(overlap)
            for (name, _), value in zip(self._tasks, by_task.tolist(), strict=True):
                self._metrics.shadow_difference.labels(name).observe(value)
        except Exception:  # whatever it holds, a shadow is nothing that serving depends on
            log.exception("a ranking was not compared with the shadow %r", self.name)
        finally:
            self._room.release()

    def status(self) -> dict[str, Any]:
        """For the page, JSON; `figures` are the learner's, on the labels that the other had too."""
        loaded, n = self.versions.current, self.compared
        means = self._difference / max(1, n)
        names = [name for name, _ in self._tasks]
        return {
            "name": self.name,
            "share": self._share,
            "version": None if loaded is None else loaded.manifest.version,
            "compared": n,
            "overlap": round(self._overlap / n, 4) if n else None,
            "difference": dict(zip(names, means.tolist(), strict=True)) if n else None,
            "figures": None if loaded is None else loaded.manifest.meta.get("figures"),
        }
