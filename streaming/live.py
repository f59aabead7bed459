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
from streaming.dlq import DeadLetterTopic
from streaming.eventlog import EventLog
from streaming.history import read_rows, side_tables
from streaming.learn import Loop, learn
from streaming.learn_metrics import Metrics
from streaming.learner import Learner, Step
from streaming.lease import Lease
from streaming.leased import LeasedCheckpoints, LeasedRegistry
from streaming.live_log import LiveLog
from streaming.observe import Endpoint
from streaming.report import fingerprint, report
from streaming.sections import Kafka
from streaming.state_folder import state_folder
from streaming.topics import DEAD, open_log
from streaming.warm_up import PARTITIONS, Past, add_past, hand_over, handed_over, has_past

log = logging.getLogger("freshet.learn")


@dataclass
class Live:
    """What a live learner works with: `redis` is a URL, `past` a historical log to learn from
    first, `checkpoints` a folder, by default in `state_folder`, and `metrics` the host:port to show
    them at, "" for none."""

    app: Application
    kafka: Kafka
    redis: str
    past: Path | None = None
    seed: int = 0
    checkpoints: Path | None = None
    checkpoint_every: int = 500
    until_end: bool = False
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
        folder = self.checkpoints or state_folder(self.app.name, "checkpoints")
        metrics = CollectorRegistry()
        with ExitStack() as stack:
            endpoint = Endpoint(metrics, self.app.name, self.metrics, "learn.metrics")
            stack.enter_context(closing(endpoint))
            live = stack.enter_context(closing(LiveLog(self.kafka, self.app.name)))
            dead = stack.enter_context(closing(open_log(self.kafka, self.app.name, DEAD)))
            lease = stack.enter_context(Lease(self.redis, self.app.name))
            registry = stack.enter_context(
                closing(LeasedRegistry(self.redis, self.app.name, lease))
            )
            read: dict[str, Any] = {}
            checkpoints = LeasedCheckpoints(
                folder, lease, lambda: {"ended": live.ended, "past": read}, live.commit
            )
            least = max(checkpoints.last_epoch(), registry.last_epoch())
            epoch = lease.take(least, self.stop)
            if epoch is None:
                return None
            identity = live.identity()
            learner = Learner(self.app, live.topics, self.seed)
            newest = checkpoints.newest()
            size = None
            if newest is None:
                learner.position.update(live.first_position())
                if self.past is not None:
                    add_past(learner)
            else:
                read.update(newest.tree["live"]["past"])
                live.ended = newest.tree["live"]["ended"]
                size = self._go_on(learner, newest, identity)
            letters = stack.enter_context(closing(DeadLetterTopic(dead, "learn", size)))

            def on_step(step: Step) -> None:
                lease.check()
                self.on_step(learner, step)

            loop = Loop(
                registry=registry,
                dead_letters=letters,
                log_digest=identity,
                checkpoints=checkpoints,
                checkpoint_every=self.checkpoint_every,
                epoch=epoch,
                checkpointed=newest.step if newest else 0,
                stop=self.stop,
                on_step=on_step,
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
