"""One run of the learner over a planted stream, without a log: its batches are made by hand, and
all from the prediction to the rebalancing is `Learner.learn`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from features.events import IMPRESSIONS
from model.batch import Batch
from model.embedding import EmbeddingConfig
from model.metrics import CLIP
from model.optim import DenseOptimiser, RowOptimiser
from model.schema import Schema
from model.structure import NetworkConfig
from model.train import Trainer
from streaming.application import Application
from streaming.bench.drift_streams import DRIFTED, Stream
from streaming.bench.drift_worlds import Floats
from streaming.drift import DriftEvent, DriftMonitor
from streaming.join import Cut
from streaming.learner import Learner
from streaming.rebalance import Decision, Rebalancer

BATCH = 32
EVERY_MS = 100
"""From one example to the next, in event time."""
NETWORK = NetworkConfig(experts=4, width=32, tower=16)
DRIFT = DriftMonitor.Config(block=64, allowance=0.5, threshold=14.0, warm_up=2_000, cool_down=1_000)
"""The shipped detectors with blocks for streams as short as these."""


@dataclass(frozen=True)
class Setting:
    """What is constant in a run: learning rates, in multiples of the trainer's own, and the weight
    of the task that drifts, against 1 of each other."""

    lr: float = 1.0
    weight: float = 1.0


@dataclass(frozen=True)
class Run:
    """`loss` [n, task] is that of each served prediction, NaN without a label: log loss, or a
    regression's squared error over its labels' variance."""

    loss: Floats
    drifts: list[DriftEvent]
    decisions: list[Decision]


NONE = Rebalancer.Config(policy="none")


class _Told(NamedTuple):
    drifts: list[DriftEvent]
    decisions: list[Decision]


class Start(NamedTuple):
    """What was served, and told, up to the change; `state` is the learner's there, None where a
    policy could have acted before."""

    served: Floats
    told: _Told
    state: dict[str, Any] | None


class Runner:
    """Runs of the labels [n, task] of one stream's examples, with one policy or another.

    Until a detector has spoken all policies are one, so only a run of `none` is whole: the others
    begin with its state at the change, or are it. `start` is that of another runner with the same
    labels up to the change, which watched the same: the whole, and each `segment` where so asked.
    """

    def __init__(
        self, stream: Stream, labels: Floats, setting: Setting, seed: int,
        start: Start | None = None, by_segment: bool = False,
    ) -> None:  # fmt: skip
        self.stream, self.labels, self.setting, self.seed = stream, labels, setting, seed
        self._drift = replace(DRIFT, segment=stream.world.segment_field) if by_segment else DRIFT
        self._known = ~np.isnan(labels)
        self._targets = np.where(self._known, labels, 0.0).astype(np.float32)
        self._at = stream.at // BATCH * BATCH
        learner = self._learner(NONE)
        if start is None or start.state is None:
            served = np.empty(labels.shape)
            told = self._learn(learner, served, 0, self._at)
            self.start = Start(served, told, None if told.drifts else learner.state())
        else:
            self.start = start
            learner.load(start.state)
        served = self.start.served.copy()
        after = self._learn(learner, served, self._at, len(labels))
        self.none = self._run(served, self.start.told, after)

    def run(self, rebalance: Rebalancer.Config) -> Run:
        """The run with that policy; of the same events as `none`, until it acts."""
        if not self.none.drifts:
            return self.none
        return self._rest(self._learner(rebalance))

    def told(self, rebalance: Rebalancer.Config, events: Sequence[DriftEvent]) -> Run:
        """The run in which the rebalancer is told these events, whatever the detectors say."""
        learner = self._learner(rebalance)
        waiting = sorted(events, key=lambda event: event.example)
        watch = learner.drift.update

        def instead(signals: Any, example: int, time_ms: int) -> list[DriftEvent]:
            watch(signals, example, time_ms)
            due = [event for event in waiting if event.example <= example]
            del waiting[: len(due)]
            return [replace(event, example=example, time_ms=time_ms) for event in due]

        learner.drift.update = instead  # type: ignore[method-assign]
        return self._rest(learner)

    def _rest(self, learner: Learner) -> Run:
        """What a fresh learner does from the change on, or, if it could do it before, of all."""
        served, first = self.start.served.copy(), 0
        if self.start.state is not None:
            learner.load({**self.start.state, "config_hash": learner.app.config_hash()})
            first = self._at
        return self._run(served, self._learn(learner, served, first, len(served)))

    def _learner(self, rebalance: Rebalancer.Config) -> Learner:
        app = _application(self.stream.world.schema, self.setting, self._drift, rebalance)
        return Learner(app, {IMPRESSIONS: 1}, self.seed)

    def _learn(self, learner: Learner, served: Floats, start: int, stop: int) -> _Told:
        """Learns the examples from start to stop, and fills in what was served for them."""
        told = _Told([], [])
        for first in range(start, stop, BATCH):
            part = slice(first, min(stop, first + BATCH))
            shown = self.stream.world.inputs[part]
            served[part] = predicted = learner.trainer.predict(shown)
            batch = Batch(shown, self._targets[part], self._known[part], EVERY_MS * part.stop)
            step = learner.learn(_cut(batch, np.arange(part.start, part.stop)), predicted)
            told.drifts.extend(step.drifts)
            told.decisions.extend(step.decisions)
        return told

    def _run(self, served: Floats, *parts: _Told) -> Run:
        drifts = [event for part in parts for event in part.drifts]
        decisions = [decision for part in parts for decision in part.decisions]
        schema = self.stream.world.schema
        return Run(_losses(schema, self.labels, served, self.stream.labels), drifts, decisions)


def _application(
    schema: Schema, setting: Setting, drift: DriftMonitor.Config, rebalance: Rebalancer.Config
) -> Application:
    weights = [setting.weight if k == DRIFTED else 1.0 for k in range(len(schema.tasks))]
    tasks = [replace(t, weight=w) for t, w in zip(schema.tasks, weights, strict=True)]
    dense, rows = DenseOptimiser(), RowOptimiser()
    trainer = Trainer.Config(
        network=NETWORK,
        embedding=EmbeddingConfig(dim=8),
        dense=replace(dense, lr=setting.lr * dense.lr),
        rows=replace(rows, lr=setting.lr * rows.lr, wide_lr=setting.lr * rows.wide_lr),
        batch_size=BATCH,
    )
    return Application(
        name="planted", schema=replace(schema, tasks=tuple(tasks)), rows=_no_rows, trainer=trainer,
        drift=drift, rebalance=rebalance,
    )  # fmt: skip


def _no_rows(row: Any, tables: Any) -> None:
    raise AssertionError("a planted stream has no log")


def _cut(batch: Batch, places: np.ndarray) -> Cut:
    none = np.zeros(0, np.int64)
    return Cut(
        shown=batch.inputs, shown_slots=none, batch=batch, closes=np.ones(batch.mask.shape, bool),
        slots=none, ids=places, times=EVERY_MS * places,
        places=np.zeros((len(places), 2), np.int64), closed_ms=batch.time_ms,
    )  # fmt: skip


def _losses(schema: Schema, labels: Floats, served: Floats, usual: Floats) -> Floats:
    losses = np.empty(labels.shape)
    for k, task in enumerate(schema.tasks):
        y, p = labels[:, k], served[:, k]
        if task.kind == "binary":
            of_label = np.where(y > 0.5, p, 1 - p).clip(CLIP)
            losses[:, k] = np.where(np.isnan(y), np.nan, -np.log(of_label))
        else:
            losses[:, k] = (p - y) ** 2 / np.nanvar(usual[:, k])
    return losses
