"""A server's events on their way to Kafka: a bounded buffer, which keeps them while it is away."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from streaming.eventlog import place
from streaming.kafkalog import CLIENT_CONFIG, PRODUCER_CONFIG
from streaming.sections import Kafka
from streaming.topics import live_partitions, prefix

log = logging.getLogger("freshet.serve")
MOST_KBYTES = 262_144
"""Of the buffer, whatever its number of events."""
BEAT_S, POLL_S = 1.0, 0.1


class Outbox:
    """Appends to an application's live topics without waiting; `most` events may be on their way.

    From the first event on, which is of the time of the wall, the topics get a heartbeat a second:
    what a server shows comes from nobody else, and the learner's time must not stand still. Of the
    log's own time before that it says nothing. `lost` counts what will never arrive.
    """

    def __init__(self, kafka: Kafka, app: str, most: int) -> None:
        """Raises ValueError where a topic is not there, ConnectionError where no broker answers."""
        properties = kafka.properties()
        self.topics = live_partitions(kafka.bootstrap, app, properties)
        self.lost = 0
        self._prefix = prefix(app)
        self._producer = Producer(
            {
                **PRODUCER_CONFIG,
                **CLIENT_CONFIG,
                **properties,
                "bootstrap.servers": kafka.bootstrap,
                "delivery.timeout.ms": 0,  # it waits for Kafka, however long
                "delivery.report.only.error": False,
                "queue.buffering.max.messages": most,
                "queue.buffering.max.kbytes": MOST_KBYTES,
            }
        )
        self._began = False
        self._beats = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="freshet-outbox", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Events that Kafka has not taken yet; heartbeats are none."""
        return max(0, len(self._producer) - self._beats)

    def append(self, topic: str, key: bytes | None, value: bytes | None, timestamp_ms: int) -> None:
        """Raises BufferError where the buffer is full: the event is not taken."""
        at = place(self.topics, topic, key, value, timestamp_ms, None)
        try:
            self._producer.produce(
                self._prefix + topic, value, key, partition=at,
                on_delivery=self._delivered, timestamp=timestamp_ms,
            )  # fmt: skip
        except BufferError:
            raise BufferError(f"{self.waiting} events wait for Kafka already") from None
        self._began = True

    def close(self, seconds: float) -> int:
        """Waits so long for what is on its way; returns how many events are lost."""
        self._stop.set()
        self._thread.join()
        self._producer.flush(seconds)
        if len(self._producer):
            left = self.waiting
            self._producer.purge()
            self._producer.flush(1.0)
            log.error("%d events are lost: Kafka did not take them within %g s", left, seconds)
        return self.lost

    def _run(self) -> None:
        last = time.monotonic()
        while not self._stop.is_set():
            self._producer.poll(POLL_S)
            if time.monotonic() - last >= BEAT_S:
                last = time.monotonic()
                self._beat()

    def _beat(self) -> None:
        """One heartbeat in each partition, unless the last ones still wait."""
        if not self._began or self._beats:
            return
        now_ms = time.time_ns() // 1_000_000
        for topic, partitions in self.topics.items():
            for partition in range(partitions):
                try:
                    self._producer.produce(
                        self._prefix + topic, partition=partition,
                        on_delivery=self._beaten, timestamp=now_ms,
                    )  # fmt: skip
                except BufferError:
                    return
                self._beats += 1

    def _beaten(self, error: Any, message: Message) -> None:
        self._beats -= 1

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.lost += 1
            if error.code() not in (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT):
                log.error("not delivered to %s: %s", message.topic(), error.str())
