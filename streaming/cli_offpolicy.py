"""The command `freshet offpolicy`."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import click


@click.command()
@click.argument("application", metavar="APP")
@click.option(
    "--log",
    "log_path",
    metavar="PATH",
    required=True,
    type=click.Path(path_type=Path),
    help="A Parquet file, or a folder of them.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting of the application.",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="The first N rows only.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def offpolicy(
    application: str,
    log_path: Path,
    settings: tuple[str, ...],
    limit: int | None,
    as_json: bool,
) -> None:
    """Estimate what policies made of APP's model would have earned, from a log that says with which
    chance each action was taken (Application.logged), as that of openbandit does.

    By inverse propensities (IPS), self-normalised (SNIPS) and doubly robust (DR), with intervals by
    block bootstrap. The model learns the log in order, and scores each candidate before its label.
    """
    from streaming.__main__ import load_application
    from streaming.collector import tune
    from streaming.compare.watched import Watched
    from streaming.offpolicy.evaluate import Evaluation
    from streaming.offpolicy.text import text

    app = load_application(application).with_settings(settings)
    job = Evaluation(app, log_path, limit)
    received: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda n, _: (received.append(n), job.stop.set()))  # type: ignore[func-returns-value]
    tune()
    with Watched(quiet=as_json and not sys.stderr.isatty()) as watched:
        job.on_step, job.on_moment = watched.step, watched.done
        report = job.run()
    if report is None:
        click.echo("stopped before the end; nothing was kept", err=True)
        sys.exit(128 + received[0])
    click.echo(json.dumps(report, indent=2) if as_json else text(report))
