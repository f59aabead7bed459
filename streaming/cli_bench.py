"""`freshet bench`: how fast it is, as ratios against a baseline of the same run."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.group()
def bench() -> None:
    """Measure, against a baseline in the same run; above 1 is better."""


@bench.command()
@click.option("--broker", default="localhost:9092", show_default=True, metavar="HOST:PORT")
@click.option(
    "--log",
    "log_path",
    required=True,
    type=click.Path(path_type=Path),
    help="KuaiRand's events, of which the work is made.",
)
@click.option("--events", type=click.IntRange(4_000), default=2_000_000, show_default=True)
@click.option("--runs", type=click.IntRange(1), default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def pipeline(broker: str, log_path: Path, events: int, runs: int, as_json: bool) -> None:
    """From Kafka to batches of 1,024: decode, merge, windows and join."""
    from streaming.bench.pipeline import run
    from streaming.collector import tune

    tune()
    rows = run(broker, log_path, events, runs)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        click.echo(
            f"{row['name']}: {row['value']:,} {row['unit']}, {row['ratio']:.2f} times "
            f"{row['baseline']['name']} ({row['baseline']['value']:,}); {row['runs']} runs"
        )
