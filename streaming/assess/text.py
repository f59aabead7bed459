"""An assessment in a page of text."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from streaming.assess.hard_parts import rows
from streaming.compare.text import percent, points

HEADINGS = {
    "yes": "Yes.",
    "no": "No.",
    "mixed": "It depends.",
    "not seen": "No difference seen.",
    "not asked": "Not asked.",
}


def text(report: Mapping[str, Any]) -> str:
    """The answers first, then the figures that they stand on."""
    since = datetime.fromtimestamp(report["scored_from_ms"] / 1000, UTC)
    lines = [
        f"{report['application']}: is it worth it here? Served predictions of the log's last half, "
        f"from {since:%Y-%m-%d %H:%M} on.",
        "Gains are of the application on the alternative, in its loss (and in AUC); 95 % intervals"
        + (
            ", without what chance makes of first weights (--seeds)."
            if report["seeds"] == 1
            else f", means over {report['seeds']} seeds."
        ),
    ]
    for number, of in enumerate(report["questions"], 1):
        lines.append(f"\n{number}. {of['question']} {HEADINGS[of['answer']]} {of['so']}".rstrip())
        lines += [f"   {reason}" for reason in of["absent"]]
        for name in of["against"]:
            about = report["alternatives"][name]
            lines.append(f"   against {name}: {about['about']} ({about['seconds']:.0f} s)")
            for task, figures in report["tasks"].items():
                if name not in figures["against"]:
                    continue
                other = figures["against"][name]
                said = f"     {task:<20} {percent(other['gain']['relative'])}"
                if "auc" in other["gain"]:
                    said += f", auc {points(other['gain']['auc'])}"
                said += f"; it {_figures(other)}, ours {_figures(figures)}"
                chosen = about["chosen"].get(task)
                lines.append(said + (f" [{chosen}]" if chosen else ""))
    lines.append("\n5. The hard parts, as measured (infra/hard-parts.md)")
    for title, measure, remedy in rows(report["hard_parts"]):
        lines += [f"   {title}: {measure}", f"     remedy: {remedy}"]
    return "\n".join(lines)


def _figures(of: Mapping[str, Any]) -> str:
    said = f"{of['loss']:.4f}"
    return said + (f" (auc {of['auc']:.4f})" if of.get("auc") is not None else "")
