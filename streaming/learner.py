"""All that a learner knows: the merge, the windows, the join, the model, and what watches it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from features.codec import Bad
from features.events import Control
from features.windows import Windows
from model.digest import tree_hash
from model.train import StepReport, Trainer
from streaming.application import Application
from streaming.drift import DriftEvent, DriftMonitor
from streaming.eventlog import Chunk, Position
from streaming.join import Cut, Join
from streaming.journal import Journal
from streaming.merge import Merge
from streaming.rebalance import Decision, Rebalancer, compose
from streaming.scores import Scores, signals_of

log = logging.getLogger("freshet.learner")
LABELS_ONLY = ("example", "time_ms")
"""Of a rebalancer's state: what its decisions say of when, and nothing depends on."""


class Step:
    """What one cut did: the cut, the served predictions of its examples, and the step's report."""

    __slots__ = ("cut", "decisions", "drifts", "report", "served")

    def __init__(
        self,
        cut: Cut,
        served: np.ndarray,
        report: StepReport | None,
        drifts: list[DriftEvent],
        decisions: list[Decision],
    ) -> None:
        self.cut, self.served, self.report = cut, served, report
        self.drifts, self.decisions = drifts, decisions


class Learner:
    """Chunks of a log in; one `Step` after another out. No clock, no I/O.

    `position` is the offset, in each partition, of the first event not yet in the state. `lap` is
    told when a part of the work is done, for who has a clock.
    """

    def __init__(self, app: Application, topics: dict[str, int], seed: int) -> None:
        partitions = [(topic, p) for topic, n in topics.items() for p in range(n)]
        self.app, self.seed = app, seed
        self.tasks = [t.name for t in app.schema.tasks]
        self._windows_ms = np.array([t.window_ms for t in app.schema.tasks])
        self.windows = Windows(app.schema, app.aggregates)
        self.codec = self.windows.codec
        self.merge = Merge(partitions, self.codec, app.lateness_ms, app.id_memory_ms)
        self.join = Join(app.schema, self.windows.layout, app.trainer.batch_size, app.tick_ms)
        self.trainer = Trainer(app.schema, self.windows.layout, app.trainer, seed)
        self.weighter = app.weighting.build([t.weight for t in app.schema.tasks], seed)
        self.drift = DriftMonitor(self.tasks, app.drift)
        self.rebalancer = Rebalancer(self.tasks, app.rebalance)
        self.scores = Scores(app.schema, self.windows.layout)
        self.journal = Journal(self.tasks)
        self.position: Position = dict.fromkeys(partitions, 0)
        self.lap: Callable[[str], None] = lambda part: None
        self.learning = True
        self.bad = 0
        self.quarantined = 0
        self.examples = 0

    def take(self, chunk: Chunk) -> list[Bad]:
        """Takes records in; what they make due comes from `steps`. Returns those that are bad."""
        tp = (chunk.topic, chunk.partition)
        events, bad = self.codec.decode(
            *tp, chunk.offsets, chunk.timestamps_ms, chunk.values, self.merge.index[tp]
        )
        self.bad += len(bad)
        self.merge.push(events)
        self.position[tp] = chunk.next_offset
        released = self.merge.release()
        self.join.push(released, self.windows.update(released))
        self.lap("merge")
        return bad

    def steps(self) -> Iterator[Step]:
        """Each step that is due, in order. At each of them the state is whole, and can be saved."""
        for cut in self.join.cuts(self.merge.watermark):
            self.lap("join")
            if cut.control is not None:
                self._obey(cut.control)
                continue
            served = self.join.serve(cut, self.trainer.predict(cut.shown))
            self.lap("predict")
            yield self._learn(cut, served)
        self.lap("join")

    def _learn(self, cut: Cut, served: np.ndarray) -> Step:
        """Scores what was served, learns, and lets what watches see it."""
        n = len(cut.ids)
        if n == 0:
            return Step(cut, served, None, [], [])
        self.examples += n
        report = None
        if self.learning:
            report = self.trainer.step(cut.batch, self.weighter)
            self.lap("train")
            self.quarantined += not report.finite
            self.journal.closed = [self._closed_from(cut), cut.closed_ms]
        self.scores.update(cut.batch, served, None if report is None else report.predictions)
        signals = signals_of(self.app.schema, cut.batch, served)
        drifts = self.drift.update(signals, self.examples, cut.closed_ms)
        decisions = [d for event in drifts for d in self.rebalancer.apply(event)]
        decisions += self.rebalancer.update(n, cut.closed_ms)
        self.journal.note(drifts, decisions)
        weights = self.trainer.task_weights if report is None else report.weights
        self.journal.weigh(self.examples, cut.closed_ms, weights)
        if report is not None and report.finite:
            self.weighter.update(report.loss, report.count, report.gram)
            self._adjust()
        return Step(cut, served, report, drifts, decisions)

    def _closed_from(self, cut: Cut) -> int:
        """When the first label closed that no version has yet, this cut's among them: ms."""
        if self.journal.closed:
            return self.journal.closed[0]
        waited = self._windows_ms[cut.closes[0]].max(initial=0)
        return min(int(cut.times[0] + waited), cut.closed_ms)

    def _adjust(self) -> None:
        adjustment = self.rebalancer.adjustment
        weights = compose(self.weighter.weights, adjustment)
        trainer = self.trainer
        same = np.array_equal(weights, trainer.task_weights) and np.array_equal(
            adjustment.tower_lr, trainer.tower_lr
        )
        if not same or adjustment.row_lr != trainer.row_lr:
            trainer.adjust(weights, adjustment.tower_lr, adjustment.row_lr)

    def _obey(self, control: Control) -> None:
        """Carries out an operator's command; an unknown one was not for the learner."""
        decisions: list[Decision] = []
        if control.command == "learning.stop":
            self.learning = False
        elif control.command == "learning.start":
            self.learning = True
        elif control.command == "weights.freeze":
            decisions = self.rebalancer.freeze()
        elif control.command == "weights.release":
            decisions = self.rebalancer.release()
        elif control.command == "weights.set":
            task, weight = control.arguments.get("task"), control.arguments.get("weight")
            try:
                decisions = self.rebalancer.set(task, weight)  # type: ignore[arg-type]
            except (TypeError, ValueError) as error:
                log.warning("command weights.set at %d ms: %s", control.time_ms, error)
        self.journal.note([], decisions)
        self._adjust()

    def state(self) -> dict[str, Any]:
        """Everything, for a checkpoint. Only at a step."""
        return {
            "application": self.app.name,
            "config_hash": self.app.config_hash(),
            "schema": self.app.schema.to_json(),
            "seed": self.seed,
            "position": [[topic, p, offset] for (topic, p), offset in self.position.items()],
            "merge": self.merge.state(),
            "windows": self.windows.state(),
            "join": self.join.state(),
            "trainer": self.trainer.state(),
            "weighter": self.weighter.state(),
            "drift": self.drift.state(),
            "rebalancer": self.rebalancer.state(),
            "scores": self.scores.state(),
            "journal": self.journal.state(),
            "learning": self.learning,
            "bad": self.bad,
            "quarantined": self.quarantined,
            "examples": self.examples,
        }

    def check(self, tree: dict[str, Any]) -> None:
        """Raises ValueError where a state is of another application, schema, config or seed."""
        for name, mine in (
            ("application", self.app.name),
            ("schema", self.app.schema.to_json()),
            ("config_hash", self.app.config_hash()),
            ("seed", self.seed),
        ):
            if tree[name] != mine:
                raise ValueError(
                    f"the checkpoint's {name} is {tree[name]!r}, this one's is {mine!r}: "
                    "give another --checkpoints folder, or the settings that it was made with"
                )

    def load(self, tree: dict[str, Any]) -> None:
        """Goes on from `state()`. Raises ValueError where it is of another application or seed."""
        self.check(tree)
        self.merge.load(tree["merge"])
        self.position = {(topic, p): offset for topic, p, offset in tree["position"]}
        for name in (
            "windows",
            "join",
            "trainer",
            "weighter",
            "drift",
            "rebalancer",
            "scores",
            "journal",
        ):
            getattr(self, name).load(tree[name])
        for name in ("learning", "bad", "quarantined", "examples"):
            setattr(self, name, tree[name])

    def state_hash(self) -> str:
        """SHA-256 over what defines the model's future: no positions, no reporting counters."""
        parts = {
            "trainer": self.trainer.state_hash(),
            "windows": tree_hash(self.windows.state()),
            "weighter": tree_hash(self.weighter.state()),
            "drift": tree_hash(self.drift.state()),
            "rebalancer": tree_hash(
                {k: v for k, v in self.rebalancer.state().items() if k not in LABELS_ONLY}
            ),
            "learning": str(self.learning),
        }
        return hashlib.sha256(
            "".join(f"{k}={v};" for k, v in sorted(parts.items())).encode()
        ).hexdigest()
