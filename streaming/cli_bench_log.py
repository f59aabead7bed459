"""The commands of `freshet bench` that need a log: `pipeline`, `recover` and `grid`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from streaming.cli_bench_rows import show

ROWS = ("json", "latency", "weights")


@click.command()
@click.option("--broker", default="localhost:9092", show_default=True, metavar="HOST:PORT")
@click.option(
    "--log",
    "log_path",
    required=True,
    type=click.Path(path_type=Path),
    help="KuaiRand's events, of which the work is made.",
)
@click.option(
    "--row",
    "rows",
    type=click.Choice(ROWS),
    multiple=True,
    help="Only this one; may be given again.  [default: all]",
)
@click.option(
    "--events",
    type=click.IntRange(4_000),
    default=2_000_000,
    show_default=True,
    help="Of the row json.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(1),
    default=30.0,
    show_default=True,
    help="Of the row latency.",
)
@click.option(
    "--runs", type=click.IntRange(1), default=5, show_default=True, help="Of json and weights."
)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def pipeline(
    broker: str,
    log_path: Path,
    rows: tuple[str, ...],
    events: int,
    seconds: float,
    runs: int,
    as_json: bool,
) -> None:
    """From Kafka to batches, and on to weights.

    \b
    json     Kafka to batches of 1,024: decode, merge, windows and join
    latency  of a batch of 64 at 2,000 events a second, after its closing event
    weights  Kafka to trained weights, the shipped kuairand application
    """
    from streaming.bench import latency, weights
    from streaming.bench import pipeline as batches
    from streaming.collector import tune

    tune()
    work = {
        "json": lambda: batches.run(broker, log_path, events, runs),
        "latency": lambda: latency.run(broker, log_path, seconds),
        "weights": lambda: weights.run(broker, log_path, runs),
    }
    found = [work[name]() for name in rows or ROWS]
    show(found, as_json)


@click.command()
@click.option(
    "--log",
    "log_path",
    required=True,
    type=click.Path(path_type=Path),
    help="KuaiRand's events, which are learned from.",
)
@click.option("--rows", type=click.IntRange(0), default=1_000_000, show_default=True)
@click.option("--runs", type=click.IntRange(1), default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def recover(log_path: Path, rows: int, runs: int, as_json: bool) -> None:
    """Checkpoints with so many embedding rows, and starts after kill -9: here, less is better.

    \b
    stall    the longest that learning waited for a checkpoint of 50 steps
    size     of one of them
    bytes    written an hour at 2,000 events a second
    restart  from the start of the process to its first step
    """
    from streaming.bench.recover import run

    show(run(log_path, rows, runs), as_json)


@click.command()
@click.argument("application", metavar="APP")
@click.option("--log", "log_path", metavar="PATH", type=click.Path(path_type=Path))
@click.option(
    "--vary",
    multiple=True,
    metavar="KEY=A,B,...",
    help="A setting, and the values to try; several make all combinations.",
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="For all of them.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="The first N rows only.")
@click.option(
    "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Replays at a time."
)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def grid(
    application: str,
    log_path: Path | None,
    vary: tuple[str, ...],
    settings: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Replay a log with every combination of settings, and compare what was served.

    \b
    freshet bench grid kuairand --log events.parquet \\
      --vary trainer.network.sharing=shared_bottom,mmoe,ple --vary weighting.kind=fixed,dwa
    """
    from streaming.bench.grid import Grid, table

    varied = []
    for text in vary:
        key, equals, values = text.partition("=")
        if not equals or not all(values.split(",")):
            raise ValueError(f"--vary is {text!r}: expected KEY=A,B")
        varied.append((key, values.split(",")))
    job = Grid(application, log_path, varied, settings, **options)
    shown = sys.stderr.isatty()
    rows = job.run(lambda done, of: click.echo(f"{done} of {of}", err=True) if shown else None)
    click.echo(json.dumps(rows, indent=2) if as_json else table(rows))
