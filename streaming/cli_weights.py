"""The commands `freshet weights`: an operator on task weights, as events of the log."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from streaming.cli_config import configured, with_broker, with_config


@click.group()
def weights() -> None:
    """Hold the task weights of a live learner, set one, or let drift move them again.

    Each is an event of the control topic, which takes its place in the order: a replay does the
    same there. `freshet replay APP --live` says what came of it.
    """


@weights.command()
@click.argument("application", metavar="APP")
@with_config
@with_broker
def freeze(application: str, config_path: Path | None, broker: str | None) -> None:
    """Hold all task weights and learning rates as they are: no drift moves them, none fades."""
    _send(application, config_path, broker, "freeze", {})


@weights.command()
@click.argument("application", metavar="APP")
@with_config
@with_broker
def release(application: str, config_path: Path | None, broker: str | None) -> None:
    """Let drift move them again; what was fresh when they were frozen fades from there."""
    _send(application, config_path, broker, "release", {})


@weights.command("set")
@click.argument("application", metavar="APP")
@click.argument("task", metavar="TASK")
@click.argument("weight", metavar="WEIGHT", type=float)
@with_config
@with_broker
def set_(
    application: str, task: str, weight: float, config_path: Path | None, broker: str | None
) -> None:
    """Multiply the weight of TASK by WEIGHT, above 0 and at most 100; 1 is as it was.

    It stays, frozen or not. What drift moves is multiplied by it.
    """
    _send(application, config_path, broker, "set", {"task": task, "weight": weight})


def _send(
    application: str, config_path: Path | None, broker: str | None, word: str, said: dict[str, Any]
) -> None:
    from features.codec import Codec
    from streaming.__main__ import load_application
    from streaming.commands import send
    from streaming.rebalance import Rebalancer
    from streaming.topics import open_log

    config, app = configured(config_path), load_application(application)
    if said:
        Rebalancer([task.name for task in app.schema.tasks]).set(**said)  # refuses what can't be
    kafka = replace(config.kafka, bootstrap=broker) if broker else config.kafka
    with closing(open_log(kafka, app.name)) as log:
        command = f"weights.{word}"
        sent = send(log, Codec(app.schema), command, said, time.time_ns())
    click.echo(f"{command} is in the log, at {sent.time_ms} ms")
