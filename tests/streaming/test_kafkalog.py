"""What the Kafka log keeps beyond the contract: its way with a broker."""

from __future__ import annotations

import socket
import time

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

import streaming.kafkalog
from streaming.eventlog import partition_of
from streaming.kafkalog import KafkaLog


def created(kafka: str, prefix: str, **config: object) -> KafkaLog:
    log = KafkaLog(kafka, {"t": 4}, prefix, config)
    log.create_topics()
    return log


def test_kafkas_own_client_chooses_the_same_partitions(kafka: str, topic_prefix: str) -> None:
    log = created(kafka, topic_prefix)
    chosen: dict[bytes, int] = {}
    producer = Producer({"bootstrap.servers": kafka, "partitioner": "murmur2"})
    for i in range(200):
        producer.produce(
            f"{topic_prefix}t",
            key=b"user-%d" % i,
            on_delivery=lambda _, message: chosen.update({message.key(): message.partition()}),
        )
    assert producer.flush(10) == 0
    assert chosen == {b"user-%d" % i: partition_of(b"user-%d" % i, 4) for i in range(200)}
    log.close()


def test_topics_are_created_once_and_others_are_left_alone(kafka: str, topic_prefix: str) -> None:
    log = created(kafka, topic_prefix)
    log.append("t", b"k", b"x", 1000)
    log.flush()
    log.create_topics()
    assert sum(created(kafka, topic_prefix).end_position().values()) == 1
    other = KafkaLog(kafka, {"t": 2}, topic_prefix)
    for call in (other.create_topics, other.reader, other.end_position):
        with pytest.raises(ValueError, match="has 4 partitions; expected 2"):
            call()


def test_a_topic_keeps_old_events_and_their_own_times(kafka: str, topic_prefix: str) -> None:
    created(kafka, topic_prefix)
    resource = ConfigResource(ResourceType.TOPIC, f"{topic_prefix}t")
    admin = AdminClient({"bootstrap.servers": kafka})
    (answer,) = admin.describe_configs([resource]).values()
    config = answer.result(10)
    assert config["retention.ms"].value == "-1"
    assert config["message.timestamp.type"].value == "CreateTime"


def test_a_topic_that_is_missing_is_named(kafka: str, topic_prefix: str) -> None:
    log = KafkaLog(kafka, {"t": 4}, topic_prefix)
    with pytest.raises(ValueError, match=f"topic '{topic_prefix}t' has 0 partitions"):
        log.append("t", b"k", b"x", 1000)


def test_a_full_queue_holds_the_appender_back(kafka: str, topic_prefix: str) -> None:
    log = created(kafka, topic_prefix, **{"queue.buffering.max.messages": 10})
    for i in range(1000):
        log.append("t", None, b"%d" % i, 1000, partition=0)
    log.flush()
    assert log.end_position()["t", 0] == 1000
    log.close()


def test_an_event_that_the_broker_refuses_raises_at_flush(kafka: str, topic_prefix: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka})
    topic = NewTopic(f"{topic_prefix}t", 4, 1, config={"max.message.bytes": "200"})
    (answer,) = admin.create_topics([topic], operation_timeout=10).values()
    answer.result(10)
    log = created(kafka, topic_prefix, **{"compression.type": "none"})
    log.append("t", b"k", b"x" * 1000, 1000)
    with pytest.raises(ConnectionError, match="1 events not delivered"):
        log.flush()
    log.append("t", b"k", b"x", 1000)
    log.close()
    assert sum(log.end_position().values()) == 1


def test_an_offset_lost_since_the_reader_was_opened_is_an_error(
    kafka: str, topic_prefix: str
) -> None:
    log = created(kafka, topic_prefix)
    for i in range(10):
        log.append("t", None, b"%d" % i, 1000, partition=0)
    log.flush()
    reader = streaming.kafkalog.KafkaReader(
        {**streaming.kafkalog.CONSUMER_CONFIG, "bootstrap.servers": kafka},
        topic_prefix,
        {("t", 0): 99},
    )
    with pytest.raises(ConnectionError, match="out of range"):
        while reader.read("t", 0, timeout_s=10).offsets:
            pass
    reader.close()


def test_a_poll_interval_that_was_overrun_loses_no_event_and_is_no_error(
    kafka: str, topic_prefix: str
) -> None:
    """A long step, publication or checkpoint: what is assigned is no group's to take away."""
    log, interval_ms = created(kafka, topic_prefix), 1_000
    for i in range(10):
        log.append("t", None, b"%d" % i, 1000, partition=0)
    log.flush()
    reader = streaming.kafkalog.KafkaReader(
        {
            **streaming.kafkalog.CONSUMER_CONFIG,
            "bootstrap.servers": kafka,
            "session.timeout.ms": interval_ms,
            "max.poll.interval.ms": interval_ms,
        },
        topic_prefix,
        {("t", 0): 0},
    )
    values = list(reader.read("t", 0, max_records=4, timeout_s=10).values)
    time.sleep(2.5 * interval_ms / 1000)
    while len(values) < 10:
        chunk = reader.read("t", 0, timeout_s=10)
        assert chunk.offsets
        values += chunk.values
    assert values == [b"%d" % i for i in range(10)]
    reader.close()


def test_no_broker_is_said_within_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming.kafkalog, "ANSWER_S", 1.0)
    with socket.socket() as taken:  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=f"no broker at {address} answered within 1 s"):
            KafkaLog(address, {"t": 1})
