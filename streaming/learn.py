"""The loop: consume the log, keep the model fresh, publish it, and be able to go on from anywhere.

Publications and checkpoints fall after a step, by count. Where both do: 1 publish, 2 copy what the
checkpoint is of, which is all that the loop waits for, 3 write, fsync and rename it in a thread, 4
commit its position to Kafka, which is only for those who watch. Killed before 3 is done, the last
checkpoint is gone on from and the publication is repeated: a no-op, as its bytes are the same.
Killed after it, nothing is repeated. A registry or a disk that does not take it holds nothing up;
the next publication, or checkpoint, brings all. A checkpoint that is due while another is being
written waits for it, and is one of a later step.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from sys import maxsize
from threading import Event
from typing import Any

from features.events import CONTROL
from streaming.checkpoint import Checkpoints
from streaming.dead_letters import DeadLetters
from streaming.eventlog import EventLog, Position, Reader
from streaming.failpoint import failpoint
from streaming.gate import Gate
from streaming.learner import Learner, Step, nothing_kept
from streaming.publication import Chain, publish
from streaming.registry import Published, Registry, RegistryUnavailable
from streaming.report import fingerprint
from streaming.rollback import AFTER, commands, steps_wanted
from streaming.shadow import Promotion

log = logging.getLogger("freshet.learn")
READ_RECORDS = 4_096
HELD_EVENTS = 200_000
"""What the merge may hold for partitions that are behind; more is left in the log."""
POLL_S = 0.01
RETRY_S = 1.0


@dataclass
class Loop:
    """What a run of `learn` works with. `epoch` fences its publications and checkpoints;
    `log_digest` says which log it is, where that is known. `unpublished` counts publications that
    the registry was not there for, `unwritten` checkpoints that the disk did not take;
    `chain` is of the deltas it published, `gate`, where there is one, judges what goes live;
    `checkpointed` is the step of the last one that it took, `begun` of the last one tried.
    `take_back` asks, through the log, for the model of a step: it is told that, and which
    batch that was not finite it is;
    `promoted` is told the last promotion in the log, once, and says whether that is done;
    `good` are the steps whose checkpoints are held for it while batches are not finite, and
    `taken_back` the last time that it was, as the journal says, for the gate.
    """

    registry: Registry
    dead_letters: DeadLetters
    log_digest: str = ""
    checkpoints: Checkpoints | None = None
    checkpoint_every: int = 500
    epoch: int = 1
    unpublished: int = 0
    unwritten: int = 0
    checkpointed: int = 0
    begun: int = 0
    chain: Chain = field(default_factory=Chain)
    gate: Gate | None = None
    stop: Event = field(default_factory=Event)
    on_step: Callable[[Step], None] = lambda step: None
    on_publish: Callable[[Published], None] = lambda published: None
    take_back: Callable[[int, int], None] | None = None
    promoted: Callable[[Promotion], bool] = lambda to: True
    obeyed: list[list[str]] = field(default_factory=list)
    good: set[int] = field(default_factory=set)
    taken_back: list[dict[str, Any]] = field(default_factory=list)


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
    learner.kept = partial(_kept, learner, loop)
    reader = events.reader(learner.position)
    kept, published, tried = -1, False, 0.0
    try:
        while True:
            for step in learner.steps():
                loop.on_step(step)
                if loop.gate is not None:
                    if loop.taken_back != (last := learner.journal.rollbacks[-1:]):
                        loop.taken_back = last
                        loop.gate.forget()
                    loop.gate.see(step)
                learner.lap("watch")
                failpoint("step.learned")
                _keep(learner, step, loop)
                if loop.stop.is_set():
                    break
            if loop.stop.is_set():
                _last_checkpoint(learner, loop)
                return False
            if until is not None and _reached(learner, until):
                if learner.trainer.steps != kept:
                    published = _publish(learner, loop)
                    _last_checkpoint(learner, loop)
                    kept, tried = learner.trainer.steps, time.monotonic()
                elif not published and time.monotonic() - tried > RETRY_S:
                    published, tried = _publish(learner, loop), time.monotonic()
                if not go_on:
                    _promote(learner, loop)
                    return True
            _settle(learner, loop, wait=False)
            _promote(learner, loop)
            _read(reader, learner, loop, until or {})
    finally:
        learner.kept = nothing_kept  # not a circle, which would wait for the collector
        reader.close()


def _promote(learner: Learner, loop: Loop) -> None:
    """Has servers follow the run that the log says, if that is this one."""
    asked = learner.journal.promoted
    if asked == loop.obeyed:
        return
    try:
        if loop.promoted(Promotion(*asked[0])):
            loop.obeyed = asked
    except RegistryUnavailable as error:
        log.debug("not promoted yet: %s", error)


def _reached(learner: Learner, until: Position) -> bool:
    """Whether all of it is read, and of no partition that was just taken up the end is unknown."""
    known = all(tp in until for tp in learner.merge.holding_back())
    return known and all(learner.position.get(tp, 0) >= end for tp, end in until.items())


def _read(reader: Reader, learner: Learner, loop: Loop, until: Position) -> None:
    """Takes in what is there of the partition that the merge waits for most, or of the next, unless
    the merge holds enough of those already."""
    merge, position = learner.merge, learner.position
    wanted = merge.furthest_behind()
    if merge.waiting >= HELD_EVENTS:
        wanted = [
            tp for tp in merge.holding_back() if position[tp] < until.get(tp, maxsize)
        ] or wanted
    for wait_s in (0.0, POLL_S):
        for topic, partition in wanted:
            chunk = reader.read(topic, partition, READ_RECORDS, wait_s)
            if chunk.offsets:
                learner.lap("wait" if wait_s else "read")
                if topic == CONTROL and loop.checkpoints is not None:
                    loop.checkpoints.held |= steps_wanted(commands(chunk.values), learner.run)
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
    _hold(learner, loop)
    if learner.unfinite and learner.unfinite % AFTER == 0:
        _take_back(learner, loop)
    steps = learner.trainer.steps
    if step.report.finite and steps % learner.app.publish_every == 0:
        _publish(learner, loop)
    _settle(learner, loop, wait=False)
    if loop.checkpoints is None:
        return
    due = steps // loop.checkpoint_every > loop.begun // loop.checkpoint_every
    if steps in loop.checkpoints.held and steps != loop.begun:
        _settle(learner, loop, wait=True)
        _checkpoint(learner, loop)
    elif due and not loop.checkpoints.busy:
        _checkpoint(learner, loop)


def _hold(learner: Learner, loop: Loop) -> None:
    """While batches are not finite, the checkpoints of before them stay."""
    if loop.checkpoints is None:
        return
    if not learner.unfinite:
        loop.checkpoints.held -= loop.good
        loop.good = set()
    elif not loop.good:
        _settle(learner, loop, wait=True)
        before = min(learner.tried, default=maxsize)
        steps = {step for step in loop.checkpoints.steps() if step < before}
        loop.good = steps - loop.checkpoints.held
        loop.checkpoints.held |= loop.good


def _take_back(learner: Learner, loop: Loop) -> None:
    """Asks for the model of before the batches that were not finite."""
    if loop.take_back is None or loop.checkpoints is None:
        return
    if left := loop.good - set(learner.tried):
        to = max(left)
        loop.good.discard(to)  # it stays
        loop.take_back(to, learner.quarantined)
    else:
        log.error(
            "%d batches in a row were not finite, and no checkpoint of before is left to go back "
            "to: look at the dead letters, and at the learning rates", learner.unfinite,
        )  # fmt: skip


def _kept(learner: Learner, loop: Loop, step: int) -> dict[str, Any] | None:
    """The state of after an earlier step; that of a roll-back is the one that it went back to."""
    if loop.checkpoints is None:
        return None
    _settle(learner, loop, wait=True)
    found = loop.checkpoints.find(step)
    if found is None:
        to = next((r["to"] for r in learner.journal.rollbacks if r["from"] + 1 == step), None)
        return None if to is None else _kept(learner, loop, to)
    return found.tree


def _publish(learner: Learner, loop: Loop) -> bool:
    """Whether the registry took it."""
    version = learner.trainer.steps
    try:
        published = publish(learner, loop.registry, loop.epoch, loop.chain, loop.gate)
    except RegistryUnavailable as error:
        loop.unpublished += 1
        log.warning("version %d is not published: %s", version, error)
        learner.lap("publish")
        return False
    failpoint("publish.noted")
    said: dict[str, Any] = {"version": version, "kind": published.kind, "bytes": published.size}
    said["seconds"] = round(published.seconds, 4)
    log.info("version %d is published", version, extra=said)
    loop.on_publish(published)
    learner.lap("publish")
    return True


def _checkpoint(learner: Learner, loop: Loop, shorten: bool = True) -> None:
    """Has one begun. None while there are dead letters that are nowhere yet: the last one makes
    them again."""
    assert loop.checkpoints is not None
    try:
        dead_letters = loop.dead_letters.size
    except ConnectionError as error:
        log.warning("no checkpoint now: dead letters: %s", error)
        return
    failpoint("dead.delivered")
    state = {
        **learner.unsaved(loop.checkpoints.from_scratch),
        "fingerprint": fingerprint(learner.app.trainer.device),
        "log_digest": loop.log_digest,
        "dead_letters": dead_letters,
    }
    loop.begun = learner.trainer.steps
    loop.checkpoints.start(state, loop.epoch, loop.begun, shorten)
    learner.lap("checkpoint")


def _settle(learner: Learner, loop: Loop, wait: bool) -> None:
    """Looks after the checkpoint that is being written."""
    if loop.checkpoints is None or not loop.checkpoints.busy:
        return
    try:
        path = loop.checkpoints.settle(wait)
    except OSError as error:
        loop.unwritten += 1
        log.error("checkpoint of step %d is not written: %s", loop.begun, error)
        return
    if path is not None:
        loop.checkpointed = loop.begun
        log.info("checkpoint %s is written", path.name, extra={"step": loop.checkpointed})
    learner.lap("checkpoint")


def _last_checkpoint(learner: Learner, loop: Loop) -> None:
    """One of here and now, on the disk, where that takes it."""
    if loop.checkpoints is not None:
        _settle(learner, loop, wait=True)
        _checkpoint(learner, loop, shorten=False)
        _settle(learner, loop, wait=True)
