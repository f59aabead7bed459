"""The commands `freshet bench serve`, `publish`, `swap` and `freshness`."""

from __future__ import annotations

import click

from streaming.cli_bench_rows import a_redis, show, with_redis

SERVE_ROWS = ("score", "features", "http", "overload")


@click.command()
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
    show([row for name in rows or SERVE_ROWS for row in work[name]()], as_json)


@click.command()
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

    with a_redis(redis) as url:
        show(run(url, runs, rows), as_json)


@click.command()
@with_redis
@click.option("--seconds", type=click.FloatRange(1), default=20.0, show_default=True)
@click.option("--rows", type=click.IntRange(1_000), default=1_000_000, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def swap(redis: str | None, seconds: float, rows: int, as_json: bool) -> None:
    """Rankings while deltas of 5 % of so many rows come in, twice a second, against none coming.

    `pause` is what a ranking stood still, being neither at work nor waiting for a processor.
    """
    from streaming.bench.swap import run

    with a_redis(redis) as url:
        show(run(url, seconds, rows), as_json)


@click.command()
@click.option("--broker", default="localhost:9092", show_default=True, metavar="HOST:PORT")
@with_redis
@click.option("--seconds", type=click.FloatRange(1), default=30.0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def freshness(broker: str, redis: str | None, seconds: float, as_json: bool) -> None:
    """From a label's closing to a ranking by what it taught, at 2,000 events a second.

    \b
    learned    the step that had it in is done
    published  the pointer names a version that has it
    loaded     the server has that version
    served     the first ranking by it is done
    """
    from streaming.bench.freshness import run

    with a_redis(redis) as url:
        show(run(broker, url, seconds), as_json)
