"""An assessment as a page: the answers, and under each the intervals that it stands on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from streaming.assess.hard_parts import rows
from streaming.assess.text import HEADINGS
from streaming.compare.page import course
from streaming.compare.plots import Bar, intervals, over_time
from streaming.compare.sheet import card, sheet, table
from streaming.compare.text import percent, points, sign, verdict

COLOURS = {"yes": "good", "no": "bad"}


def page(report: Mapping[str, Any]) -> str:
    """One HTML file that stands alone, of what `Assessment.run` returned."""
    about = (
        f"Served predictions of the last half of {report['log'] or 'a log of its own making'}: "
        "each made at its impression's place in the order, with labels arriving when they did. "
        "Gains are of the application on the alternative, in the alternative's loss; bars and "
        "bands hold 95 % of block-bootstrapped differences"
    )
    about += ", from one seed." if report["seeds"] == 1 else f", over {report['seeds']} seeds."
    cards = [_answers(report["questions"])]
    cards += [_question(of, report) for of in report["questions"]]
    cards.append(_hard_parts(report["hard_parts"]))
    return sheet(f"Is it worth it? {report['application']}", about, cards)


def _answers(questions: Sequence[Mapping[str, Any]]) -> str:
    told = []
    for of in questions:
        colour = COLOURS.get(of["answer"], "")
        said = f'<b class="{colour}">{HEADINGS[of["answer"]]}</b>'
        told.append([escape(of["question"]), said, escape(of["so"])])
    return card("Answers", table(["", "", ""], told))


def _hard_parts(parts: Mapping[str, Any]) -> str:
    told = [[escape(cell) for cell in row] for row in rows(parts)]
    return card("The hard parts", table(["", "measured here", "remedy"], told))


def _question(of: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    colour = COLOURS.get(of["answer"], "")
    head = f'<p><b class="{colour}">{HEADINGS[of["answer"]]}</b> {escape(of["so"])}</p>'
    head += "".join(f"<p>{escape(reason)}</p>" for reason in of["absent"])
    told = []
    for name in of["against"]:
        for task, figures in report["tasks"].items():
            other = figures["against"].get(name)
            if other is None:
                continue
            gain = other["gain"]
            mark = {1: "good", -1: "bad"}.get(sign(gain["loss"]) or 0, "")
            told.append(
                [
                    escape(name),
                    escape(task),
                    f"{figures['loss']:.4f}",
                    f"{other['loss']:.4f}",
                    percent(gain["relative"]),
                    points(gain["auc"]) if "auc" in gain else "",
                    f'<span class="{mark}">{verdict(gain["loss"])}</span>',
                ]
            )
    head += "".join(
        f"<p>{escape(name)}: {escape(report['alternatives'][name]['about'])}.</p>"
        for name in of["against"]
    )
    columns = ["against", "task", "our loss", "its loss", "gain", "in AUC", "ours is"]
    plots = [_plots(task, figures, of["against"]) for task, figures in report["tasks"].items()]
    grid = _details("".join(plots)) if told else ""
    return card(of["question"], head, table(columns, told) if told else "", grid)


def _details(plots: str) -> str:
    return f'<details><summary>Plots</summary><div class="cards">{plots}</div></details>'


def _plots(task: str, figures: Mapping[str, Any], names: Mapping[str, Any]) -> str:
    bars, lines = [], []
    for name in names:
        other = figures["against"].get(name)
        if other is None or other["gain"]["relative"]["value"] is None:
            continue
        share = other["gain"]["relative"]
        value, low, high = (
            None if share[k] is None else 100 * share[k] for k in ("value", "low", "high")
        )
        assert value is not None
        bars.append(Bar(name, value, low, high, percent(share)))
        lines.append(course(name, other["periods"]))
    if not bars:
        return ""
    return f"<div><p>{escape(task)}</p>{intervals(bars, ' %')}{over_time(lines, [], ' %')}</div>"
