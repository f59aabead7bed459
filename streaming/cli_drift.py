"""The commands `freshet drift`: what drifted, what was done, and what thresholds to set."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from streaming.cli_config import configured, with_config


@click.group()
def drift() -> None:
    """Drift that was detected, as incidents: one cause, and all the signals that it moved."""


def _with_source(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say where the incidents are read from."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print it as JSON."),
        click.option(
            "--report",
            "report_path",
            metavar="FILE",
            type=click.Path(path_type=Path, dir_okay=False, exists=True),
            help="Read a report of `freshet replay` or `freshet demo` instead.",
        ),
        click.option(
            "--checkpoints",
            metavar="DIR",
            type=click.Path(path_type=Path, file_okay=False),
            help="Where the learner's checkpoints are.  [default: in the XDG state folder]",
        ),
        with_config,
        click.argument("application", metavar="APP"),
    ):
        command = option(command)
    return command


@drift.command("list")
@_with_source
def list_(as_json: bool, **source: Any) -> None:
    """The incidents of APP, as of its learner's last checkpoint."""
    incidents, blind = _read(**source)
    if as_json:
        click.echo(json.dumps({"incidents": incidents, "blind": blind}, indent=2))
        return
    if not incidents:
        click.echo("no drift was detected")
    else:
        click.echo(f"{'':>4}  {'SINCE':>11}  {'SEEN':>11}  {'STATE':<19}  WHAT")
    for incident in incidents:
        more = len(incident["signals"]) - 1
        click.echo(
            f"{incident['number']:>4}  {incident['began_example']:>11,}  "
            f"{incident['opened_example']:>11,}  {incident['outcome'] or 'open':<19}  "
            f"{incident['what']}{f', and {more} more' if more else ''}"
        )
    for signal in blind:
        name = " ".join(filter(None, (signal["task"], signal["signal"], signal["segment"])))
        click.echo(f"blind: {name} ({signal['why']})")


@drift.command()
@_with_source
@click.argument("number", type=click.IntRange(1), required=False)
def show(number: int | None, as_json: bool, **source: Any) -> None:
    """One incident of APP, by its NUMBER: what moved, since when, what was done, and what came of
    it. Without a NUMBER the last one."""
    incidents, _ = _read(**source)
    found = [i for i in incidents if number in (None, i["number"])][-1:]
    if not found:
        known = ", ".join(str(i["number"]) for i in incidents[-10:]) or "none"
        raise ValueError(f"incident {number or ''}: not there; expected one of {known}")
    click.echo(json.dumps(found[0], indent=2) if as_json else _told(found[0]))


@drift.command()
@click.argument("application", metavar="APP")
@click.option(
    "--log",
    "log_path",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="A Parquet file, or a folder of them.",
)
@click.option(
    "--budget",
    default="1/1000000",
    show_default=True,
    metavar="1/N",
    help="At most one false event in N examples, of all signals together.",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="The first N rows only.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting of the application, like drift.segment=country.",
)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def calibrate(
    application: str,
    log_path: Path | None,
    budget: str,
    limit: int | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Thresholds for APP, from the noise of its own log, and what they cost.

    The log is learned from once; then streams are drawn from its signals, block by block, in which
    nothing drifts, or all levels change by 10 % or by 50 %. Of a few detectors the one is chosen
    that keeps the budget and sees those soonest. The last lines are what to set.
    """
    from streaming.__main__ import load_application
    from streaming.drift_calibration import CHANGES, calibrate

    app = load_application(application).with_settings(settings)
    tried = calibrate(app, log_path, _examples(budget), limit)
    chosen = tried[0]
    if as_json:
        rows = [
            {
                "settings": t.settings(),
                "false_events": t.false_events,
                "examples": t.examples,
                "horizon": t.horizon,
                "delays": [
                    {"change": c, "seen": seen, "examples": after}
                    for c, (seen, after) in t.delays.items()
                ],
            }
            for t in tried
        ]
        click.echo(json.dumps({"budget": chosen.config.budget, "tried": rows}, indent=2))
        return
    click.echo(
        f"at most one false event in {chosen.config.budget:,} examples, "
        f"and what a change of every level then costs:"
    )
    changes = "".join(f"  {f'{c:.0%}: seen, after':>20}" for c in CHANGES)
    click.echo(f"{'DETECTOR':<28}  EVIDENCE  {'FALSE':>12}{changes}")
    for t in tried:
        c = t.config
        by = f" ({c.allowance:g}, {c.threshold:g})" if c.detector == "page_hinkley" else ""
        delays = "".join(
            f"  {f'{seen:.0%}, ' + ('-' if after is None else f'{after:,}'):>20}"
            for seen, after in t.delays.values()
        )
        false = f"{t.false_events} in {t.examples / 1e6:g} M"
        click.echo(f"{c.detector + by:<28}  {c.evidence:>8g}  {false:>12}{delays}")
    click.echo(
        f"(share of the tasks' signals within {chosen.horizon:,} examples, and their median)"
    )
    click.echo("set the first: --set " + " --set ".join(chosen.settings()))
    named = ", ".join(s.removeprefix("drift.") for s in chosen.settings())
    named = named.replace(
        f"detector={chosen.config.detector}", f'detector="{chosen.config.detector}"'
    )
    click.echo(f"or in the application: drift=DriftMonitor.Config({named})")


def _examples(budget: str) -> int:
    """N of "1/N"."""
    one, slash, n = budget.replace("_", "").partition("/")
    if one != "1" or not slash or not n.isdecimal() or int(n) < 1:
        raise ValueError(f"--budget is {budget!r}: expected 1/N, as 1/1000000")
    return int(n)


def _told(incident: dict[str, Any]) -> str:
    """An incident in words."""
    from streaming.incidents import what

    opened = datetime.fromtimestamp(incident["opened_ms"] / 1000, UTC)
    lines = [
        f"incident {incident['number']}: {incident['kind']}, {incident['outcome'] or 'open'}",
        f"  since example {incident['began_example']:,}; seen at {incident['opened_example']:,} "
        f"({opened:%Y-%m-%d %H:%M:%S} UTC)",
    ]
    for s in incident["signals"]:
        size = "" if s["low"] is None else f" (by {s['low']:+.3g} to {s['high']:+.3g}, 95 %)"
        now = "" if s["now"] is None else f"; now {s['now']:.3g}"
        lines.append(f"  {what(s)}{size}, from example {s['began_example']:,}{now}")
    for d in incident["done"]:
        of = f" of {d['task']}" if d["task"] else ""
        moved = f"{d['before']:.3g} to {d['after']:.3g}"
        lines.append(f"  done at {d['example']:,}: {d['what']}{of} {moved}")
    if incident["closed_example"] is not None:
        lines.append(f"  closed at {incident['closed_example']:,}: {incident['outcome']}")
    if incident["recovery"] is not None:
        lines.append(f"  {incident['recovery']:.0%} of the worst level's rise is gone")
    return "\n".join(lines)


def _read(
    application: str,
    config_path: Path | None,
    checkpoints: Path | None,
    report_path: Path | None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The incidents and the blind signals, of a report or of the newest checkpoint."""
    from streaming.__main__ import load_application
    from streaming.checkpoint import Checkpoints
    from streaming.history import topics
    from streaming.learner import Learner
    from streaming.state_folder import state_folder

    if report_path is not None:
        report = json.loads(report_path.read_text())
        if "incidents" not in report:
            raise ValueError(f"{str(report_path)!r} is no report with incidents in it")
        return report["incidents"], report["blind"]
    app = load_application(application)
    kept = configured(config_path).learn.checkpoints
    folder = checkpoints or (Path(kept) if kept else state_folder(app.name, "checkpoints"))
    newest = Checkpoints(folder).newest() if folder.is_dir() else None
    if newest is None:
        raise ValueError(
            f"{str(folder)!r} holds no checkpoint: give --checkpoints DIR, or --report FILE"
        )
    learner = Learner(app, topics(1), newest.tree["seed"])
    for name in ("incidents", "signals", "drift"):
        getattr(learner, name).load(newest.tree[name])
    return learner.incidents.listed(), [b._asdict() for b in learner.blind()]
