"""Early stopping, on a stream: while a task's loss is worse than it was, nothing is learnt.

Off by default. A stream has no validation set but the batch that comes next, which is predicted
before it is learnt; and it has no end, so that updates are held back, and not for ever. All of
them: were the other tasks to go on, what they share would move away from the one that stands still.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streaming.rebalance import Decision

SETTLED = 5
"""Windows that make a reference."""


class EarlyStopping:
    """Compares each task's progressive loss with what it used to be itself; a function of the log.

    A window of a task is `labels` labels or a few more. One whose mean loss lies more than
    `threshold` standard deviations above the mean of the last `memory` good ones holds updates
    back, until a good one. (The deviation is by differences of neighbours, which a trend does not
    widen: von Neumann 1941.) After `most` bad ones in a row the world has changed, not the labels:
    learning goes on, and the task's loss is compared with what it is from there. What was learnt
    before the first bad window closed stays learnt: a window should be short against what may go
    wrong.
    """

    @dataclass(frozen=True)
    class Config:
        """A `threshold` of 0 holds nothing back; 4 is one to begin with."""

        threshold: float = 0.0
        labels: int = 500
        memory: int = 20
        most: int = 20

        def __post_init__(self) -> None:
            if not 0 <= self.threshold < np.inf:
                raise ValueError(
                    f"EarlyStopping.Config.threshold is {self.threshold}: expected 0 or more"
                )
            for name, least in (("labels", 1), ("memory", SETTLED), ("most", 1)):
                if getattr(self, name) < least:
                    raise ValueError(
                        f"EarlyStopping.Config.{name} is {getattr(self, name)}: "
                        f"expected {least} or more"
                    )

    def __init__(self, tasks: Sequence[str], config: Config | None = None) -> None:
        self.tasks, self.config = tuple(tasks), config or self.Config()
        self._sums, self._mean, self._last, self._variance = np.zeros((4, len(self.tasks)))
        self._counts, self._good, self._bad = np.zeros((3, len(self.tasks)), np.int64)

    def __bool__(self) -> bool:
        return self.config.threshold > 0

    @property
    def holds(self) -> bool:
        """Whether updates are to be held back now."""
        return bool((self._bad > 0).any())

    def update(
        self, signals: Mapping[tuple[str, str], tuple[float, int]], example: int, time_ms: int
    ) -> list[Decision]:
        """Takes in one batch's mean losses, (task, "loss") of `signals`, each with its number of
        labels, as predicted before learning. One that is not finite is passed over."""
        decisions: list[Decision] = []
        for k, task in enumerate(self.tasks):
            loss, n = signals.get((task, "loss"), (0.0, 0))
            if n == 0 or not np.isfinite(loss * n):
                continue
            self._sums[k] += loss * n
            self._counts[k] += n
            if self._counts[k] >= self.config.labels:
                before, reason = self._bad[k] > 0, self._close(k)
                if (self._bad[k] > 0) != before:
                    moved = (float(before), float(self._bad[k] > 0))
                    decisions.append(Decision(example, time_ms, task, "held", *moved, reason))
        return decisions

    def _close(self, k: int) -> str:
        """Judges a task's window, and begins the next; why it did so."""
        loss, mean = self._sums[k] / self._counts[k], self._mean[k]
        spread = np.sqrt(self._variance[k])
        self._sums[k], self._counts[k] = 0.0, 0
        reason = f"loss is {loss:.4g}, of late it was {mean:.4g} (give or take {spread:.2g})"
        if self._good[k] >= SETTLED and loss > mean + self.config.threshold * spread:
            self._bad[k] += 1
            if self._bad[k] <= self.config.most:
                return reason
            self._good[k], self._mean[k], self._variance[k] = 0, 0.0, 0.0
            reason = f"{reason}, and has been for {self.config.most} windows"
        self._bad[k] = 0
        self._good[k] += 1
        share = 1 / min(self._good[k], self.config.memory)
        self._mean[k] += share * (loss - self._mean[k])
        if self._good[k] > 1:
            share = 1 / min(self._good[k] - 1, self.config.memory)
            square = (loss - self._last[k]) ** 2 / 2
            self._variance[k] += share * (square - self._variance[k])
        self._last[k] = loss
        return reason

    def state(self) -> dict[str, Any]:
        return {
            name: getattr(self, f"_{name}").copy()
            for name in ("sums", "counts", "mean", "last", "variance", "good", "bad")
        }

    def load(self, tree: Mapping[str, Any]) -> None:
        for name, value in tree.items():
            setattr(self, f"_{name}", value.copy())
