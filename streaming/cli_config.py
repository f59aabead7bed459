"""The options `--config` and `--broker` of the workers' commands."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from streaming.config import Config

with_config = click.option(
    "--config",
    "config_path",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="FRESHET_CONFIG",
    help="The workers' TOML; FRESHET_SECTION__SETTING=value in the environment goes over it.",
)
with_broker = click.option(
    "--broker", metavar="HOST:PORT", help="Kafka, instead of kafka.bootstrap."
)


def configured(path: Path | None) -> Config:
    """The configuration, with its log level as applied: `--verbose` may ask for more. Raises
    ValueError as `config.load` does."""
    from streaming.config import load

    config = load(path, os.environ)
    context = click.get_current_context(silent=True)
    if context is not None and context.find_root().params.get("verbose"):
        level = "debug" if config.log.level == "debug" else "info"
        config = replace(config, log=replace(config.log, level=level))
    logging.getLogger().setLevel(config.log.level.upper())
    return config
