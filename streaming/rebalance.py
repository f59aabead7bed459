"""The rebalancer: drift events in, task weights and learning rates out, each with its reason.

Pure, and never read back: a replay of the log makes every decision again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.gradient_weighting import Combining
from model.task_weights import Weighter, normalise
from streaming.drift import DriftEvent
from streaming.policies import Levels, faded, followed, lowered, parts, raised

TASK_MOVES = ("weight", "tower_lr", "tower_keep", "held")
MOVES = ("row_lr", "gradient", "frozen")
"""What a decision can be about: of one task, and of all ("held": streaming/early_stopping.py)."""
ANSWERED = ("loss", "auc", "calibration")
"""The signals whose drift is answered: those of the model's error, of a task each."""
_HEAVIEST = 100.0
_FRESH = 0.25
"""Gradients are combined for two half-lives."""


@dataclass(frozen=True)
class Adjustment:
    """Multipliers: of task weights, an operator's and the policy's [task], of learning rates of
    towers [task] and of rows, and of what a tower's optimiser remembers, at each step [task].
    `gradient`: whether the tasks' gradients are combined."""

    given: NDArray[np.float64]
    boosts: NDArray[np.float64]
    tower_lr: NDArray[np.float64]
    row_lr: float
    tower_keep: NDArray[np.float64]
    gradient: bool = False

    @property
    def task_weights(self) -> NDArray[np.float64]:
        return self.given * self.boosts


@dataclass(frozen=True)
class Decision:
    """One move: `what` is one of `TASK_MOVES` or `MOVES` ("held", "gradient" and "frozen" are 0 or
    1).

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
    """What a policy (streaming/policies.py) makes of drift, an operator's weights, and the freeze.

    A drift makes its task's answer whole; it fades with a half-life of `half_life` examples.
    Further events begin it anew and do not stack, so the factors are also the bounds.
    """

    @dataclass(frozen=True)
    class Config:
        """`factor` bounds a task's weight, `lr_factor` the learning rate of its tower, `row_factor`
        that of the embedding rows. At each step of a fresh drift the tower's optimiser keeps
        `keep` of what it remembers. (Adam and AdaGrad all but cancel a constant weight inside a
        task's own tower: hence the rates.) `memory`: labels of the losses that `follow` compares.
        """

        policy: str = "boost+focus"
        factor: float = 6.0
        lr_factor: float = 1.5
        row_factor: float = 1.0
        keep: float = 1.0
        half_life: int = 1_000
        memory: int = 500

        def __post_init__(self) -> None:
            try:
                parts(self.policy)
            except ValueError as error:
                raise ValueError(f"Rebalancer.Config.{error}") from None
            for name in ("factor", "lr_factor", "row_factor"):
                if not 1 <= getattr(self, name) <= _HEAVIEST:
                    raise ValueError(
                        f"Rebalancer.Config.{name} is {getattr(self, name)}: "
                        f"expected 1 to {_HEAVIEST:g}"
                    )
            if not 0.5 <= self.keep <= 1:
                raise ValueError(f"Rebalancer.Config.keep is {self.keep}: expected 0.5 to 1")
            for name in ("half_life", "memory"):
                if getattr(self, name) < 1:
                    raise ValueError(
                        f"Rebalancer.Config.{name} is {getattr(self, name)}: expected 1 or more"
                    )

    def __init__(self, tasks: Sequence[str], config: Config | None = None) -> None:
        self.tasks = tuple(tasks)
        self.config = config or self.Config()
        self._parts = parts(self.config.policy)
        self._set = np.ones(len(self.tasks))  # by an operator; the policy's weights multiply it
        self._alive = np.zeros(len(self.tasks))
        self._levels = Levels(len(self.tasks), self.config.memory)
        self._combining = Combining([1.0] * len(self.tasks), "upgrad")
        self._frozen = False
        self._example, self._time_ms = 0, 0

    @property
    def adjustment(self) -> Adjustment:
        config, alive, levels = self.config, self._alive, self._levels
        ones = np.ones(len(self.tasks))
        if not alive.any():
            return Adjustment(self._set.copy(), ones, ones, 1.0, ones)
        weights, focused = ones, "focus" in self._parts
        if "boost" in self._parts:
            weights = raised(alive, config.factor)
        if "follow" in self._parts:
            ratio = followed(alive, levels.recent, levels.reference, config.factor)
            weights = np.maximum(weights, ratio)
        return Adjustment(
            self._set.copy(),
            weights,
            raised(alive, config.lr_factor) if focused else ones,
            float(raised(alive.max(), config.row_factor)) if focused else 1.0,
            lowered(alive, config.keep) if focused else ones,
            self.weighter is not None,
        )

    @property
    def frozen(self) -> bool:
        return self._frozen

    @property
    def weighter(self) -> Weighter | None:
        """What combines the tasks' gradients for now; it has no state."""
        combines = "gradient" in self._parts and bool((self._alive >= _FRESH).any())
        return self._combining if combines else None

    def apply(self, event: DriftEvent) -> list[Decision]:
        """Answer a drift event; nothing while frozen. ValueError for a task it does not know.

        Only one of what the model gets wrong moves anything: where the inputs or a label rate alone
        have moved, more weight does harm (infra/decisions/0017).
        """
        if event.signal not in ANSWERED:
            return []
        task = self._index(event.task)
        self._example, self._time_ms = event.example, event.time_ms
        if self._frozen or self._parts == ("none",):
            return []
        reason = (
            f"{event.signal} of {event.task} went {event.direction}, "
            f"{event.before:.4g} to {event.after:.4g}, from example {event.began_example} "
            f"(seen at {event.example} by {event.detector})"
        )
        before = self.adjustment
        if self._alive[task] == 0:
            self._levels.drifted(task)
        self._alive[task] = 1.0
        return self._moved(before, reason)

    def update(
        self,
        examples: int,
        time_ms: int | None = None,
        signals: Mapping[tuple[str, str], tuple[float, int]] | None = None,
    ) -> list[Decision]:
        """Let the answers fade over so many more examples, whose signals (as the monitor's) say how
        the tasks do; a decision for each move that began or is over."""
        self._example += examples
        self._time_ms = self._time_ms if time_ms is None else time_ms
        if self._frozen or examples <= 0:
            return []
        before = self.adjustment if self._alive.any() else None
        for task, name in enumerate(self.tasks):
            if (name, "loss") in (signals or {}):
                self._levels.update(task, *signals[name, "loss"])  # type: ignore[index]
        if before is None:
            return []
        self._alive = faded(self._alive, examples, self.config.half_life)
        after = f"the answer to its drift is over (half-life {self.config.half_life} examples)"
        return [d for d in self._moved(before, after) if d.after == self._unit(d)]

    def freeze(self) -> list[Decision]:
        """Hold everything as it is: no event moves it and nothing decays, until `release`."""
        return self._switch(True)

    def release(self) -> list[Decision]:
        return self._switch(False)

    def set(self, task: str, weight: float) -> list[Decision]:
        """An operator's multiplier for a task's weight; it stays, and the policy multiplies it."""
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
            "alive": self._alive.copy(),
            "levels": self._levels.state(),
            "frozen": self._frozen,
            "example": self._example,
            "time_ms": self._time_ms,
        }

    def load(self, tree: Mapping[str, Any]) -> None:
        if list(tree["tasks"]) != list(self.tasks):
            raise ValueError(f"the state is of tasks {tree['tasks']}: expected {list(self.tasks)}")
        self._set = np.array(tree["set"], np.float64)
        self._alive = np.array(tree["alive"], np.float64)
        self._levels.load(tree["levels"])
        self._frozen = bool(tree["frozen"])
        self._example, self._time_ms = int(tree["example"]), int(tree["time_ms"])

    def _index(self, task: str) -> int:
        if task not in self.tasks:
            raise ValueError(f"task is {task!r}: expected one of {', '.join(self.tasks)}")
        return self.tasks.index(task)

    def _switch(self, frozen: bool) -> list[Decision]:
        before, self._frozen = self._frozen, frozen
        reason = "frozen by an operator" if frozen else "released by an operator"
        return [self._decision("", "frozen", before, frozen, reason)] if before != frozen else []

    def _moved(self, before: Adjustment, reason: str) -> list[Decision]:
        """A decision for each multiplier that is another than before."""
        after = self.adjustment
        by_task = {
            "weight": (before.task_weights, after.task_weights),
            "tower_lr": (before.tower_lr, after.tower_lr),
            "tower_keep": (before.tower_keep, after.tower_keep),
        }
        found = [
            (name, what, float(b[task]), float(a[task]))
            for task, name in enumerate(self.tasks)
            for what, (b, a) in by_task.items()
        ]
        found += [("", "row_lr", before.row_lr, after.row_lr)]
        found += [("", "gradient", before.gradient, after.gradient)]
        return [self._decision(name, what, b, a, reason) for name, what, b, a in found if b != a]

    def _unit(self, decision: Decision) -> float:
        """What its multiplier is where no drift moves it."""
        if decision.what == "weight":
            return float(self._set[self._index(decision.task)])
        return 0.0 if decision.what == "gradient" else 1.0

    def _decision(self, task: str, what: str, before: float, after: float, reason: str) -> Decision:
        return Decision(
            self._example, self._time_ms, task, what, float(before), float(after), reason
        )


def compose(weights: ArrayLike, adjustment: Adjustment) -> NDArray[np.float64]:
    """The weighter's weights times the operator's, scaled to sum to the number of tasks, and the
    policy's on top: what a task gains by its drift no other one loses."""
    return normalise(np.asarray(weights, np.float64) * adjustment.given) * adjustment.boosts
