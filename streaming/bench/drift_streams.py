"""Streams with a change planted in them: which example is labelled by which concept, and when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from features.population import uniform
from streaming.bench.drift_worlds import WORLDS, Floats, Ints, World

BEFORE, AFTER = 16_000, 4_000
"""Examples before the change, and from it to the horizon."""
WIDTH = 1_500
"""Of a gradual or incremental change; half of what recurs."""
DRIFTED = 0
"""The task that changes where one does."""
MORE = 0.3
"""The share of negatives that turn positive where only the rate of labels changes."""


@dataclass(frozen=True)
class Stream:
    """`labels` are what is learnt, `fresh` says of each whether it is of the new concept, [n, task]
    both. `after` are the labels of the new concept throughout, of which a reference is learnt."""

    world: World
    labels: Floats
    fresh: NDArray[np.bool_]
    after: Floats
    at: int


Fresh = Callable[[World, Ints, int], NDArray[np.bool_]]


def _sudden(world: World, since: Ints, seed: int) -> NDArray[np.bool_]:
    return since >= 0


def _gradual(world: World, since: Ints, seed: int) -> NDArray[np.bool_]:
    """More and more examples are of the new concept."""
    return uniform(seed, "gradual", np.arange(len(since))) < (since + 1) / WIDTH


def _incremental(world: World, since: Ints, seed: int) -> NDArray[np.bool_]:
    """The new concept's region grows."""
    return world.along < (since + 1) / WIDTH


def _recurring(world: World, since: Ints, seed: int) -> NDArray[np.bool_]:
    """New, old, new."""
    return (since >= 0) & (since // WIDTH % 2 == 0)


def _one_segment(world: World, since: Ints, seed: int) -> NDArray[np.bool_]:
    return (since >= 0) & (world.segment == 1)


def _never(world: World, since: Ints, seed: int) -> NDArray[np.bool_]:
    return np.zeros(len(since), bool)


KINDS: dict[str, Fresh] = {
    "sudden": _sudden,
    "gradual": _gradual,
    "incremental": _incremental,
    "recurring": _recurring,
    "one_task": _sudden,
    "one_segment": _one_segment,
    "label_rate": _sudden,
    "feature": _never,
    "none": _never,
}
ONE_TASK = ("one_task", "label_rate")
"""Kinds in which only the task `DRIFTED` changes."""


def stream(world: str, kind: str, seed: int, before: int = BEFORE, after: int = AFTER) -> Stream:
    """The stream of `before + after` examples; it changes at `before`."""
    n = before + after
    made = _made(world, 3 * n if kind == "feature" else n, seed)
    if kind == "feature":
        made = _taken(made, _shifted(made, before, n, seed))
    since = np.arange(n) - before
    fresh = np.repeat(KINDS[kind](made, since, seed)[:, None], made.old.shape[1], axis=1)
    then = made.new
    if kind == "label_rate":
        more = uniform(seed, "more", np.arange(n))[:, None] < MORE
        then = np.where(more & (made.old == 0), 1.0, made.old)
    if kind in ONE_TASK:
        fresh[:, np.arange(fresh.shape[1]) != DRIFTED] = False
    return Stream(made, np.where(fresh, then, made.old), fresh, then, before)


@lru_cache(2)
def _made(world: str, n: int, seed: int) -> World:
    return WORLDS[world](n, seed)


def _shifted(world: World, before: int, n: int, seed: int) -> Ints:
    """Places of n of three times as many examples: after the change those from one end of the way
    come four times as often."""
    u = uniform(seed, "shift", np.arange(len(world.along)))
    first = np.flatnonzero(u < 0.5)[:before]
    rest = np.arange(first[-1] + 1, len(u))
    kept = rest[u[rest] < np.where(world.along[rest] < 0.5, 0.8, 0.2)]
    chosen = np.concatenate([first, kept])[:n]
    assert len(chosen) == n
    return chosen


def _taken(world: World, places: Ints) -> World:
    inputs = world.inputs
    taken = type(inputs)(inputs.keys[places], inputs.weights[places], inputs.dense[places])
    return World(
        world.schema, taken, world.segment[places], world.along[places], world.old[places],
        world.new[places],
    )  # fmt: skip
