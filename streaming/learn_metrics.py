"""What the learner shows, for Prometheus: read from its state when scraped, so that learning pays
next to nothing for it and no clock gets into the state."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from streaming.eventlog import Position
from streaming.learn import Loop
from streaming.learner import Learner
from streaming.merge import NEVER
from streaming.rebalance import MOVES, TASK_MOVES

PARTS = (
    "wait", "read", "merge", "join", "predict", "train", "watch", "publish", "checkpoint",
)  # fmt: skip
_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
_DROPPED = ("duplicate", "late", "orphan", "expired")
_FIGURES_LEFT_OUT = ("kind", "count")
Values = list[tuple[tuple[str, ...], float]]
"""Each a sample: its labels' values, and its own."""


class Laps:
    """Seconds by part of the loop: what `lap` names took the time since the last call."""

    def __init__(self) -> None:
        self._counts = {part: [0] * (len(_S) + 1) for part in PARTS}
        self._sums = dict.fromkeys(PARTS, 0.0)
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        self._counts[part][bisect_left(_S, seconds)] += 1
        self._sums[part] += seconds

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(
            "freshet_batch_seconds", "Time of a part of the loop.", labels=["part"]
        )
        for part, counts in self._counts.items():
            buckets, total = [], 0
            for bound, n in zip([*map(str, _S), "+Inf"], list(counts), strict=True):
                total += n
                buckets.append((bound, total))
            family.add_metric([part], buckets, self._sums[part])
        yield family


class Metrics:
    """A collector of one learner's metrics. Counters begin at 0 here, wherever the learner goes on
    from. `ends` gives where its partitions end, as far as known."""

    def __init__(self, learner: Learner, loop: Loop, ends: Callable[[], Position]) -> None:
        self._learner, self._loop, self._ends = learner, loop, ends
        self._laps = Laps()
        self._before = self._totals()
        learner.lap = self._laps.lap

    def collect(self) -> Iterator[Metric]:
        yield from self._laps.collect()
        for (name, said, labels), samples in self._totals().items():
            before = dict(self._before[name, said, labels])
            counter = CounterMetricFamily(name, said, labels=labels)
            for values, total in samples:
                counter.add_metric(values, total - before.get(values, 0))
            yield counter
        for name, said, labels, samples in self._gauges():
            gauge = GaugeMetricFamily(name, said, labels=labels)
            for values, value in samples:
                gauge.add_metric(values, value)
            yield gauge

    def _totals(self) -> dict[tuple[str, str, tuple[str, ...]], Values]:
        """All that only grows, by name, meaning and labels."""
        learner, journal, gate = self._learner, self._learner.journal, self._loop.gate
        read: dict[tuple[str, ...], float] = {}
        for (topic, _), offset in learner.position.items():
            read[topic,] = read.get((topic,), 0) + offset
        dropped = {**learner.merge.released, **learner.join.counts}
        return {
            ("freshet_events_read", "Records read.", ("topic",)): list(read.items()),
            ("freshet_events_bad", "Records that can't be read.", ()): [((), learner.bad)],
            ("freshet_events_dropped", "Events that count for nothing.", ("reason",)): [
                ((reason,), dropped[reason]) for reason in _DROPPED
            ],
            ("freshet_examples", "Examples whose labels closed.", ()): [((), learner.examples)],
            ("freshet_batches", "Batches learned from.", ()): [((), learner.trainer.steps)],
            ("freshet_batches_quarantined", "Batches that were not finite.", ()): [
                ((), learner.quarantined)
            ],
            ("freshet_drift_events", "Changes that were seen.", ("task", "signal")): [
                (key, journal.drifted[key])
                for key in dict.fromkeys((k.task, k.signal) for k in learner.drift.keys)
            ],
            ("freshet_rebalances", "Moves of weights and rates.", ("task", "what")): [
                (key, journal.decided[key])
                for key in (*product(learner.tasks, TASK_MOVES), *product([""], MOVES))
            ],
            ("freshet_publish_failures", "Versions that the registry did not take.", ()): [
                ((), self._loop.unpublished)
            ],
            ("freshet_versions_held", "Versions that the gate did not let go live.", ()): [
                ((), gate.holds if gate is not None else 0)
            ],
            ("freshet_gate_rollbacks", "Roll-backs by the gate.", ()): [
                ((), gate.rollbacks if gate is not None else 0)
            ],
        }

    def _gauges(self) -> Iterator[tuple[str, str, tuple[str, ...], Values]]:
        learner, loop = self._learner, self._loop
        watermark, now_s = learner.merge.watermark, time.time()
        last: dict[str, Any] = (learner.journal.snapshots or [{}])[-1]
        at = learner.position
        yield (
            "freshet_lag_events", "Records not learned from yet.", ("topic", "partition"),
            [((tp[0], str(tp[1])), max(0, end - at[tp])) for tp, end in self._ends().items()],
        )  # fmt: skip
        yield (
            "freshet_watermark_delay_seconds", "Since the watermark, in event time.", (),
            [((), now_s - watermark / 1000)] if 0 < watermark < -NEVER else [],
        )  # fmt: skip
        yield (
            "freshet_pending_impressions", "Impressions that wait for labels.", (),
            [((), learner.join.pending)],
        )  # fmt: skip
        yield (
            "freshet_held_events", "Events that the merge holds back.", (),
            [((), sum(map(len, list(learner.merge.held))))],
        )  # fmt: skip
        yield (
            "freshet_published_version", "The last version published.", (),
            [((), last["version"])] if last else [],
        )  # fmt: skip
        yield (
            "freshet_publish_bytes", "Size of the last version.", (),
            [((), last["bytes"])] if last else [],
        )  # fmt: skip
        yield (
            "freshet_checkpoint_step", "Steps in the last checkpoint.", (),
            [((), loop.checkpointed)],
        )  # fmt: skip
        yield "freshet_lease_epoch", "The epoch of its lease.", (), [((), loop.epoch)]
        gate = loop.gate
        held, evidence = ("", {}) if gate is None else (gate.held, gate.evidence())
        yield "freshet_gate_holds_back", "Whether it does.", (), [((), float(bool(held)))]
        yield (
            "freshet_gate_evidence", "Logarithm of the evidence that a task is worse.", ("task",),
            [((task,), value) for task, value in evidence.items()],
        )  # fmt: skip
        yield (
            "freshet_drift_incidents_open", "Drift that the model is not over yet.", (),
            [((), learner.incidents.open())],
        )  # fmt: skip
        weights = learner.trainer.task_weights.tolist()
        yield (
            "freshet_task_weight", "Weight of a task's loss.", ("task",),
            [((task,), weight) for task, weight in zip(learner.tasks, weights, strict=True)],
        )  # fmt: skip
        yield (
            "freshet_task_served", "Served figures, of the last 2,000 examples.",
            ("task", "figure"),
            [
                ((task, name), float(value))
                for task, figures in learner.scores.lately().items()
                for name, value in figures.items()
                if name not in _FIGURES_LEFT_OUT and value is not None
            ],
        )  # fmt: skip
