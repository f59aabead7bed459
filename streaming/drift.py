"""Drift: has a task's loss, calibration or label rate changed, when, and which way?

Each (task, signal) has a River Page-Hinkley detector (Page 1954) of its own, fed with means of
blocks of labels, in units of the spread of such means, clipped. When it alarms, the kept values
are split where their means differ most, which gives the place, size and direction of the change.

False alarms: with allowance 1 and threshold 20 and independent normal values there are none to
speak of. The margin is for bursts and correlation: were the spread twice what was estimated, it
would be a test with 0.5 and 10, of 145,000 blocks between false alarms a side (Siegmund 1985),
so 0.2 in 200,000 examples of 6 tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from river.drift import PageHinkley

SIGNALS = ("loss", "calibration", "label_rate")
_CLIP = 8.0  # spreads; one wild block must not look like a change


@dataclass(frozen=True)
class DriftEvent:
    """One change of one signal of a task.

    `before` and `after` are the signal's means on the two sides of `began_example`, where the
    change seems to lie; it was seen at `example`, `time_ms`. Both count the examples so far.
    """

    task: str
    signal: str
    direction: str
    before: float
    after: float
    began_example: int
    example: int
    time_ms: int
    detector: str = "page_hinkley"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class DriftMonitor:
    """Watches the signals of some tasks. Pure: its state follows from what was fed, bit for bit."""

    @dataclass(frozen=True)
    class Config:
        """Examples are counted over the stream, labels for each signal alone.

        `block`: least labels in one value. `allowance`, `threshold`: Page-Hinkley's delta and
        lambda, in spreads of the values. `warm_up`: examples at the start that are not looked at;
        `cool_down`: the same for a signal after its event. `reference`: values that set centre
        and spread before checks begin. `keep`: of twice as many values, so many stay.
        """

        block: int = 256
        allowance: float = 1.0
        threshold: float = 20.0
        warm_up: int = 4_000
        cool_down: int = 2_000
        reference: int = 12
        keep: int = 64

        def __post_init__(self) -> None:
            for name, least in (("block", 1), ("warm_up", 0), ("cool_down", 0), ("reference", 4)):
                if getattr(self, name) < least:
                    raise ValueError(
                        f"DriftMonitor.Config.{name} is {getattr(self, name)}: "
                        f"expected {least} or more"
                    )
            for name in ("allowance", "threshold"):
                if not 0 < getattr(self, name) < math.inf:
                    raise ValueError(
                        f"DriftMonitor.Config.{name} is {getattr(self, name)}: expected more than 0"
                    )
            if self.keep < self.reference:
                raise ValueError(
                    f"DriftMonitor.Config.keep is {self.keep}: "
                    f"expected at least the reference, {self.reference}"
                )

    def __init__(self, tasks: Sequence[str], config: Config | None = None) -> None:
        self.config = config or self.Config()
        self._watches = {
            (task, signal): _Watch(self.config) for task in tasks for signal in SIGNALS
        }

    def update(
        self, signals: Mapping[tuple[str, str], tuple[float, int]], example: int, time_ms: int
    ) -> list[DriftEvent]:
        """Feed the batch means of one step and get the changes that it brought to light.

        `signals` maps (task, signal) to (mean, number of labels); `calibration` is the mean
        prediction less the mean label. A mean that is not finite is passed over.
        `example` is the number of examples up to this batch's end. Raises ValueError for a task
        or signal that is not watched.
        """
        for task, signal in signals:
            if (task, signal) not in self._watches:
                known = ", ".join("/".join(key) for key in self._watches)
                raise ValueError(f"signals has {task}/{signal}: expected one of {known}")
        events = []
        for (task, signal), watch in self._watches.items():
            if (task, signal) not in signals:
                continue
            change = watch.add(*signals[task, signal], example)
            if change is None or not _worse(signal, change.before, change.after):
                continue
            watch.rest(example)
            direction = "up" if change.after > change.before else "down"
            sides = (change.before, change.after, change.began_example)
            events.append(DriftEvent(task, signal, direction, *sides, example, time_ms))
        return events

    def state(self) -> dict[str, Any]:
        """A tree: task -> signal -> the watch's. No detector is in it: its values make it again."""
        tree: dict[str, Any] = {}
        for (task, signal), watch in self._watches.items():
            tree.setdefault(task, {})[signal] = watch.state()
        return tree

    def load(self, tree: Mapping[str, Any]) -> None:
        """Go on from a `state()` of a monitor of the same tasks; ValueError for other tasks."""
        tasks = list(dict.fromkeys(task for task, _ in self._watches))
        if set(tree) != set(tasks):
            raise ValueError(f"the state is of tasks {sorted(tree)}: expected {sorted(tasks)}")
        for (task, signal), watch in self._watches.items():
            watch.load(tree[task][signal])


def _worse(signal: str, before: float, after: float) -> bool:
    """A loss that falls, or a calibration that nears zero, is the model learning, not drift."""
    if signal == "loss":
        return after > before
    return signal != "calibration" or abs(after) > abs(before)


@dataclass(frozen=True)
class _Change:
    before: float
    after: float
    began_example: int


class _Watch:
    """Blocks, values and detector of one signal of one task.

    The detector is a pure function of `values` (block means since its start) and is made from
    them again after a load, a change, and when there are twice as many as are kept.
    """

    def __init__(self, config: DriftMonitor.Config) -> None:
        self._config = config
        self._values: list[float] = []
        self._begins: list[int] = []  # examples before each value's first batch
        self._total, self._count, self._began = 0.0, 0, 0
        self._last = 0  # example of the last call
        self._resumes = config.warm_up
        self._restart()

    def add(self, mean: float, count: int, example: int) -> _Change | None:
        """Take one batch mean; the change that it brought to light, if large enough."""
        began, self._last = self._last, example
        if example <= self._resumes or not math.isfinite(mean):
            return None
        if self._count == 0:
            self._began = began
        self._total += mean * count
        self._count += count
        if self._count < self._config.block:
            return None
        value, self._total, self._count = self._total / self._count, 0.0, 0
        if not math.isfinite(value):
            return None
        self._values.append(value)
        self._begins.append(self._began)
        if self._detector is None:
            if len(self._values) >= self._config.reference:
                self._restart()
            return None
        self._detector.update(self._scaled(value))
        if self._detector.drift_detected:
            return self._cut()
        if len(self._values) >= 2 * self._config.keep:
            self._forget(len(self._values) - self._config.keep)
        return None

    def rest(self, example: int) -> None:
        """After an event: forget all, and look again when the cool-down is over."""
        self._resumes = example + self._config.cool_down
        self._forget(len(self._values))

    def _cut(self) -> _Change:
        """Split the values where the difference of means is most significant; keep the second."""
        values = np.array(self._values)
        n, k = len(values), np.arange(1, len(values))
        sums = np.cumsum(values)
        before, after = sums[:-1] / k, (sums[-1] - sums[:-1]) / (n - k)
        best = int(np.argmax(np.abs(after - before) * np.sqrt(k * (n - k) / n)))
        change = _Change(float(before[best]), float(after[best]), self._begins[best + 1])
        self._move(best + 1, change.after - change.before)
        return change

    def _move(self, split: int, by: float) -> None:
        """Forget what is before the split, but for what the reference lacks: that is moved along.

        So the spread of before holds about the new level, and the watch goes on at once.
        """
        first = min(split, max(0, len(self._values) - self._config.reference))
        moved = [value + by for value in self._values[first:split]]
        if all(map(math.isfinite, moved)):
            self._values[first:split] = moved
        else:
            first = split
        self._forget(first)

    def _forget(self, first: int) -> None:
        del self._values[:first], self._begins[:first]
        self._restart()

    def _restart(self) -> None:
        """A new detector: scaled by the values there are, if enough, and fed with them."""
        self._fitted = len(self._values) if len(self._values) >= self._config.reference else 0
        self._rebuild()

    def _rebuild(self) -> None:
        self._detector: PageHinkley | None = None
        if not self._fitted:
            return
        reference = np.array(self._values[: self._fitted])
        self._centre = float(np.mean(reference))
        self._scale = float(np.std(reference, ddof=1)) or 1.0 / self._config.block
        self._detector = PageHinkley(
            min_instances=self._config.reference,
            delta=self._config.allowance,
            threshold=self._config.threshold,
            alpha=1.0,
        )
        for value in self._values:
            self._detector.update(self._scaled(value))

    def _scaled(self, value: float) -> float:
        return max(-_CLIP, min(_CLIP, (value - self._centre) / self._scale))

    def state(self) -> dict[str, Any]:
        return {
            "values": np.array(self._values, np.float64),
            "begins": np.array(self._begins, np.int64),
            "total": self._total,
            "count": self._count,
            "began": self._began,
            "last": self._last,
            "resumes": self._resumes,
            "fitted": self._fitted,
        }

    def load(self, tree: Mapping[str, Any]) -> None:
        self._values = [float(value) for value in tree["values"]]
        self._begins = [int(begin) for begin in tree["begins"]]
        self._total, self._count = float(tree["total"]), int(tree["count"])
        self._began, self._last = int(tree["began"]), int(tree["last"])
        self._resumes, self._fitted = int(tree["resumes"]), int(tree["fitted"])
        self._rebuild()
