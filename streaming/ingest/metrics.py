"""What ingest counts, for Prometheus: records in, rows out, the store, and how far it is behind."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily

from features.feast_store import FeastStore
from features.store import Found, Rows, StoreUnavailable
from streaming.eventlog import Chunk, Position

_STORE_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_PLACE = ["topic", "partition"]


class Metrics:
    """One worker's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.events = Counter(
            "freshet_events_read", "Records read, as often as delivered.", ["topic"],
            registry=registry,
        )  # fmt: skip
        self.bad = Counter("freshet_events_bad", "Records that can't be read.", registry=registry)
        self.written = Counter(
            "freshet_rows_written", "Rows written to the store.", ["kind"], registry=registry
        )
        self.skipped = Counter(
            "freshet_rows_skipped", "Rows whose stored as_of covers as much.", ["kind"],
            registry=registry,
        )  # fmt: skip
        self.store_seconds = Histogram(
            "freshet_store_seconds", "Time of a call of the store.", ["operation"],
            buckets=_STORE_S, registry=registry,
        )  # fmt: skip
        self.store_errors = Counter(
            "freshet_store_errors", "Calls that the store did not answer.", ["operation"],
            registry=registry,
        )  # fmt: skip
        self.places = Places()
        registry.register(self.places)


class Places:
    """How far the worker is behind, by partition.

    `ours` is told the partitions that are the worker's, with their `ends` and where reading began;
    `done`, what is in the store, and `stored` is up to where, of what went by here.
    """

    def __init__(self) -> None:
        self.ends: Position = {}
        self.stored: Position = {}
        self._at: Position = {}
        self._time_ms: dict[tuple[str, int], int] = {}

    def ours(self, ends: Position, positions: Position) -> None:
        """Partitions of before that are not among them are forgotten."""
        self._at = {tp: self._at.get(tp, positions[tp]) for tp in ends}
        self._time_ms = {tp: ms for tp, ms in self._time_ms.items() if tp in ends}
        self.stored = {tp: offset for tp, offset in self.stored.items() if tp in ends}
        self.ends = ends

    def done(self, chunks: Iterable[Chunk]) -> None:
        for chunk in chunks:
            tp = (chunk.topic, chunk.partition)
            self._at[tp] = self.stored[tp] = chunk.next_offset
            self._time_ms[tp] = max(self._time_ms.get(tp, 0), *chunk.timestamps_ms)

    def collect(self) -> Iterator[Metric]:
        lag = GaugeMetricFamily(
            "freshet_lag_events", "Records not in the store yet.", labels=_PLACE
        )
        delay = GaugeMetricFamily(
            "freshet_event_delay_seconds", "Since the latest event that is in the store.",
            labels=_PLACE,
        )  # fmt: skip
        ends, at, now_s = self.ends, self._at, time.time()
        for (topic, partition), end in ends.items():
            place = [topic, str(partition)]
            lag.add_metric(place, max(0, end - at.get((topic, partition), end)))
            if time_ms := self._time_ms.get((topic, partition)):
                delay.add_metric(place, now_s - time_ms / 1000)
        yield lag
        yield delay


class MeasuredStore:
    """A store whose calls are timed and counted."""

    def __init__(self, store: FeastStore, metrics: Metrics) -> None:
        self._store, self._metrics = store, metrics

    def read(self, wanted: Mapping[str, np.ndarray]) -> dict[str, Found]:
        with self._timed("read"):
            return self._store.read(wanted)

    def write(self, kind: str, rows: Rows) -> int:
        with self._timed("write"):
            written = self._store.write(kind, rows)
        self._metrics.written.labels(kind).inc(written)
        self._metrics.skipped.labels(kind).inc(len(rows) - written)
        return written

    def flush(self) -> None:
        with self._timed("flush"):
            self._store.flush()

    def close(self) -> None:
        self._store.close()

    @contextmanager
    def _timed(self, operation: str) -> Iterator[None]:
        with self._metrics.store_seconds.labels(operation).time():
            try:
                yield
            except StoreUnavailable:
                self._metrics.store_errors.labels(operation).inc()
                raise
