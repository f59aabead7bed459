"""The command `freshet learn`."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import click

from streaming.cli_config import configured, with_broker, with_config


@click.command()
@click.argument("application", metavar="APP")
@with_config
@with_broker
@click.option(
    "--redis", metavar="URL", help="For the lease and the versions, instead of redis.url."
)
@click.option(
    "--from",
    "past",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Learn from this historical log first: a Parquet file, or a folder of them.",
)
@click.option(
    "--warm-start",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Begin with the model of these checkpoints, or of a version's file, of any schema.",
)
@click.option(
    "--checkpoints",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep checkpoints there, and go on from the newest.  [default: in the XDG state folder]",
)
@click.option(
    "--checkpoint-every",
    type=click.IntRange(1),
    metavar="N",
    help="Batches between checkpoints.  [default: 500]",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Of the model's first weights.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting of the application, like trainer.dense.lr=0.05.",
)
@click.option(
    "--on-gap",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="Where the broker has deleted events that were not learned: end with an error, or go on "
    "without them and write that down.",
)
@click.option(
    "--shadow",
    default="",
    metavar="NAME",
    help="Learn beside the learner that is served, with other settings or other code of APP, "
    "until `freshet promote APP NAME`.",
)
@click.option("--until-end", is_flag=True, help="End when the log's end has been learned.")
@click.option("--json", "as_json", is_flag=True, help="Print the report at the end, as JSON.")
def learn(
    application: str,
    config_path: Path | None,
    broker: str | None,
    redis: str | None,
    checkpoints: Path | None,
    checkpoint_every: int | None,
    shadow: str,
    settings: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Learn from the live topics of APP, and publish versions for servers to load.

    One learner an application: a second one is refused, unless it is a --shadow. SIGTERM or Ctrl-C
    ends it with a checkpoint, and the same command goes on from there, exactly. Events that can't
    be used go to the dead letters' topic.
    """
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    from streaming.__main__ import load_application
    from streaming.live import Live
    from streaming.observe import logs
    from streaming.progress import Progress, summary
    from streaming.shadow import run_of

    config = configured(config_path)
    logs(config.log.level)
    app = load_application(application).with_settings(settings)
    progress = Progress(app.schema, quiet=not sys.stderr.isatty())
    folder = checkpoints
    if folder is None and config.learn.checkpoints:
        folder = Path(config.learn.checkpoints) / (run_of(shadow) if shadow else "")
    job = Live(
        app,
        kafka=replace(config.kafka, bootstrap=broker) if broker else config.kafka,
        redis=redis or config.redis.address(),
        checkpoints=folder,
        shadow=shadow,
        checkpoint_every=checkpoint_every or config.learn.checkpoint_every,
        gate=config.gate,
        metrics=config.learn.metrics,
        stop=stop,
        on_step=progress.step,
        **options,
    )
    with progress:
        report = job.run()
    if report is not None:
        click.echo(json.dumps(report, indent=2) if as_json else summary(report))
