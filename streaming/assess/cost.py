"""What a step for all tasks costs, against one for a single task, on the batches of a recording."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import Any

from model.batch import Batch, Inputs
from model.train import Trainer
from streaming.application import Application
from streaming.assess.recording import Recording

STEPS, SETTLING = 100, 10


def step_time(app: Application, recording: Recording) -> dict[str, Any]:
    """Milliseconds, medians: of a step for all tasks, and of one for the first task alone, taken in
    turn so that they share the machine's moods; and their ratio."""
    schema, config = app.schema, app.trainer
    one = replace(schema, tasks=schema.tasks[:1])
    alone = replace(config, network=replace(config.network, apart=""))
    both = (
        (Trainer(schema, recording.layout, config, 0), len(schema.tasks)),
        (Trainer(one, recording.layout, alone, 0), 1),
    )
    taken: tuple[list[float], list[float]] = ([], [])
    inputs = recording.inputs()
    full = [m for m in recording.moments if len(m.rows) == config.batch_size]
    for moment in full[:STEPS]:
        rows = moment.rows
        read = Inputs(inputs.keys[rows], inputs.weights[rows], inputs.dense[rows])
        for (trainer, tasks), times in zip(both, taken, strict=True):
            labels, mask = moment.labels[:, :tasks].copy(), moment.mask[:, :tasks].copy()
            started = time.perf_counter()
            trainer.step(Batch(read, labels, mask, moment.closed_ms))
            times.append(1_000 * (time.perf_counter() - started))
    if len(full) <= SETTLING:
        return {"step_ms": None, "one_task_ms": None, "times_one_task_step": None}
    mine, theirs = (statistics.median(times[SETTLING:]) for times in taken)
    return {"step_ms": mine, "one_task_ms": theirs, "times_one_task_step": mine / theirs}
