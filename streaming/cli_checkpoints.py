"""The commands `freshet checkpoints`: what a learner could go on from, or be taken back to."""

from __future__ import annotations

import json
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streaming.cli_config import configured, with_broker, with_config

if TYPE_CHECKING:
    from streaming.checkpoint import Checkpoints

with_folder = click.option(
    "--checkpoints",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="The learner's folder.  [default: as for `freshet learn`]",
)


@click.group()
def checkpoints() -> None:
    """The checkpoints of a learner: list them, or take its model back to one."""


@checkpoints.command(name="list")
@click.argument("application", metavar="APP")
@with_folder
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@with_config
def list_(
    application: str, checkpoints: Path | None, as_json: bool, config_path: Path | None
) -> None:
    """List the checkpoints of APP's learner, oldest first."""
    found = _of(application, checkpoints, config_path).found()
    if as_json:
        told = [{"step": n, "bytes": _bytes(path), "folder": str(path)} for _, n, path in found]
        click.echo(json.dumps(told, indent=2))
        return
    for _, n, path in found:
        click.echo(f"step {n:>9,}  {_bytes(path) / 2**20:8.1f} MiB  {path}")
    if not found:
        click.echo("none yet")


@checkpoints.command()
@click.argument("application", metavar="APP")
@click.argument("step", type=click.IntRange(1), required=False)
@with_folder
@click.option("--redis", metavar="URL", help="Where the versions are, instead of redis.url.")
@with_config
@with_broker
def rollback(
    application: str,
    step: int | None,
    checkpoints: Path | None,
    redis: str | None,
    config_path: Path | None,
    broker: str | None,
) -> None:
    """Take the model of APP's live learner back to what it was after STEP.

    STEP is one of `freshet checkpoints list`, by default the newest that is not after the version
    that servers use, which the gate has let through. It is an event of the control topic: the
    learner obeys it at its place in the order, and so does each replay. Nothing is read again:
    positions, windows and waiting labels stay. The versions go on counting, and the next is full.
    """
    from features.codec import Codec
    from streaming.__main__ import load_application
    from streaming.commands import send
    from streaming.redis_registry import RedisRegistry
    from streaming.rollback import COMMAND
    from streaming.topics import open_log

    kept = _of(application, checkpoints, config_path)
    there = kept.steps()
    config, app = configured(config_path), load_application(application)
    if step is None:
        with closing(RedisRegistry(redis or config.redis.address(), app.name)) as registry:
            live = registry.latest()
        step = max((s for s in there if live is not None and s <= live.version), default=None)
    if step not in there or not kept.hold(step):
        listed = ", ".join(map(str, there)) or "none"
        wanted = f"of step {step}" if step else "at or before the version that servers use"
        raise ValueError(f"no checkpoint {wanted}: there is {listed}")
    kafka = replace(config.kafka, bootstrap=broker) if broker else config.kafka
    with closing(open_log(kafka, app.name)) as log:
        sent = send(log, Codec(app.schema), COMMAND, {"step": step}, time.time_ns())
    click.echo(f"back to step {step}: the command is in the log, at {sent.time_ms} ms")


def _of(application: str, folder: Path | None, config_path: Path | None) -> Checkpoints:
    from streaming.__main__ import load_application
    from streaming.checkpoint import Checkpoints
    from streaming.state_folder import state_folder

    config, app = configured(config_path), load_application(application)
    default = config.learn.checkpoints or state_folder(app.name, "checkpoints")
    return Checkpoints(folder or Path(default))


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
