"""An application's live topics with a real log in them, and its workers as processes."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka.admin import AdminClient
from prometheus_client.parser import text_string_to_metric_families
from pure_windows import differing
from replays import LOGS
from workers import Command

from features.feast_store import FeastStore
from features.windows import Windows
from streaming.__main__ import load_application
from streaming.eventlog import EventLog
from streaming.history import produce, read_rows, side_tables
from streaming.sections import Kafka
from streaming.topics import ITEMS, create, open_log, prefix

PARTITIONS = 4
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
        if rows != 0:
            self.produce(data, rows)
        self._admin = AdminClient({"bootstrap.servers": broker})

    def produce(self, data: Path, rows: int | None) -> None:
        path = data / LOGS["kuairand"]
        codec = Windows(self.app.schema, self.app.aggregates).codec
        produce(
            self.app, self.log, codec, read_rows(self.app, path, rows), side_tables(self.app, path)
        )

    def acknowledged(self) -> int:
        """Records of the events' topics that ingest need not see again."""
        (answer,) = self._admin.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(f"freshet-{self.app.name}-ingest")]
        ).values()
        items = prefix(self.app.name) + ITEMS
        partitions = answer.result().topic_partitions
        return sum(max(0, at.offset) for at in partitions if at.topic != items)

    @contextmanager
    def more(self, *names: str) -> Iterator[EventLog]:
        """A log of these topics and the impressions."""
        with closing(open_log(Kafka(self.broker), self.app.name, "impressions", *names)) as log:
            yield log

    @property
    def records(self) -> int:
        end = self.log.end_position()
        return sum(
            end[topic, p] for topic in ("impressions", "feedback") for p in range(PARTITIONS)
        )

    def settled(self, url: str) -> bool:
        """Whether all rows are those of the pure code."""
        return sum(self.differing(url).values()) == 0

    def ingest(self, url: str, instance: str = "one") -> Command:
        """The worker's process; killed if it is still there at the end."""
        return self.worker(
            "ingest", url, self.folder / f"{instance}.log", INGEST__INSTANCE=instance
        )

    def worker(self, name: str, url: str, said: Path, *words: str, **settings: str) -> Command:
        settings |= {
            "KAFKA__BOOTSTRAP": self.broker,
            "FEATURES__FOLDER": str(self.folder / "features"),
            "LEARN__CHECKPOINTS": str(self.folder / "checkpoints"),
        }
        environ = {f"FRESHET_{name}": value for name, value in settings.items()}
        return Command([name, f"{self.file}:app", "--redis", url, *words], environ, said)

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


def shown(address: str) -> dict[str, float]:
    """What a worker's metrics sum up to, by name; nothing before it shows any."""
    try:
        with urlopen(f"http://{address}/metrics") as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
    except URLError:
        return {}
    names = {sample.name for family in families for sample in family.samples}
    return {
        name: sum(s.value for family in families for s in family.samples if s.name == name)
        for name in names
    }


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"
