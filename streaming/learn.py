"""The loop: consume the log, keep the model fresh, publish it, and be able to go on from anywhere.

Publications and checkpoints fall after a step, by count. Where both do: 1 publish, 2 write the
checkpoint, 3 fsync, 4 rename. Killed before 4, the last checkpoint is gone on from and the
publication is repeated: a no-op, as its bytes are the same. Killed after it, nothing is repeated. A
registry that is away holds nothing up; the next publication brings all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event
from typing import Any

from model.snapshot import Snapshot, encode
from streaming.checkpoint import Checkpoints
from streaming.dead_letters import DeadLetters
from streaming.eventlog import EventLog, Position, Reader
from streaming.learner import Learner, Step
from streaming.registry import Published, Registry, RegistryUnavailable
from streaming.report import fingerprint

log = logging.getLogger("freshet.learn")
READ_RECORDS = 4_096
POLL_S = 0.01
RETRY_S = 1.0


@dataclass
class Loop:
    """What a run of `learn` works with. `epoch` fences its publications and checkpoints;
    `log_digest` says which log it is, where that is known. `unpublished` counts publications that
    the registry was not there for; `checkpointed` is the step of the last checkpoint."""

    registry: Registry
    dead_letters: DeadLetters
    log_digest: str = ""
    checkpoints: Checkpoints | None = None
    checkpoint_every: int = 500
    epoch: int = 1
    unpublished: int = 0
    checkpointed: int = 0
    stop: Event = field(default_factory=Event)
    on_step: Callable[[Step], None] = lambda step: None
    on_publish: Callable[[Published], None] = lambda published: None


def learn(
    events: EventLog,
    learner: Learner,
    loop: Loop,
    until: Position | None = None,
    go_on: bool = False,
) -> bool:
    """Consumes the log up to the position `until`, or for ever; False where it was stopped before.

    What has been learned is published and kept there, and with `go_on` it waits for more. It stops,
    after the cut at hand and with a checkpoint, when `loop.stop` is set.
    """
    reader = events.reader(learner.position)
    kept, published, tried = -1, False, 0.0
    try:
        while True:
            for step in learner.steps():
                loop.on_step(step)
                learner.lap("watch")
                _keep(learner, step, loop)
                if loop.stop.is_set():
                    break
            if loop.stop.is_set():
                _checkpoint(learner, loop)
                return False
            if until is not None and all(learner.position[tp] >= end for tp, end in until.items()):
                if learner.trainer.steps != kept:
                    published = _publish(learner, loop)
                    _checkpoint(learner, loop)
                    kept, tried = learner.trainer.steps, time.monotonic()
                elif not published and time.monotonic() - tried > RETRY_S:
                    published, tried = _publish(learner, loop), time.monotonic()
                if not go_on:
                    return True
            _read(reader, learner, loop)
    finally:
        reader.close()


def _read(reader: Reader, learner: Learner, loop: Loop) -> None:
    """Takes in what is there of the partition that the merge waits for most, or of the next."""
    for wait_s in (0.0, POLL_S):
        for topic, partition in learner.merge.furthest_behind():
            chunk = reader.read(topic, partition, READ_RECORDS, wait_s)
            if chunk.offsets:
                learner.lap("wait" if wait_s else "read")
                loop.dead_letters.add(learner.take(chunk))
                return
    learner.lap("wait")


def _keep(learner: Learner, step: Step, loop: Loop) -> None:
    """Publishes and checkpoints where that is due: by count of batches, never by the clock."""
    for event in step.drifts:
        log.info("drift: %s of %s", event.signal, event.task, extra=event.as_dict())
    for decision in step.decisions:
        log.info("rebalance: %s", decision.reason, extra=decision.as_dict())
    if step.report is None:
        return
    if not step.report.finite:
        at = [(*learner.merge.partitions[p], o) for p, o in step.cut.places.tolist()]
        loop.dead_letters.quarantine(step.report.step, at)
    steps = learner.trainer.steps
    if steps and steps % learner.app.publish_every == 0:
        _publish(learner, loop)
    if loop.checkpoints is not None and steps and steps % loop.checkpoint_every == 0:
        _checkpoint(learner, loop)


def _publish(learner: Learner, loop: Loop) -> bool:
    """Whether the registry took it."""
    arrays, meta = learner.trainer.snapshot()
    version = learner.trainer.steps
    card: dict[str, Any] = {
        "application": learner.app.name,
        "examples": learner.examples,
        "task_weights": dict(
            zip(learner.tasks, learner.trainer.task_weights.tolist(), strict=True)
        ),
    }
    if learner.journal.closed:
        card |= dict(zip(("closed_from_ms", "closed_to_ms"), learner.journal.closed, strict=True))
    data = encode(Snapshot(version, arrays, meta))
    try:
        published = loop.registry.publish(data, version, loop.epoch, card)
    except RegistryUnavailable as error:
        loop.unpublished += 1
        log.warning("version %d is not published: %s", version, error)
        learner.lap("publish")
        return False
    learner.journal.published(version, learner.examples, published.sha256, published.size)
    said = {"version": version, "bytes": published.size, "seconds": round(published.seconds, 4)}
    log.info("version %d is published", version, extra=said)
    loop.on_publish(published)
    learner.lap("publish")
    return True


def _checkpoint(learner: Learner, loop: Loop) -> None:
    """None while there are dead letters that are nowhere yet: the last one makes them again."""
    if loop.checkpoints is not None:
        try:
            dead_letters = loop.dead_letters.size
        except ConnectionError as error:
            log.warning("no checkpoint now: dead letters: %s", error)
            return
        state = {
            **learner.state(),
            "fingerprint": fingerprint(learner.app.trainer.device),
            "log_digest": loop.log_digest,
            "dead_letters": dead_letters,
        }
        path = loop.checkpoints.save(state, loop.epoch, learner.trainer.steps)
        loop.checkpointed = learner.trainer.steps
        log.info("checkpoint %s is written", path.name, extra={"step": loop.checkpointed})
        learner.lap("checkpoint")
