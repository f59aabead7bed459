"""The questions of an assessment, and what the intervals answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streaming.compare.text import sign

OWN = ("frozen half way", "retrained in batch", "single-task", "rebalancing off", "as it is")
QUESTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "online": ("Does learning online pay?", ("frozen half way", "retrained in batch")),
    "sharing": ("Does sharing between tasks pay?", ("single-task",)),
    "rebalancing": ("Does rebalancing pay?", ("rebalancing off",)),
    "others": ("Is it better than what one would pick instead?", ()),
}
SO = {
    ("online", "no"): "Here a model that is trained in batch serves better: train in batch.",
    ("online", "not seen"): "Here a model that is trained in batch serves as well, for less.",
    ("sharing", "no"): "Here the tasks stand in each other's way: trainer.network.sharing="
    "single_task, or groups of tasks (freshet affinity).",
    ("sharing", "not seen"): "Sharing is worth its one network for all, not its predictions.",
    ("rebalancing", "no"): "Here it does harm: rebalance.policy=none.",
    ("rebalancing", "not seen"): "It may be left on or off: it changed nothing that can be seen.",
    ("others", "no"): "Here the other is the better choice.",
    ("others", "not seen"): "Nothing here tells them apart: take what is simpler to run.",
}


def answers(
    tasks: Mapping[str, Any], alternatives: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """For each question: the `answer` (yes, no, mixed, not seen, not asked), `against` each
    alternative in which tasks ours is better, worse or level, and what follows (`so`).

    An answer counts the tasks whose interval of the gain in loss lies on one side of zero. "Yes"
    wants one better, and none worse, against every alternative; each of many intervals is of 95 %,
    so one in forty may lie on the wrong side by chance.
    """
    out = []
    for key, (title, names) in QUESTIONS.items():
        asked = names or tuple(n for n in alternatives if n not in OWN)
        against = {}
        for name in asked:
            if alternatives[name]["absent"]:
                continue
            told: dict[str, list[str]] = {"better": [], "worse": [], "level": []}
            for task, figures in tasks.items():
                if name in figures["against"]:
                    judged = sign(figures["against"][name]["gain"]["loss"])
                    told[{1: "better", -1: "worse"}.get(judged or 0, "level")].append(task)
            against[name] = told
        answer = _all([_one(told) for told in against.values()])
        absent = [f"{n}: {alternatives[n]['absent']}" for n in asked if alternatives[n]["absent"]]
        out.append(
            {
                "key": key,
                "question": title,
                "answer": answer,
                "against": against,
                "absent": absent,
                "so": SO.get((key, answer), ""),
            }
        )
    return out


def _one(told: Mapping[str, list[str]]) -> str:
    if told["better"] and told["worse"]:
        return "mixed"
    if told["better"]:
        return "yes"
    return "no" if told["worse"] else "not seen"


def _all(each: list[str]) -> str:
    """One answer of several."""
    if not each:
        return "not asked"
    return each[0] if len(set(each)) == 1 else "mixed"
