"""`freshet ingest`: after a log, Feast holds what the pure code holds, however often it was killed;
what can't be used is a dead letter; and it waits for a store that is away."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka.admin import AdminClient
from pure_windows import differing
from replays import LOGS
from workers import Command

from features.feast_store import FeastStore
from features.windows import Windows
from streaming.__main__ import load_application
from streaming.history import produce, read_rows, side_tables
from streaming.sections import Kafka
from streaming.topics import ITEMS, create, open_log, prefix

PARTITIONS = 4
ROWS = 16_000
KILLS = 20
MODULE = """
from dataclasses import replace
from streaming.apps.kuairand import app as kuairand
app = replace(kuairand, name={name!r})
"""


class Topics:
    """An application's live topics, holding the first `rows` of KuaiRand, and their end."""

    def __init__(self, broker: str, folder: Path, data: Path, rows: int | None) -> None:
        self.broker, self.folder = broker, folder
        self.app = replace(load_application("kuairand"), name=f"kuairand-{uuid.uuid4().hex[:8]}")
        self.file = folder / "my_app.py"
        self.file.write_text(MODULE.format(name=self.app.name))
        create(Kafka(broker, PARTITIONS), self.app.name)
        self.log = open_log(Kafka(broker), self.app.name)
        path = data / LOGS["kuairand"]
        codec = Windows(self.app.schema, self.app.aggregates).codec
        produce(
            self.app, self.log, codec, read_rows(self.app, path, rows), side_tables(self.app, path)
        )
        self._admin = AdminClient({"bootstrap.servers": broker})

    def acknowledged(self) -> int:
        """Records of the events' topics that ingest need not see again."""
        (answer,) = self._admin.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(f"freshet-{self.app.name}-ingest")]
        ).values()
        items = prefix(self.app.name) + ITEMS
        partitions = answer.result().topic_partitions
        return sum(max(0, at.offset) for at in partitions if at.topic != items)

    @property
    def records(self) -> int:
        end = self.log.end_position()
        return sum(
            end[topic, p] for topic in ("impressions", "feedback") for p in range(PARTITIONS)
        )

    def ingest(self, url: str, instance: str = "one") -> Command:
        """The worker's process; killed if it is still there at the end."""
        environ = {
            "FRESHET_KAFKA__BOOTSTRAP": self.broker,
            "FRESHET_REDIS__URL": url,
            "FRESHET_FEATURES__FOLDER": str(self.folder / "features"),
            "FRESHET_INGEST__INSTANCE": instance,
        }
        words = ["ingest", f"{self.file}:app"]
        return Command(words, environ, self.folder / f"{instance}.log")

    def differing(self, url: str) -> dict[str, int]:
        windows = Windows(self.app.schema, self.app.aggregates)
        with closing(FeastStore(url, self.app.name, self.folder / "f", windows)) as store:
            return differing(self.app, store, self.log, PARTITIONS)


@contextmanager
def topics(broker: str, folder: Path, data: Path, rows: int | None) -> Iterator[Topics]:
    made = Topics(broker, folder, data, rows)
    try:
        yield made
    finally:
        made.log.delete_topics()
        made.log.close()


def commands(client: redis.Redis) -> int:
    return int(client.info("stats")["total_commands_processed"])


@pytest.mark.timeout(600)
def test_online_equals_replay_after_twenty_kills(
    kafka, data_dir, redis_client, redis_url, tmp_path
):
    """Each time a little further on, some before anything is acknowledged and some after."""
    with topics(kafka, tmp_path, data_dir, ROWS) as made:
        acknowledged = set()
        for kill in range(1, KILLS + 1):
            before = commands(redis_client)
            with made.ingest(redis_url) as worker:
                worker.until(lambda n=before + kill * 4_000: commands(redis_client) >= n)
                worker.kill()
            acknowledged.add(made.acknowledged())
        assert max(acknowledged) < made.records, "it was not killed in the middle"
        assert len(acknowledged) > 1, "it never acknowledged anything"
        with made.ingest(redis_url) as worker:
            worker.until(lambda: sum(made.differing(redis_url).values()) == 0)
            worker.stop()
        assert made.acknowledged() == made.records


def test_two_share_the_work(kafka, data_dir, redis_client, redis_url, tmp_path):
    with topics(kafka, tmp_path, data_dir, 8_000) as made:
        with made.ingest(redis_url) as one:
            one.until(lambda: redis_client.dbsize() > 100)
            with made.ingest(redis_url, "two") as two:
                two.until(lambda: sum(made.differing(redis_url).values()) == 0)
                one.stop()
                two.stop()
        assert made.acknowledged() == made.records
