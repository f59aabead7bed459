"""The command `freshet affinity`."""

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
@click.option(
    "--probes",
    type=click.IntRange(2),
    default=200,
    show_default=True,
    metavar="N",
    help="Batches to measure on, spread over the log.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def affinity(
    application: str,
    log_path: Path | None,
    settings: tuple[str, ...],
    limit: int | None,
    probes: int,
    as_json: bool,
) -> None:
    """Measure which tasks of APP help which, and propose groups of tasks to try.

    By a step of the model for one task, what does another's loss do (Fifty et al. 2021)? Do their
    gradients point against each other? Do their labels go together? Groups are by that, by where
    labels come from (Task.source), and by business goal (Task.goal); freshet compare tries them.
    """
    from streaming.__main__ import load_application
    from streaming.affinity.measure import Measurement
    from streaming.affinity.text import text
    from streaming.collector import tune
    from streaming.compare.watched import Watched

    app = load_application(application).with_settings(settings)
    job = Measurement(app, log_path, limit, probes)
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
    given = f" --log {log_path}" if log_path else ""
    command = f"freshet compare {application}{given}"
    click.echo(json.dumps(report, indent=2) if as_json else text(report, command))
