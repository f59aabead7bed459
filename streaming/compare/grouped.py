"""An application's tasks in groups: each group an application of its own, a network and rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from features.windows import Aggregates, Windows
from model.schema import Schema, nearest
from streaming.application import Application, Row, Shown
from streaming.compare.variants import Variant


def grouped(app: Application, word: str) -> Variant:
    """The variant of a word like `two:click,like|dwell`. Raises ValueError for what is no group."""
    name, colon, said = word.partition(":")
    if not colon or not name or not said:
        raise ValueError(
            f"groups {word!r}: expected name:task,task|task, like two:click,like|dwell"
        )
    return in_groups(app, name, [part.split(",") for part in said.split("|")])


def in_groups(app: Application, name: str, groups: Sequence[Sequence[str]]) -> Variant:
    """All features are kept: what is told of one group's tasks is still an input of the others."""
    known = [task.name for task in app.schema.tasks]
    told = [task for group in groups for task in group]
    for task in told:
        if task not in known:
            raise ValueError(f"groups {name!r} have the task {task!r}: {nearest(task, known)}")
    if sorted(told) != sorted(known):
        raise ValueError(f"groups {name!r} are {told}: expected each of {known} once")
    about = "networks and rows of their own for " + " | ".join(", ".join(g) for g in groups)
    return Variant(name, tuple(of_tasks(app, group) for group in groups), about=about)


def of_tasks(
    app: Application, tasks: Collection[str], aggregates: Aggregates | None = None
) -> Application:
    """An application of some of the tasks only, with other `aggregates` where they are given."""
    kept = tuple(task for task in app.schema.tasks if task.name in tasks)
    for task in kept:
        if task.given and task.given not in tasks:
            raise ValueError(
                f"task {task.name!r} is given {task.given!r}: expected both in one group"
            )
    schema = replace(app.schema, tasks=kept)
    aggregates = app.aggregates if aggregates is None else aggregates
    kinds = set(Windows(schema, aggregates).codec.kinds)
    network = app.trainer.network
    if len(kept) == 1 and network.apart:
        network = replace(network, apart="")
    return replace(
        app,
        name=f"{app.name}-{'-'.join(task.name for task in kept)}",
        schema=schema,
        aggregates=aggregates,
        rows=_only(app, kinds),
        source=None if app.source is None else lambda: map(_drop(kinds), app.source()),  # type: ignore[misc]
        trainer=replace(app.trainer, network=network),
    )


def own_signals(schema: Schema, aggregates: Aggregates, task: str) -> Aggregates:
    """The aggregates without what was told of other tasks. A history is weighted by the task
    itself, where there is a signal of it; else there is none."""
    signals = tuple(s for s in aggregates.signals if s.kind == task)
    return replace(
        aggregates,
        signals=signals,
        history=aggregates.history if signals else 0,
        history_signal=task if signals and aggregates.history else "",
    )


def _only(app: Application, kinds: set[str]) -> Any:
    drop = _drop(kinds)

    def rows(row: Row, tables: Mapping[str, Mapping[Any, Row]]) -> Shown | None:
        shown = app.rows(row, tables)
        return None if shown is None else drop(shown)

    return rows


def _drop(kinds: set[str]) -> Any:
    def drop(shown: Shown) -> Shown:
        return shown._replace(told=[t for t in shown.told if t.kind in kinds])

    return drop
