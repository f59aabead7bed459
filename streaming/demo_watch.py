"""What the demo measures: how fresh the served model is, and what came of each planted change."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from features.simulate import Change
from model.schema import Schema
from streaming.learner import Step
from streaming.serve.versions import Loaded

KEPT = 200_000
LATELY = 4_000


class Freshness:
    """Seconds from a label's closing to the loading, by the server, of a version that learned it.

    Learned in the learner's thread, loaded in the server's; `observe` gets each measurement.
    """

    def __init__(self, schema: Schema, observe: Callable[[float], None]) -> None:
        self._windows = np.array([t.window_ms for t in schema.tasks])
        self._observe = observe
        self._waiting: deque[tuple[int, np.ndarray]] = deque()
        self._seconds: deque[float] = deque(maxlen=KEPT)
        self.count = 0

    def learned(self, step: Step) -> None:
        """The labels of a step wait for a version."""
        if step.report is not None:
            closed = step.cut.times + np.where(step.cut.closes, self._windows, 0).max(axis=1)
            self._waiting.append((step.report.step, closed))

    def loaded(self, loaded: Loaded) -> None:
        """A version is served."""
        while self._waiting and self._waiting[0][0] <= loaded.manifest.version:
            _, closed = self._waiting.popleft()
            for seconds in ((loaded.at_ms - closed) / 1000).tolist():
                self._seconds.append(seconds)
                self._observe(seconds)
            self.count += len(closed)

    def percentiles(self, lately: bool = False) -> dict[str, Any]:
        """`p50_s`, `p90_s`, `p99_s` of the last ones kept, and the `count` of all."""
        values = list(self._seconds)[-LATELY if lately else 0 :]
        points = np.percentile(values, [50, 90, 99]).round(3).tolist() if values else [None] * 3
        names = ("p50_s", "p90_s", "p99_s")
        return {**dict(zip(names, points, strict=True)), "count": self.count}


def outcomes(
    planted: Sequence[tuple[Change, int]],
    drift: Sequence[dict[str, Any]],
    decisions: Sequence[dict[str, Any]],
) -> list[dict[str, Any]]:
    """Each planted change with the drift event that it brought (or None), and what followed.

    `example` is the number of examples before the change. The event is the first of the change's
    task before the next change; of a `label_rate` rather one of that signal. `delay_examples`
    counts from the change to the event; `rebalance` are the decisions taken at all of the change's
    events, as not each is answered.
    """
    out = []
    for number, (change, example) in enumerate(planted):
        following = planted[number + 1][1] if number + 1 < len(planted) else None
        found = [
            event
            for event in drift
            if event["task"] == change.task
            and event["example"] > example
            and (following is None or event["example"] <= following)
        ]
        same = [event for event in found if event["signal"] == change.kind]
        event = next(iter(same or found), None)
        entry: dict[str, Any] = {"kind": change.kind, "task": change.task, "example": example}
        entry |= {"share": change.share} if change.kind == "preference" else {"to": change.to}
        entry |= {"drift": event, "delay_examples": None, "rebalance": []}
        if event is not None:
            entry["delay_examples"] = event["example"] - example
            seen = {event["example"] for event in found}
            entry["rebalance"] = [d for d in decisions if d["example"] in seen]
        out.append(entry)
    return out
