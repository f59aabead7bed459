"""Three learners go bad, each in its own way, as processes on a real Kafka and Redis: versions are
held, or taken back, and a server that follows them goes on with the last good one."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from workers import Command

from features.windows import Windows
from streaming.__main__ import load_application
from streaming.dead_letters import DeadLetters
from streaming.gate import NOT_FINITE
from streaming.history import side_tables
from streaming.produce import Production
from streaming.redis_registry import RedisRegistry
from streaming.sections import Kafka
from streaming.serve.versions import Loaded, Versions
from streaming.shadow import run_of
from streaming.topics import create, open_log

BEGIN, MORE, REST = 3_000, 640, 6_000
BEHIND = 2_500
"""What is produced and not learned yet, labels that have not closed among it."""
EXAMPLES_IN_10_S = 8_000
"""In the log's own time (streaming/apps/simulated.py), whatever the machine takes to learn them."""
MODULE = '''
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from model.train import Trainer
from streaming.apps.simulated import app

app = replace(app, name={name!r}, publish_every=5)
fault, told = os.environ["FAULT"], Path(__file__).with_name("go-bad")
step, draw = Trainer.step, np.random.default_rng(0)


def gone_bad(self, batch, weighter=None):
    """A step of a learner that is sound until it is told."""
    if not told.exists():
        return step(self, batch, weighter)
    told.with_name(fault).touch()
    if fault == "nan":
        self.predictor.embedding.rows[0, 0] = np.nan
        self.predictor.embedding.changes.note(np.zeros(1, np.int64), np.empty(0, np.int64))
    elif fault == "shuffled":
        order = draw.permutation(len(batch))
        batch = replace(batch, labels=1 - batch.labels[order])
    elif not getattr(self, "faster", False):
        self.faster, config = True, self.config
        rows = replace(config.rows, lr=100 * config.rows.lr, wide_lr=100 * config.rows.wide_lr)
        dense = replace(config.dense, lr=100 * config.dense.lr)
        self.config = replace(config, dense=dense, rows=rows)
        self.adjust(self.task_weights, self.tower_lr, self.row_lr)
    return step(self, batch, weighter)


Trainer.step = gone_bad
'''


class Following:
    """A learner with a fault, and what a server that follows it has loaded, in turn."""

    def __init__(self, stack: ExitStack, made: Stream, fault: str) -> None:
        self.fault, app = fault, made.app
        environ = {"FAULT": fault, "FRESHET_KAFKA__BOOTSTRAP": made.broker}
        environ |= {"FRESHET_LEARN__CHECKPOINTS": str(made.folder / "checkpoints")}
        environ |= {"FRESHET_GATE__EVERY": "1"}
        words = ["learn", f"{made.file}:app", "--shadow", fault, "--redis", made.url]
        said = made.folder / f"{fault}.log"
        self.learner = stack.enter_context(Command(words, environ, said))
        self.registry = RedisRegistry(made.url, app.name, run_of(fault))
        stack.enter_context(closing(self.registry))
        self.loaded: list[Loaded] = []
        layout = Windows(app.schema, app.aggregates).layout
        own = stack.enter_context(closing(RedisRegistry(made.url, app.name, run_of(fault))))
        self.versions = Versions(
            own, app.schema, layout, lambda: 0, self.loaded.append, lambda reason: None
        )
        stack.enter_context(closing(self.versions))
        self.versions.start()

    def newest(self) -> int:
        """The last version that the learner has published, which is its step."""
        return max((m.version for m in self.registry.versions()), default=0)

    def taken_back(self) -> list[dict[str, Any]]:
        """The pointer's moves up to the one back, the newest first; none where there is none."""
        moves = self.registry.moves()
        return next((moves[i:] for i, m in enumerate(moves) if m["why"].startswith("worse")), [])

    def turn(self) -> int:
        """Of the pointer, where the server followed it last."""
        return self.versions.seen[0] if self.versions.seen else -1

    def compared(self) -> bool:
        """Whether the gate has an anchor, which it says that it reads."""
        readers = self.registry._redis.hkeys(self.registry._readers)
        return any(name.startswith(b"gate-") for name in readers)


class Stream:
    """Topics of simulated visits, which come as they are asked for."""

    def __init__(self, broker: str, url: str, folder: Path) -> None:
        self.broker, self.url, self.folder = broker, url, folder
        name = f"bad-{uuid.uuid4().hex[:8]}"
        self.file = folder / "my_app.py"
        self.file.write_text(MODULE.format(name=name))
        self.app = replace(load_application("simulated"), name=name, publish_every=5)
        create(Kafka(broker, 2), name)
        self.produced = 0

    def produce(self, rows: int) -> None:
        assert self.app.source is not None
        with closing(open_log(Kafka(self.broker), self.app.name)) as log:
            Production(self.app, log, DeadLetters(), skip=self.produced).run(
                islice(self.app.source(), self.produced + rows), side_tables(self.app, None)
            )
        self.produced += rows


@pytest.fixture
def stream(kafka, redis_url, redis_client, tmp_path) -> Iterator[Stream]:
    made = Stream(kafka, redis_url, tmp_path)
    yield made
    with closing(open_log(Kafka(kafka), made.app.name)) as log:
        log.delete_topics()


@pytest.mark.timeout(600)
def test_learners_gone_bad_are_found_within_ten_seconds_of_the_log(stream: Stream) -> None:
    size = stream.app.trainer.batch_size
    with ExitStack() as stack:
        nan, *worse = (Following(stack, stream, fault) for fault in ("nan", "shuffled", "faster"))
        every = [nan, *worse]
        stream.produce(BEGIN)
        while not all(one.compared() for one in every):
            assert all(one.learner.running for one in every)
            if size * min(one.newest() for one in every) > stream.produced - BEHIND:
                stream.produce(MORE)
            time.sleep(0.2)
        (stream.folder / "go-bad").touch()
        good = {one: one.newest() for one in every}  # and that of the step at hand, at most
        stream.produce(REST)
        nan.learner.until(lambda: nan.registry.held())
        assert set(nan.registry.held().values()) == {NOT_FINITE}
        assert max(m["version"] for m in nan.registry.moves()) < min(nan.registry.held())
        for one in worse:
            one.learner.until(one.taken_back)
            back, *before = one.taken_back()
            assert back["version"] <= good[one]
            steps = max(m["version"] for m in before) + stream.app.publish_every - good[one]
            assert steps * size < EXAMPLES_IN_10_S
            seconds = (back["at_ms"] - before[0]["at_ms"]) / 1000
            print(f"{one.fault}: served for {steps * size} examples, the last for {seconds} s")
            one.learner.until(lambda one=one, turn=back["turn"]: one.turn() >= turn)
        for one in every:
            one.learner.until(lambda one=one: one.loaded)
            assert one.loaded[-1].manifest.version not in one.registry.held()
            assert (stream.folder / one.fault).exists(), "it did go bad"
