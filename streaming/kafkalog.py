"""The event log in Apache Kafka, through confluent-kafka (librdkafka).

Partitions are chosen here, not by the client, so that they are those of every other medium. Readers
use one consumer a partition with a static assignment: no group, no rebalance, and no partition held
back by another's queue.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from streaming.eventlog import Chunk, Position, Reader, check_topics, place, start_position

ANSWER_S = 10.0
"""How long a broker may take to answer before it counts as unreachable."""

# CreateTime, as the log's clock is the events'. Without the other two, Kafka deletes old logs (by
# their events' times) and refuses events more than an hour ahead of its own clock.
TOPIC_CONFIG = {
    "message.timestamp.type": "CreateTime",
    "message.timestamp.after.max.ms": str(2**63 - 1),
    "retention.ms": "-1",
}

CLIENT_CONFIG = {
    "reconnect.backoff.max.ms": 1000,
    "log_level": 2,  # lost connections are retried, and surface as errors of a call where they last
}

PRODUCER_CONFIG = {
    "acks": "all",
    "enable.idempotence": True,
    "linger.ms": 5,
    "compression.type": "lz4",
    "message.max.bytes": 1_048_000,  # above MAX_EVENT_BYTES by a batch's own bytes
    "queue.buffering.max.kbytes": 65_536,
    "delivery.timeout.ms": 60_000,
    "delivery.report.only.error": True,
}

CONSUMER_CONFIG = {
    "group.id": "freshet",  # required, and not used: partitions are assigned
    "enable.auto.commit": False,
    "auto.offset.reset": "error",  # a lost offset is an error, never a jump
    "allow.auto.create.topics": False,
    "fetch.queue.backoff.ms": 5,  # by default a full queue stops fetching for a second
    "queued.max.messages.kbytes": 16_384,
}

PASSING = {
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TIMED_OUT,
    KafkaError._RESOLVE,
}
"""Errors that the consumer recovers from by itself."""


def admin_client(config: Mapping[str, Any]) -> AdminClient:
    """A client with these librdkafka properties. Raises ValueError for one that it can't use, like
    a file that is no certificate."""
    try:
        return AdminClient(dict(config))
    except KafkaException as error:
        raise ValueError(f"kafka: {error.args[0].str()}") from None


class KafkaLog:
    """An event log in the Kafka at `bootstrap` (`host:port`, several with commas).

    `prefix` is put before each topic's name there, and nowhere else; `config` holds librdkafka
    properties for all clients. Raises ConnectionError when no broker answers within 10 s.
    """

    def __init__(
        self,
        bootstrap: str,
        topics: dict[str, int],
        prefix: str = "",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.topics = check_topics(topics)
        self._prefix = prefix
        self._config = {"bootstrap.servers": bootstrap, **CLIENT_CONFIG, **(config or {})}
        self._failed: list[str] = []
        self._admin = admin_client(self._config)
        self._producer: Producer | None = None
        self._existing()

    def create_topics(self) -> None:
        """Create the topics that are missing. Raises ValueError where one is there with another
        number of partitions."""
        wanted = [
            NewTopic(self._prefix + name, partitions, 1, config=TOPIC_CONFIG)
            for name, partitions in self.topics.items()
        ]
        for name, answer in self._admin.create_topics(wanted, operation_timeout=ANSWER_S).items():
            try:
                answer.result(ANSWER_S)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise ConnectionError(f"kafka: topic {name!r}: {error.args[0].str()}") from None
        deadline = time.monotonic() + ANSWER_S
        while len(self._existing()) < len(self.topics) and time.monotonic() < deadline:
            time.sleep(0.02)
        self.end_position()  # checks the partitions, and waits until each has its leader

    def delete_topics(self) -> None:
        """Delete the topics that are there, with all that they hold."""
        existing = [self._prefix + name for name in self._existing()]
        for answer in self._admin.delete_topics(existing, operation_timeout=ANSWER_S).values():
            answer.result(ANSWER_S)

    def append(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        timestamp_ms: int,
        partition: int | None = None,
    ) -> None:
        at = place(self.topics, topic, key, value, timestamp_ms, partition)
        if self._producer is None:
            self._check_partitions()
            self._producer = Producer(
                {**PRODUCER_CONFIG, **self._config, "on_delivery": self._undelivered}
            )
        while True:
            try:
                self._producer.produce(
                    self._prefix + topic, value, key, partition=at, timestamp=timestamp_ms
                )
                return
            except BufferError:  # the queue is full: wait for the broker
                self._producer.poll(0.005)
                self._raise_failed()

    def flush(self, timeout_s: float = math.inf) -> None:
        if self._producer is not None:
            deadline = time.monotonic() + timeout_s
            while len(self._producer):  # ends: every event is delivered or times out
                self._producer.flush(min(1.0, max(0.0, deadline - time.monotonic())))
                if len(self._producer) and time.monotonic() > deadline:
                    left = len(self._producer)
                    raise ConnectionError(f"kafka: {left} events not delivered in {timeout_s:g} s")
            self._producer.poll(0)
        self._raise_failed()

    def abandon(self) -> None:
        """Drop what was appended and is not delivered."""
        if self._producer is not None:
            self._producer.purge()
            self._producer.flush(1.0)
        self._failed.clear()

    def reader(self, position: Position | None = None) -> Reader:
        self._check_partitions()
        start = start_position(
            position, self._offsets(OffsetSpec.earliest()), self._offsets(OffsetSpec.latest())
        )
        return KafkaReader({**CONSUMER_CONFIG, **self._config}, self._prefix, start)

    def first_position(self) -> Position:
        """The offset of the first event that each partition still holds."""
        return self._offsets(OffsetSpec.earliest())

    def end_position(self) -> Position:
        self._check_partitions()
        return self._offsets(OffsetSpec.latest())

    def close(self) -> None:
        """Flush, and leave the broker."""
        self.flush()
        self._producer = None

    def _undelivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failed.append(f"{message.topic()}: {error.str()}")

    def _raise_failed(self) -> None:
        if self._failed:
            failed, self._failed = self._failed, []
            raise ConnectionError(f"kafka: {len(failed)} events not delivered; first: {failed[0]}")

    def _existing(self) -> dict[str, int]:
        """Partitions of each of our topics that is there."""
        try:
            found = self._admin.list_topics(timeout=ANSWER_S).topics
        except KafkaException as error:
            raise ConnectionError(
                f"kafka: no broker at {self._config['bootstrap.servers']} answered within "
                f"{ANSWER_S:.0f} s ({error.args[0].str()})"
            ) from None
        return {
            name: len(found[self._prefix + name].partitions)
            for name in self.topics
            if self._prefix + name in found
        }

    def _check_partitions(self) -> None:
        existing = self._existing()
        for name, partitions in self.topics.items():
            if existing.get(name, 0) != partitions:
                raise ValueError(
                    f"kafka: topic {self._prefix + name!r} has {existing.get(name, 0)} partitions; "
                    f"expected {partitions} (create_topics makes what is missing)"
                )

    def _offsets(self, which: OffsetSpec) -> Position:
        names = {self._prefix + topic: topic for topic in self.topics}
        asked = {
            TopicPartition(name, p): which
            for name, topic in names.items()
            for p in range(self.topics[topic])
        }
        deadline = time.monotonic() + ANSWER_S
        while True:
            answers = self._admin.list_offsets(
                asked,
                isolation_level=IsolationLevel.READ_UNCOMMITTED,
                request_timeout=ANSWER_S,
            )
            try:
                return {
                    (names[at.topic], at.partition): answer.result(ANSWER_S).offset
                    for at, answer in answers.items()
                }
            except KafkaException as error:
                # a partition just created, or of a broker just restarted, has no leader for a while
                if time.monotonic() > deadline:
                    raise ConnectionError(f"kafka: offsets: {error.args[0].str()}") from None
                time.sleep(0.05)


class KafkaReader:
    """Reads the partitions named in `start`, each by a consumer of its own."""

    def __init__(self, config: dict[str, Any], prefix: str, start: Position) -> None:
        self._config, self._prefix = config, prefix
        self._consumers: dict[tuple[str, int], Consumer] = {}
        for (topic, partition), offset in start.items():
            self._open(topic, partition, offset)

    def _open(self, topic: str, partition: int, offset: int) -> None:
        consumer = Consumer(self._config)
        consumer.assign([TopicPartition(self._prefix + topic, partition, offset)])
        self._consumers[topic, partition] = consumer

    def read(
        self, topic: str, partition: int, max_records: int = 4096, timeout_s: float = 0.0
    ) -> Chunk:
        if (topic, partition) not in self._consumers:  # taken up since: it is read from its start
            self._open(topic, partition, 0)
        consumer = self._consumers[topic, partition]
        messages = consumer.consume(max_records, 0)
        if not messages and timeout_s > 0:  # consume waits for all it is asked for
            messages = consumer.consume(1, timeout_s)
            if messages and max_records > 1:
                messages += consumer.consume(max_records - 1, 0)
        if any(map(Message.error, messages)):
            messages = [message for message in messages if not _passing_error(message)]
        offsets: list[Any] = list(map(Message.offset, messages))
        return Chunk(
            topic,
            partition,
            offsets,
            [time_ms for _, time_ms in map(Message.timestamp, messages)],
            list(map(Message.value, messages)),
        )

    def ends(self) -> Position:
        """Where the partitions end, as the broker said with what was fetched last; those of which
        it said nothing yet are left out. Any thread may ask."""
        ends = {}
        for (topic, partition), consumer in list(self._consumers.items()):
            at = TopicPartition(self._prefix + topic, partition)
            with suppress(KafkaException, RuntimeError):  # unknown yet, or closed meanwhile
                _, end = consumer.get_watermark_offsets(at, cached=True)
                if end >= 0:
                    ends[topic, partition] = end
        return ends

    def close(self) -> None:
        for consumer in self._consumers.values():
            consumer.close()
        self._consumers.clear()


def _passing_error(message: Message) -> bool:
    """Whether this is a notice of an error that passes, not an event. Raises for one that stays."""
    error = message.error()
    if error is None:
        return False
    if error.code() in PASSING:
        return True
    raise ConnectionError(f"kafka: {message.topic()}[{message.partition()}]: {error.str()}")
