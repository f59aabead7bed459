"""The server of one process, put together: features from the store, versions from the registry,
what it shows and is told into Kafka."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from threading import Event

from features.feast_store import FeastStore
from features.windows import Windows
from streaming.application import Application
from streaming.collector import tune
from streaming.config import Config
from streaming.redis_registry import RedisRegistry
from streaming.serve.access import Access
from streaming.serve.listen import Listener
from streaming.serve.metrics import Metrics
from streaming.serve.outbox import Outbox
from streaming.serve.server import Hooks, Server, wall_ms
from streaming.serve.shadowing import Shadowing
from streaming.serve.stored import StoredFeatures
from streaming.serve.versions import Loaded
from streaming.served_run import ServedRun
from streaming.shadow import run_of
from streaming.state_folder import state_folder

DRAIN_S = 3.0
DAY_S = 86_400
STORE_S = 0.5
"""How long Redis may take, a try: a client waits."""


def run(
    app: Application, config: Config, redis: str, stop: Event, on_start: Callable[[str], None]
) -> int:
    """Serves until `stop` is set, `on_start` being told the address; returns how many events Kafka
    did not take.

    Raises ValueError for what the user can mend, ConnectionError where no broker answers.
    """
    folder = Path(config.features.folder or state_folder(app.name, "features"))
    with ExitStack() as stack:
        outbox = Outbox(config.kafka, app.name, config.serve.buffer)
        windows = Windows(app.schema, app.aggregates)
        store = FeastStore(redis, app.name, folder, windows, STORE_S, tries=1)
        stack.enter_context(closing(store))
        served = stack.enter_context(closing(ServedRun(redis, app.name)))
        registry = stack.enter_context(closing(RedisRegistry(redis, app.name)))
        metrics = Metrics()
        metrics.buffer.set_function(lambda: outbox.waiting)
        features = StoredFeatures(app, store, outbox.topics["impressions"], metrics)
        hooks = Hooks(on_load=partial(_freshness, metrics), follow=served.registry)
        if name := config.serve.shadow:
            beside = stack.enter_context(closing(RedisRegistry(redis, app.name, run_of(name))))
            hooks.shadow = Shadowing(
                name, config.serve.shadow_share, beside, app.schema, features.layout, wall_ms,
                metrics,
            )  # fmt: skip
        server = Server(app, outbox, registry, features, metrics, hooks=hooks)
        tune()
        try:
            own = config.serve
            access = Access(own.token, own.admin_token)
            with Listener(server, own.host, own.port, access, own.per_client) as listener:
                on_start(listener.url)
                stop.wait()
        finally:
            lost = outbox.close(DRAIN_S)
    return lost


def _freshness(metrics: Metrics, loaded: Loaded) -> None:
    """How long ago the first and the last label closed that this version has learned, and none
    before it; labels of a historical log's time say nothing of that."""
    for name in ("closed_from_ms", "closed_to_ms"):
        if (closed_ms := loaded.manifest.meta.get(name)) is not None:
            seconds = (loaded.at_ms - closed_ms) / 1000
            if 0 <= seconds < DAY_S:
                metrics.label_to_served.observe(seconds)
    meta = loaded.manifest.meta
    told_ms, closed_ms = meta.get("at_ms"), meta.get("closed_to_ms")
    if told_ms is None or closed_ms is None:
        return
    for leg, begin, end in (("told", closed_ms, told_ms), ("loaded", told_ms, loaded.at_ms)):
        if 0 <= (seconds := (end - begin) / 1000) < DAY_S:
            metrics.fresh_leg.labels(leg).observe(seconds)
