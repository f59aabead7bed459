"""`freshet bench`: how fast it is, as ratios against a baseline of the same run."""

from __future__ import annotations

import click

from streaming import cli_bench_log, cli_bench_model, cli_bench_serve
from streaming.cli_bench_drift import alarms, drift
from streaming.cli_bench_soak import soak


@click.group()
def bench() -> None:
    """Measure, against a baseline in the same run; above 1 is better, where not said otherwise."""


for command in (
    cli_bench_log.pipeline,
    cli_bench_model.train,
    cli_bench_model.weigh,
    cli_bench_model.tasks,
    cli_bench_model.metrics,
    cli_bench_model.embed,
    cli_bench_model.idmap,
    cli_bench_serve.serve,
    cli_bench_serve.publish,
    cli_bench_serve.swap,
    cli_bench_serve.freshness,
    cli_bench_log.recover,
    cli_bench_log.grid,
    drift,
    alarms,
    soak,
):
    bench.add_command(command)
