"""The table of five hard parts, in words: what was measured, and what one may do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TITLES = {
    "conflict": "task conflict",
    "imbalance": "unbalanced data",
    "cost": "compute cost",
    "over_fitting": "over-fitting",
    "opacity": "opacity",
}
MOST = 3


def rows(parts: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Hard part, measure, remedy; of many figures the worst are told."""
    return [
        (title, _SAID[name](parts[name]), parts[name]["remedy"]) for name, title in TITLES.items()
    ]


def _conflict(of: Mapping[str, Any]) -> str:
    pairs = {k: v for k, v in of.items() if k != "remedy" and v is not None}
    worst = sorted(pairs, key=lambda k: -pairs[k])[:MOST]
    if not worst:
        return "nothing that tasks share, or too short a log"
    said = ", ".join(f"{100 * pairs[k]:.0f} % ({k})" for k in worst)
    return f"gradients against each other in {said} of the steps looked at"


def _imbalance(of: Mapping[str, Any]) -> str:
    counts = {k: v["effective"] for k, v in of.items() if k != "remedy" and "effective" in v}
    fewest = sorted(counts, key=lambda k: counts[k])[:MOST]
    if not fewest:
        return "no binary task"
    return "effective positives: " + ", ".join(f"{k} {counts[k]:,.0f}" for k in fewest)


def _cost(of: Mapping[str, Any]) -> str:
    said = f"{of['weights']:,} dense weights, {of['times_one_task']:.2f} times those of one task"
    if of.get("step_ms") is None:
        return said
    times = of["times_one_task_step"]
    return f"{of['step_ms']:.2f} ms a step, {times:.2f} times that of one task; {said}"


def _over_fitting(of: Mapping[str, Any]) -> str:
    gaps = {k: v for k, v in of.items() if k != "remedy" and v is not None}
    worst = sorted(gaps, key=lambda k: -gaps[k])[:MOST]
    if not worst:
        return "too short a log"
    said = ", ".join(f"{k} {100 * gaps[k]:.0f} %" for k in worst)
    return f"a step lowers the loss of its own batch by: {said}"


def _opacity(of: Mapping[str, Any]) -> str:
    known = {k: v for k, v in of.items() if k != "remedy" and v is not None}
    worst = sorted(known, key=lambda k: known[k])[:MOST]
    if not worst:
        return "no numbers to explain scores by, or too short a log"
    said = ", ".join(f"{k} {100 * known[k]:.0f} %" for k in worst)
    return f"of the scores' variance a linear surrogate explains: {said}"


_SAID = {
    "conflict": _conflict,
    "imbalance": _imbalance,
    "cost": _cost,
    "over_fitting": _over_fitting,
    "opacity": _opacity,
}
