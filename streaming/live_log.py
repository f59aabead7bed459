"""The live topics of an application in Kafka, as the learner reads them."""

from __future__ import annotations

import hashlib
import logging
import sys
from concurrent.futures import Future
from typing import Any

import msgspec
from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import OffsetSpec

from features.events import End
from streaming.eventlog import Chunk, Position, Reader
from streaming.kafkalog import ANSWER_S, KafkaLog, KafkaReader
from streaming.sections import Kafka
from streaming.topics import live_partitions, prefix

log = logging.getLogger("freshet.learn")

CLOSE_S = 3.0


class LiveLog(KafkaLog):
    """Reads the live topics. `until` is the position after the `end` of each partition, as far as
    one was read that no event followed (else above every offset); start it from `ended`.

    Partitions that Kafka does not have (those of a historical log) are passed over.
    """

    def __init__(self, kafka: Kafka, app: str) -> None:
        """Raises ValueError where a topic is not there, ConnectionError where no broker answers."""
        properties = kafka.properties()
        found = live_partitions(kafka.bootstrap, app, properties)
        super().__init__(kafka.bootstrap, found, prefix(app), properties)
        self.group = f"freshet-{app}-learn"
        partitions = [(topic, p) for topic, n in self.topics.items() for p in range(n)]
        self.until: Position = dict.fromkeys(partitions, sys.maxsize)
        self._committing: Future[Any] | None = None
        self._reading: KafkaReader | None = None

    def identity(self) -> str:
        """SHA-256 over the topics' ids, in hex: other ones are another log."""
        names = [self._prefix + topic for topic in self.topics]
        answers = self._admin.describe_topics(TopicCollection(names), request_timeout=ANSWER_S)
        try:
            ids = [f"{name}={answers[name].result(ANSWER_S).topic_id}" for name in names]
        except KafkaException as error:
            raise ConnectionError(f"kafka: topics: {error.args[0].str()}") from None
        return hashlib.sha256("\n".join(ids).encode()).hexdigest()

    def first_position(self) -> Position:
        """The offset of the first event that each partition still holds."""
        return self._offsets(OffsetSpec.earliest())

    def reader(self, position: Position | None = None) -> Reader:
        there = {tp: offset for tp, offset in (position or {}).items() if tp in self.until}
        reader = super().reader(there)
        assert isinstance(reader, KafkaReader)
        self._reading = reader
        return _LiveReader(reader, self.until)

    def ends(self) -> Position:
        """Where the partitions that are read end, as far as known. Any thread may ask."""
        return {} if self._reading is None else self._reading.ends()

    @property
    def ended(self) -> list[list[Any]]:
        """Where partitions are known to end, for a checkpoint."""
        return [[*tp, offset] for tp, offset in self.until.items() if offset < sys.maxsize]

    @ended.setter
    def ended(self, kept: list[list[Any]]) -> None:
        self.until.update({(topic, partition): offset for topic, partition, offset in kept})

    def commit(self, position: Position) -> None:
        """Tells Kafka how far the learner is, for those who watch its lag. Nothing depends on it,
        so nothing waits for it, and an error is only logged."""
        self._committed(0.0)
        at = [
            TopicPartition(self._prefix + topic, partition, offset)
            for (topic, partition), offset in position.items()
            if (topic, partition) in self.until
        ]
        if self._committing is None:
            try:
                answers = self._admin.alter_consumer_group_offsets(
                    [ConsumerGroupTopicPartitions(self.group, at)], request_timeout=ANSWER_S
                )
            except KafkaException as error:
                log.warning("offsets not committed: %s", error)
                return
            self._committing = next(iter(answers.values()))

    def close(self) -> None:
        self._committed(CLOSE_S)
        super().close()

    def _committed(self, timeout_s: float) -> None:
        """Looks after the last commit; one that is still under way stays."""
        if self._committing is None:
            return
        try:
            self._committing.result(timeout_s)
        except TimeoutError:
            return
        except KafkaException as error:
            log.warning("offsets not committed: %s", error)
        self._committing = None


class _LiveReader:
    """A reader that notes the ends it sees."""

    def __init__(self, reader: Reader, until: Position) -> None:
        self._reader, self._until = reader, until

    def read(
        self, topic: str, partition: int, max_records: int = 4096, timeout_s: float = 0.0
    ) -> Chunk:
        if (topic, partition) not in self._until:
            return Chunk(topic, partition, [], [], [])
        chunk = self._reader.read(topic, partition, max_records, timeout_s)
        for offset, value in zip(chunk.offsets, chunk.values, strict=True):
            if value is not None:
                after = offset + 1 if is_end(value) else sys.maxsize
                self._until[topic, partition] = after
        return chunk

    def close(self) -> None:
        self._reader.close()


def is_end(value: bytes) -> bool:
    """Whether a record is the end of its partition's log."""
    if b'"end"' not in value:
        return False
    try:
        _END.decode(value)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True


_END = msgspec.json.Decoder(End)
