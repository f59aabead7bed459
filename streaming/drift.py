"""Drift: has a signal changed, when, by how much, and which way?

Each (task, signal, segment) has a River detector of its own, Page-Hinkley (Page 1954) by default,
fed with means of blocks of labels, in units of the spread of such means, clipped. When it alarms,
the kept values are split where their means differ most. That gives the place, size and direction of
the change, and its score, which must be one that chance reaches in less than one of all the looks
that are taken within the budget, by all detectors together. Where neighbouring values are alike,
blocks are made longer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.schema import nearest
from streaming.blocks import Blocks
from streaming.detectors import DETECTORS, detectors
from streaming.drift_kernels import fitted
from streaming.evidence import (
    AFTER,
    STILL,
    Change,
    asked,
    corrected,
    dependent,
    inflation_of,
    strongest,
)

SIGNALS = ("loss", "calibration", "label_rate")
KINDS = (*SIGNALS, "auc", "mean", "missing", "unseen", "mix")
"""What can be watched: see `streaming/signals.py`."""
_CLIP = 8.0  # spreads; one wild block must not look like a change
_SPLITS = 10  # a look is at so many splits that differ


class Key(NamedTuple):
    """What is watched: of a task, or of the inputs where `task` is empty; of all examples, or of
    those of one `segment`."""

    task: str
    signal: str
    segment: str = ""


@dataclass(frozen=True)
class DriftEvent:
    """One change of one signal of a task, or of the inputs where `task` is empty.

    `before` and `after` are the signal's means on the two sides of `began_example`, where the
    change seems to lie; `low` and `high` bound their difference with 95 %. It was seen at
    `example`, `time_ms`. Both count the examples so far.
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
    segment: str = ""
    low: float | None = None
    high: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def of_segment(self, segment: str) -> DriftEvent:
        return replace(self, segment=segment)


class Sums(NamedTuple):
    """Of one batch, float64 and int64 [key]: sums of signals, and over how many labels."""

    sums: NDArray[np.float64]
    counts: NDArray[np.int64]


class Blind(NamedTuple):
    """A signal that says nothing now: `why` is "never came", "not finite", "silent", "constant", or
    "one-sided" where all labels are alike."""

    task: str
    signal: str
    segment: str
    why: str

    def of_segment(self, segment: str) -> Blind:
        return self._replace(segment=segment)


class DriftMonitor:
    """Watches signals. Pure: its state follows from what was fed, bit for bit."""

    @dataclass(frozen=True)
    class Config:
        """Examples are counted over the stream, labels for each signal alone.

        `signals`: of `KINDS`, those that are watched, "loss" always; also in each of the
        `segments` commonest values of the id field `segment`, where one is named. A signal is blind
        that was silent for `silent_ms`.
        `budget`: at most one false event in so many examples, of all signals together.
        `evidence`: of the score that this asks of independent normal values, so many times as much
        is asked (`freshet drift calibrate` finds it for a log).
        `detector` is one of `DETECTORS`. `allowance`, `threshold`: Page-Hinkley's delta and
        lambda, in spreads of the values; `confidence`: of the others.
        `block`: least labels in one value; where values depend on each other it doubles, up to
        `longest_block`, beyond which a change has to be the larger. `warm_up`: examples at the
        start that are not looked at; `cool_down`: the same for a signal after its event.
        `reference`: values that set centre and spread before checks begin. `keep`: of twice as
        many values, so many stay.
        """

        block: int = 256
        longest_block: int = 2**40
        allowance: float = 1.0
        threshold: float = 20.0
        warm_up: int = 4_000
        cool_down: int = 2_000
        reference: int = 12
        keep: int = 64
        detector: str = "page_hinkley"
        confidence: float = 0.002
        budget: int = 1_000_000
        evidence: float = 1.0
        signals: tuple[str, ...] = SIGNALS
        segment: str = ""
        segments: int = 20
        silent_ms: int = 3_600_000

        def __post_init__(self) -> None:
            for name, least in (
                ("block", 1), ("warm_up", 0), ("cool_down", 0), ("reference", 4), ("budget", 1),
                ("segments", 1), ("silent_ms", 1),
            ):  # fmt: skip
                if getattr(self, name) < least:
                    raise ValueError(
                        f"DriftMonitor.Config.{name} is {getattr(self, name)}: "
                        f"expected {least} or more"
                    )
            for name in ("allowance", "threshold", "evidence"):
                if not 0 < getattr(self, name) < math.inf:
                    raise ValueError(
                        f"DriftMonitor.Config.{name} is {getattr(self, name)}: expected more than 0"
                    )
            if self.keep < self.reference:
                raise ValueError(
                    f"DriftMonitor.Config.keep is {self.keep}: "
                    f"expected at least the reference, {self.reference}"
                )
            if self.detector not in DETECTORS:
                raise ValueError(
                    f"DriftMonitor.Config.detector is {self.detector!r}: "
                    f"{nearest(self.detector, DETECTORS)}"
                )
            if "loss" not in self.signals:
                raise ValueError(
                    f"DriftMonitor.Config.signals is {self.signals}: expected 'loss' among them, "
                    "which the rebalancer reads"
                )
            for kind in self.signals:
                if kind not in KINDS:
                    raise ValueError(
                        f"DriftMonitor.Config.signals has {kind!r}: {nearest(kind, KINDS)}"
                    )
            if not 0 < self.confidence < 1:
                raise ValueError(
                    f"DriftMonitor.Config.confidence is {self.confidence}: expected 0 to 1"
                )

    def __init__(
        self,
        tasks: Sequence[str],
        config: Config | None = None,
        keys: Sequence[Key] | None = None,
    ) -> None:
        """Watches `keys`: by default the `SIGNALS` of the tasks."""
        self.config = config = config or self.Config()
        made = [Key(task, signal) for task in tasks for signal in SIGNALS]
        self.keys = tuple(made if keys is None else keys)
        self._place = {key: place for place, key in enumerate(self.keys)}
        n = len(self.keys)
        self.blocks = Blocks(n, config.block, 2 * config.keep, config.warm_up)
        self._detectors = detectors(n, config)
        self._centre, self._scale = np.zeros(n), np.ones(n)

    def update(
        self, signals: Sums | Mapping[Any, tuple[float, int]], example: int, time_ms: int
    ) -> list[DriftEvent]:
        """Takes the signals of one batch; the changes that it brought to light.

        They are sums and counts by key, or map (task, signal), or a `Key`, to (mean, number of
        labels). `calibration` is the prediction less the label. What is not finite is passed over.
        `example` is the number of examples up to this batch's end. Raises ValueError for a signal
        that is not watched.
        """
        sums, counts = signals if isinstance(signals, Sums) else self._sums(signals)
        blocks, config = self.blocks, self.config
        ready = blocks.add(sums, counts, example, time_ms)
        if not len(ready):
            return []
        value = blocks.values[ready, blocks.held[ready] - 1]
        z = np.clip((value - self._centre[ready]) / self._scale[ready], -_CLIP, _CLIP)
        fitted, waits = blocks.fitted[ready] > 0, blocks.pending[ready] > 0
        asked = np.where(fitted, waits, blocks.held[ready] >= config.reference)
        looks = fitted & ~waits
        asked[looks] = self._detectors.update(ready[looks], z[looks])
        blocks.pending[ready[looks & asked]] = config.reference
        asked |= blocks.held[ready] >= 2 * config.keep
        events = []
        for place in ready[asked].tolist():
            change = self._see(place)
            if change is not None:
                events.append(self._event(place, change, example, time_ms))
        return events

    def _sums(self, signals: Mapping[Any, tuple[float, int]]) -> Sums:
        sums, counts = np.zeros(len(self.keys)), np.zeros(len(self.keys), np.int64)
        for key, (mean, count) in signals.items():
            place = self._place.get(Key(*key))
            if place is None:
                known = ", ".join("/".join(filter(None, key)) for key in self.keys)
                raise ValueError(f"signals has {'/'.join(key)}: expected one of {known}")
            sums[place], counts[place] = mean * count, count
        return Sums(sums, counts)

    def blind(self) -> list[Blind]:
        """The signals that nothing could be seen in, and why."""
        found = []
        for place, key in enumerate(self.keys):
            why = self.blocks.blind(place, self.config.reference, self.config.silent_ms)
            if why == "constant" and key.signal == "label_rate":
                why = "one-sided" if self.blocks.of(place)[0] in (0.0, 1.0) else why
            if why:
                found.append(Blind(*key, why))
        return found

    def _see(self, place: int) -> Change | None:
        """Looks at a signal that has a reference at last, was alarmed about, or is full."""
        blocks = self.blocks
        if blocks.pending[place]:
            blocks.pending[place] -= 1
            return self._judge(place)
        if blocks.fitted[place]:
            blocks.forget(place, self.config.keep)
        self._begin(place)
        return None

    def _judge(self, place: int) -> Change | None:
        """Whether what was alarmed about is a change for the worse, and sure enough to be told.

        One for the better, as of a model that learns, is the new measure. One that is not sure
        yet is looked at again at the next values, and then taken for what is usual.
        """
        blocks = self.blocks
        values, signal = blocks.of(place), self.keys[place].signal
        unit = self._scale[place] if blocks.fitted[place] else fitted(values)[1]
        change = strongest(values, float(unit) or 1.0 / self.config.block, _CLIP)
        if not _worse(signal, change.before, change.after):
            self._move(place, change.split, change.after - change.before)
            return None
        if self._too_short(place, change.correlation, len(values)):
            self._lengthen(place)  # and it is looked at again when there are as many longer ones
            blocks.pending[place] = self.config.reference
            return None
        if len(values) - change.split >= AFTER and abs(change.score) >= self._least(place, change):
            return change
        full = len(values) >= 2 * self.config.keep
        if full:
            blocks.forget(place, self.config.keep)
        if full or not blocks.pending[place]:
            self._begin(place)
        return None

    def _least(self, place: int, change: Change) -> float:
        """The score to ask of a change."""
        labels = self.config.block * int(self.blocks.span[place])
        looks = _SPLITS * len(self.keys) * max(1.0, self.config.budget / labels)
        return self.config.evidence * asked(change.freedom, looks)

    def _event(self, place: int, change: Change, example: int, time_ms: int) -> DriftEvent:
        """The event, after which the signal rests: all is forgotten, and the cool-down begins."""
        blocks = self.blocks
        key, began = self.keys[place], int(blocks.begins[place, change.split])
        blocks.resumes[place] = example + self.config.cool_down
        blocks.forget(place, int(blocks.held[place]))
        self._begin(place)
        return DriftEvent(
            key.task, key.signal, "up" if change.after > change.before else "down",
            change.before, change.after, began, example, time_ms,
            self.config.detector, key.segment, change.low, change.high,
        )  # fmt: skip

    def _move(self, place: int, split: int, by: float) -> None:
        """Forget what is before the split, but for what the reference lacks: that is moved along.

        So the spread of before holds about the new level, and the watch goes on at once.
        """
        blocks = self.blocks
        first = min(split, max(0, int(blocks.held[place]) - self.config.reference))
        moved = blocks.values[place, first:split] + by
        if np.isfinite(moved).all():
            blocks.values[place, first:split] = moved
        else:
            first = split
        blocks.forget(place, first)
        self._begin(place)

    def _lengthen(self, place: int) -> None:
        self.blocks.lengthen(place)
        self._begin(place)

    def _begin(self, place: int) -> None:
        """A new detector: scaled by the values there are, if enough, and fed with them."""
        blocks = self.blocks
        blocks.pending[place] = 0
        held = int(blocks.held[place])
        blocks.fitted[place] = held if held >= self.config.reference else 0
        if self._rebuild(place):
            self._lengthen(place)

    def _rebuild(self, place: int) -> bool:
        """The detector again: it is a function of the kept values and of how many of them are the
        reference. Whether those depend on each other too much."""
        n, values = int(self.blocks.fitted[place]), self.blocks.of(place)
        if not n:
            return False
        centre, spread, _, found = fitted(values[:n])
        correlation = corrected(found, n)
        if spread <= STILL * abs(centre):
            spread = 1.0 / self.config.block
        scale = spread * math.sqrt(inflation_of(correlation, n))
        self._centre[place], self._scale[place] = centre, scale
        z = np.clip((values - centre) / scale, -_CLIP, _CLIP)
        self._detectors.begin(place, z)
        return self._too_short(place, correlation, n)

    def _too_short(self, place: int, correlation: float, n: int) -> bool:
        """Whether blocks should be longer, and may be."""
        twice = 2 * self.config.block * int(self.blocks.span[place])
        return twice <= self.config.longest_block and dependent(correlation, n)

    def state(self) -> dict[str, Any]:
        """Plain values: no detector is in it, the kept values make it again."""
        return {"keys": [list(key) for key in self.keys], "blocks": self.blocks.state()}

    def load(self, tree: Mapping[str, Any]) -> None:
        """Go on from a `state()` of a monitor of the same keys; ValueError for other ones."""
        theirs = tuple(Key(*key) for key in tree["keys"])
        if theirs != self.keys:
            mine = {key.task for key in self.keys}
            what = ("tasks", {key.task for key in theirs}, mine)
            if what[1] == mine:
                what = ("signals", {"/".join(k) for k in theirs}, {"/".join(k) for k in self.keys})
            raise ValueError(
                f"the state is of {what[0]} {sorted(what[1])}: expected {sorted(what[2])}"
            )
        self.blocks.load(tree["blocks"])
        for place in range(len(self.keys)):
            self._rebuild(place)


def _worse(signal: str, before: float, after: float) -> bool:
    """A loss that falls, or a calibration that nears zero, is the model learning, not drift."""
    if signal == "loss":
        return after > before
    if signal == "auc":
        return after < before
    return signal != "calibration" or abs(after) > abs(before)
