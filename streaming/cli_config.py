"""The option `--config` of the workers' commands."""

from __future__ import annotations

import logging
import os
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


def configured(path: Path | None) -> Config:
    """The configuration, whose log level is applied unless `--verbose` asks for more. Raises
    ValueError as `config.load` does."""
    from streaming.config import load

    config = load(path, os.environ)
    context = click.get_current_context(silent=True)
    if context is None or not context.find_root().params.get("verbose"):
        logging.getLogger().setLevel(config.log.level.upper())
    return config
