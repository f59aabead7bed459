"""All that a learner knows: the merge, the windows, the join, the model, and what watches it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from features.codec import Bad
from features.events import Control
from features.windows import Windows
from model.batch import Batch
from model.digest import tree_hash
from model.sampling import NegativeSampling
from model.train import StepReport, Trainer
from streaming.application import Application
from streaming.drift import Blind, DriftEvent, DriftMonitor, Sums
from streaming.early_stopping import EarlyStopping
from streaming.eventlog import Chunk, Position
from streaming.hard_parts import HardParts
from streaming.incidents import Incidents
from streaming.join import Cut, Join
from streaming.journal import Journal
from streaming.merge import Merge
from streaming.rebalance import Decision, Rebalancer, compose
from streaming.rollback import COMMAND as ROLLBACK
from streaming.rollback import step_of
from streaming.scores import Scores, signals_of
from streaming.shadow import LIVE, promotion
from streaming.signals import Signals

log = logging.getLogger("freshet.learner")
LABELS_ONLY = ("example", "time_ms")
"""Of a rebalancer's state: what its decisions say of when, and nothing depends on."""


def nothing_kept(step: int) -> dict[str, Any] | None:
    """The state of after an earlier step, where none is kept."""
    return None


class Step:
    """What one cut did: the cut, the served predictions of its examples and, where it was learnt
    from, the progressive ones, the step's report, and the signals that drift was looked for in."""

    __slots__ = ("cut", "decisions", "drifts", "progressive", "report", "served", "signals")

    def __init__(
        self,
        cut: Cut,
        served: np.ndarray,
        report: StepReport | None,
        drifts: list[DriftEvent],
        decisions: list[Decision],
        signals: Sums | None = None,
        progressive: np.ndarray | None = None,
    ) -> None:
        self.cut, self.served, self.report = cut, served, report
        self.drifts, self.decisions, self.signals = drifts, decisions, signals
        self.progressive = progressive


class Learner:
    """Chunks of a log in; one `Step` after another out. No clock, no I/O.

    `position` is the offset, in each partition, of the first event not yet in the state. `lap` is
    told when a part of the work is done, for who has a clock. `warm_start` is what it began with of
    another model, None for nothing. `kept` gives the state of after an earlier step, for a command
    that takes the model back there; of commands for one learner it obeys those of its `run`.
    `unfinite` counts the last batches in a row that were not finite, and `tried` holds the steps
    that the model was taken back to since the last that was.
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
        self.sampling = NegativeSampling(app.schema)
        self.weighter = app.weighting.build([t.weight for t in app.schema.tasks], seed)
        self.signals = Signals(app.schema, self.windows.layout, app.drift)
        self.drift = DriftMonitor(self.tasks, app.drift, self.signals.keys)
        self.incidents = Incidents(app.drift)
        self.rebalancer = Rebalancer(self.tasks, app.rebalance)
        self.early_stopping = EarlyStopping(self.tasks, app.early_stopping)
        self.scores = Scores(app.schema, self.windows.layout)
        self.hard_parts = HardParts(app.schema, self.windows.layout)
        self.journal = Journal(self.tasks)
        self.position: Position = dict.fromkeys(partitions, 0)
        self.lap: Callable[[str], None] = lambda part: None
        self.kept: Callable[[int], dict[str, Any] | None] = nothing_kept
        self.run = LIVE
        self.learning = True
        self.warm_start: dict[str, Any] | None = None
        self.bad = 0
        self.quarantined = 0
        self.unfinite = 0
        self.tried: list[int] = []
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
        for added in self.merge.partitions[len(self.position) :]:
            self.position[added] = 0
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
            yield self.learn(cut, served)
        self.lap("join")

    def learn(self, cut: Cut, served: np.ndarray) -> Step:
        """Scores what was served, learns, and lets what watches see it."""
        n = len(cut.ids)
        if n == 0:
            return Step(cut, served, None, [], [])
        self.examples += n
        report, progressive = None, None
        unseen = self.signals.unseen(self.trainer.predictor.embedding, cut.batch.inputs)
        if self.early_stopping.holds:
            progressive = self.trainer.predict(cut.batch.inputs)
        elif self.learning:
            batch = cut.batch
            if self.sampling:
                progressive = self.trainer.predict(batch.inputs)
                batch = self.sampling.take(batch, cut.ids)
            if len(batch):
                report = self._step(cut, batch)
                progressive = report.predictions if progressive is None else progressive
        self.scores.update(cut.batch, served, progressive)
        signals = self.signals.of(cut.batch, served, unseen)
        drifts = self.signals.named(self.drift.update(signals, self.examples, cut.closed_ms))
        decisions = [d for event in drifts for d in self.rebalancer.apply(event)]
        losses = self.signals.losses(signals)
        decisions += self.rebalancer.update(n, cut.closed_ms, losses)
        if progressive is not None and self.early_stopping:
            losses = signals_of(self.app.schema, cut.batch, progressive)
            decisions += self.early_stopping.update(losses, self.examples, cut.closed_ms)
        places = [self.signals.place(event) for event in drifts]
        said = self.incidents.update(
            drifts, places, decisions, signals, self.examples, cut.closed_ms
        )
        self.journal.note(drifts, decisions + said)
        weights = self.trainer.task_weights if report is None else report.weights
        self.journal.weigh(self.examples, cut.closed_ms, weights)
        if report is not None and report.finite:
            self.weighter.update(report.loss, report.count, report.gram)
            self._adjust()
        return Step(cut, served, report, drifts, decisions, signals, progressive)

    def _step(self, cut: Cut, batch: Batch) -> StepReport:
        """Learns from a cut's batch, or from what was drawn of it."""
        look = self.hard_parts.due(self.trainer)
        if look:
            self.hard_parts.before(self.trainer, batch)
        report = self.trainer.step(batch, self.rebalancer.weighter or self.weighter)
        self.lap("train")
        if look:
            self.hard_parts.after(self.trainer, batch, report)
        self._count(report)
        self.journal.closed = [self._closed_from(cut), cut.closed_ms]
        return report

    def blind(self) -> list[Blind]:
        """The watched signals that say nothing, and why."""
        return self.signals.named(self.drift.blind())

    def _count(self, report: StepReport) -> None:
        if report.finite:
            self.unfinite, self.tried = 0, []
        else:
            self.quarantined += 1
            self.unfinite += 1

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
        same = (
            np.array_equal(weights, trainer.task_weights)
            and np.array_equal(adjustment.tower_lr, trainer.tower_lr)
            and np.array_equal(adjustment.tower_keep, trainer.tower_keep)
            and adjustment.row_lr == trainer.row_lr
        )
        if not same:
            trainer.adjust(weights, adjustment.tower_lr, adjustment.row_lr, adjustment.tower_keep)

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
        elif control.command == ROLLBACK:
            self._roll_back(control)
        elif said := promotion(control):
            self.journal.promoted = [list(said)]
        self.journal.note([], decisions)
        self._adjust()

    def _roll_back(self, control: Control) -> None:
        """Raises ValueError where the step that it wants was not kept."""
        step, steps = step_of(control, self.run), self.trainer.steps
        if control.arguments.get("run", LIVE) != self.run:
            return
        if step is None or step > steps:
            log.warning("command %s at %d ms: no such step", control.command, control.time_ms)
            return
        tree = self.kept(step)
        if tree is None:
            raise ValueError(
                f"the log takes the model back to step {step}, of which there is no checkpoint: "
                "learn from the log's beginning, in another --checkpoints folder"
            )
        self.trainer.load(tree["trainer"])
        self.trainer.steps = steps + 1
        self.trainer.predictor.embedding.changes.load({})
        self.weighter.load(tree["weighter"])
        self.tried.append(step)
        self.journal.rolled_back(self.examples, control.time_ms, steps, step)
        log.warning("the model is taken back from step %d to step %d", steps, step)

    def state(self) -> dict[str, Any]:
        """Everything, for a checkpoint. Only at a step."""
        return self._state(self.windows.state(), self.trainer.state())

    def unsaved(self, whole: bool) -> dict[str, Any]:
        """`state()`, but of each table of rows only those that changed since this, or `load`, was
        called last, unless `whole`. All of it are copies: learning goes on while it is written."""
        embedding = self.trainer.predictor.embedding.take(whole)
        return self._state(self.windows.take(whole), self.trainer.state(embedding))

    def _state(self, windows: dict[str, Any], trainer: dict[str, Any]) -> dict[str, Any]:
        return {
            "application": self.app.name,
            "config_hash": self.app.config_hash(),
            "schema": self.app.schema.to_json(),
            "model": json.dumps(
                {"meta": self.trainer.predictor.meta(), "rows": self.app.trainer.rows.kind}
            ),
            "warm_start": self.warm_start,
            "seed": self.seed,
            "position": [[topic, p, offset] for (topic, p), offset in self.position.items()],
            "merge": self.merge.state(),
            "windows": windows,
            "join": self.join.state(),
            "trainer": trainer,
            "weighter": self.weighter.state(),
            "drift": self.drift.state(),
            "signals": self.signals.state(),
            "incidents": self.incidents.state(),
            "rebalancer": self.rebalancer.state(),
            "early_stopping": self.early_stopping.state(),
            "scores": self.scores.state(),
            "hard_parts": self.hard_parts.state(),
            "journal": self.journal.state(),
            "learning": self.learning,
            "bad": self.bad,
            "quarantined": self.quarantined,
            "unfinite": self.unfinite,
            "tried": list(self.tried),
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
            "signals",
            "incidents",
            "rebalancer",
            "early_stopping",
            "scores",
            "hard_parts",
            "journal",
        ):
            getattr(self, name).load(tree[name])
        self.trainer.predictor.embedding.unsaved.clean()
        for name in ("learning", "warm_start", "bad", "quarantined", "unfinite", "examples"):
            setattr(self, name, tree[name])
        self.tried = list(tree["tried"])

    def state_hash(self) -> str:
        """SHA-256 over what defines the model's future: no positions, no reporting counters."""
        parts = {
            "trainer": self.trainer.state_hash(),
            "windows": tree_hash(self.windows.state()),
            "weighter": tree_hash(self.weighter.state()),
            "drift": tree_hash(self.drift.state()) + tree_hash(self.signals.state()),
            "rebalancer": tree_hash(
                {k: v for k, v in self.rebalancer.state().items() if k not in LABELS_ONLY}
            ),
            "early_stopping": tree_hash(self.early_stopping.state()),
            "learning": str(self.learning),
        }
        return hashlib.sha256(
            "".join(f"{k}={v};" for k, v in sorted(parts.items())).encode()
        ).hexdigest()
