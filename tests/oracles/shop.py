"""A server in this process, of a small application, with its log and registry at hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx

from features.windows import Windows
from model.snapshot import Snapshot, encode
from model.train import Trainer
from streaming.application import Aggregates, Application, Entity, Field, Schema, Signal, Task
from streaming.eventlog import MemoryLog
from streaming.history import topics
from streaming.memory_registry import MemoryRegistry
from streaming.serve.access import Access
from streaming.serve.ingest import Ingest
from streaming.serve.listen import Listener
from streaming.serve.metrics import Metrics
from streaming.serve.server import Server

NOW = 1_800_000_000_000
SCHEMA = Schema(
    fields=(
        Field("user", "id"),
        Field("item", "id"),
        Field("tags", "ids", size=3),
        Field("hour", "id"),
        Field("price", "dense"),
    ),
    tasks=(
        Task("click", "binary", 1000, weight=3.0),
        Task("buy", "binary", 1000),
        Task("stars", "regression", 1000),
    ),
    user="user",
    item="item",
)
APP = Application(
    "shop",
    SCHEMA,
    lambda row, tables: None,
    aggregates=Aggregates(
        signals=(Signal("click", per="impression"), Signal("stars")),
        entities=(Entity("user", decays_ms=(5_000,)), Entity("item"), Entity("pair")),
        history=4,
        history_signal="click",
    ),
)


class Shop:
    """A running server with a log and a registry at hand, and a clock that stands still."""

    def __init__(
        self, log: MemoryLog | None = None, access: Access | None = None, app: Application = APP,
        per_client: int = 0,
    ) -> None:  # fmt: skip
        self.now = NOW
        self.log = log or MemoryLog(topics(2))
        self.registry = MemoryRegistry()
        metrics = Metrics()
        self.ingest = Ingest(app, self.log, metrics)
        self.server = Server(
            app, self.log, self.registry, self.ingest, metrics, clock_ms=lambda: self.now
        )
        self.listener = Listener(self.server, access=access, per_client=per_client)
        self.http = httpx.Client(base_url=self.listener.url, timeout=30)

    def publish(
        self, version: int, meta: dict[str, Any] | None = None,
        card: dict[str, Any] | None = None, live: bool = True,
    ) -> None:  # fmt: skip
        app = self.server.app
        layout = Windows(app.schema, app.aggregates).layout
        trainer = Trainer(app.schema, layout, app.trainer, seed=version)
        arrays, own = trainer.snapshot()
        data = encode(Snapshot(version, arrays, meta or own))
        self.registry.publish(data, version, 1, card or {}, live=live)

    def serving(self, version: int) -> None:
        self.publish(version)
        self.until(lambda: (self.server.version() or {}).get("version") == version)

    def until(self, holds: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 20
        while not holds():
            assert time.monotonic() < deadline, "waited 20 s"

    def metric(self, name: str, **labels: str) -> float:
        return self.server.metrics.registry.get_sample_value(name, labels) or 0.0

    def close(self) -> None:
        self.http.close()
        self.listener.close()


def request(n: int = 4, **changed: Any) -> dict[str, Any]:
    body = {
        "user": 7,
        "candidates": list(range(100, 100 + n)),
        "context": {"hour": "9", "tags": ["new", 5]},
        "candidate_fields": {"price": [0.5 * i for i in range(n)]},
        "k": 3,
    }
    return {k: v for k, v in {**body, **changed}.items() if v is not None}
