"""`freshet learn`: the loop on the live topics, under a lease, for months.

A start takes these steps: 1 find the topics, 2 take the lease, which gives the epoch, 3 load the
newest checkpoint, 4 read the historical log, where one is given and not read yet, 5 go live. A
checkpoint holds the position in both, so that a restart at any moment goes on exactly.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, cast

from prometheus_client import CollectorRegistry

from streaming.application import Application
from streaming.checkpoint import Checkpoint
from streaming.collector import tune
from streaming.commands import send
from streaming.compaction import Compactor
from streaming.dead_letters import DeadLetters
from streaming.dlq import DeadLetterTopic
from streaming.eventlog import EventLog, Position
from streaming.gate import Gate
from streaming.growth import added
from streaming.history import read_rows, side_tables
from streaming.learn import Loop, learn
from streaming.learn_metrics import Metrics
from streaming.learner import Learner, Step
from streaming.lease import Lease
from streaming.leased import ANSWER_S, LeasedCheckpoints, LeasedRegistry
from streaming.live_log import LiveLog
from streaming.observe import Endpoint
from streaming.publication import Chain
from streaming.report import fingerprint, report
from streaming.rollback import COMMAND as ROLLBACK
from streaming.sections import Gate as GateConfig
from streaming.sections import Kafka
from streaming.served_run import ServedRun
from streaming.shadow import LIVE, Promotion, run_of
from streaming.state_folder import state_folder
from streaming.topics import DEAD, open_log
from streaming.warm_start import warm_start
from streaming.warm_up import PARTITIONS, Past, add_past, hand_over, handed_over, has_past

log = logging.getLogger("freshet.learn")


@dataclass
class Live:
    """What a live learner works with: `redis` is a URL, `past` a historical log to learn from
    first, `warm_start` a model to begin with (a folder of checkpoints, or a version's file),
    `checkpoints` a folder, by default in `state_folder`, `shadow` the name of a learner that is not
    the one that is served, and `metrics` the host:port to show
    them at, "" for none; `gate` says what goes live. `on_gap` is "stop" or "skip": what to do where
    events were deleted before they were learned."""

    app: Application
    kafka: Kafka
    redis: str
    past: Path | None = None
    warm_start: Path | None = None
    seed: int = 0
    checkpoints: Path | None = None
    shadow: str = ""
    checkpoint_every: int = 500
    gate: GateConfig = field(default_factory=GateConfig)
    until_end: bool = False
    on_gap: str = "stop"
    metrics: str = ""
    stop: Event = field(default_factory=Event)
    on_step: Callable[[Learner, Step], None] = lambda learner, step: None

    def run(self) -> dict[str, Any] | None:
        """Learns until `stop` is set, or to the `end` of every partition; returns the report, or
        None where it was stopped before it had the lease.

        Raises ValueError for what the user can mend, ConnectionError where Kafka does not answer,
        and RegistryError where Redis does not, or where another learner has the lease.
        """
        started = time.perf_counter()
        run = run_of(self.shadow)
        kept = "checkpoints" if run == LIVE else f"checkpoints-{run}"
        folder = self.checkpoints or state_folder(self.app.name, kept)
        metrics = CollectorRegistry()
        with ExitStack() as stack:
            endpoint = Endpoint(metrics, self.app.name, self.metrics, "learn.metrics")
            stack.enter_context(closing(endpoint))
            live = stack.enter_context(closing(LiveLog(self.kafka, self.app.name, run)))
            dead = stack.enter_context(closing(open_log(self.kafka, self.app.name, DEAD)))
            lease = stack.enter_context(Lease(self.redis, self.app.name, run))
            registry = stack.enter_context(
                closing(LeasedRegistry(self.redis, self.app.name, lease, run))
            )
            served = stack.enter_context(closing(ServedRun(self.redis, self.app.name, ANSWER_S)))
            gate = None
            if self.gate.on:
                gate = stack.enter_context(closing(Gate(registry, self.gate)))
            compactor = stack.enter_context(closing(Compactor(registry)))
            read: dict[str, Any] = {}
            checkpoints = LeasedCheckpoints(
                folder, lease, lambda: {"ended": live.ended, "past": read}, live.commit
            )
            least = max(checkpoints.last_epoch(), registry.last_epoch())
            epoch = lease.take(least, self.stop)
            if epoch is None:
                return None
            identity = live.identity()
            learner = Learner(self.app, live.base, self.seed)
            learner.merge.added, learner.run = added, run
            newest = checkpoints.newest()
            if newest is None and checkpoints.refused:
                raise ValueError(
                    f"no checkpoint in {str(folder)!r} can be used: mend it, or give another "
                    "--checkpoints folder to begin anew"
                )
            checkpoints.begin(epoch)
            checkpoints.held |= live.rollbacks
            size = 0
            if newest is None:
                learner.position |= live.base_position()
                if self.warm_start is not None:
                    warm_start(learner, self.warm_start)
                if self.past is not None:
                    add_past(learner)
            else:
                read.update(newest.tree["live"]["past"])
                live.ended = newest.tree["live"]["ended"]
                size = self._go_on(learner, newest, identity)
                self._over_gaps(learner, live.first_position())
            # what can't be used is told once, by the first learner
            letters: DeadLetters = (
                DeadLetterTopic(dead, "learn", size) if run == LIVE else DeadLetters(size=size)
            )
            stack.callback(letters.close)

            def on_step(step: Step) -> None:
                lease.check()
                self.on_step(learner, step)

            def take_back(to: int, bad: int) -> None:
                if self.until_end and live.ended:
                    return  # nothing can follow
                name, said = f"{ROLLBACK} after {bad}", dict[str, Any](step=to)
                if run != LIVE:
                    name, said = f"{name} of {run}", {**said, "run": run}
                try:
                    send(live, learner.codec, ROLLBACK, said, name)
                except ConnectionError as error:
                    log.warning("the model is not taken back to step %d: %s", to, error)

            def promoted(to: Promotion) -> bool:
                if to.run != run:
                    return True
                if done := served.move(to):
                    log.warning("servers follow this learner, of the run %r, from now on", run)
                return done

            loop = Loop(
                registry=registry,
                dead_letters=letters,
                chain=Chain(compactor),
                gate=gate,
                log_digest=identity,
                checkpoints=checkpoints,
                checkpoint_every=self.checkpoint_every,
                epoch=epoch,
                checkpointed=newest.step if newest else 0,
                begun=newest.step if newest else 0,
                stop=self.stop,
                on_step=on_step,
                take_back=take_back,
                promoted=promoted,
            )
            tune()
            metrics.register(Metrics(learner, loop, live.ends))
            if self._warm_up(learner, loop, read):
                learn(live, learner, loop, live.until, go_on=not self.until_end)
            out = report(learner, time.perf_counter() - started)
            out["events"]["bad"] += read.get("bad_rows", 0)
            return {**out, "epoch": epoch, "unpublished": loop.unpublished}

    def _go_on(self, learner: Learner, newest: Checkpoint, identity: str) -> int:
        """Loads a checkpoint; returns how many dead letters it knows of."""
        tree = newest.tree
        made_on, here = tree["fingerprint"], fingerprint(self.app.trainer.device)
        learner.check(tree)
        if tree["log_digest"] != identity:
            raise ValueError(
                f"the checkpoint {str(newest.path)!r} was made on other topics, which are gone: "
                "give another --checkpoints folder"
            )
        if made_on != here:
            log.warning("a new lineage: the checkpoint was made on %s, this is %s", made_on, here)
        if has_past(tree):
            add_past(learner)
        elif self.past is not None:
            raise ValueError(
                f"--from comes too late: the checkpoint {str(newest.path)!r} began without it; "
                "give another --checkpoints folder, or no --from"
            )
        learner.load(tree)
        if not handed_over(learner) and self.past is None:
            raise ValueError(
                f"the checkpoint {str(newest.path)!r} is in the middle of a historical log: "
                "give it again as --from"
            )
        log.info("going on from %s, after %d examples", newest.path.name, learner.examples)
        size: int = tree["dead_letters"]
        return size

    def _over_gaps(self, learner: Learner, first: Position) -> None:
        """Stops, or goes on after them, where events are gone that were not learned."""
        gaps = {tp: at for tp, at in first.items() if learner.position.get(tp, at) < at}
        if not gaps:
            return
        said = ", ".join(
            f"{topic}[{p}] {learner.position[topic, p]} to {at - 1}"
            for (topic, p), at in gaps.items()
        )
        if self.on_gap != "skip":
            raise ValueError(
                f"the broker has deleted events that were not learned: {said}. Give its topics a "
                "longer retention; `--on-gap skip` goes on without them"
            )
        log.warning("going on without events that the broker has deleted: %s", said)
        learner.journal.gaps += [[*tp, learner.position[tp], at] for tp, at in gaps.items()]
        learner.position.update(gaps)

    def _warm_up(self, learner: Learner, loop: Loop, read: dict[str, Any]) -> bool:
        """Learns from the historical log, if that is still to be done; False where it was
        stopped. `read` is kept up to what was read of it."""
        if handed_over(learner):
            return True
        assert self.past is not None

        rows, tables = read_rows(self.app, self.past), side_tables(self.app, self.past)
        letters = loop.dead_letters.add_rows
        past = Past(self.app, learner, rows, tables, read, letters)
        # `learn` only reads, and a past can only be read
        if not learn(cast(EventLog, past), learner, loop, past.until):
            return False
        hand_over(learner)
        log.info(
            "the historical log is learned, %d events: going live",
            sum(learner.position[tp] for tp in PARTITIONS),
        )
        return True
