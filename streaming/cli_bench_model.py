"""The commands of `freshet bench` that time the model and its tables."""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from multiprocessing import get_context

import click

from streaming.cli_bench_rows import show


@click.command()
@click.option("--runs", type=click.IntRange(1), default=5, show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu, or cuda.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def train(runs: int, device: str, as_json: bool) -> None:
    """The shipped train step: an MMoE of 8 experts and 6 tasks, one thread.

    Against the same network as most would write it first, River's factorisation machine, the same
    network of torch-rechub and of DeepCTR-Torch where they are installed, and the machine's own
    matrix products.
    """
    from streaming.bench import train_rivals
    from streaming.bench.train import run

    for module in sorted(set(train_rivals.NAMES) - set(train_rivals.installed())):
        name = train_rivals.NAMES[module]
        click.echo(f"{name} is not installed: pip install 'freshet[rivals]'", err=True)
    with redirect_stdout(sys.stderr):  # DeepCTR-Torch looks for a newer one of itself, and says so
        rows = run(runs, device)
    show(rows, as_json)


@click.command()
@click.option("--runs", type=click.IntRange(1), default=5, show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu, or cuda.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def weigh(runs: int, device: str, as_json: bool) -> None:
    """What each weighter of tasks adds to the train step: here, less is better.

    Times over those of equal weights. Weighters of gradients read them by all shared parameters,
    or, cheaper, by the representation.
    """
    from streaming.bench.weigh import run

    show(run(runs, device), as_json)


@click.command()
@click.option("--runs", type=click.IntRange(1), default=5, show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu, or cuda.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def tasks(runs: int, device: str, as_json: bool) -> None:
    """The train step of 1 to 32 tasks, over that of one: here, less is better."""
    from streaming.bench.tasks import run

    show(run(runs, device), as_json)


@click.command()
@click.option("--runs", type=click.IntRange(1), default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def metrics(runs: int, as_json: bool) -> None:
    """What the figures, and the watch for drift, cost beside the train step that they are of: here,
    less is better."""
    from streaming.bench import drift_overhead, metrics

    show(metrics.run(runs) + drift_overhead.run(runs), as_json)


@click.command()
@click.option("--runs", type=click.IntRange(1), default=5, show_default=True)
@click.option("--day", is_flag=True, help="24 hours of events too: some minutes, 10 million ids.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def embed(runs: int, day: bool, as_json: bool) -> None:
    """Embedding tables: updates, and steps as a table grows to ten million rows (2 GB)."""
    from streaming.bench import embed, embed_day

    rows = embed.run(runs)
    if day:
        with ProcessPoolExecutor(1, get_context("spawn")) as alone:  # with no memory to use again
            rows.append(alone.submit(embed_day.run).result())
    show(rows, as_json)


@click.command()
@click.option("--runs", type=click.IntRange(1), default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def idmap(runs: int, as_json: bool) -> None:
    """From id to row: 8,192 of a million, against pandas and a dict."""
    from streaming.bench.idmap import run

    show(run(runs), as_json)
