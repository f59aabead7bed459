"""Which tasks help which, on an application's own log, and the groups to try."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from model.affinity import Affinity, LabelAffinity, affinity
from model.batch import Batch, Inputs
from model.grouping import Groups, by_affinity, by_goal, by_source
from model.train import Trainer
from streaming.application import Application
from streaming.assess.recording import Recording
from streaming.compare.bootstrap import Blocks
from streaming.learner import Learner, Step
from streaming.replay import Replay
from streaming.report import finite

PROBES = 200
SETTLED = 0.1
"""Of the log, which the model learns before anything is measured."""
MOST_GROUPS = 4


@dataclass
class Measurement:
    """An application on a log, measured on about `probes` batches, spread over it evenly.
    `on_step` and `on_moment` are told how far which run is."""

    app: Application
    log: Path | None = None
    limit: int | None = None
    probes: int = PROBES
    seed: int = 0
    stop: Event = field(default_factory=Event)
    on_step: Callable[[str, Learner, Step], None] = lambda run, learner, step: None
    on_moment: Callable[[str, int, int], None] = lambda run, done, of: None

    def run(self) -> dict[str, Any] | None:
        """The report (JSON); None where it was stopped. Raises what `Replay.run` raises, and
        ValueError for an application whose tasks share nothing."""
        if len(self.app.schema.tasks) < 2:
            raise ValueError(f"application {self.app.name!r} has one task: expected two or more")
        recording = self._record()
        if recording is None:
            return None
        trainer = Trainer(self.app.schema, recording.layout, self.app.trainer, self.seed)
        labels, found = LabelAffinity(len(self.app.schema.tasks)), []
        told = [m for m in recording.moments if len(m.rows)]
        first = int(SETTLED * len(told))
        every = max(1, (len(told) - first) // self.probes)
        inputs, done = recording.inputs(), 0
        for number, moment in enumerate(told):
            if self.stop.is_set():
                return None
            rows = moment.rows
            read = Inputs(inputs.keys[rows], inputs.weights[rows], inputs.dense[rows])
            batch = Batch(read, moment.labels, moment.mask, moment.closed_ms)
            labels.update(batch.labels, batch.mask)
            if number >= first and (number - first) % every == 0:
                found.append(affinity(trainer, batch))
            trainer.step(batch)
            done += len(batch)
            self.on_moment("measuring", done, len(recording))
        return report(self.app, found, labels)

    def _record(self) -> Recording | None:
        kept: list[Recording] = []

        def on_step(learner: Learner, step: Step) -> None:
            if not kept:
                kept.append(Recording(self.app.schema, learner.windows.layout))
            kept[0].step(learner, step)
            self.on_step("reading", learner, step)

        job = Replay(
            self.app, self.log, seed=self.seed, limit=self.limit, stop=self.stop, on_step=on_step
        )
        return kept[0] if job.run() is not None else None


def report(app: Application, found: list[Affinity], labels: LabelAffinity) -> dict[str, Any]:
    """As JSON, by task and task, the first acting on the second: `transfer` with its interval (by
    what share the second's loss falls when the first makes a step), `cosine` of their gradients
    and `conflict`, the share of batches where it is negative; `labels`, their correlation.
    `groups`: what follows, by affinity, data source and goal, each with its affinity."""
    names = [task.name for task in app.schema.tasks]
    transfer = np.stack([a.transfer for a in found])
    cosine = np.stack([a.cosine for a in found])
    known = np.isfinite(cosine)
    with np.errstate(all="ignore"):
        mean_cosine = np.where(known, cosine, 0).sum(0) / known.sum(0)
        conflict = (np.where(known, cosine, 0) < 0).sum(0) / known.sum(0)
    means = np.full((len(names), len(names)), np.nan)
    pairs = {}
    for i, first in enumerate(names):
        for j, second in enumerate(names):
            if i == j:
                continue
            values = transfer[:, i, j]
            values = values[np.isfinite(values)]
            means[i, j] = values.mean() if len(values) else np.nan
            pairs[f"{first}>{second}"] = {
                "transfer": Blocks(len(values), least=1).mean(values).as_dict(),
                "cosine": float(mean_cosine[i, j]),
                "conflict": float(conflict[i, j]),
                "labels": float(labels.correlation()[i, j]),
            }
    proposed: list[tuple[str, str, Groups]] = [
        (f"affinity{count}", f"the greatest affinity of {count} groups", groups)
        for count in range(2, min(MOST_GROUPS, len(names) - 1) + 1)
        if (groups := by_affinity(names, means, count))
    ]
    proposed.append(("source", "where labels come from", by_source(app.schema, labels.coverage())))
    goals = by_goal(app.schema)
    proposed += [("goal", "business goals", goals)] if goals else []
    return dict(
        finite(
            {
                "application": app.name,
                "probes": len(found),
                "tasks": names,
                "pairs": pairs,
                "groups": [
                    {"name": name, "by": by, "groups": [list(g) for g in groups], "word": word}
                    for name, by, groups in proposed
                    if len(groups) > 1
                    for word in [f"{name}:{'|'.join(','.join(g) for g in groups)}"]
                ],
            }
        )
    )
