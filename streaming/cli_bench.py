"""`freshet bench`: how fast it is, as ratios against a baseline of the same run."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

import click

from streaming.cli_bench_drift import drift

ROWS = ("json", "latency", "weights")
SERVE_ROWS = ("score", "features", "http", "overload")


@click.group()
def bench() -> None:
    """Measure, against a baseline in the same run; above 1 is better, where not said otherwise."""


bench.add_command(drift)


@bench.command()
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
    _show(found, as_json)


@bench.command()
@click.option("--runs", type=click.IntRange(1), default=5, show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu, or cuda.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def train(runs: int, device: str, as_json: bool) -> None:
    """The shipped train step: an MMoE of 8 experts and 6 tasks, one thread.

    Against the same network as most would write it first, River's factorisation machine, and the
    machine's own matrix products.
    """
    from streaming.bench.train import run

    _show(run(runs, device), as_json)


@bench.command()
@click.option(
    "--row",
    "rows",
    type=click.Choice(SERVE_ROWS),
    multiple=True,
    help="Only this one; may be given again.  [default: all]",
)
@click.option("--runs", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--seconds",
    type=click.FloatRange(0.5),
    default=5.0,
    show_default=True,
    help="Of each rate that http tries, and of the overload.",
)
@click.option(
    "--p99",
    "p99_ms",
    type=click.FloatRange(1),
    default=50.0,
    show_default=True,
    metavar="MS",
    help="That http allows.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def serve(rows: tuple[str, ...], runs: int, seconds: float, p99_ms: float, as_json: bool) -> None:
    """What a ranking takes.

    \b
    score     of 500 candidates, one thread: against the naive network, in torch and ONNX Runtime
    features  of 500 candidates, from Redis: against Feast's own reading
    http      rankings of 100 candidates a second, at the same p99: against FastAPI and pydantic
    overload  answers a second when asked for three times what can be done: against what can
    """
    from streaming.bench import features, http, overload, score

    work = {
        "score": lambda: score.run(runs),
        "features": lambda: [features.run(runs)],
        "http": lambda: [http.run(seconds, p99_ms)],
        "overload": lambda: [overload.run(seconds)],
    }
    _show([row for name in rows or SERVE_ROWS for row in work[name]()], as_json)


with_redis = click.option(
    "--redis", metavar="URL", help="A Redis to use.  [default: one of its own, bundled]"
)


@bench.command()
@with_redis
@click.option("--runs", type=click.IntRange(1), default=5, show_default=True)
@click.option("--rows", type=click.IntRange(1_000), default=1_000_000, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def publish(redis: str | None, runs: int, rows: int, as_json: bool) -> None:
    """A delta of 5 % of so many embedding rows into Redis, against the full version.

    Gathering, encoding and hashing count; the files of safetensors and torch.save beside it are
    made in memory and go nowhere.
    """
    from streaming.bench.publish import run

    with _redis(redis) as url:
        _show(run(url, runs, rows), as_json)


@bench.command()
@with_redis
@click.option("--seconds", type=click.FloatRange(1), default=20.0, show_default=True)
@click.option("--rows", type=click.IntRange(1_000), default=1_000_000, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def swap(redis: str | None, seconds: float, rows: int, as_json: bool) -> None:
    """Rankings while deltas of 5 % of so many rows come in, twice a second, against none coming.

    `pause` is what a ranking stood still, being neither at work nor waiting for a processor.
    """
    from streaming.bench.swap import run

    with _redis(redis) as url:
        _show(run(url, seconds, rows), as_json)


@bench.command()
@click.option("--broker", default="localhost:9092", show_default=True, metavar="HOST:PORT")
@with_redis
@click.option("--seconds", type=click.FloatRange(1), default=30.0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def freshness(broker: str, redis: str | None, seconds: float, as_json: bool) -> None:
    """From a label's closing to a ranking by what it taught, at 2,000 events a second.

    
    learned    the step that had it in is done
    published  the pointer names a version that has it
    loaded     the server has that version
    served     the first ranking by it is done
    """
    from streaming.bench.freshness import run

    with _redis(redis) as url:
        _show(run(broker, url, seconds), as_json)


@contextmanager
def _redis(url: str | None) -> Iterator[str]:
    """The address given, or that of a Redis that ends with this."""
    if url is not None:
        yield url
        return
    from streaming.bundled import bundled_redis

    with TemporaryDirectory(prefix="freshet-bench-") as folder, bundled_redis(Path(folder)) as own:
        yield own.url


@bench.command()
@click.option("--runs", type=click.IntRange(1), default=5, show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu, or cuda.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def weigh(runs: int, device: str, as_json: bool) -> None:
    """What each weighter of tasks adds to the train step: here, less is better.

    Times over those of equal weights. Weighters of gradients read them by all shared parameters,
    or, cheaper, by the representation.
    """
    from streaming.bench.weigh import run

    _show(run(runs, device), as_json)


@bench.command()
@click.option("--runs", type=click.IntRange(1), default=5, show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu, or cuda.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def tasks(runs: int, device: str, as_json: bool) -> None:
    """The train step of 1 to 32 tasks, over that of one: here, less is better."""
    from streaming.bench.tasks import run

    _show(run(runs, device), as_json)


@bench.command()
@click.option("--runs", type=click.IntRange(1), default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def metrics(runs: int, as_json: bool) -> None:
    """What the figures, and the watch for drift, cost beside the train step that they are of: here,
    less is better."""
    from streaming.bench import drift_overhead, metrics

    _show(metrics.run(runs) + drift_overhead.run(runs), as_json)


@bench.command()
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
    _show(rows, as_json)


@bench.command()
@click.option("--runs", type=click.IntRange(1), default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def idmap(runs: int, as_json: bool) -> None:
    """From id to row: 8,192 of a million, against pandas and a dict."""
    from streaming.bench.idmap import run

    _show(run(runs), as_json)


@bench.command()
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

    _show(run(log_path, rows, runs), as_json)


@bench.command()
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


def _show(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        base = row["baseline"]
        line = f"{row['name']}: {row['value']:,} {row['unit']}, {row['ratio']:.2f} times "
        line += f"{base['name']} ({base['value']:,}); {row['runs']} runs"
        if "ms" in row:
            line += "".join(f"; {name} {ms} ms" for name, ms in row["ms"].items())
        if "statuses" in row:
            line += f"; statuses {row['statuses']}; grew by {row['grown_mb']} MB"
        if "loss" in row:
            line += f"; loss {row['loss']:.4f}, {base['name']} {base['loss']:.4f}"
        click.echo(line)


@bench.command()
@click.option("--broker", default="localhost:9092", show_default=True, metavar="HOST:PORT")
@click.option("--redis", default="redis://localhost:6379/0", show_default=True, metavar="URL")
@click.option(
    "--log",
    "log_path",
    required=True,
    type=click.Path(path_type=Path),
    help="KuaiRand's events, which are sent again and again.",
)
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=60.0, show_default=True)
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    default=2_000.0,
    show_default=True,
    help="Events a second.",
)
@click.option(
    "--every",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Between samples.",
)
@click.option(
    "--window",
    type=click.FloatRange(0, min_open=True),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="The label window; that of kuairand by default.",
)
@click.option(
    "--folder",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the workers' files there.  [default: a temporary one]",
)
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write each sample there, as a line of JSON, and the summary last.",
)
@click.option("--faults", is_flag=True, help="Kill, freeze or cut something off each 10 s.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the faults.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def soak(out: Path | None, folder: Path | None, as_json: bool, **options: Any) -> None:
    """Run the workers on KuaiRand, looped in wall time, and say what stays flat.

    Memory, threads, open files and lag of `freshet ingest`, `learn` and `serve`, sampled; Ctrl-C
    ends it early, with what there is.
    """
    from streaming.bench.soak import Soak
    from streaming.bench.soak_summary import table

    if out is not None and not out.parent.is_dir():
        raise ValueError(f"{str(out)!r}: its folder is not there")
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())

    with ExitStack() as stack:
        lines = stack.enter_context(out.open("w", 1)) if out is not None else None

        def on_sample(sample: dict[str, float]) -> None:
            if lines is not None:
                lines.write(json.dumps(sample) + "\n")
            if not as_json:
                click.echo(f"{sample['t_s']:>7,.0f} s  {sample['source.events_s']:>6,.0f} events/s")

        job = Soak(
            folder=folder or Path(stack.enter_context(TemporaryDirectory(prefix="freshet-soak-"))),
            every_s=options.pop("every"),
            window_s=options.pop("window"),
            stop=stop,
            on_sample=on_sample,
            **options,
        )
        found = job.run()
        if lines is not None:
            lines.write(json.dumps({"summary": found}) + "\n")
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(table(found["figures"]))
    for name, times in found["faults"].items():
        click.echo(f"{name}: {times} times")
    for name, end in found["ended"].items():
        click.echo(f"{name} ended with {end['code']} within {end['seconds']} s")
