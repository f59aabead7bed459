"""The broker and the live topics, as the doctor sees them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaException,
    Message,
    TopicPartition,
)

from features.events import FEEDBACK, IMPRESSIONS
from streaming.doctor.finding import ERROR, FINE, WARNING, Finding
from streaming.eventlog import Position, partition_of
from streaming.kafkalog import ANSWER_S, CONSUMER_CONFIG, admin_client
from streaming.live_log import LiveLog
from streaming.sections import Kafka
from streaming.topics import DEAD, ITEMS, Topic, describe, prefix

AHEAD_MS = 60_000
"""How far ahead of this machine's clock an event may be: more is refused by the codec."""
RECENT = 100
STALE_MS = 120_000
"""How far behind ingest may acknowledge: it does so each half minute."""


class LiveTopics:
    """The live topics of `app`. Each examination yields what it finds; ConnectionError where the
    broker goes away in the middle."""

    def __init__(self, kafka: Kafka, app: str) -> None:
        self.kafka, self.app = kafka, app
        self.topics: dict[str, Topic] = {}
        self.first: Position = {}
        self.end: Position = {}

    @property
    def usable(self) -> bool:
        """Whether there is a log to look into."""
        return bool(self.end)

    def examine(self) -> Iterator[Finding]:
        try:
            topics = describe(self.kafka, self.app)
        except ConnectionError as error:
            do = "start it, or set kafka.bootstrap (and kafka.security_protocol) to where it is"
            yield Finding("kafka", ERROR, str(error), do)
            return
        yield Finding("kafka", FINE, f"a broker answers at {self.kafka.bootstrap}")
        self.topics = {topic.name.removeprefix(prefix(self.app)): topic for topic in topics}
        yield from self._partitions()
        if all(topic.partitions for topic in self.topics.values()):
            with closing(LiveLog(self.kafka, self.app)) as log:
                self.first, self.end = log.first_position(), log.end_position()
            yield from self._retention()
            yield from self._recent()

    def _partitions(self) -> Iterator[Finding]:
        counts = {name: topic.partitions for name, topic in self.topics.items()}
        missing = [self.topics[name].name for name, n in counts.items() if not n]
        if missing:
            do = f"make them with `freshet topics create {self.app}`"
            yield Finding("topics", ERROR, f"not there: {', '.join(missing)}", do)
            return
        if counts[IMPRESSIONS] != counts[FEEDBACK]:
            says = (
                f"impressions have {counts[IMPRESSIONS]} partitions and feedback "
                f"{counts[FEEDBACK]}: a user's events meet in no ingest worker"
            )
            do = "give both the same number (`kafka-topics.sh --alter --partitions` adds some)"
            yield Finding("topics", ERROR, says, do)
            return
        says = f"{len(counts)} there, {counts[IMPRESSIONS]} partitions each, {DEAD} 1"
        if counts[IMPRESSIONS] != self.kafka.partitions:
            do = "nothing, unless kafka.partitions is right and the topics were made otherwise"
            says += f"; kafka.partitions is {self.kafka.partitions}"
            yield Finding("topics", WARNING, says, do)
        else:
            yield Finding("topics", FINE, says)

    def _retention(self) -> Iterator[Finding]:
        limited = [t for t in self.topics.values() if t.retention_ms >= 0]
        for topic in limited:
            span = timedelta(milliseconds=topic.retention_ms)
            says = f"{topic.name} keeps {span} by the events' own times, then forgets"
            do = (
                "what is older can't be replayed, and a learner that is further behind stops: "
                "`kafka-configs.sh --alter --add-config retention.ms=-1`"
            )
            yield Finding("retention", WARNING, says, do)
        if not limited:
            yield Finding("retention", FINE, "the topics keep all")

    def _recent(self) -> Iterator[Finding]:
        now_ms = time.time_ns() // 1_000_000
        astray, seen, newest = 0, 0, 0
        for topic in (IMPRESSIONS, FEEDBACK):
            for message in self._last(topic):
                key, (_, time_ms) = message.key(), message.timestamp()
                newest = max(newest, time_ms)
                if key is not None:
                    seen += 1
                    astray += partition_of(key, self.topics[topic].partitions) != (
                        message.partition()
                    )
        if astray:
            says = f"{astray} of the last {seen} events are not in the partition of their key"
            do = "producers hash keys as Java's do: librdkafka's `partitioner=murmur2_random`"
            yield Finding("keys", ERROR, says, do)
        elif seen:
            yield Finding(
                "keys", FINE, f"the last {seen} events are in the partitions of their keys"
            )
        if newest > now_ms + AHEAD_MS:
            says = f"the newest event is {timedelta(milliseconds=newest - now_ms)} in the future"
            do = "set the clock of this machine, or of the producer: events wait for their time"
            yield Finding("clock", ERROR, says, do)

    def _last(self, topic: str) -> Iterator[Message]:
        """The last events of each partition of `topic`, heartbeats among them."""
        config = {"bootstrap.servers": self.kafka.bootstrap, **self.kafka.properties()}
        consumer = Consumer({**CONSUMER_CONFIG, **config})
        try:
            for p in range(self.topics[topic].partitions):
                first, end = self.first[topic, p], self.end[topic, p]
                start = max(first, end - RECENT)
                if start < end:
                    at = TopicPartition(prefix(self.app) + topic, p, start)
                    consumer.assign([at])
                    messages = consumer.consume(end - start, ANSWER_S / 4)
                    yield from (m for m in messages if m.error() is None)
        finally:
            consumer.close()

    def ingest(self) -> Iterator[Finding]:
        """How far the feature store is behind the events."""
        committed = self._committed(f"freshet-{self.app}-ingest")
        if not any(tp[0] != ITEMS for tp in committed):
            do = f"start `freshet ingest {self.app}`: until then windowed features are empty"
            yield Finding("features", WARNING, "no ingest worker has acknowledged anything yet", do)
            return
        ends = {tp: end for tp, end in self.end.items() if tp[0] in (IMPRESSIONS, FEEDBACK)}
        behind = sum(end - committed.get(tp, self.first[tp]) for tp, end in ends.items())
        age_ms = self._waits_ms(committed)
        if age_ms > STALE_MS:
            says = f"the store is stale: {behind:,} events behind, {age_ms / 1000:,.0f} s"
            do = f"is `freshet ingest {self.app}` running? If it is, start more of them"
            yield Finding("features", WARNING, says, do)
        else:
            yield Finding("features", FINE, f"the store is {behind:,} events behind")

    def _committed(self, group: str) -> Position:
        names = {prefix(self.app) + topic: topic for topic in (IMPRESSIONS, FEEDBACK, ITEMS)}
        asked = [
            TopicPartition(name, p)
            for name, topic in names.items()
            for p in range(self.topics[topic].partitions)
        ]
        admin = admin_client({"bootstrap.servers": self.kafka.bootstrap, **self.kafka.properties()})
        try:
            answers = admin.list_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(group, asked)], request_timeout=ANSWER_S
            )
            found = answers[group].result(ANSWER_S).topic_partitions
        except KafkaException as error:
            raise ConnectionError(f"kafka: offsets of {group}: {error.args[0].str()}") from None
        return {(names[at.topic], at.partition): at.offset for at in found if at.offset >= 0}

    def _waits_ms(self, committed: Position) -> int:
        """How long the first event that is not acknowledged waits: ms behind the newest."""
        config = {"bootstrap.servers": self.kafka.bootstrap, **self.kafka.properties()}
        consumer = Consumer({**CONSUMER_CONFIG, **config})
        waits = 0
        try:
            for (topic, p), end in self.end.items():
                at = committed.get((topic, p), self.first[topic, p])
                if topic not in (IMPRESSIONS, FEEDBACK) or at >= end:
                    continue
                times = []
                for offset in (max(at, self.first[topic, p]), end - 1):
                    consumer.assign([TopicPartition(prefix(self.app) + topic, p, offset)])
                    messages = consumer.consume(1, ANSWER_S / 4)
                    times += [m.timestamp()[1] for m in messages if m.error() is None]
                if len(times) == 2:
                    waits = max(waits, times[1] - times[0])
        finally:
            consumer.close()
        return waits
