"""The command `freshet ingest`."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from pathlib import Path

import click

from streaming.cli_config import configured, with_broker, with_config


@click.command()
@click.argument("application", metavar="APP")
@with_broker
@click.option("--redis", metavar="URL", help="For the features, instead of redis.url.")
@click.option(
    "--rebuild",
    is_flag=True,
    help="Make all rows again from the log first, as after Redis has lost some; no other worker "
    "may run until it has begun.",
)
@with_config
def ingest(
    application: str,
    broker: str | None,
    redis: str | None,
    rebuild: bool,
    config_path: Path | None,
) -> None:
    """Keep the features of APP up with its live topics, in Feast on Redis.

    Several may run: the partitions are shared among them. SIGTERM or Ctrl-C ends it, and the same
    command goes on from there. Events that can't be used go to the dead letters' topic.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # until the worker takes them over
        signal.signal(number, lambda *_: sys.exit(0))
    from streaming.__main__ import load_application
    from streaming.observe import logs

    config = configured(config_path)
    logs(config.log.level)
    from streaming.ingest.run import run  # Feast's own warnings are in the log already

    if broker:
        config = replace(config, kafka=replace(config.kafka, bootstrap=broker))
    run(load_application(application), config, redis or config.redis.address(), rebuild)
