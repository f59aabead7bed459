"""The commands `freshet bench drift` and `freshet bench alarms`."""

from __future__ import annotations

import json
import sys

import click


@click.command()
@click.option("--seeds", type=click.IntRange(1), default=10, show_default=True)
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    metavar="KIND",
    help="Only this kind of change; may be given again.  [default: all]",
)
@click.option(
    "--search",
    type=click.IntRange(1),
    metavar="SEEDS",
    help="Search the constant settings anew, on so many other seeds, and print them.",
)
@click.option(
    "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes at a time."
)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def drift(seeds: int, kinds: tuple[str, ...], search: int | None, jobs: int, as_json: bool) -> None:
    """Rebalancing policies on planted drift, against `none` with the best constant settings.

    \b
    area   what `none` loses beyond a model of the new concept alone, from the change to the
           horizon, over what the policy does: above 1 is better
    cost   how much more is lost than by `none`; below 0 is better
    after  examples until the loss is within 5 % of that model's

    The streams are of the simulator and of River's generators. `shifted` and `permuted` are
    placebos: the default policy, told its own run's events too late, or of another task.
    """
    from dataclasses import asdict

    from model.schema import nearest
    from streaming.bench import drift as suite
    from streaming.bench.drift_streams import KINDS
    from streaming.bench.drift_table import Table

    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"--kind is {kind!r}: {nearest(kind, KINDS)}")
    if search is not None:
        found = {
            world: {name: asdict(setting) for name, setting in best.items()}
            for world, best in suite.search(search, jobs).items()
        }
        click.echo(json.dumps(found, indent=2))
        return
    shown = sys.stderr.isatty()
    table = Table(
        suite.outcomes(
            range(seeds),
            kinds or tuple(KINDS),
            suite.POLICIES,
            jobs=jobs,
            on_done=lambda done, of: click.echo(f"{done} of {of}", err=True) if shown else None,
        ),
        suite.DEFAULT,
    )
    click.echo(json.dumps(table.rows(), indent=2) if as_json else table.text())


@click.command()
@click.option("--streams", type=click.IntRange(1), default=64, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def alarms(streams: int, as_json: bool) -> None:
    """False alarms, and how late a change is seen, by detector.

    In so many streams of a million examples, of batch means that are independent or that follow
    AR(1) with rho .95: events where nothing changes (of one that the budget allows to each stream),
    and examples until a rise of 1, 2 or 4 spreads of a batch mean is seen.
    """
    from streaming.bench.drift_alarms import run

    rows = run(streams)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        value = "-" if row["value"] is None else f"{row['value']:,g}"
        of = f", by {row['seen']} of {row['runs']}" if "seen" in row else ""
        click.echo(f"{row['name']}: {value} {row['unit']}{of}")
