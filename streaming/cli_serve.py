"""The command `freshet serve`."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from pathlib import Path
from threading import Event

import click

from streaming.cli_config import configured, with_broker, with_config


@click.command()
@click.argument("application", metavar="APP")
@with_config
@click.option("--host", metavar="HOST", help="Where to listen, instead of serve.host (loopback).")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    help="Of serve.host, instead of serve.port; 0 for a free one.",
)
@with_broker
@click.option(
    "--redis", metavar="URL", help="Of the features and the versions, instead of redis.url."
)
def serve(
    application: str,
    config_path: Path | None,
    host: str | None,
    port: int | None,
    broker: str | None,
    redis: str | None,
) -> None:
    """Rank for users of APP, by the newest version that `freshet learn` has published.

    \b
    POST /v1/rank      {"user": 7, "candidates": [1, 2], "context": {...}, "k": 2}
    POST /v1/feedback  {"impression": "...", "user": 7, "item": 2, "kind": "click"}
    GET  /v1/explain/REQUEST   why a ranking was so, by its X-Request-Id
    GET  /openapi.json, /readyz, /healthz, /metrics, and a page at /

    Features come from the store that `freshet ingest` fills; what is shown, and what is told, goes
    to Kafka with the features that it was scored with. While Kafka is away, ranking goes on, and
    serve.buffer events wait. SIGTERM or Ctrl-C ends it, once they are delivered.
    """
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    from streaming.observe import logs

    config = configured(config_path)
    logs(config.log.level)
    from streaming.__main__ import load_application
    from streaming.serve.worker import run

    where = {"host": host, "port": port}
    given = {name: value for name, value in where.items() if value is not None}
    config = replace(config, serve=replace(config.serve, **given))  # type: ignore[arg-type]
    if broker:
        config = replace(config, kafka=replace(config.kafka, bootstrap=broker))
    app = load_application(application)
    address = redis or config.redis.address()
    lost = run(app, config, address, stop, lambda url: click.echo(f"serving {app.name}: {url}"))
    if lost:
        sys.exit(1)
