"""The command `freshet bench soak`."""

from __future__ import annotations

import json
import signal
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

import click


@click.command()
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
