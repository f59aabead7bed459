"""What a server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_REQUEST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_FRESH_S = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)


class Metrics:
    """One server's metrics, in a registry of their own. The server says the version's `age`, and
    how many events wait in the log's `buffer`, when asked."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "freshet_requests", "Requests answered.", ["route", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "freshet_request_seconds", "Time to answer.", ["route"],
            buckets=_REQUEST_S, registry=registry,
        )  # fmt: skip
        self.candidates = Counter(
            "freshet_candidates_scored", "Candidates scored for rankings.", registry=registry
        )
        self.logged = Counter(
            "freshet_events_logged", "Events appended to the log.", ["topic"], registry=registry
        )
        self.unlogged = Counter(
            "freshet_events_not_logged", "Events that the log did not take.", ["topic"],
            registry=registry,
        )  # fmt: skip
        self.ingested = Counter(
            "freshet_events_ingested", "Events read into features.", registry=registry
        )
        self.bad = Counter("freshet_events_bad", "Records that can't be read.", registry=registry)
        self.version = Gauge("freshet_version", "Version that is served.", registry=registry)
        self.loads = Counter("freshet_versions_loaded", "Versions loaded.", registry=registry)
        self.refusals = Counter(
            "freshet_versions_refused", "Versions not loaded.", ["reason"], registry=registry
        )
        self.label_to_served = Histogram(
            "freshet_label_to_served_seconds", "Label closed to a version that learned it.",
            buckets=_FRESH_S, registry=registry,
        )  # fmt: skip
        self.age = Gauge(
            "freshet_version_age_seconds", "Since the version was loaded.", registry=registry
        )
        self.buffer = Gauge(
            "freshet_log_buffer_events", "Events that wait for the log.", registry=registry
        )
        self.store_seconds = Histogram(
            "freshet_store_seconds", "Time of a call to the feature store.", ["operation"],
            buckets=_REQUEST_S, registry=registry,
        )  # fmt: skip
