"""`pipeline.latency_p99_s`: from the event that closes a batch's last label to the batch, at 2,000
events a second and a lateness of 0."""

from __future__ import annotations

import multiprocessing
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from features.events import FEEDBACK, IMPRESSIONS, Features, Feedback
from features.windows import Windows
from streaming.bench import reference
from streaming.join import Join
from streaming.kafkalog import KafkaLog
from streaming.learn import POLL_S, READ_RECORDS
from streaming.merge import Merge

RATE, WINDOW_MS, BATCH = 2_000, 500, 64
SETTLED_S = 3.0
"""Left out at the beginning: connections, and what is compiled at its first use."""
TOPICS = {IMPRESSIONS: reference.PARTITIONS, FEEDBACK: reference.PARTITIONS}


def _application() -> Any:
    tasks = tuple(replace(t, window_ms=WINDOW_MS) for t in reference.app.schema.tasks)
    schema = replace(reference.app.schema, tasks=tasks)
    return replace(reference.app, schema=schema, lateness_ms=0)


def run(broker: str, log_path: Path, seconds: float) -> dict[str, Any]:
    """The row. Its baseline is the way through Kafka alone, of the same events in the same run:
    from their time to their arrival here. There is no batch without it."""
    prefix = f"freshet.bench-{uuid.uuid4().hex[:12]}."
    log = KafkaLog(broker, TOPICS, prefix)
    context = multiprocessing.get_context("spawn")
    source = context.Process(target=_send, args=(broker, prefix, log_path, seconds + SETTLED_S))
    try:
        log.create_topics()
        source.start()
        ours, transport = _measure(log, seconds)
        source.join()
    finally:
        log.delete_topics()
        log.close()
    value, baseline = (round(float(np.quantile(x, 0.99)), 4) for x in (ours, transport))
    return {
        "name": "pipeline.latency_p99_s",
        "value": value,
        "unit": "s",
        "baseline": {"name": "kafka alone", "value": baseline},
        "ratio": round(baseline / value, 2),
        "runs": len(ours),
    }


def _measure(log: KafkaLog, seconds: float) -> tuple[list[float], list[float]]:
    """Seconds of each batch, and of each chunk's last event."""
    app, end = _application(), log.end_position()
    windows = Windows(app.schema, app.aggregates)
    merge = Merge(list(end), windows.codec, app.lateness_ms, app.id_memory_ms)
    join = Join(app.schema, windows.layout, BATCH)
    nothing = np.zeros((0, app.schema.outputs), np.float32)
    ours: list[float] = []
    transport: list[float] = []
    reader = log.reader()
    started: float | None = None
    while started is None or time.time() < started + SETTLED_S + seconds:
        for wait_s in (0.0, POLL_S):
            for tp in merge.furthest_behind():
                chunk = reader.read(*tp, READ_RECORDS, wait_s)
                if chunk.offsets:
                    break
            if chunk.offsets:
                break
        if not chunk.offsets:
            continue
        now = time.time()
        started = started or now
        settled = now > started + SETTLED_S
        if settled:
            transport.append(now - chunk.timestamps_ms[-1] / 1000)
        events, bad = windows.codec.decode(*chunk, merge.index[tp])
        assert not bad
        merge.push(events)
        released = merge.release()
        join.push(released, windows.update(released))
        for cut in join.cuts(merge.watermark):
            join.serve(cut, np.resize(nothing, (len(cut.shown_slots), app.schema.outputs)))
            if settled and len(cut.ids) == BATCH:
                ours.append(time.time() - cut.closed_ms / 1000)
    reader.close()
    return ours, transport


def _send(broker: str, prefix: str, log_path: Path, seconds: float) -> None:
    """In a process of its own: impressions and three feedbacks each, as of now."""
    app = _application()
    codec = Windows(app.schema, app.aggregates).codec
    log = KafkaLog(broker, TOPICS, prefix)
    started = time.time()
    for number, (topic, user, event) in enumerate(_events(log_path, codec)):
        due = started + number / RATE
        if due > started + seconds + 1:
            break
        if (ahead_s := due - time.time()) > 0:
            time.sleep(ahead_s)
        now_ms = time.time_ns() // 1_000_000
        event.time_ms = now_ms
        log.append(topic, str(user).encode(), codec.encode(event), now_ms)
    log.close()


def _events(path: Path, codec: Any) -> Iterator[tuple[str, int, Any]]:
    table = pq.read_table(path, columns=["user_id", "video_id"])
    users, videos = (table[name].to_pylist() for name in ("user_id", "video_id"))
    logged = np.random.default_rng(0).random((997, codec.features)).round(4).tolist()
    number = 0
    while True:
        user, video = users[number % len(users)], videos[number % len(users)]
        values = {"user_id": user, "video_id": video}
        yield IMPRESSIONS, user, codec.impression(number, 0, values, Features(logged[number % 997]))
        for k in range(reference.FEEDBACK_EACH):
            told = Feedback(number * 4 + k, 0, number, reference.TASKS[k], 1.0, user, video)
            yield FEEDBACK, user, told
        number += 1
