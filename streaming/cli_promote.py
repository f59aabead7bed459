"""The command `freshet promote`: which learner's versions are served, as an event of the log."""

from __future__ import annotations

import json
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import click

from streaming.cli_config import configured, with_broker, with_config


@click.command()
@click.argument("application", metavar="APP")
@click.argument("shadow", metavar="NAME")
@click.option("--redis", metavar="URL", help="Of the versions, instead of redis.url.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_config
@with_broker
def promote(
    application: str,
    shadow: str,
    redis: str | None,
    as_json: bool,
    config_path: Path | None,
    broker: str | None,
) -> None:
    """Have servers of APP follow the shadow NAME, or by the name `live` the first learner again.

    \b
    freshet learn APP --shadow fast --set trainer.dense.lr=0.05     beside the learner of APP
    freshet snapshots list APP --run shadow-fast                    what it has published
    freshet promote APP fast                                        servers follow it
    freshet promote APP live                                        and back

    It is an event of the control topic. The learner that it names obeys it at its place in the
    order, so it has to be running; servers follow within a second. The other one learns on, under
    its own run, and nothing of what either has learned changes.
    """
    from features.codec import Codec
    from streaming.__main__ import load_application
    from streaming.commands import send
    from streaming.redis_registry import RedisRegistry
    from streaming.shadow import COMMAND, run_of
    from streaming.topics import open_log

    run = run_of(shadow)
    config, app = configured(config_path), load_application(application)
    with closing(RedisRegistry(redis or config.redis.address(), app.name, run)) as registry:
        newest = registry.latest()
    if newest is None:
        raise ValueError(
            f"NAME is {shadow!r}: no learner of that name has published a version to serve; "
            f"`freshet learn {application} --shadow {shadow}` does"
        )
    kafka = replace(config.kafka, bootstrap=broker) if broker else config.kafka
    with closing(open_log(kafka, app.name)) as log:
        sent = send(log, Codec(app.schema), COMMAND, {"run": run}, time.time_ns())
    if as_json:
        click.echo(json.dumps({"run": run, "version": newest.version, "time_ms": sent.time_ms}))
    else:
        click.echo(f"promote {shadow}: the command is in the log, at {sent.time_ms} ms")
