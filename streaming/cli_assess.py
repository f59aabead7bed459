"""The command `freshet assess`."""

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
    "--against",
    multiple=True,
    metavar="NAME",
    help="Which rivals: river, lightgbm, vw, river-trees (slow).  [default: the first three]",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting of the application, like trainer.dense.lr=0.05.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    metavar="N",
    help="Run what is ours from so many first weights, and take means.",
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
def assess(
    application: str,
    log_path: Path | None,
    against: tuple[str, ...],
    settings: tuple[str, ...],
    seeds: int,
    limit: int | None,
    html_path: Path | None,
    as_json: bool,
) -> None:
    """Is it worth it here? Say so from APP's own log, also where the answer is no.

    Online against frozen and against retrained in batch; multi-task against single-task;
    rebalancing on against off; and against what one would pick instead on the same features:
    River, LightGBM, Vowpal Wabbit (the last two with pip install 'freshet[rivals]'). Everyone
    predicts each impression at its place in the order and learns labels when they came; the last
    half of the log is scored. It runs the log some ten times: minutes for 50,000 rows.
    """
    from model.schema import nearest
    from streaming.__main__ import load_application
    from streaming.assess.assess import Assessment
    from streaming.assess.page import page
    from streaming.assess.rivals import KNOWN, USUAL
    from streaming.assess.text import text
    from streaming.collector import tune
    from streaming.compare.watched import Watched

    if html_path is not None and not html_path.parent.is_dir():
        raise ValueError(f"{str(html_path)!r}: its folder is not there")
    for name in against:
        if name not in KNOWN:
            raise ValueError(f"--against {name!r}: {nearest(name, KNOWN)}")
    app = load_application(application).with_settings(settings)
    job = Assessment(app, log_path, seeds, limit, against or USUAL)
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
    if html_path is not None:
        html_path.write_text(page(report))
    click.echo(json.dumps(report, indent=2) if as_json else text(report))
