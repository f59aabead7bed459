"""The samples of a soak, judged: what stays flat, and what grows.

The first third of a soak is for settling: the label windows and the memory of event ids fill. What
comes after stands in four quarters. A judged figure is flat where its median in the last quarter is
no more than 1.1 times that in the second, and an allowance: threads and open files 2, a lag what
5 s bring.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import linear_regression, median
from typing import Any

from streaming.bench.soak_samples import Sample

SETTLING = 1 / 3
GROWTH = 1.1
LAG_S = 5.0
JUDGED = {"rss_mib": 0.0, "used_mib": 0.0, "threads": 2.0, "open_files": 2.0}
"""Measure -> its allowance; lags beside these."""


def summary(samples: Sequence[Sample], rate: float) -> dict[str, dict[str, Any]]:
    """Figure -> `second` and `last`, the medians of those quarters; `an_hour`, the slope of what
    comes after the settling; `max`; and `flat`, None where it is not judged.

    Fewer than eight samples after the settling judge nothing.
    """
    whole_s = samples[-1]["t_s"] if samples else 0.0
    settled = [s for s in samples if s["t_s"] >= whole_s * SETTLING]
    names = sorted({name for sample in samples for name in sample} - {"t_s"})
    return {name: _figure(name, samples, settled, rate) for name in names}


def _figure(
    name: str, samples: Sequence[Sample], settled: Sequence[Sample], rate: float
) -> dict[str, Any]:
    points = [(s["t_s"], s[name]) for s in settled if name in s]
    out: dict[str, Any] = {"max": max(s[name] for s in samples if name in s)}
    if len(points) < 8:
        return {"second": None, "last": None, "an_hour": None, **out, "flat": None}
    quarter = len(points) // 4
    second = median(value for _, value in points[quarter : 2 * quarter])
    last = median(value for _, value in points[-quarter:])
    slope = linear_regression(*zip(*points, strict=True)).slope
    measure = name.rpartition(".")[2]
    allowance = LAG_S * rate if measure.endswith("lag") else JUDGED.get(measure)
    flat = None if allowance is None else last <= GROWTH * second + allowance
    return {
        "second": round(second, 2),
        "last": round(last, 2),
        "an_hour": round(3600 * slope, 2),
        **out,
        "flat": flat,
    }


def table(figures: dict[str, dict[str, Any]]) -> str:
    """For people: a line a figure."""
    lines = [f"{'':<22}{'2nd quarter':>13}{'last':>13}{'an hour':>14}{'most':>13}"]
    for name, f in figures.items():
        numbers = [("-" if f[k] is None else f"{f[k]:,.10g}") for k in ("second", "last")]
        slope = "-" if f["an_hour"] is None else f"{f['an_hour']:+,.10g}"
        says = {None: "", True: "flat", False: "NOT FLAT"}[f["flat"]]
        lines.append(
            f"{name:<22}{numbers[0]:>13}{numbers[1]:>13}{slope:>14}{f['max']:>13,.10g}  {says}"
        )
    return "\n".join(lines)
