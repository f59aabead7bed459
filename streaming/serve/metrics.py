"""What a server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary

_REQUEST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
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
        self.wait_seconds = Histogram(
            "freshet_request_wait_seconds", "Time until a request's turn.", ["route"],
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
        self.fresh_leg = Histogram(
            "freshet_freshness_leg_seconds", "A leg of the way of what a version learned.", ["leg"],
            buckets=_FRESH_S, registry=registry,
        )  # fmt: skip
        self.age = Gauge(
            "freshet_version_age_seconds", "Since the version was loaded.", registry=registry
        )
        self.registry_away = Gauge(
            "freshet_registry_away_seconds", "Since the registry answered last.", registry=registry
        )
        self.buffer = Gauge(
            "freshet_log_buffer_events", "Events that wait for the log.", registry=registry
        )
        self.shadowed = Counter(
            "freshet_shadow_rankings", "Rankings for a shadow to score.", ["result"],
            registry=registry,
        )  # fmt: skip
        self.shadow_overlap = Histogram(
            "freshet_shadow_overlap", "Share of what was shown that a shadow would have shown.",
            buckets=_SHARES, registry=registry,
        )  # fmt: skip
        self.shadow_difference = Summary(
            "freshet_shadow_difference", "A shadow's prediction from the served one.", ["task"],
            registry=registry,
        )  # fmt: skip
        self.store_seconds = Histogram(
            "freshet_store_seconds", "Time of a call to the feature store.", ["operation"],
            buckets=_REQUEST_S, registry=registry,
        )  # fmt: skip
