"""Tasks in groups: by what they do to one another, by where their labels come from, by their goal.

A group is a tuple of task names, a grouping a tuple of groups, both in the order of the schema.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from model.schema import Schema

Groups = tuple[tuple[str, ...], ...]
MOST_TASKS = 9
"""Of which all groupings are tried (21,147); of more, groups are joined pair by pair."""
TOGETHER = 0.5


def by_affinity(names: Sequence[str], transfer: np.ndarray, groups: int) -> Groups:
    """The grouping into so many of the greatest affinity (Fifty et al. 2021, section 3.2): the sum
    over the tasks of the mean `transfer` [task, task] that each has from the others of its group.

    Where a pair was not measured (NaN) nothing is assumed of it: 0. ValueError for a wrong number.
    """
    if not 1 <= groups <= len(names):
        raise ValueError(f"groups is {groups}: expected 1 to {len(names)}, the number of tasks")
    known = np.nan_to_num(transfer)
    if len(names) <= MOST_TASKS:
        every = (p for p in partitions(list(range(len(names)))) if len(p) == groups)
        best = max(every, key=lambda p: total(known, p))
    else:
        best = [[n] for n in range(len(names))]
        while len(best) > groups:
            best = max(_joined(best), key=lambda p: total(known, p))
    return _named(names, best)


def total(transfer: np.ndarray, parts: Sequence[Sequence[int]]) -> float:
    """The affinity of a grouping: see `by_affinity`. A task alone has none."""
    return float(
        sum(
            np.mean([transfer[i, j] for i in part if i != j])
            for part in parts
            if len(part) > 1
            for j in part
        )
    )


def by_source(schema: Schema, coverage: np.ndarray) -> Groups:
    """Tasks of one `Task.source`. Those that name none go by their labels: together with whom they
    have most of theirs on the same impressions, each way (`LabelAffinity.coverage`)."""
    names = [task.name for task in schema.tasks]
    group: dict[str, list[int]] = {}
    parts: list[list[int]] = []
    for number, task in enumerate(schema.tasks):
        if task.source:
            group.setdefault(task.source, []).append(number)
            continue
        both = np.minimum(coverage[number], coverage[:, number])
        near = next((p for p in parts if both[p[0]] >= TOGETHER), None)
        if near is None:
            parts.append([number])
        else:
            near.append(number)
    return _named(names, [*group.values(), *parts])


def by_goal(schema: Schema) -> Groups | None:
    """Tasks of one `Task.goal`; None where no task names one."""
    if not any(task.goal for task in schema.tasks):
        return None
    group: dict[str, list[int]] = {}
    for number, task in enumerate(schema.tasks):
        group.setdefault(task.goal, []).append(number)
    return _named([task.name for task in schema.tasks], list(group.values()))


def partitions(items: list[int]) -> Iterator[list[list[int]]]:
    """All ways to put items in groups."""
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for parts in partitions(rest):
        yield [[first], *parts]
        for n, part in enumerate(parts):
            yield [*parts[:n], [first, *part], *parts[n + 1 :]]


def _joined(parts: list[list[int]]) -> Iterator[list[list[int]]]:
    for a in range(len(parts)):
        for b in range(a + 1, len(parts)):
            rest = [p for n, p in enumerate(parts) if n not in (a, b)]
            yield [parts[a] + parts[b], *rest]


def _named(names: Sequence[str], parts: Sequence[Sequence[int]]) -> Groups:
    return tuple(tuple(names[n] for n in sorted(part)) for part in sorted(parts, key=min))
