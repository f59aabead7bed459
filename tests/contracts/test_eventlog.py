"""What every event log keeps. A new medium joins by adding itself to LOGS."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streaming.eventlog import MAX_EVENT_BYTES, Chunk, EventLog, MemoryLog, Reader, partition_of
from streaming.kafkalog import KafkaLog
from streaming.parquetlog import ParquetLog

TOPICS = {"shown": 4, "done": 1}


def memory_log(request: pytest.FixtureRequest) -> EventLog:
    return MemoryLog(TOPICS)


def parquet_log(request: pytest.FixtureRequest) -> EventLog:
    folder: Path = request.getfixturevalue("tmp_path")
    return ParquetLog(folder / "log", TOPICS)


def kafka_log(request: pytest.FixtureRequest) -> EventLog:
    log = KafkaLog(
        request.getfixturevalue("kafka"), TOPICS, request.getfixturevalue("topic_prefix")
    )
    log.create_topics()
    return log


LOGS: list[Callable[[pytest.FixtureRequest], EventLog]] = [memory_log, parquet_log, kafka_log]


@pytest.fixture(params=LOGS, ids=lambda make: make.__name__.removesuffix("_log"))
def log(request: pytest.FixtureRequest) -> Iterator[EventLog]:
    log = request.param(request)
    yield log
    log.close()


def read_until(reader: Reader, topic: str, partition: int, count: int, most: int = 4096) -> Chunk:
    """The next `count` events as one chunk; fails where they do not come within 10 s."""
    chunk = Chunk(topic, partition, [], [], [])
    deadline = time.monotonic() + 10
    while len(chunk.offsets) < count:
        assert time.monotonic() < deadline, f"{len(chunk.offsets)} of {count} events came"
        more = reader.read(topic, partition, min(most, count - len(chunk.offsets)), 1.0)
        assert (more.topic, more.partition) == (topic, partition)
        assert len(more.offsets) == len(more.timestamps_ms) == len(more.values) <= most
        chunk.offsets.extend(more.offsets)
        chunk.timestamps_ms.extend(more.timestamps_ms)
        chunk.values.extend(more.values)
    return chunk


def test_events_come_back_in_order_with_their_offsets_timestamps_and_values(log: EventLog) -> None:
    values = [b"%d" % i for i in range(100)]
    times = [1_700_000_000_000 - 7 * i for i in range(100)]  # offsets say the order, not times
    for value, time_ms in zip(values, times, strict=True):
        log.append("done", b"u", value, time_ms)
    log.flush()
    chunk = read_until(log.reader(), "done", 0, 100, most=7)
    assert chunk == Chunk("done", 0, list(range(100)), times, values)
    assert chunk.next_offset == 100


def test_a_reader_opened_at_a_position_starts_with_the_event_of_that_offset(log: EventLog) -> None:
    for i in range(20):
        log.append("shown", None, b"%d" % i, 1000 + i, partition=i % 4)
        if i == 11:
            log.flush()
    log.flush()
    reader = log.reader({("shown", 1): 3, ("shown", 2): 5})
    assert read_until(reader, "shown", 1, 2).values == [b"13", b"17"]
    assert reader.read("shown", 2, timeout_s=0.1).offsets == []
    assert read_until(reader, "shown", 3, 5).values == [b"3", b"7", b"11", b"15", b"19"]


def test_two_readers_that_meet_at_a_position_read_each_event_once(log: EventLog) -> None:
    for i in range(50):
        log.append("done", b"u", b"%d" % i, 1000)
    log.flush()
    for cut in (1, 16, 49):
        head = read_until(log.reader(), "done", 0, cut)
        tail = read_until(log.reader({("done", 0): head.next_offset}), "done", 0, 50 - cut)
        assert [*head.offsets, *tail.offsets] == list(range(50))
        assert [*head.values, *tail.values] == [b"%d" % i for i in range(50)]


def test_a_key_goes_to_the_same_partition_in_every_medium(log: EventLog) -> None:
    keys = [b"%d" % i for i in range(64)] + [b"", b"\x00", b"\xff" * 7, b"foobar"]
    for key in keys:
        log.append("shown", key, key, 1000)
    log.flush()
    reader = log.reader()
    for p in range(4):
        expected = [key for key in keys if partition_of(key, 4) == p]
        assert read_until(reader, "shown", p, len(expected)).values == expected


def test_a_partition_that_is_named_wins_over_the_key(log: EventLog) -> None:
    other = (partition_of(b"foobar", 4) + 1) % 4
    log.append("shown", b"foobar", b"x", 1000, partition=other)
    log.flush()
    assert read_until(log.reader(), "shown", other, 1).values == [b"x"]


def test_heartbeats_keep_their_place(log: EventLog) -> None:
    values = [b"a", None, b"", None, None, b"b"]
    for i, value in enumerate(values):
        log.append("shown", None, value, 1000 + i, partition=2)
    log.flush()
    chunk = read_until(log.reader(), "shown", 2, 6, most=4)
    assert chunk.values == values
    assert chunk.timestamps_ms == [1000, 1001, 1002, 1003, 1004, 1005]


def test_times_of_any_age_are_kept(log: EventLog) -> None:
    times = [1, 800_000_000_000, int(time.time() * 1000) + 30 * 86_400_000, 1]
    for time_ms in times:
        log.append("done", b"u", b"x", time_ms)
    log.flush()
    assert read_until(log.reader(), "done", 0, 4).timestamps_ms == times


def test_an_empty_read_says_so_and_loses_nothing(log: EventLog) -> None:
    reader = log.reader()
    assert reader.read("done", 0) == Chunk("done", 0, [], [], [])
    assert reader.read("done", 0, timeout_s=0.05) == Chunk("done", 0, [], [], [])
    log.append("done", b"u", b"x", 1000)
    log.flush()
    assert read_until(reader, "done", 0, 1).offsets == [0]


def test_a_reader_at_the_end_sees_what_is_appended_later(log: EventLog) -> None:
    reader = log.reader()
    for i in range(5):
        log.append("done", b"u", b"%d" % i, 1000)
        log.flush()
        assert read_until(reader, "done", 0, 1).values == [b"%d" % i]
    assert read_until(log.reader({("done", 0): 2}), "done", 0, 3).values == [b"2", b"3", b"4"]


def test_a_waiting_read_returns_with_the_first_event(log: EventLog) -> None:
    reader = log.reader()

    def append() -> None:
        log.append("done", b"u", b"x", 1000)
        log.flush()

    appender = threading.Timer(0.2, append)
    appender.start()
    begun = time.monotonic()
    chunk = reader.read("done", 0, timeout_s=30)
    appender.join()
    assert chunk.values == [b"x"]
    assert time.monotonic() - begun < 10


def test_readers_do_not_move_each_other(log: EventLog) -> None:
    for i in range(10):
        log.append("done", b"u", b"%d" % i, 1000)
    log.flush()
    one, other = log.reader(), log.reader()
    assert read_until(one, "done", 0, 7).offsets == list(range(7))
    assert read_until(other, "done", 0, 4).offsets == list(range(4))
    assert read_until(one, "done", 0, 3).offsets == [7, 8, 9]
    one.close()
    assert read_until(other, "done", 0, 6).offsets == list(range(4, 10))


def test_the_end_position_is_where_the_next_event_goes(log: EventLog) -> None:
    empty = {("shown", 0): 0, ("shown", 1): 0, ("shown", 2): 0, ("shown", 3): 0, ("done", 0): 0}
    assert log.end_position() == empty
    for _ in range(3):
        log.append("shown", None, None, 1000, partition=1)
    log.flush()
    end = log.end_position()
    assert end == {**empty, ("shown", 1): 3}
    reader = log.reader(end)
    log.append("shown", None, b"next", 1000, partition=1)
    log.flush()
    assert read_until(reader, "shown", 1, 1) == Chunk("shown", 1, [3], [1000], [b"next"])


def test_the_largest_event_passes_and_a_larger_one_is_refused(log: EventLog) -> None:
    largest = bytes(range(256)) * (MAX_EVENT_BYTES // 256 + 1)
    largest = largest[: MAX_EVENT_BYTES - 1]
    log.append("done", b"u", largest, 1000)
    log.append("done", b"u", b"small", 1000)
    with pytest.raises(ValueError, match="value: 1000001 bytes"):
        log.append("done", b"u", largest + b"x", 1000)
    log.flush()
    assert read_until(log.reader(), "done", 0, 2).values == [largest, b"small"]


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (("nowhere", b"u", b"x", 1000, None), "topic: 'nowhere'"),
        (("shown", b"u", b"x", 0, None), "timestamp_ms: 0"),
        (("shown", b"u", b"x", 1000, 4), "partition: 4"),
        (("shown", b"u", b"x", 1000, -1), "partition: -1"),
        (("shown", None, b"x", 1000, None), "key: None"),
    ],
)
def test_what_not_every_medium_takes_none_takes(
    log: EventLog, event: tuple[str, bytes | None, bytes | None, int, int | None], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        log.append(*event)
    log.flush()
    assert set(log.end_position().values()) == {0}


@pytest.mark.parametrize(
    "position", [{("done", 0): 3}, {("done", 0): -1}, {("done", 1): 0}, {("nowhere", 0): 0}]
)
def test_a_position_that_the_log_does_not_hold_is_refused(
    log: EventLog, position: dict[tuple[str, int], int]
) -> None:
    log.append("done", b"u", b"x", 1000)
    log.append("done", b"u", b"y", 1000)
    log.flush()
    with pytest.raises(ValueError, match="position: "):
        log.reader(position)


def test_one_thread_appends_while_another_reads(log: EventLog) -> None:
    count = 20_000

    def append() -> None:
        for i in range(count):
            log.append("done", b"u", b"%d" % i, 1 + i)
            if i % 5000 == 0:
                log.flush()
        log.flush()

    reader = log.reader()
    appender = threading.Thread(target=append)
    appender.start()
    chunk = read_until(reader, "done", 0, count)
    appender.join()
    assert chunk.offsets == list(range(count))
    assert chunk.timestamps_ms == list(range(1, count + 1))
    assert chunk.values == [b"%d" % i for i in range(count)]
