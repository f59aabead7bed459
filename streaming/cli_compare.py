"""The command `freshet compare`."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import click


@click.command()
@click.argument("applications", metavar="APP...", nargs=-1, required=True)
@click.option(
    "--log",
    "log_path",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="A Parquet file, or a folder of them.",
)
@click.option(
    "--variant",
    "words",
    multiple=True,
    metavar="NAME:KEY=VALUE",
    help="A variant of the first APP, like fast:trainer.dense.lr=0.05; more settings after a "
    "comma, or by the same name again.",
)
@click.option(
    "--groups",
    multiple=True,
    metavar="NAME:TASK,TASK|TASK",
    help="A variant with a network for each group of tasks, like two:click,like|dwell.",
)
@click.option(
    "--ablation",
    "with_ablation",
    is_flag=True,
    help="Variants without shared features, shared parameters, transfer, dynamic weights, or all.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting of every variant.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    metavar="N",
    help="Run each variant from so many first weights, and take means.",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="The first N rows only.")
@click.option(
    "--html",
    "html_path",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a page with plots there.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def compare(
    applications: tuple[str, ...],
    log_path: Path | None,
    words: tuple[str, ...],
    groups: tuple[str, ...],
    with_ablation: bool,
    settings: tuple[str, ...],
    seeds: int,
    limit: int | None,
    html_path: Path | None,
    as_json: bool,
) -> None:
    """Run variants over one log: which serves better, by how much, and is that chance?

    \b
    freshet compare kuairand --log events.parquet --variant steady:rebalance.policy=none
    freshet compare mine.py:app mine.py:bold --log events.parquet --seeds 3 --html page.html

    The first APP as it is, with --set, is what all others are compared with. Differences are
    paired, impression by impression, on what was served; intervals are by block bootstrap over
    time.
    """
    from streaming.__main__ import load_application
    from streaming.collector import tune
    from streaming.compare.ablation import ablation
    from streaming.compare.compare import Comparison
    from streaming.compare.grouped import grouped
    from streaming.compare.page import page
    from streaming.compare.text import text
    from streaming.compare.variants import given, named
    from streaming.compare.watched import Watched

    if html_path is not None and not html_path.parent.is_dir():
        raise ValueError(f"{str(html_path)!r}: its folder is not there")
    apps = [load_application(name).with_settings(settings) for name in applications]
    variants = named(apps, applications) + given(apps[0], words)
    variants += [grouped(apps[0], word) for word in groups]
    variants += ablation(apps[0]) if with_ablation else []
    job = Comparison(variants, log_path, seeds, limit)
    received: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda n, _: (received.append(n), job.stop.set()))  # type: ignore[func-returns-value]
    tune()
    with Watched(quiet=as_json and not sys.stderr.isatty()) as watched:
        job.on_step = watched.step
        report = job.run()
    if report is None:
        click.echo("stopped before the end; nothing was kept", err=True)
        sys.exit(128 + received[0])
    if html_path is not None:
        html_path.write_text(page(report))
    click.echo(json.dumps(report, indent=2) if as_json else text(report))
