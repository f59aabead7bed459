"""What happened on the way, for reports: drift, decisions, task weights, versions."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from streaming.manifest import Base

MOST = 2_000
LEAST_CHANGE = 0.01
"""A task weight is written down again when it has moved by so much."""


class Journal:
    """Bounded lists of JSON objects; of more than `MOST`, the oldest go.

    `closed` is, in event time (ms), when the first and the last label closed that was learned and
    is in no version yet; empty where there is none. `gaps` are the events that the broker had
    deleted before they were learned: [topic, partition, first, next]. `base` is the version
    published last, which the next one may build on. `rollbacks` say when the model was taken back,
    from which step and to which; `promoted` holds the last promotion of a run. `drifted`, by (task,
    signal), and `decided`, by (task, what), count what was noted in this process.
    """

    def __init__(self, tasks: list[str]) -> None:
        self.tasks = tasks
        self.drift: list[dict[str, Any]] = []
        self.decisions: list[dict[str, Any]] = []
        self.task_weights: list[dict[str, Any]] = []
        self.snapshots: list[dict[str, Any]] = []
        self.closed: list[int] = []
        self.gaps: list[list[Any]] = []
        self.rollbacks: list[dict[str, Any]] = []
        self.promoted: list[list[str]] = []
        self.base: Base | None = None
        self.drifted: Counter[tuple[str, str]] = Counter()
        self.decided: Counter[tuple[str, str]] = Counter()

    def note(self, drifts: list[Any], decisions: list[Any]) -> None:
        self._add(self.drift, [d.as_dict() for d in drifts])
        self._add(self.decisions, [d.as_dict() for d in decisions])
        for d in drifts:
            self.drifted[d.task, d.signal] += 1
        for d in decisions:
            self.decided[d.task, d.what] += 1

    def weigh(self, example: int, time_ms: int, weights: np.ndarray) -> None:
        """Writes the weights down, where they have moved."""
        last = self.task_weights[-1]["weights"] if self.task_weights else {}
        now = dict(zip(self.tasks, weights.tolist(), strict=True))
        if any(abs(now[t] - last.get(t, 0.0)) >= LEAST_CHANGE for t in self.tasks):
            self._add(self.task_weights, [{"example": example, "time_ms": time_ms, "weights": now}])

    def published(self, version: int, example: int, content: str, size: int) -> None:
        entry = {"version": version, "example": example, "content": content, "bytes": size}
        if not self.snapshots or self.snapshots[-1]["version"] < version:
            self._add(self.snapshots, [entry])
        self.closed, self.base = [], Base(version, content)

    def rolled_back(self, example: int, time_ms: int, step: int, to: int) -> None:
        self._add(
            self.rollbacks, [{"example": example, "time_ms": time_ms, "from": step, "to": to}]
        )

    def _add(self, entries: list[dict[str, Any]], more: list[dict[str, Any]]) -> None:
        entries += more
        del entries[:-MOST]

    def state(self) -> dict[str, Any]:
        names = (
            "drift", "decisions", "task_weights", "snapshots", "closed", "gaps", "rollbacks",
            "promoted",
        )  # fmt: skip
        base = None if self.base is None else list(self.base)
        return {name: list(getattr(self, name)) for name in names} | {"base": base}

    def load(self, tree: dict[str, Any]) -> None:
        lists, base = dict(tree), tree.get("base")
        lists.pop("base", None)
        for name, entries in lists.items():
            setattr(self, name, list(entries))
        self.base = None if base is None else Base(*base)
