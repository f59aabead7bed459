"""Estimates of policies in a few lines, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KINDS = {"direct": "direct", "ips": "IPS", "snips": "SNIPS", "dr": "DR"}


def text(report: Mapping[str, Any]) -> str:
    """By who logged, in thousandths of a reward a round, with 95 % intervals."""
    lines = [
        f"{report['application']}: rewards ({report['reward']}) in 1,000 rounds, 95 % intervals; "
        "each candidate scored before its label came"
    ]
    for name, of in report["logged_by"].items():
        lines.append(
            f"\nlogged by {name}: {of['rounds']:,} rounds, {of['rewards']:,} rewards, "
            f"{_said(of['reward'])} a thousand"
        )
        for policy, found in of["policies"].items():
            lines.append(
                f"  {policy:<13} as good as {found['effective']:,.0f} rounds of its own; mean "
                f"weight {found['mean_weight']:.2f}, largest {found['largest_weight']:,.1f}"
            )
            lines += [f"    {said:<7} {_said(found[kind])}" for kind, said in KINDS.items()]
    return "\n".join(lines)


def _said(interval: Mapping[str, float | None]) -> str:
    value, low, high = (interval[k] for k in ("value", "low", "high"))
    assert value is not None
    if low is None or high is None:
        return f"{1000 * value:.2f}"
    return f"{1000 * value:.2f} ({1000 * low:.2f} to {1000 * high:.2f})"
