"""A comparison as a page: for each task the gains with their intervals, and over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from streaming.compare.plots import Bar, Line, Mark, intervals, over_time
from streaming.compare.sheet import card, sheet, table
from streaming.compare.text import percent, points, sign, verdict

MOST_MARKS = 60


def page(report: Mapping[str, Any]) -> str:
    """One HTML file that stands alone, of what `compare.report` returned."""
    baseline, names = report["baseline"], list(report["variants"])
    about = (
        f"Served predictions of {report['log'] or 'a log of its own making'}; gains are on "
        f"{baseline}, in its loss; bands and bars hold 95 % of block-bootstrapped differences. "
    )
    about += (
        "One seed: what chance makes of first weights is not in them."
        if report["seeds"] == 1
        else f"Means over {report['seeds']} seeds."
    )
    cards = [_task(task, of, report) for task, of in report["tasks"].items()]
    title = f"{' and '.join(names[1:])} against {baseline}"
    return sheet(title, about, [_variants(report), '<div class="cards">', *cards, "</div>"])


def _variants(report: Mapping[str, Any]) -> str:
    rows = []
    for n, (name, about) in enumerate(report["variants"].items()):
        settings = ", ".join(about["settings"]) or "as it is"
        rows.append(
            [
                f'<i class="c{(n - 1) % 6}">■</i> {escape(name)}' if n else escape(name),
                escape(about["about"] or settings),
                f"{about['seconds']:.1f} s",
                str(len(about["drift"])),
                str(len(about["decisions"])),
            ]
        )
    return card("Variants", table(["", "", "time", "drift events", "decisions"], rows))


def _task(task: str, of: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    rows, bars, lines, marks = [], [], [], []
    for name, figures in of["variants"].items():
        row = [escape(name), _figure(figures["loss"])]
        row.append(_figure(figures.get("auc")))
        gain = figures.get("gain")
        if gain is None:
            row += ["", "", ""]
        else:
            judged = sign(gain["loss"])
            colour = {1: "good", -1: "bad"}.get(judged or 0, "")
            row += [
                percent(gain["relative"]),
                points(gain["auc"]) if "auc" in gain else "",
                f'<span class="{colour}">{verdict(gain["loss"])}</span>',
            ]
            share = {k: _times(v, 100) for k, v in gain["relative"].items()}
            if share["value"] is not None:
                bars.append(
                    Bar(
                        name, share["value"], share["low"], share["high"], percent(gain["relative"])
                    )
                )
            lines.append(course(name, figures["periods"]))
        rows.append(row)
        marks += [
            Mark(event["time_ms"], f"{name}: {event['signal']} of {task} went {event['direction']}")
            for event in report["variants"][name]["drift"]
            if event["task"] == task
        ]
    head = ["", "loss", "AUC", "gain in loss", "in AUC", ""]
    note = "".join(
        f"<p>{of[key]:,} {words}</p>"
        for key, words in (
            ("unpaired", "impressions are not in all variants, and left out."),
            ("relabelled", "labels differ between variants; those of the first are used."),
        )
        if of[key]
    )
    return card(
        f"{task}: {of['count']:,} labels", note, table(head, rows),
        intervals(bars, " %") if bars else "",
        over_time(lines, marks[:MOST_MARKS], " %"),
    )  # fmt: skip


def course(name: str, periods: Sequence[Mapping[str, Any]]) -> Line:
    """Gains over time, in percent of the loss that they are gains on."""
    times: list[int] = []
    values: list[float] = []
    bands: list[tuple[float, float] | None] = []
    for period in periods:
        gain = period["gain"]
        base = period["loss"] + (gain["value"] or 0.0)
        factor = 100 / base if base else 0.0
        value, low, high = (_times(gain[k], factor) for k in ("value", "low", "high"))
        if value is None:
            continue
        times.append((period["from_ms"] + period["to_ms"]) // 2)
        values.append(value)
        bands.append(None if low is None or high is None else (low, high))
    return Line(name, times, values, bands)


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
