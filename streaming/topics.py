"""An application's live topics in Kafka: their names, their making, and how they stand.

`freshet.{app}.impressions`, `.feedback`, `.control`, which are the event log; `.items`, the events
by item, between ingest and itself; and `.dead`, where what could not be used goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from features.events import TOPICS
from streaming.history import topics as event_topics
from streaming.kafkalog import ANSWER_S, CLIENT_CONFIG, KafkaLog, admin_client
from streaming.sections import Kafka

DEAD = "dead"
"""The topic of dead letters: one partition, so that an offset names a letter."""
ITEMS = "items"
"""The topic of events by item, which ingest makes of the event log."""


class Topic(NamedTuple):
    """How a topic stands. `partitions` is 0 where it is not there; `retention_ms` is -1 for ever;
    `records` counts heartbeats too."""

    name: str
    partitions: int = 0
    retention_ms: int = 0
    records: int = 0


def prefix(app: str) -> str:
    """What the names of an application's live topics begin with."""
    return f"freshet.{app}."


def live_partitions(
    bootstrap: str, app: str, config: Mapping[str, Any], names: tuple[str, ...] = TOPICS
) -> dict[str, int]:
    """The live topics `names`, and how many partitions each has. ValueError where one is not
    there, and ConnectionError where no broker answers."""
    admin = admin_client({"bootstrap.servers": bootstrap, **CLIENT_CONFIG, **config})
    there = _partitions(admin, bootstrap)
    missing = [prefix(app) + topic for topic in names if prefix(app) + topic not in there]
    if missing:
        raise ValueError(
            f"topic {missing[0]!r} is not there: make it with `freshet topics create {app}`"
        )
    return {topic: there[prefix(app) + topic] for topic in names}


def open_log(kafka: Kafka, app: str, *names: str) -> KafkaLog:
    """The live log of the topics `names`, with the partitions that they have. Raises as
    `live_partitions` does."""
    properties = kafka.properties()
    found = live_partitions(kafka.bootstrap, app, properties, names or TOPICS)
    return KafkaLog(kafka.bootstrap, found, prefix(app), properties)


def create(kafka: Kafka, app: str) -> None:
    """Make the topics that are missing, with `kafka.partitions` (commands and dead letters have
    one). Raises ValueError where one is there with another number of partitions."""
    wanted = {**event_topics(kafka.partitions), ITEMS: kafka.partitions, DEAD: 1}
    log = KafkaLog(kafka.bootstrap, wanted, prefix(app), kafka.properties())
    log.create_topics()
    log.close()


def describe(kafka: Kafka, app: str) -> list[Topic]:
    """How each topic stands, also those that are missing. ConnectionError where no broker
    answers."""
    properties = kafka.properties()
    admin = admin_client({"bootstrap.servers": kafka.bootstrap, **CLIENT_CONFIG, **properties})
    all_there = _partitions(admin, kafka.bootstrap)
    ours = {name: all_there.get(prefix(app) + name, 0) for name in (*TOPICS, ITEMS, DEAD)}
    there = {name: n for name, n in ours.items() if n}
    if not there:
        return [Topic(prefix(app) + name) for name in ours]
    log = KafkaLog(kafka.bootstrap, there, prefix(app), properties)
    end = log.end_position()
    records = {name: sum(end[name, p] for p in range(n)) for name, n in there.items()}
    log.close()
    retention = _retention_ms(admin, [prefix(app) + name for name in there])
    return [
        Topic(full, n, retention.get(full, 0), records.get(name, 0))
        for name, n in ours.items()
        for full in (prefix(app) + name,)
    ]


def _partitions(admin: AdminClient, bootstrap: str) -> dict[str, int]:
    try:
        found = admin.list_topics(timeout=ANSWER_S).topics
    except KafkaException as error:
        raise ConnectionError(
            f"kafka: no broker at {bootstrap} answered within {ANSWER_S:.0f} s "
            f"({error.args[0].str()})"
        ) from None
    return {name: len(topic.partitions) for name, topic in found.items()}


def _retention_ms(admin: AdminClient, names: list[str]) -> dict[str, int]:
    asked = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    answers = admin.describe_configs(asked, request_timeout=ANSWER_S)
    try:
        return {
            topic.name: int(answer.result(ANSWER_S)["retention.ms"].value)
            for topic, answer in answers.items()
        }
    except KafkaException as error:
        raise ConnectionError(f"kafka: settings of topics: {error.args[0].str()}") from None
