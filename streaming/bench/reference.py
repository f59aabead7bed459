"""The reference work of the pipeline benchmarks: KuaiRand's impressions, over and over, in Kafka.

Impressions with 20 logged numbers, three times as much feedback, a label window of ten minutes; 1 %
of all events come twice, 1 % out of order, 2 % of the feedback after its window.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from features.events import FEEDBACK, IMPRESSIONS, End, Feedback
from features.events import Features as Logged
from features.windows import Windows
from streaming.application import Aggregates, Application, Entity, Field, Schema, Signal, Task
from streaming.eventlog import EventLog

MINUTE = 60_000
WINDOW = 10 * MINUTE
START_MS = 1_650_000_000_000
TASKS = ("is_click", "long_view", "is_comment", "is_profile_enter")
FEEDBACK_EACH = 3
PARTITIONS = 4
BATCH = 1_024
STEP_MS = 3  # between impressions: some 200,000 are pending at a time

app = Application(
    name="reference",
    schema=Schema(
        fields=(Field("user_id", "id"), Field("video_id", "id")),
        tasks=tuple(Task(name, "binary", WINDOW) for name in TASKS),
        user="user_id",
        item="video_id",
    ),
    rows=lambda row, tables: None,
    aggregates=Aggregates(tuple(map(Signal, TASKS)), (Entity("user"), Entity("item"))),
    lateness_ms=1_000,
)


def fill(log: EventLog, path: Path, events: int) -> int:
    """Appends so many events, and their end; returns how many records."""
    codec = Windows(app.schema, app.aggregates).codec
    number, last = 0, START_MS
    for time_ms, topic, user, value in _records(path, events, codec):
        log.append(topic, str(user).encode(), value, time_ms)
        number, last = number + 1, max(last, time_ms)
    end = codec.encode(End(last))
    for topic, partitions in log.topics.items():
        for p in range(partitions):
            log.append(topic, None, end, last, p)
    log.flush()
    return number


def _records(path: Path, events: int, codec) -> Iterator[tuple[int, str, int, bytes]]:  # type: ignore[no-untyped-def]
    table = pq.read_table(path, columns=["user_id", "video_id"])
    users, videos = (table[name].to_pylist() for name in ("user_id", "video_id"))
    rng, n = np.random.default_rng(0), events // (1 + FEEDBACK_EACH)
    logged = rng.random((997, codec.features)).round(4).tolist()
    made = []
    for i in range(n):
        time_ms, user, video = START_MS + i * STEP_MS, users[i % len(users)], videos[i % len(users)]
        shown = codec.impression(
            i, time_ms, {"user_id": user, "video_id": video}, Logged(logged[i % len(logged)])
        )
        made.append((time_ms, IMPRESSIONS, user, codec.encode(shown)))
        for k, delay in enumerate(rng.integers(0, int(WINDOW * 1.02), FEEDBACK_EACH).tolist()):
            told = Feedback(i * 4 + k, time_ms + delay, i, TASKS[k], 1.0, user, video)
            made.append((told.time_ms, FEEDBACK, user, codec.encode(told)))
    made.sort(key=lambda record: record[0])
    order = np.arange(len(made))
    moved = rng.random(len(made)) < 0.01
    order[moved] += rng.integers(1, 200, int(moved.sum()))  # some come up to 200 events later
    for place in np.argsort(order, kind="stable").tolist():
        yield made[place]
        if place % 100 == 0:
            yield made[place]
