"""What tasks do to one another, as a table, and the command that tries the groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streaming.compare.text import sign


def text(report: Mapping[str, Any], command: str) -> str:
    """`command` is that of a comparison, without variants."""
    tasks = report["tasks"]
    width = max(12, *(len(t) for t in tasks)) + 2
    lines = [
        f"{report['application']}: a step for the task of the row changes the loss of the task of "
        f"the column by so many thousandths",
        f"(+ is less loss; * where the 95 % interval is on one side of 0; {report['probes']} "
        "batches)",
        _row("", tasks, width),
    ]
    lines += [
        _row(first, [_transfer(report, first, second) for second in tasks], width)
        for first in tasks
    ]
    lines += [
        "\ncosine of gradients by what is shared; share of batches in which it is negative",
        _row("", tasks, width),
    ]
    lines += [
        _row(first, [_cosine(report, first, second) for second in tasks], width) for first in tasks
    ]
    lines += ["\ncorrelation of labels", _row("", tasks, width)]
    lines += [
        _row(first, [_labels(report, first, second) for second in tasks], width) for first in tasks
    ]
    lines.append("\ngroups to try, a network each:")
    lines += [f"  {g['word']:<60} {g['by']}" for g in report["groups"]]
    if report["groups"]:
        words = " ".join(f"--groups '{g['word']}'" for g in report["groups"])
        lines.append(f"\n{command} {words}")
    else:
        lines.append("  none: with two tasks there is one network, or a single-task model each")
    return "\n".join(lines)


def _row(head: str, cells: list[str], width: int) -> str:
    return f"{head:<{width}}" + "".join(f"{cell:>{width}}" for cell in cells)


def _transfer(report: Mapping[str, Any], first: str, second: str) -> str:
    pair = report["pairs"].get(f"{first}>{second}")
    if pair is None or pair["transfer"]["value"] is None:
        return "-"
    star = "*" if sign(pair["transfer"]) else " "
    return f"{1000 * pair['transfer']['value']:+.2f}{star}"


def _cosine(report: Mapping[str, Any], first: str, second: str) -> str:
    pair = report["pairs"].get(f"{first}>{second}")
    if pair is None or pair["cosine"] is None:
        return "-"
    return f"{pair['cosine']:+.2f} {100 * pair['conflict']:.0f} %"


def _labels(report: Mapping[str, Any], first: str, second: str) -> str:
    pair = report["pairs"].get(f"{first}>{second}")
    return "-" if pair is None or pair["labels"] is None else f"{pair['labels']:+.2f}"
