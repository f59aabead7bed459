"""Windowed features from the store, as `freshet ingest` keeps them: one round trip a ranking."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from features.as_of import as_tree, union
from features.columns import Events
from features.events import Features
from features.rows import ALL, event_keys
from features.store import Found, Store, StoreUnavailable
from features.stored import StoredWindows
from features.windows import Windows
from streaming.application import Application
from streaming.serve.candidates import Seen, logged_features
from streaming.serve.metrics import Metrics
from streaming.serve.problems import Problem

log = logging.getLogger("freshet.serve")

AWAY = "the feature store is away"
AWAY_S = 0.5
"""How long nobody else waits for a store that did not answer."""
Offsets = dict[str, list[int]]


class StoredFeatures:
    """Reads `store` and evaluates the windows at the request's time. `partitions` is that of the
    topics that the rows are from."""

    def __init__(self, app: Application, store: Store, partitions: int, metrics: Metrics) -> None:
        self._stored = StoredWindows(store.read, app.schema, app.aggregates, partitions)
        self._seconds = metrics.store_seconds.labels("read")
        self._away_until = 0.0
        self.codec, self.layout = self._stored.codec, self._stored.layout

    def see(self, events: Events, user: int) -> Seen:
        """As `FeatureSource.see`: a Problem where the store is away, or of another layout."""
        if time.monotonic() < self._away_until:
            raise Problem(503, "features-unavailable", AWAY)
        try:
            with self._seconds.time():
                found = self._stored.find(events)
            windows = self._stored.holding(found)
        except StoreUnavailable as error:
            log.warning("ranked nothing: %s", error)
            self._away_until = time.monotonic() + AWAY_S
            raise Problem(503, "features-unavailable", AWAY) from None
        except ValueError as error:
            log.error("ranked nothing: %s", error)
            detail = "the feature store holds rows of another application"
            raise Problem(503, "features-unavailable", detail) from None
        inputs = windows.read(events)
        features, as_of = logged_features(windows, user, inputs), _as_of(windows, events, found)

        def logged(row: int) -> Features:
            out = features(row)
            out.as_of = as_of(row)
            return out

        return Seen(inputs, logged)

    def start(self) -> None:
        pass

    def close(self) -> None:
        pass


def _as_of(
    windows: Windows, events: Events, found: dict[str, Found]
) -> Callable[[int], dict[str, Offsets]]:
    """A row's number -> of each kind of stored row how far it covered the log; none where there is
    no such row. The `all` rows, one a partition, count as one."""
    if not found:
        return lambda row: {}
    shared: dict[str, Offsets] = {}
    whole = b""
    for packed in filter(None, found[ALL].as_of):
        whole = union(whole, packed) if whole else packed
    if whole:
        shared[ALL] = as_tree(whole)
    keys = event_keys(windows, events)
    packed_of = {
        kind: dict(zip(rows.keys.tolist(), rows.as_of, strict=True))
        for kind, rows in found.items()
        if kind != ALL
    }

    def of_row(row: int) -> dict[str, Offsets]:
        own = {kind: packed[int(keys[kind][row])] for kind, packed in packed_of.items()}
        return shared | {kind: as_tree(packed) for kind, packed in own.items() if packed}

    return of_row
