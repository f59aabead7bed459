"""The event log: partitions of events, read by position, plus append.

Kafka (`kafkalog`), Parquet (`parquetlog`) and memory (here) keep one contract, tested by one
suite: the same appends give the same partitions, offsets, timestamps and values in each.
"""

from __future__ import annotations

import re
import threading
from functools import lru_cache
from typing import NamedTuple, Protocol

Position = dict[tuple[str, int], int]
"""(topic, partition) -> the offset of the first event not yet in the state."""

MAX_EVENT_BYTES = 1_000_000
"""Most bytes of key and value together, in every medium: what Kafka takes by default."""


class Chunk(NamedTuple):
    """Events of one partition, by rising offset (offsets may have gaps). A value of None is a
    heartbeat: time passed, nothing happened."""

    topic: str
    partition: int
    offsets: list[int]
    timestamps_ms: list[int]
    values: list[bytes | None]

    @property
    def next_offset(self) -> int:
        """Where the next read goes on. Only of a chunk that is not empty."""
        return self.offsets[-1] + 1


class Reader(Protocol):
    """Reads each partition forward from where it was opened. Belongs to one thread."""

    def read(
        self, topic: str, partition: int, max_records: int = 4096, timeout_s: float = 0.0
    ) -> Chunk:
        """The next events of one partition, at most `max_records`. Where none is there, waits up
        to `timeout_s` for the first, and returns an empty chunk when none came."""

    def close(self) -> None: ...


class EventLog(Protocol):
    """A log of several topics; `topics` maps each name to its number of partitions."""

    topics: dict[str, int]

    def append(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        timestamp_ms: int,
        partition: int | None = None,
    ) -> None:
        """Add an event at the end of `partition`, by default that of the key. Readers are sure to
        see it after the next `flush`. Raises ValueError for what no medium would take."""

    def flush(self) -> None:
        """Return when all that was appended is in the log; raises when some of it is not."""

    def reader(self, position: Position | None = None) -> Reader:
        """A reader of all partitions from `position`; partitions not named there are read from
        their first event. Raises ValueError for an offset that the log does not hold."""

    def end_position(self) -> Position:
        """The offset after the last event of each partition."""

    def close(self) -> None: ...


@lru_cache(maxsize=1 << 16)
def murmur2(data: bytes) -> int:
    """Kafka's key hash, unsigned 32 bits (`org.apache.kafka.common.utils.Utils.murmur2`)."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    whole = len(data) & ~3
    h = 0x9747B28C ^ len(data)
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    if whole < len(data):
        h = (h ^ int.from_bytes(data[whole:], "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key, as Kafka's Java clients choose it."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def check_topics(topics: dict[str, int]) -> dict[str, int]:
    """A copy of `topics`. Raises ValueError for a name that Kafka would refuse, or no partition."""
    for name, partitions in topics.items():
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,200}", name) or name in (".", ".."):
            raise ValueError(
                f"topic: {name!r}; expected 1 to 200 of letters, digits, '.', '_', '-'"
            )
        if partitions < 1:
            raise ValueError(f"topics[{name!r}]: {partitions} partitions; expected 1 or more")
    return dict(topics)


def place(
    topics: dict[str, int],
    topic: str,
    key: bytes | None,
    value: bytes | None,
    timestamp_ms: int,
    partition: int | None,
) -> int:
    """The partition an event goes to. Raises ValueError for what not every medium would take."""
    partitions = topics.get(topic)
    if partitions is None:
        raise ValueError(f"topic: {topic!r}; expected one of {sorted(topics)}")
    if timestamp_ms < 1:  # librdkafka takes 0 for "now"
        raise ValueError(f"timestamp_ms: {timestamp_ms}; expected milliseconds since 1970, above 0")
    size = len(key or b"") + len(value or b"")
    if size > MAX_EVENT_BYTES:
        raise ValueError(f"value: {size} bytes with its key; expected at most {MAX_EVENT_BYTES}")
    if partition is None:
        if key is None:
            raise ValueError("key: None; expected a key or a partition")
        return partition_of(key, partitions)
    if not 0 <= partition < partitions:
        raise ValueError(
            f"partition: {partition} of topic {topic!r}; expected 0 to {partitions - 1}"
        )
    return partition


def start_position(position: Position | None, first: Position, end: Position) -> Position:
    """Where a reader starts: `position` filled up with each partition's `first` offset. Raises
    ValueError where it names a partition or an offset that the log does not hold."""
    start = dict(first)
    for (topic, partition), offset in (position or {}).items():
        at = (topic, partition)
        if at not in first:
            raise ValueError(
                f"position: partition {partition} of topic {topic!r} is not in the log"
            )
        if not first[at] <= offset <= end[at]:
            raise ValueError(
                f"position: offset {offset} of topic {topic!r}, partition {partition}; "
                f"the log holds {first[at]} to {end[at]}"
            )
        start[at] = offset
    return start


class MemoryLog:
    """An event log in this process. Any thread may append; each reader belongs to one thread."""

    def __init__(self, topics: dict[str, int]) -> None:
        self.topics = check_topics(topics)
        self._grown = threading.Condition()
        self._events: dict[tuple[str, int], tuple[list[int], list[bytes | None]]] = {
            (topic, p): ([], []) for topic, n in self.topics.items() for p in range(n)
        }
        self._first = dict.fromkeys(self._events, 0)  # offsets of the first events still here

    def append(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        timestamp_ms: int,
        partition: int | None = None,
    ) -> None:
        at = place(self.topics, topic, key, value, timestamp_ms, partition)
        timestamps, values = self._events[topic, at]
        with self._grown:
            timestamps.append(timestamp_ms)
            values.append(value)
            self._grown.notify_all()

    def flush(self) -> None:
        """Nothing to do: an append is in the log at once."""

    def reader(self, position: Position | None = None) -> Reader:
        with self._grown:
            first = dict(self._first)
        return _MemoryReader(self, start_position(position, first, self.end_position()))

    def end_position(self) -> Position:
        with self._grown:
            return {at: self._first[at] + len(values) for at, (_, values) in self._events.items()}

    def forget(self, position: Position) -> None:
        """Lets go of the events before `position`, which no reader may still want."""
        with self._grown:
            for at, offset in position.items():
                gone = offset - self._first[at]
                if gone > 0:
                    for column in self._events[at]:
                        del column[:gone]
                    self._first[at] = offset

    def close(self) -> None:
        """Nothing to release."""


class _MemoryReader:
    def __init__(self, log: MemoryLog, start: Position) -> None:
        self._log = log
        self._next = start

    def read(
        self, topic: str, partition: int, max_records: int = 4096, timeout_s: float = 0.0
    ) -> Chunk:
        at = (topic, partition)
        log, start = self._log, self._next[at]
        timestamps, values = log._events[at]
        with log._grown:
            if timeout_s > 0:
                log._grown.wait_for(lambda: log._first[at] + len(values) > start, timeout_s)
            assert start >= log._first[at], f"{at}: offset {start} was forgotten"
            first = start - log._first[at]
            stop = min(len(values), first + max_records)
            offsets = list(range(start, start + stop - first))
            chunk = Chunk(topic, partition, offsets, timestamps[first:stop], values[first:stop])
        self._next[at] = start + len(offsets)
        return chunk

    def close(self) -> None:
        """Nothing to release."""
