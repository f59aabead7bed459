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

from features.events import CONTROL, End, may_say
from streaming.eventlog import Chunk, Position, Reader
from streaming.growth import after, before, growth
from streaming.kafkalog import ANSWER_S, CONSUMER_CONFIG, KafkaLog, KafkaReader
from streaming.rollback import commands, steps_wanted
from streaming.sections import Kafka
from streaming.shadow import LIVE
from streaming.topics import live_partitions, prefix

log = logging.getLogger("freshet.learn")

CLOSE_S = 3.0


class LiveLog(KafkaLog):
    """Reads the live topics. `until` is the position after the `end` of each partition, as far as
    one was read that no event followed (else above every offset); start it from `ended`.

    Of topics that have grown, `base` are the partitions of before, with which a learner begins;
    `topics` are all that the log's commands speak of by now. `rollbacks` are the steps that they
    want the model of the learner of `run` to be taken back to. A historical log's partitions, whose
    numbers are below 0, are passed over.
    """

    def __init__(self, kafka: Kafka, app: str, run: str = LIVE) -> None:
        """Raises ValueError where a topic is not there, ConnectionError where no broker answers."""
        properties = kafka.properties()
        found = live_partitions(kafka.bootstrap, app, properties)
        super().__init__(kafka.bootstrap, found, prefix(app), properties)
        controls = self._controls()
        growing = [c for value in controls if (c := growth(value)) is not None]
        self.rollbacks = steps_wanted(commands(controls), run)
        self.base = before(found, growing)
        self.topics = after(self.base, growing)
        self.group = f"freshet-{app}-learn" + (f"-{run}" if run != LIVE else "")
        partitions = [(topic, p) for topic, n in self.base.items() for p in range(n)]
        self.until: Position = dict.fromkeys(partitions, sys.maxsize)
        self._committing: Future[Any] | None = None
        self._identity = ""
        self._asked: dict[str, Future[Any]] = {}
        self._reading: KafkaReader | None = None

    def _controls(self) -> list[bytes | None]:
        """What the control topic holds by now."""
        first, end = self._offsets(OffsetSpec.earliest()), self._offsets(OffsetSpec.latest())
        found: list[bytes | None] = []
        for p in range(self.topics[CONTROL]):
            at = first[CONTROL, p]
            reader = KafkaReader(
                {**CONSUMER_CONFIG, **self._config}, self._prefix, {(CONTROL, p): at}
            )
            try:
                while at < end[CONTROL, p]:
                    chunk = reader.read(CONTROL, p, 10_000, ANSWER_S)
                    if not chunk.offsets:
                        raise ConnectionError("kafka: the control topic can't be read")
                    at = chunk.next_offset
                    found += chunk.values
            finally:
                reader.close()
        return found

    def _check_partitions(self) -> None:
        """More of them than the log speaks of are not read."""
        existing = self._existing()
        for name, partitions in self.topics.items():
            if existing.get(name, 0) < partitions:
                raise ValueError(
                    f"kafka: topic {self._prefix + name!r} has {existing.get(name, 0)} partitions; "
                    f"its log says {partitions}"
                )

    def identity(self) -> str:
        """SHA-256 over the topics' ids, in hex: other ones are another log."""
        try:
            self._identity = _digest(self._describe())
        except KafkaException as error:
            raise ConnectionError(f"kafka: topics: {error.args[0].str()}") from None
        return self._identity

    def _describe(self) -> dict[str, Future[Any]]:
        names = [self._prefix + topic for topic in self.topics]
        return self._admin.describe_topics(TopicCollection(names), request_timeout=ANSWER_S)

    def base_position(self) -> Position:
        """Where a learner begins: the first event that each partition of `base` still holds."""
        return {tp: at for tp, at in self.first_position().items() if tp in self.until}

    def reader(self, position: Position | None = None) -> Reader:
        there = {tp: offset for tp, offset in (position or {}).items() if tp[1] >= 0}
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
        """Tells Kafka how far the learner is, for those who watch its lag, and asks whether these
        are still the same topics. Nothing waits for either; an error is only logged. Raises
        ValueError where, when it was asked before, the topics had been made again."""
        self._committed(0.0)
        self._check_identity()
        at = [
            TopicPartition(self._prefix + topic, partition, offset)
            for (topic, partition), offset in position.items()
            if partition >= 0
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
        try:
            self._committed(CLOSE_S)
            self._check_identity(0.0 if self._committing else CLOSE_S)
        finally:
            super().close()

    def _check_identity(self, timeout_s: float = 0.0) -> None:
        """Looks at the last answer, and asks again where there is one."""
        try:
            if self._asked and _digest(self._asked, timeout_s) != self._identity:
                raise ValueError(
                    "the live topics were deleted and made again: what the learner knows is of "
                    "others. Start it with another --checkpoints folder"
                )
            self._asked = self._describe()
        except TimeoutError:
            return
        except KafkaException as error:
            log.warning("topics not looked at: %s", error)
            self._asked = {}

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


def _digest(answers: dict[str, Future[Any]], timeout_s: float = ANSWER_S) -> str:
    ids = [
        f"{name}={answer.result(timeout_s).topic_id}" for name, answer in sorted(answers.items())
    ]
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


class _LiveReader:
    """A reader that notes the ends it sees."""

    def __init__(self, reader: Reader, until: Position) -> None:
        self._reader, self._until = reader, until

    def read(
        self, topic: str, partition: int, max_records: int = 4096, timeout_s: float = 0.0
    ) -> Chunk:
        if partition < 0:
            return Chunk(topic, partition, [], [], [])
        self._until.setdefault((topic, partition), sys.maxsize)
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
    if not may_say(value, '"end"'):
        return False
    try:
        _END.decode(value)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True


_END = msgspec.json.Decoder(End)
