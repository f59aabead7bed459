"""The fault bench: `freshet learn` as a process over a real log, killed, started again, compared.

What an undisturbed run has learned is the oracle. A round begins with no checkpoint and an empty
Redis, on the same topics; they hold bad records too, whose dead letters must be there once.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import redis
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from workers import Command

from features.windows import Windows
from streaming.__main__ import load_application
from streaming.application import Application
from streaming.checkpoint import Checkpoints
from streaming.dlq import records
from streaming.failpoint import POINTS, VARIABLE
from streaming.history import produce, read_rows, side_tables
from streaming.redis_registry import RedisRegistry
from streaming.sections import Kafka
from streaming.topics import DEAD, create, open_log, prefix

PARTITIONS = 4
EVERY = 4
"""Steps between checkpoints; there is a publication every `PUBLISH` steps."""
PUBLISH = 3
MODULE = """
from dataclasses import replace
from streaming.apps.kuairand import app as kuairand
app = replace(kuairand, name={name!r}, publish_every={every})
"""
BAD = [b"\xff\x00", b'{"type": "impression", "v": 9}', b"[]"]
Aim = str | float
"""Where a learner is killed: at a fail-point, `name:pass`, or so many seconds after its start."""


@dataclass(frozen=True)
class Outcome:
    """A round's end, against the undisturbed run's."""

    kills: int
    equal: bool
    lost: int
    doubled: int

    @property
    def right(self) -> bool:
        return self.equal and not self.lost and not self.doubled


class Bench:
    """One application's topics, filled, with a Redis and a folder to work in."""

    def __init__(self, broker: str, url: str, folder: Path, log: Path, rows: int | None) -> None:
        self.broker, self.url, self.folder, self.rows = broker, url, folder, rows
        self.name = f"faults-{uuid.uuid4().hex[:8]}"
        kuairand: Application = load_application("kuairand")
        self.app = replace(kuairand, name=self.name, publish_every=PUBLISH)
        (folder / "my_app.py").write_text(MODULE.format(name=self.name, every=PUBLISH))
        create(Kafka(broker, PARTITIONS), self.name)
        self.log = open_log(Kafka(broker), self.name)
        self.dead = open_log(Kafka(broker), self.name, DEAD)
        self.redis = redis.Redis.from_url(url)
        self.admin = AdminClient({"bootstrap.servers": broker})
        codec = Windows(self.app.schema, self.app.aggregates).codec
        for value in BAD:
            self.log.append("impressions", b"k", value, 1_600_000_000_000)
        produce(
            self.app, self.log, codec, read_rows(self.app, log, rows), side_tables(self.app, log)
        )
        self._rounds, self._learners = 0, count()
        self.seconds = 0.0
        self.oracle: dict[str, Any] = {}

    def undisturbed(self) -> dict[str, Any]:
        """The report of a run that nobody kills; how long it took is in `seconds`."""
        checkpoints = self.begin()
        started = time.monotonic()
        report = self.run(checkpoints, None)
        assert report is not None
        self.seconds, self.oracle = time.monotonic() - started, report
        return report

    def round(self, aims: Iterable[Aim]) -> Outcome:
        """Kills one learner after another as `aims` say, lets the last one come to its end, and
        compares."""
        checkpoints, report, kills = self.begin(), None, 0
        for aim in aims:
            report = self.run(checkpoints, aim)
            kills += report is None
        if report is None:
            report = self.run(checkpoints, None)
        assert report is not None
        return self._compared(report, checkpoints, kills)

    def close(self) -> None:
        self.log.delete_topics()
        self.dead.delete_topics()
        for log in (self.log, self.dead):
            log.close()
        self.redis.close()

    def begin(self) -> Path:
        """The folder of a new round's checkpoints."""
        self.redis.flushall()
        at = TopicPartition(prefix(self.name) + DEAD, 0, self.dead.end_position()[DEAD, 0])
        self.admin.delete_records([at])[at].result(10)
        self._rounds += 1
        return self.folder / f"round-{self._rounds}"

    def learner(self, checkpoints: Path, aim: Aim | None = None, waits: bool = False) -> Command:
        """A learner that ends at the log's end, or `waits` for more there."""
        said = checkpoints.parent / f"{checkpoints.name}-{next(self._learners)}.said"
        words = ["learn", f"{self.folder / 'my_app.py'}:app", "--json"]
        words += [] if waits else ["--until-end"]
        words += ["--broker", self.broker, "--redis", self.url, "--checkpoints", str(checkpoints)]
        words += ["--checkpoint-every", str(EVERY)]
        environ = {VARIABLE: aim} if isinstance(aim, str) else {}
        return Command(words, environ, said)

    def forget_lease(self) -> None:
        """As though the time of one that died had run out, which other tests wait for."""
        self.redis.delete(f"freshet:{{{self.name}}}:live:lease")

    def run(self, checkpoints: Path, aim: Aim | None = None) -> dict[str, Any] | None:
        """The report of a learner that came to its end, None of one that was killed."""
        with self.learner(checkpoints, aim) as learner:
            if isinstance(aim, float):
                learner.ends_within(aim)
                learner.kill()
            code = learner.wait()
        if code == -9:
            self.forget_lease()
            return None
        text = learner.said.read_text()
        assert code == 0, text
        report: dict[str, Any] = json.loads(text[f"\n{text}".index("\n{\n") :])
        return report

    def _compared(self, report: dict[str, Any], checkpoints: Path, kills: int) -> Outcome:
        found, expected = self._told(report, checkpoints), self._told(self.oracle, None)
        lost, doubled = expected - found, found - expected
        equal = report["state_hash"] == self.oracle["state_hash"]
        equal &= report["tasks"] == self.oracle["tasks"]
        return Outcome(kills, equal, lost.total(), doubled.total())

    def _told(self, report: dict[str, Any], checkpoints: Path | None) -> Counter[Any]:
        """All that must be there as often as in the undisturbed run: events, examples, versions,
        what is left in the log, and dead letters."""
        told: Counter[Any] = Counter(report["events"])
        told["examples"] = report["examples"]
        told.update((s["version"], s["content"]) for s in report["snapshots"])
        if checkpoints is None:
            told.update((s["version"], s["content"]) for s in report["snapshots"][-KEPT:])
            told.update(self.log.end_position().items())
            told["letters"] = len(BAD)
            return told
        newest = Checkpoints(checkpoints).newest()
        assert newest is not None
        told.update(((topic, p), offset) for topic, p, offset in newest.tree["position"])
        with closing(RedisRegistry(self.url, self.name)) as registry:
            told.update((m.version, m.content) for m in registry.versions()[-KEPT:])
        told["letters"] = sum(1 for _ in records(self.dead))
        return told


KEPT = 8
"""Versions that a registry keeps, whatever builds on them."""


def random_aim(draw: random.Random, bench: Bench) -> Aim:
    """A moment of the run, or a pass of a fail-point."""
    if draw.random() < 0.5:
        return draw.uniform(0.0, bench.seconds)
    name = draw.choice(POINTS)
    steps = bench.oracle["steps"]
    passes = {"step": steps, "publish": steps // PUBLISH, "checkpoint": steps // EVERY}
    return f"{name}:{draw.randint(1, max(1, passes.get(name.split('.')[0], 1)))}"


@contextmanager
def faults(broker: str, url: str, folder: Path, log: Path, rows: int | None) -> Iterator[Bench]:
    """A bench that has its undisturbed run behind it."""
    bench = Bench(broker, url, folder, log, rows)
    try:
        bench.undisturbed()
        yield bench
    finally:
        bench.close()
