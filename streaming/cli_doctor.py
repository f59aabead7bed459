"""The command `freshet doctor`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import click

from streaming.cli_config import configured, with_broker, with_config


@click.command()
@click.argument("application", metavar="APP")
@with_config
@with_broker
@click.option("--redis", metavar="URL", help="Instead of redis.url.")
@click.option(
    "--checkpoints",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Of the learner.  [default: learn.checkpoints, or in the XDG state folder]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(
    application: str,
    config_path: Path | None,
    broker: str | None,
    redis: str | None,
    checkpoints: Path | None,
    as_json: bool,
) -> None:
    """Say what is wrong with what APP runs on, and what to do about it.

    Looks at the broker, the topics, Redis, the checkpoints, the versions and the feature store, and
    changes nothing. Exit code 0: all is fine; 1: there are warnings; 2: something does not work.
    """
    from streaming.__main__ import load_application
    from streaming.doctor.examine import examine
    from streaming.doctor.finding import exit_code, text
    from streaming.state_folder import state_folder

    config = configured(config_path)
    app = load_application(application)
    kafka = replace(config.kafka, bootstrap=broker) if broker else config.kafka
    folder = checkpoints or Path(config.learn.checkpoints or state_folder(app.name, "checkpoints"))
    found = examine(app, kafka, redis or config.redis.address(), folder)
    if as_json:
        click.echo(json.dumps([finding.as_dict() for finding in found], indent=2))
    else:
        click.echo(text(found))
    sys.exit(exit_code(found))
