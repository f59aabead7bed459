"""A historical log, or what the live topics hold, through the learner, as fast as it goes."""

from __future__ import annotations

import logging
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any

from features.events import Control
from model.schema import nearest
from streaming.application import Application, Row, Shown
from streaming.checkpoint import Checkpoints
from streaming.dead_letters import DeadLetters
from streaming.eventlog import EventLog, MemoryLog
from streaming.growth import added
from streaming.history import Produced, produce, read_rows, side_tables, topics
from streaming.kafkalog import KafkaLog
from streaming.learn import Loop, learn
from streaming.learner import Learner, Step
from streaming.live_log import LiveLog
from streaming.memory_registry import MemoryRegistry
from streaming.predictions import Predictions
from streaming.registry import Registry
from streaming.report import fingerprint, report
from streaming.rollback import steps_wanted
from streaming.sections import Kafka
from streaming.warm_start import warm_start

log = logging.getLogger("freshet.replay")
MEDIA = ("memory", "parquet", "kafka")
ROWS_OF_A_SOURCE = 200_000


@dataclass
class Replay:
    """What to replay, and how. `live` replays the live topics as far as they go now, on `kafka`;
    else it is the file `log`, through the medium `via`, with `controls` merged in, and every event
    delivered `copies` times. Where no checkpoint is gone on from, the model begins with that of
    `warm_start`, a folder of checkpoints or a version's file."""

    app: Application
    log: Path | None = None
    via: str = "memory"
    live: bool = False
    kafka: Kafka = field(default_factory=Kafka)
    partitions: int = 1
    redis: str | None = None
    seed: int = 0
    limit: int | None = None
    checkpoints: Path | None = None
    checkpoint_every: int = 500
    warm_start: Path | None = None
    predictions: Path | None = None
    dead_letters: Path | None = None
    controls: Iterable[Control] = ()
    copies: int = 1
    stop: Event = field(default_factory=Event)
    on_step: Callable[[Learner, Step], None] = lambda learner, step: None

    def run(self) -> dict[str, Any] | None:
        """The report, or None where it was stopped before the log's end.

        Raises ValueError for what the user can mend, and ConnectionError or RegistryError where a
        server does not answer.
        """
        started = time.perf_counter()
        rows, tables = self._rows()
        controls = list(self.controls)
        with ExitStack() as stack:
            events = stack.enter_context(self._medium())
            learner = self._learner(events.base if isinstance(events, LiveLog) else events.topics)
            if isinstance(events, LiveLog):
                learner.merge.added = added
                made = Produced(0, [], events.identity())
                learner.position |= events.base_position()
            else:
                made = produce(
                    self.app, events, learner.codec, rows, tables,
                    controls, self.copies, self.stop,
                )  # fmt: skip
            if self.stop.is_set():
                return None
            if not made.events and made.bad:
                first = made.bad[0]
                raise ValueError(
                    f"no row of the log could be used; row {first.row}: {first.reason}"
                )
            registry = stack.enter_context(self._registry(made.digest))
            back = events.rollbacks if isinstance(events, LiveLog) else steps_wanted(controls)
            folder = self.checkpoints
            if folder is None and back:
                temporary = tempfile.TemporaryDirectory(prefix="freshet-replay-")
                folder = Path(stack.enter_context(temporary))
            checkpoints = None if folder is None else Checkpoints(folder)
            if checkpoints is not None:
                checkpoints.held |= back
            size = self._go_on(learner, registry, checkpoints, made.digest)
            letters = DeadLetters(self.dead_letters, size or 0)
            stack.callback(letters.close)
            if size is None:
                letters.add_rows(made.bad)
                if self.warm_start is not None:
                    warm_start(learner, self.warm_start)
            writer = None
            if self.predictions is not None:
                writer = Predictions(self.predictions, self.app.schema)
                stack.callback(writer.close)

            def on_step(step: Step) -> None:
                if writer is not None:
                    writer.add(step)
                self.on_step(learner, step)

            kept = 0 if checkpoints is None else checkpoints.last_epoch()
            loop = Loop(
                registry=registry,
                dead_letters=letters,
                log_digest=made.digest,
                checkpoints=checkpoints,
                checkpoint_every=self.checkpoint_every if self.checkpoints else sys.maxsize,
                epoch=max(kept, registry.last_epoch()) + 1,
                begun=learner.trainer.steps,
                stop=self.stop,
                on_step=on_step,
            )
            if not learn(events, learner, loop, events.end_position()):
                return None
        out = report(learner, time.perf_counter() - started)
        out["events"]["bad"] += len(made.bad)
        return out

    def _rows(self) -> tuple[Iterable[Row | Shown], Mapping[str, Any]]:
        """The historical log's rows and side tables; none where it is the live topics."""
        if self.live:
            if self.log is not None or self.limit is not None:
                raise ValueError("--live replays the live topics: leave out --log and --limit")
            return (), {}
        if self.log is not None:
            rows: Iterable[Row | Shown] = read_rows(self.app, self.log, self.limit)
        elif self.app.source is None:
            raise ValueError(
                f"application {self.app.name!r} makes no log of its own: give --log PATH, or --live"
            )
        else:
            most = ROWS_OF_A_SOURCE if self.limit is None else self.limit
            rows = islice(self.app.source(), most)
        return rows, side_tables(self.app, self.log)

    def _learner(self, topics: dict[str, int]) -> Learner:
        try:
            return Learner(self.app, topics, self.seed)
        except (RuntimeError, TypeError, MemoryError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"application {self.app.name!r} can't be built: {reason}") from None

    def _go_on(
        self, learner: Learner, registry: Registry, checkpoints: Checkpoints | None, digest: str
    ) -> int | None:
        """Loads the newest checkpoint; returns how much of the dead letters' file it knows, or None
        where there is no checkpoint and all begins."""
        newest = None if checkpoints is None else checkpoints.newest()
        if newest is None:
            registry.clear()
            return None
        if self.predictions is not None:
            raise ValueError(
                f"--predictions wants a whole run, but {str(self.checkpoints)!r} holds a "
                "checkpoint to go on from: give an empty folder, or none"
            )
        tree = newest.tree
        made_on, here = tree.pop("fingerprint"), fingerprint(self.app.trainer.device)
        learner.check(tree)
        if tree.pop("log_digest") != digest:
            raise ValueError(
                f"the checkpoint in {str(self.checkpoints)!r} was made on another log (or --limit, "
                "or --partitions): give another folder, or the log that it was made on"
            )
        if made_on != here:
            log.warning("a new lineage: the checkpoint was made on %s, this is %s", made_on, here)
        size: int = tree.pop("dead_letters")
        learner.load(tree)
        log.info("going on from %s, after %d examples", newest.path.name, learner.examples)
        return size

    @contextmanager
    def _registry(self, digest: str) -> Iterator[Registry]:
        """Under a run key of its own: a replay never touches the live pointer."""
        registry: Registry = MemoryRegistry()
        if self.redis is not None:
            from streaming.redis_registry import RedisRegistry

            run = f"replay-{digest[:12]}-{self.app.config_hash()[:12]}-{self.seed}"
            registry = RedisRegistry(self.redis, self.app.name, run)
        try:
            yield registry
        finally:
            registry.close()

    @contextmanager
    def _medium(self) -> Iterator[EventLog]:
        """The live topics; or an empty log in memory, in a temporary folder, or in topics of its
        own, removed after."""
        names = topics(self.partitions)
        if self.live:
            with closing(LiveLog(self.kafka, self.app.name)) as live:
                yield live
        elif self.via == "memory":
            yield MemoryLog(names)
        elif self.via == "parquet":
            from streaming.parquetlog import ParquetLog

            with tempfile.TemporaryDirectory(prefix="freshet-replay-") as folder:
                events = ParquetLog(folder, names)
                yield events
                events.close()
        elif self.via == "kafka":
            prefix = f"freshet.{self.app.name}.replay-{uuid.uuid4().hex[:12]}."
            kafka = KafkaLog(self.kafka.bootstrap, names, prefix, self.kafka.properties())
            try:
                kafka.create_topics()
                yield kafka
            finally:
                kafka.delete_topics()
                kafka.close()
        else:
            raise ValueError(f"--via is {self.via!r}: {nearest(self.via, MEDIA)}")
