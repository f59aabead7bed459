"""Rebalancing policies: what each makes of a task's last drift, as a pure function.

`alive` [task] says how much of the answer to a task's last drift is left: 1 at the event, half
after each `half_life` examples, 0 in the end. All that a policy gives is a multiplier that is 1
where nothing is alive, and within its factor of 1 anywhere: so it is bounded, and goes back.

    none      moves nothing
    boost     the task's weight: more while its drift is fresh
    follow    the task's weight: by how much worse it does than before, until it does as well
    gradient  the gradients by what tasks share are combined so that none is at odds with another
    focus     the learning rates of the task's tower and of the embedding rows that come by, and
              how long the tower's optimiser remembers

Several are joined by a plus: "boost+focus".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.schema import nearest

POLICIES = ("none", "boost", "follow", "gradient", "focus")
SETTLED = 0.01
"""A multiplier this near 1 is 1."""
_SLOWER = 10
"""How much longer a reference loss remembers than the recent one."""

Floats = NDArray[np.float64]


def parts(policy: str) -> tuple[str, ...]:
    """The policies in "boost+focus". ValueError for one that is not known, twice, or not alone."""
    names = tuple(policy.split("+"))
    for name in names:
        if name not in POLICIES:
            raise ValueError(f"policy is {policy!r}: {nearest(name, POLICIES)}")
    if len(set(names)) < len(names) or ("none" in names and len(names) > 1):
        raise ValueError(f"policy is {policy!r}: expected each once, and 'none' alone")
    return names


def faded(alive: Floats, examples: int, half_life: int) -> Floats:
    """What is left of it after so many more examples."""
    left = np.asarray(alive * 0.5 ** (examples / half_life), np.float64)
    return np.where(left < SETTLED / 100, 0.0, left)


def raised(alive: ArrayLike, factor: float) -> Floats:
    """`boost` and `focus`: 1 where nothing is alive, up to `factor`."""
    return _settled(1.0 + (factor - 1.0) * np.asarray(alive, np.float64))


def lowered(alive: ArrayLike, least: float) -> Floats:
    """`focus`: the share that is kept of what an optimiser remembers, at each step."""
    kept = 1.0 - (1.0 - least) * np.asarray(alive, np.float64)
    return np.where(kept > 1.0 - SETTLED / 10, 1.0, kept)


def followed(alive: ArrayLike, recent: Floats, reference: Floats, factor: float) -> Floats:
    """`follow`: recent / reference, from 1 to `factor`, where something is alive."""
    with np.errstate(all="ignore"):
        ratio = recent / reference
    known = np.isfinite(ratio) & (np.asarray(alive) > 0)
    return _settled(np.where(known, ratio.clip(1.0, factor), 1.0))


def _settled(multiplier: Floats) -> Floats:
    return np.where(multiplier < 1.0 + SETTLED, 1.0, multiplier)


class Levels:
    """Running means of each task's served loss: over the last `memory` labels or so, and over ten
    times as many. `reference` [task] is the slow one as it stood at the task's last drift."""

    def __init__(self, tasks: int, memory: int) -> None:
        self.memory = memory
        self.labels = np.zeros(tasks)
        self.recent, self.slow = np.zeros(tasks), np.zeros(tasks)
        self.reference = np.full(tasks, np.nan)

    def update(self, task: int, loss: float, labels: int) -> None:
        """A batch's mean loss over so many labels; one that is not finite is passed over."""
        if labels <= 0 or not np.isfinite(loss):
            return
        self.labels[task] += labels
        for mean, memory in ((self.recent, self.memory), (self.slow, self.memory * _SLOWER)):
            share = min(1.0, labels / min(self.labels[task], memory))
            mean[task] += share * (loss - mean[task])

    def drifted(self, task: int) -> None:
        """From here on the task is held against what it was before, and is seen afresh."""
        self.reference[task] = self.slow[task] if self.labels[task] else np.nan

    def state(self) -> dict[str, Any]:
        names = ("labels", "recent", "slow", "reference")
        return {name: getattr(self, name).copy() for name in names}

    def load(self, tree: Mapping[str, Any]) -> None:
        for name in ("labels", "recent", "slow", "reference"):
            setattr(self, name, np.array(tree[name], np.float64))
