"""A comparison in a few lines, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def sign(interval: Mapping[str, float | None]) -> int | None:
    """1, 0 or -1: it lies above zero, about it or below it; None where there is no interval."""
    low, high = interval["low"], interval["high"]
    if low is None or high is None:
        return None
    return int(low > 0) - int(high < 0)


def verdict(gain: Mapping[str, float | None]) -> str:
    """What may be said of a gain."""
    if gain["low"] == gain["high"] == 0:
        return "the same"
    judged = sign(gain)
    if judged is None:
        return "too little to say"
    return ("worse", "no difference seen", "better")[judged + 1]


def percent(relative: Mapping[str, float | None]) -> str:
    """`+1.2 % (+0.4 to +2.0)`"""
    if relative["value"] is None:
        return "-"
    if relative["low"] is None or relative["high"] is None:
        return f"{100 * relative['value']:+.2f} %"
    value, low, high = (100 * (relative[k] or 0.0) for k in ("value", "low", "high"))
    return f"{value:+.2f} % ({low:+.2f} to {high:+.2f})"


def points(gain: Mapping[str, float | None]) -> str:
    """`+.0012 (-.0003 to +.0027)`"""
    if gain["value"] is None:
        return "-"
    if gain["low"] is None or gain["high"] is None:
        return f"{gain['value']:+.4f}"
    return f"{gain['value']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f})"


def text(report: Mapping[str, Any]) -> str:
    """Each task's figures, and what each variant gains on the first, with 95 % intervals."""
    names = list(report["variants"])
    width = max(map(len, names))
    lines = [
        f"Served log loss (squared error), and AUC. Gains are on {report['baseline']!r}: "
        "so much less loss, so much more AUC, with 95 % intervals."
    ]
    if report["seeds"] == 1:
        lines.append("One seed: the intervals do not hold what chance makes of first weights.")
    for task, figures in report["tasks"].items():
        lines.append(f"\n{task} ({figures['kind']}, {figures['count']:,} labels)")
        for count, word in (
            (figures["unpaired"], "impressions are not in all variants, and left out"),
            (figures["relabelled"], "labels differ; those of the first are used"),
        ):
            if count:
                lines.append(f"  {count:,} {word}")
        for name, of in figures["variants"].items():
            line = f"  {name:<{width}}  loss {_said(of['loss'])}"
            line += f"  auc {_said(of['auc'])}" if "auc" in of else ""
            if "gain" in of:
                line += f"  gain {percent(of['gain']['relative'])}"
                if "auc" in of["gain"]:
                    line += f"  auc {points(of['gain']['auc'])}"
                line += f"  {verdict(of['gain']['loss'])}"
            lines.append(line)
    lines.append("")
    for name, about in report["variants"].items():
        said = about["about"] or ", ".join(about["settings"]) or "as it is"
        lines.append(
            f"{name:<{width}}  {about['seconds']:.1f} s, {len(about['drift'])} drift events, "
            f"{len(about['decisions'])} decisions: {said}"
        )
    return "\n".join(lines)


def _said(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.4f}"
