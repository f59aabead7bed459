"""The rebalancer: drift events in, task weights and learning rates out, each with its reason.

Pure, and never read back: a replay of the log makes every decision again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.task_weights import normalise
from streaming.drift import DriftEvent

POLICIES = ("none", "boost")
TASK_MOVES, MOVES = ("weight", "tower_lr"), ("row_lr", "frozen")
"""What a decision can be about: of one task, and of all."""
_SETTLED = 0.01  # a multiplier this near 1 is 1
_HEAVIEST = 100.0


@dataclass(frozen=True)
class Adjustment:
    """Multipliers: of task weights [task], of learning rates of towers [task] and of rows."""

    task_weights: NDArray[np.float64]
    tower_lr: NDArray[np.float64]
    row_lr: float


@dataclass(frozen=True)
class Decision:
    """One move: `what` is one of `TASK_MOVES` or `MOVES` ("frozen" is 0 or 1).

    `task` is empty where all tasks share it. `before` and `after` are multipliers.
    """

    example: int
    time_ms: int
    task: str
    what: str
    before: float
    after: float
    reason: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Rebalancer:
    """Policy `boost`: a task that drifted gets more weight and faster rates for a while.

    Its weight is multiplied by `factor`, the learning rates of its tower and of the embedding rows
    by `lr_factor` (Adam and AdaGrad all but cancel a constant weight inside a task's own tower).
    Further events start the boost anew and do not stack, so the factors are also the bounds. The
    boosts decay to 1 with a half-life of `half_life` examples. Policy `none` moves nothing.
    """

    @dataclass(frozen=True)
    class Config:
        policy: str = "boost"
        factor: float = 2.0
        lr_factor: float = 1.5
        half_life: int = 5_000

        def __post_init__(self) -> None:
            if self.policy not in POLICIES:
                raise ValueError(
                    f"Rebalancer.Config.policy is {self.policy!r}: "
                    f"expected one of {', '.join(POLICIES)}"
                )
            for name in ("factor", "lr_factor"):
                if not 1 <= getattr(self, name) <= _HEAVIEST:
                    raise ValueError(
                        f"Rebalancer.Config.{name} is {getattr(self, name)}: "
                        f"expected 1 to {_HEAVIEST:g}"
                    )
            if self.half_life < 1:
                raise ValueError(
                    f"Rebalancer.Config.half_life is {self.half_life}: expected 1 or more"
                )

    def __init__(self, tasks: Sequence[str], config: Config | None = None) -> None:
        self.tasks = tuple(tasks)
        self.config = config or self.Config()
        self._set = np.ones(len(self.tasks))  # by an operator; the boosts multiply it
        self._weight = np.ones(len(self.tasks))
        self._tower = np.ones(len(self.tasks))
        self._row = 1.0
        self._frozen = False
        self._example, self._time_ms = 0, 0

    @property
    def adjustment(self) -> Adjustment:
        return Adjustment(self._set * self._weight, self._tower.copy(), self._row)

    @property
    def frozen(self) -> bool:
        return self._frozen

    def apply(self, event: DriftEvent) -> list[Decision]:
        """Answer a drift event; nothing while frozen. ValueError for a task it does not know."""
        task = self._index(event.task)
        self._example, self._time_ms = event.example, event.time_ms
        if self._frozen or self.config.policy == "none":
            return []
        reason = (
            f"{event.signal} of {event.task} went {event.direction}, "
            f"{event.before:.4g} to {event.after:.4g}, from example {event.began_example} "
            f"(seen at {event.example} by {event.detector})"
        )
        before = (self.adjustment.task_weights[task], self._tower[task], self._row)
        self._weight[task] = max(self._weight[task], self.config.factor)
        self._tower[task] = max(self._tower[task], self.config.lr_factor)
        self._row = max(self._row, self.config.lr_factor)
        after = (self.adjustment.task_weights[task], self._tower[task], self._row)
        named = (("weight", event.task), ("tower_lr", event.task), ("row_lr", ""))
        return [
            self._decision(name, what, b, a, reason)
            for (what, name), b, a in zip(named, before, after, strict=True)
            if a != b
        ]

    def update(self, examples: int, time_ms: int | None = None) -> list[Decision]:
        """Let the boosts decay over so many more examples; a decision for each that is over."""
        self._example += examples
        self._time_ms = self._time_ms if time_ms is None else time_ms
        if self._frozen or examples <= 0:
            return []
        keep = math.pow(0.5, examples / self.config.half_life)
        decisions: list[Decision] = []
        reason = f"the boost is over (half-life {self.config.half_life} examples)"
        for task, name in enumerate(self.tasks):
            for what, boosts in (("weight", self._weight), ("tower_lr", self._tower)):
                before, boosts[task] = float(boosts[task]), _decayed(float(boosts[task]), keep)
                if boosts[task] == 1.0 != before:
                    unit = self._set[task] if what == "weight" else 1.0
                    decisions.append(self._decision(name, what, unit * before, unit, reason))
        row, self._row = self._row, _decayed(self._row, keep)
        if self._row == 1.0 != row:
            decisions.append(self._decision("", "row_lr", row, 1.0, reason))
        return decisions

    def freeze(self) -> list[Decision]:
        """Hold everything as it is: no event moves it and nothing decays, until `release`."""
        return self._switch(True)

    def release(self) -> list[Decision]:
        return self._switch(False)

    def set(self, task: str, weight: float) -> list[Decision]:
        """An operator's multiplier for a task's weight; it stays, and boosts multiply it."""
        if not 0 < weight <= _HEAVIEST:
            raise ValueError(
                f"weight of {task} is {weight}: expected above 0, at most {_HEAVIEST:g}"
            )
        index = self._index(task)
        before = self.adjustment.task_weights[index]
        self._set[index] = weight
        after = self.adjustment.task_weights[index]
        return [self._decision(task, "weight", before, after, "set by an operator")]

    def state(self) -> dict[str, Any]:
        return {
            "tasks": list(self.tasks),
            "set": self._set.copy(),
            "weight": self._weight.copy(),
            "tower": self._tower.copy(),
            "row": self._row,
            "frozen": self._frozen,
            "example": self._example,
            "time_ms": self._time_ms,
        }

    def load(self, tree: Mapping[str, Any]) -> None:
        if list(tree["tasks"]) != list(self.tasks):
            raise ValueError(f"the state is of tasks {tree['tasks']}: expected {list(self.tasks)}")
        self._set = np.array(tree["set"], np.float64)
        self._weight = np.array(tree["weight"], np.float64)
        self._tower = np.array(tree["tower"], np.float64)
        self._row, self._frozen = float(tree["row"]), bool(tree["frozen"])
        self._example, self._time_ms = int(tree["example"]), int(tree["time_ms"])

    def _index(self, task: str) -> int:
        if task not in self.tasks:
            raise ValueError(f"task is {task!r}: expected one of {', '.join(self.tasks)}")
        return self.tasks.index(task)

    def _switch(self, frozen: bool) -> list[Decision]:
        before, self._frozen = self._frozen, frozen
        reason = "frozen by an operator" if frozen else "released by an operator"
        return [self._decision("", "frozen", before, frozen, reason)] if before != frozen else []

    def _decision(self, task: str, what: str, before: float, after: float, reason: str) -> Decision:
        return Decision(
            self._example, self._time_ms, task, what, float(before), float(after), reason
        )


def _decayed(boost: float, keep: float) -> float:
    boost = 1.0 + (boost - 1.0) * keep
    return boost if boost >= 1.0 + _SETTLED else 1.0


def compose(weights: ArrayLike, adjustment: Adjustment) -> NDArray[np.float64]:
    """The weighter's weights times the rebalancer's, scaled to sum to the number of tasks."""
    return normalise(np.asarray(weights, np.float64) * adjustment.task_weights)
