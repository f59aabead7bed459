"""A server without its HTTP: ranks candidates, takes feedback, and logs both.

The combined score of a candidate is the sum of its binary tasks' probabilities, weighted by their
`Task.weight`, over the sum of those weights; of an application with regressions only, that of
their values. Other tasks' scores are given, and not counted in.
"""

from __future__ import annotations

import itertools
import logging
import math
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
import numpy as np
import torch
from msgspec import UNSET

from features.codec import Codec
from features.events import FEEDBACK, IMPRESSIONS, Feedback, key
from model.schema import Schema
from streaming.application import Application
from streaming.registry import Registry
from streaming.serve.candidates import FeatureSource, candidate_events, field_values
from streaming.serve.metrics import Metrics
from streaming.serve.problems import Problem
from streaming.serve.requests import FeedbackBody, Requests
from streaming.serve.versions import Loaded, Versions

log = logging.getLogger("freshet.serve")


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class Hooks:
    """What a process around a server adds to it: `learning` to the status, `example` (a request to
    rank for a user, as the page's box shows it; else the last request), and `on_load` to each new
    version."""

    learning: Callable[[], dict[str, Any] | None] = lambda: None
    example: Callable[[str], dict[str, Any] | None] | None = None
    on_load: Callable[[Loaded], None] = lambda loaded: None


class Appends(Protocol):
    """What of an `EventLog` a server needs."""

    def append(
        self, topic: str, key: bytes | None, value: bytes | None, timestamp_ms: int
    ) -> None: ...


@dataclass
class Server:
    """One application's server. `start` it, and `close` it. Scoring is for one thread at a time."""

    app: Application
    log: Appends
    registry: Registry
    features: FeatureSource
    metrics: Metrics = field(default_factory=Metrics)
    clock_ms: Callable[[], int] = wall_ms
    hooks: Hooks = field(default_factory=Hooks)

    def __post_init__(self) -> None:
        schema = self.app.schema
        if schema.item is None:
            raise ValueError(f"application {self.app.name!r} has no Schema.item: nothing to rank")
        self._combine = combiner(schema)
        self.requests = Requests(schema)
        self.codec: Codec = self.features.codec
        self.metrics.age.set_function(self._age_s)
        self.versions = Versions(
            self.registry, schema, self.features.layout, self.clock_ms,
            self._loaded, self._refused,
        )  # fmt: skip
        self._asked: dict[str, Any] | None = None
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count()
        self._appending = threading.Lock()
        torch.set_num_threads(1)

    def start(self) -> None:
        self.features.start()
        self.versions.start()

    def close(self) -> None:
        self.versions.close()
        self.features.close()

    # -- answers -----------------------------------------------------------------------------

    def rank(self, asked: Any) -> dict[str, Any]:
        """The best k candidates of a request, logged as impressions. One call at a time."""
        loaded, codec = self.loaded(), self.codec
        now_ms = self.clock_ms()
        events = candidate_events(codec, asked, now_ms)
        seen = self.features.see(events, key(asked.user))
        predicted = loaded.scorer.predict(seen.inputs)
        combined = self._combine(predicted)
        best = np.argsort(-combined, kind="stable")[: asked.k].tolist()
        shown, records = [], []
        for row in best:
            name = self._name()
            event = codec.impression(
                name, now_ms, field_values(codec, asked, row), seen.logged(row)
            )
            records.append(codec.encode(event))
            scores = _scores(self.app.schema, predicted[row])
            shown.append(
                {"id": name, "item": asked.candidates[row], "score": float(combined[row])}
                | {"scores": scores}
            )
        if (size := max(map(len, records))) > codec.max_bytes:
            detail = f"an impression would be {size} bytes: expected at most {codec.max_bytes}"
            raise Problem(422, "invalid", detail, "#/context")
        self.metrics.candidates.inc(len(combined))
        for record in records:
            self._append(IMPRESSIONS, asked.user, record, now_ms)
        self._asked = asked
        manifest = loaded.manifest
        return {"version": manifest.version, "epoch": manifest.epoch, "impressions": shown}

    def tell(self, told: FeedbackBody) -> dict[str, Any]:
        """Appends feedback to the log. Raises Problem where its kind or value is none, or the log
        does not take it."""
        if told.item is UNSET:
            raise Problem(422, "invalid", "field 'item' is missing", "#/item")
        name = self._name() if told.id is UNSET else told.id
        now_ms = self.clock_ms()
        event = Feedback(name, now_ms, told.impression, told.kind, told.value, told.user, told.item)
        record = self.codec.encode(event)
        _, bad = self.codec.decode(FEEDBACK, 0, [0], [now_ms], [record])
        if bad:
            pointer = "#/kind" if told.kind not in self.codec.kinds else "#/value"
            raise Problem(422, "invalid", bad[0].reason, pointer)
        if not self._append(FEEDBACK, told.user, record, now_ms):
            raise Problem(503, "log-unavailable", "the feedback was not taken: send it again")
        return {"id": name}

    def example(self, user: str) -> dict[str, Any] | None:
        """A request to rank for a user, None where there is none."""
        if self.hooks.example is not None:
            return self.hooks.example(user)
        if self._asked is None or not user:
            return None
        return {**msgspec.to_builtins(self._asked), "user": int(user) if user.isdecimal() else user}

    def loaded(self) -> Loaded:
        """The version that is served, or a Problem."""
        loaded = self.versions.current
        if loaded is None:
            raise Problem(503, "not-ready", "no version of the model is loaded yet")
        return loaded

    def status(self) -> dict[str, Any]:
        """What the page shows."""
        tasks = [
            {"name": t.name, "kind": t.kind, "weight": t.weight} for t in self.app.schema.tasks
        ]
        return {
            "application": self.app.name,
            "tasks": tasks,
            "user": self.app.schema.user,
            "item": self.app.schema.item,
            "now_ms": self.clock_ms(),
            "version": self.version(),
            "learning": self.hooks.learning(),
        }

    def version(self) -> dict[str, Any] | None:
        """The served version and its age, or None."""
        loaded = self.versions.current
        if loaded is None:
            return None
        manifest = loaded.manifest
        return {
            "version": manifest.version,
            "epoch": manifest.epoch,
            "sha256": manifest.sha256,
            "bytes": manifest.size,
            "age_s": round((self.clock_ms() - loaded.at_ms) / 1000, 3),
        }

    # -- within ------------------------------------------------------------------------------

    def _name(self) -> str:
        return f"{self._prefix}-{next(self._numbers)}"

    def _append(self, topic: str, user: int | str, record: bytes, now_ms: int) -> bool:
        """Whether the log took it. A ranking is answered all the same."""
        try:
            with self._appending:
                self.log.append(topic, str(user).encode(), record, now_ms)
        except Exception as error:  # of whatever medium
            self.metrics.unlogged.labels(topic).inc()
            log.warning("%s not logged: %s: %s", topic, type(error).__name__, error)
            return False
        self.metrics.logged.labels(topic).inc()
        return True

    def _age_s(self) -> float:
        loaded = self.versions.current
        return math.nan if loaded is None else (self.clock_ms() - loaded.at_ms) / 1000

    def _loaded(self, loaded: Loaded) -> None:
        self.metrics.version.set(loaded.manifest.version)
        self.metrics.loads.inc()
        self.hooks.on_load(loaded)

    def _refused(self, reason: str) -> None:
        self.metrics.refusals.labels(reason).inc()


def combiner(schema: Schema) -> Callable[[np.ndarray], np.ndarray]:
    """Predictions [n, outputs] -> the score to rank by, [n]. ValueError where no task gives one."""
    tasks = [t for t in schema.tasks if t.kind == "binary"]
    tasks = tasks or [t for t in schema.tasks if t.kind == "regression"]
    if not tasks:
        raise ValueError("Schema.tasks has no binary task and no regression: nothing to rank by")
    columns = [schema.output_slices[t.name].start for t in tasks]
    weights = np.array([t.weight for t in tasks])
    weights /= weights.sum()
    return lambda predicted: predicted[:, columns] @ weights


def _scores(schema: Schema, row: np.ndarray) -> dict[str, Any]:
    """By task: a number, or a list of them, one a class."""
    out = {}
    for task in schema.tasks:
        values = row[schema.output_slices[task.name]].tolist()
        out[task.name] = values if task.kind == "multiclass" else values[0]
    return out
