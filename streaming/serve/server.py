"""A server without its HTTP: ranks candidates, takes feedback, and logs both.

The combined score of a candidate is the sum of its binary tasks' probabilities, weighted by their
`Task.weight`, over the sum of those weights; of an application with regressions only, that of
their values. A request may bring weights of its own, of any tasks but multiclass ones.
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
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from msgspec import UNSET

from features.codec import Codec
from features.events import FEEDBACK, IMPRESSIONS, MAX_ID, Feedback, key
from model.batch import Inputs
from model.schema import Schema
from streaming.application import Application
from streaming.explore import DRAWS, Chosen, Thompson, epsilon_greedy
from streaming.registry import Registry
from streaming.serve.candidates import FeatureSource, candidate_events, field_values
from streaming.serve.explain import Explainer
from streaming.serve.metrics import Metrics
from streaming.serve.problems import Problem
from streaming.serve.requests import MAX_NAME, FeedbackBody, Requests
from streaming.serve.shadowing import Shadowing
from streaming.serve.versions import Loaded, Versions

log = logging.getLogger("freshet.serve")


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class Hooks:
    """What a process around a server adds to it: `learning` to the status, `example` (a request to
    rank for a user, as the page's box shows it; else the last request), `on_load` to each new
    version, `follow`, which says whose versions are served, and a `shadow` to compare with."""

    learning: Callable[[], dict[str, Any] | None] = lambda: None
    example: Callable[[str], dict[str, Any] | None] | None = None
    on_load: Callable[[Loaded], None] = lambda loaded: None
    follow: Callable[[], Registry] | None = None
    shadow: Shadowing | None = None


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
        self._combine = Objective(schema)
        self.explainer = Explainer(schema)
        self._explore, self._draw = self.app.explore, np.random.default_rng()
        self._thompson = Thompson(schema, self._explore)
        self.requests = Requests(schema)
        self.codec: Codec = self.features.codec
        self.metrics.age.set_function(self._age_s)
        self.versions = Versions(
            self.registry, schema, self.features.layout, self.clock_ms,
            self._loaded, self._refused, self.hooks.follow,
        )  # fmt: skip
        self.metrics.registry_away.set_function(lambda: self.versions.away_s)
        self._asked: dict[str, Any] | None = None
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count()
        self._appending = threading.Lock()
        self._counted = {
            topic: (self.metrics.logged.labels(topic), self.metrics.unlogged.labels(topic))
            for topic in (IMPRESSIONS, FEEDBACK)
        }
        torch.set_num_threads(1)

    def start(self) -> None:
        self.features.start()
        self.versions.start()
        if self.hooks.shadow is not None:
            self.hooks.shadow.start()

    def close(self) -> None:
        if self.hooks.shadow is not None:
            self.hooks.shadow.close()
        self.versions.close()
        self.features.close()

    # -- answers -----------------------------------------------------------------------------

    def rank(self, asked: Any, request: str = "") -> dict[str, Any]:
        """The best k candidates of a request, logged as impressions. One call at a time.

        `request` is what the ranking can be explained by, later."""
        loaded, codec = self.loaded(asked.user), self.codec
        now_ms = self.clock_ms()
        events = candidate_events(codec, asked, now_ms)
        seen = self.features.see(events, key(asked.user))
        predicted, combined, (best, propensity) = self._chosen(loaded, seen.inputs, asked)
        values_of, scores_of = field_values(codec, asked), self._scores(predicted)
        shown, records = [], []
        for row, chance in zip(best, propensity, strict=True):
            name, features = self._name(), seen.logged(row)
            features.propensity = chance
            event = codec.impression(name, now_ms, values_of(row), features)
            records.append(codec.encode(event))
            said = {"id": name, "item": asked.candidates[row], "score": float(combined[row])}
            said["scores"] = scores_of(row)
            shown.append(said if self._explore.kind == "none" else said | {"propensity": chance})
        if (size := max(map(len, records))) > codec.max_bytes:
            detail = f"an impression would be {size} bytes: expected at most {codec.max_bytes}"
            raise Problem(422, "invalid", detail, "#/context")
        self.metrics.candidates.inc(len(combined))
        self._append(IMPRESSIONS, asked.user, records, now_ms)
        self._asked = asked
        if request:
            named = [(i["id"], i["item"]) for i in shown]
            self.explainer.keep(request, now_ms, seen.inputs, best, named, loaded)
        if self.hooks.shadow is not None:
            combine = partial(self._combine, asked=asked.weights)
            self.hooks.shadow.see(asked.user, seen.inputs, predicted, best, combine)
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
        if not self._append(FEEDBACK, told.user, [record], now_ms):
            raise Problem(503, "log-unavailable", "the feedback was not taken: send it again")
        return {"id": name}

    def example(self, user: str) -> dict[str, Any] | None:
        """A request to rank for a user, None where there is none."""
        if self.hooks.example is not None:
            return self.hooks.example(user)
        if self._asked is None or not 0 < len(user) <= MAX_NAME:
            return None
        number = int(user) if user.isdecimal() else MAX_ID + 1
        name = number if number <= MAX_ID else user
        return self.requests.like(self._asked, name)

    def loaded(self, user: int | str | None = None) -> Loaded:
        """The version that is served, to this user, or a Problem."""
        loaded = self.versions.current if user is None else self.versions.of(user)
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
            "held": self._newest_held(),
            "learning": self.hooks.learning(),
            "canary": self._canary(),
            "shadow": self._shadow(),
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
            "registry_away_s": round(self.versions.away_s, 3),
        }

    # -- within ------------------------------------------------------------------------------

    def _newest_held(self) -> dict[str, Any] | None:
        """The newest version that is not served because it was held, above the one that is."""
        loaded, held = self.versions.current, self.versions.held
        newest = max(held, default=-1)
        if newest <= (-1 if loaded is None else loaded.manifest.version):
            return None
        return {"version": newest, "reason": held[newest]}

    def _canary(self) -> dict[str, Any] | None:
        """The version that a share of users is served."""
        canary = self.versions.canary
        return None if canary is None else {"version": canary.version, "share": canary.share}

    def _shadow(self) -> dict[str, Any] | None:
        """What a shadow's versions would have shown, and the figures of the served one beside."""
        loaded, shadow = self.versions.current, self.hooks.shadow
        if shadow is None:
            return None
        figures = None if loaded is None else loaded.manifest.meta.get("figures")
        return shadow.status() | {"served_figures": figures}

    def _chosen(
        self, loaded: Loaded, inputs: Inputs, asked: Any
    ) -> tuple[np.ndarray, np.ndarray, Chosen]:
        """Predictions, what they are worth together, and which candidates are shown for that."""
        explore, k = self._explore, min(asked.k, len(inputs))
        if explore.kind == "thompson":
            predicted, hidden = loaded.scorer.rank_and_hidden(inputs)
            drawn = self._thompson.drawn(loaded.scorer, predicted, hidden, 1 + DRAWS)
            worth = np.stack([self._combine(each, asked.weights) for each in drawn])
            places = np.argsort(-worth, 1, kind="stable")[:, :k]
            rows = places[0].tolist()
            shares = np.bincount(places.reshape(-1), minlength=len(inputs)) / len(places)
            self._thompson.shown(predicted[rows], hidden[:, rows])
            chosen = Chosen(rows, shares[rows].tolist())
            return predicted, self._combine(predicted, asked.weights), chosen
        predicted = loaded.scorer.rank(inputs)
        combined = self._combine(predicted, asked.weights)
        if explore.kind == "epsilon":
            return predicted, combined, epsilon_greedy(combined, k, explore.epsilon, self._draw)
        best = np.argsort(-combined, kind="stable")[:k].tolist()
        return predicted, combined, Chosen(best, [1.0] * k)

    def _name(self) -> str:
        return f"{self._prefix}-{next(self._numbers)}"

    def _append(self, topic: str, user: int | str, records: list[bytes], now_ms: int) -> bool:
        """Whether the log took them all. A ranking is answered all the same."""
        key, taken = str(user).encode(), 0
        with self._appending:
            try:
                for record in records:
                    self.log.append(topic, key, record, now_ms)
                    taken += 1
            except Exception as error:  # of whatever medium
                log.warning("%s not logged: %s: %s", topic, type(error).__name__, error)
        logged, unlogged = self._counted[topic]
        logged.inc(taken)
        unlogged.inc(len(records) - taken)
        return taken == len(records)

    def _scores(self, predicted: np.ndarray) -> Callable[[int], dict[str, Any]]:
        """A row's number -> by task: a number, or a list of them, one a class."""
        slices = self.app.schema.output_slices
        of = [
            (t.name, slices[t.name] if t.kind == "multiclass" else slices[t.name].start)
            for t in self.app.schema.tasks
        ]

        def of_row(row: int) -> dict[str, Any]:
            values = predicted[row].tolist()
            return {name: values[at] for name, at in of}

        return of_row

    def _age_s(self) -> float:
        loaded = self.versions.current
        return math.nan if loaded is None else (self.clock_ms() - loaded.at_ms) / 1000

    def _loaded(self, loaded: Loaded) -> None:
        self.metrics.version.set(loaded.manifest.version)
        self.metrics.loads.inc()
        self.hooks.on_load(loaded)

    def _refused(self, reason: str) -> None:
        self.metrics.refusals.labels(reason).inc()


class Objective:
    """What a ranking is by: the tasks' predictions by their weights, over the sum of these.

    A request may give weights of its own, for what this user or page is after. ValueError where no
    task can be ranked by.
    """

    def __init__(self, schema: Schema) -> None:
        tasks = [t for t in schema.tasks if t.kind == "binary"]
        tasks = tasks or [t for t in schema.tasks if t.kind == "regression"]
        if not tasks:
            raise ValueError(
                "Schema.tasks has no binary task and no regression: nothing to rank by"
            )
        self._starts = {name: columns.start for name, columns in schema.output_slices.items()}
        self._usual = {t.name: t.weight for t in tasks}

    def __call__(self, predicted: np.ndarray, asked: Any = UNSET) -> np.ndarray:
        """Predictions [n, outputs] and a request's weights -> the score to rank by, [n]."""
        weights = self._usual
        if asked is not UNSET:
            given = {name: getattr(asked, name) for name in asked.__struct_fields__}
            weights = {name: weight for name, weight in given.items() if weight is not UNSET}
        by = np.array(list(weights.values()))
        scores: np.ndarray = predicted[:, [self._starts[name] for name in weights]] @ by
        return scores / np.abs(by).sum()
