"""Dead letters as a topic: written by every worker, read and retried by operators.

A letter is JSON with its `reason`, its `worker`, and the `topic`, `partition` and `offset` of the
record. The record itself stays where it was: its `value` here may be cut short, and a retry takes
the original. That a letter was retried is a record of this topic too, so nothing is kept elsewhere.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from features.codec import Bad
from streaming.dead_letters import DeadLetters
from streaming.eventlog import EventLog
from streaming.kafkalog import ANSWER_S, CLIENT_CONFIG, CONSUMER_CONFIG, KafkaLog
from streaming.sections import Kafka
from streaming.topics import DEAD, open_log, prefix

log = logging.getLogger("freshet.dlq")
AT = (DEAD, 0)
MAX_REASON = 1_000
DELIVERED_S = 3.0
KNOWN = 1_000_000
"""Letters that are known not to be written twice."""
PLACE = ("topic", "partition", "offset")
Place = tuple[str, int, int]


class DeadLetterTopic(DeadLetters):
    """Dead letters into the topic `dead` of `log`, from `worker`. It flushes, but does not close,
    the log.

    `size` is what stands in the topic from before, as a checkpoint says. What this worker wrote
    after it, before it was cut off, is not written again. None asks for nothing of before.
    """

    def __init__(self, log: KafkaLog, worker: str, size: int | None = None) -> None:
        super().__init__()
        self._log, self._worker = log, worker
        self._written: set[bytes] = set() if size is None else self._since(size)
        self._size, self._added = size, size is None

    @property
    def size(self) -> int:
        """How much is in the topic, as far as letters were added here; all of those are. Raises
        ConnectionError where they are not delivered within some seconds."""
        if self._added or self._size is None:
            self.flush()
            self._size = self._log.end_position()[AT]
            self._added = False
        return self._size

    def flush(self) -> None:
        """Sees what was added in the topic, or raises ConnectionError."""
        self._log.flush(DELIVERED_S)

    def add(self, bad: Iterable[Bad]) -> None:
        """Records that could not be read."""
        for b in bad:
            letter: dict[str, Any] = {"topic": b.topic, "partition": b.partition}
            letter |= {"offset": b.offset, "reason": b.reason}
            try:
                letter["value"] = b.value.decode()
            except UnicodeDecodeError:
                letter["value_base64"] = b.value  # as msgspec writes bytes
            self._put(letter)

    def _put(self, letter: dict[str, Any]) -> None:
        letter["reason"] = letter["reason"][:MAX_REASON]
        letter["worker"] = self._worker
        super()._put(letter)
        if (same := _identity(letter)) is None or same not in self._written:
            _append(self._log, letter)
            self._added = True
            if same is not None and len(self._written) < KNOWN:
                self._written.add(same)

    def close(self) -> None:
        """Gives up, with a warning, what is not delivered within some seconds."""
        try:
            self.flush()
        except ConnectionError as error:
            log.warning("dead letters: %s; they are written again at the next start", error)
            self._log.abandon()

    def _since(self, size: int) -> set[bytes]:
        letters = (letter for _, _, letter in records(self._log, size))
        ours = (letter for letter in letters if letter.get("worker") == self._worker)
        return {same for letter in ours if (same := _identity(letter)) is not None}


class Letter(NamedTuple):
    """A dead letter at its `offset`, when it was written, what it says, and whether it was
    retried."""

    offset: int
    time_ms: int
    says: dict[str, Any]
    retried: bool


def letters(log: EventLog) -> Iterator[Letter]:
    """All dead letters, in order."""
    retried = {_identity(says) for _, _, says in records(log) if "retried" in says}
    for offset, time_ms, says in records(log):
        if "retried" not in says:
            same = _identity(says)
            yield Letter(offset, time_ms, says, same is not None and same in retried)


def find(log: EventLog, offsets: Sequence[int]) -> list[Letter]:
    """The dead letters at `offsets`. ValueError names one that is none."""
    found = {letter.offset: letter for letter in letters(log) if letter.offset in offsets}
    for offset in offsets:
        if offset not in found:
            raise ValueError(f"offset is {offset}: expected that of a dead letter, as listed")
    return [found[offset] for offset in offsets]


def retry(kafka: Kafka, app: str, offsets: Sequence[int]) -> list[Letter]:
    """Appends the original records of the letters at `offsets` to the partitions they came from,
    with their key and timestamp, and records that it did. Returns those letters.

    All are checked first. Raises ValueError where a letter is not of a record, was retried before,
    or its record is gone. Cut off in the middle, a record may be there twice: events have ids, and
    the merge takes each once.
    """
    with closing(open_log(kafka, app, DEAD)) as dead, closing(open_log(kafka, app)) as events:
        chosen = find(dead, offsets)
        places: set[Place] = set()
        for letter in chosen:
            if (place := _place(letter)) in places or letter.retried:
                raise ValueError(f"offset is {letter.offset}: its record was retried already")
            places.add(place)
        originals = [_original(kafka, app, letter) for letter in chosen]
        for letter, message in zip(chosen, originals, strict=True):
            topic, partition, _ = _place(letter)
            events.append(topic, message.key(), message.value(), message.timestamp()[1], partition)
        events.flush()
        for letter in chosen:
            where = {name: letter.says[name] for name in PLACE}
            _append(dead, {"retried": letter.offset, **where})
    return chosen


def records(log: EventLog, size: int = 0) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Offset, timestamp in ms, and content of what is in the topic now, from offset `size` on
    (from its first, where it does not hold that one)."""
    end = log.end_position()[AT]
    try:
        reader = log.reader({AT: size})
    except ValueError:
        reader = log.reader()
    at = log.first_position()[AT] if isinstance(log, KafkaLog) else 0
    try:
        while at < end:
            chunk = reader.read(*AT, timeout_s=ANSWER_S)
            if not chunk.offsets:
                return
            for row in zip(chunk.offsets, chunk.timestamps_ms, chunk.values, strict=True):
                if row[0] < end and row[2] is not None:
                    yield row[0], row[1], _read(row[2])
            at = chunk.next_offset
    finally:
        reader.close()


def _original(kafka: Kafka, app: str, letter: Letter) -> Message:
    """The record that a letter is about, with its key."""
    topic, partition, offset = _place(letter)
    config = {**CONSUMER_CONFIG, **CLIENT_CONFIG, **kafka.properties()}
    consumer = Consumer({**config, "bootstrap.servers": kafka.bootstrap})
    try:
        consumer.assign([TopicPartition(prefix(app) + topic, partition, offset)])
        message = consumer.poll(ANSWER_S)
    finally:
        consumer.close()
    error = None if message is None else message.error()
    if message is None or (error is not None and error.code() != KafkaError._AUTO_OFFSET_RESET):
        reason = "no answer" if error is None else error.str()
        raise ConnectionError(f"kafka: {topic}[{partition}] at {offset}: {reason}")
    if error is not None or message.offset() != offset:
        raise ValueError(
            f"offset is {letter.offset}: its record, {topic}[{partition}] at {offset}, is gone"
        )
    return message


def _place(letter: Letter) -> Place:
    """Where a letter's record is. ValueError where it is not of a record."""
    says = letter.says
    if "topic" not in says:
        raise ValueError(
            f"offset is {letter.offset}: no record can be retried for {says.get('reason')!r}"
        )
    return says["topic"], says["partition"], says["offset"]


def _identity(says: dict[str, Any]) -> bytes | None:
    """What makes two letters of one worker the same; None for rows, whose log is not known."""
    same = {name: says[name] for name in (*PLACE, "impressions") if name in says}
    return msgspec.json.encode(same) if same else None


def _append(log: EventLog, says: dict[str, Any]) -> None:
    log.append(DEAD, None, msgspec.json.encode(says), time.time_ns() // 1_000_000, 0)


def _read(value: bytes) -> dict[str, Any]:
    try:
        return _DECODER.decode(value)
    except (msgspec.MsgspecError, RecursionError):
        return {"reason": "not a letter", "worker": "unknown"}


_DECODER = msgspec.json.Decoder(dict[str, Any])
