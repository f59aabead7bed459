"""Why it helps to learn tasks together: each part of that taken away, as variants to compare (S2).

`Signal.per` may name another task's feedback, which says that there is an answer at all; it stays.
"""

from __future__ import annotations

from streaming.application import Application
from streaming.compare.grouped import of_tasks, own_signals
from streaming.compare.variants import Variant

RULES = ("weighting.kind=fixed", "rebalance.policy=none")


def ablation(app: Application) -> list[Variant]:
    """Variants of `app`, each without one thing, or all. Those that would be as it is are left out.

    Raises ValueError where the application shares nothing.
    """
    if len(app.schema.tasks) < 2 or app.trainer.network.sharing == "single_task":
        raise ValueError(
            f"application {app.name!r} has nothing to take away: "
            "expected two tasks or more, which share something"
        )
    unread = ["weighting.kind=fixed"] if app.weighting.reads else []
    variants = []
    for name, about, settings in (
        (
            "no shared features",
            "embedding rows of its own for each task; the network is shared",
            [*unread, "trainer.network.apart=rows"],
        ),
        (
            "no shared parameters",
            "a network of its own for each task; embedding rows are shared",
            [*unread, "trainer.network.apart=network"],
        ),
        (
            "no dynamic weights",
            "the tasks' own weights, whatever happens",
            list(RULES),
        ),
        (
            "single-task models",
            "a network and embedding rows of its own for each task",
            [*unread, "trainer.network.sharing=single_task"],
        ),
    ):
        changed = app.with_settings(settings)
        if changed != app:
            variants.append(Variant(name, (changed,), tuple(settings), about))
    variants.insert(2, _no_transfer(app))
    return variants


def _no_transfer(app: Application) -> Variant:
    """Each task for itself, all in all: nothing of another's labels, nor of its rates."""
    alone = [
        of_tasks(app, (task.name,), own_signals(app.schema, app.aggregates, task.name))
        for task in app.schema.tasks
    ]
    return Variant(
        "no transfer",
        tuple(alone),
        about="each task an application of its own, without the counts and rates of the others",
    )
