"""`pipeline.json`: events a second from Kafka to batches of 1,024, against the plain version."""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from features.windows import Windows
from streaming.bench import plain, reference
from streaming.eventlog import EventLog
from streaming.join import Join
from streaming.kafkalog import KafkaLog
from streaming.learn import READ_RECORDS
from streaming.merge import Merge


def batches(log: EventLog) -> tuple[int, int]:
    """Reads the log to its end; returns how many batches, and how many examples in them."""
    app, end = reference.app, log.end_position()
    windows = Windows(app.schema, app.aggregates)
    merge = Merge(list(end), windows.codec, app.lateness_ms, app.id_memory_ms)
    join = Join(app.schema, windows.layout, reference.BATCH)
    reader, position = log.reader(), dict.fromkeys(end, 0)
    nothing = np.zeros((0, app.schema.outputs), np.float32)
    cuts = examples = 0
    while position != end:
        for tp in merge.furthest_behind():
            chunk = reader.read(*tp, READ_RECORDS, 0.1 if position[tp] < end[tp] else 0.0)
            if chunk.offsets:
                break
        else:
            continue
        position[tp] = chunk.next_offset
        events, bad = windows.codec.decode(*chunk, merge.index[tp])
        assert not bad
        merge.push(events)
        released = merge.release()
        join.push(released, windows.update(released))
        for cut in join.cuts(merge.watermark):
            join.serve(cut, np.resize(nothing, (len(cut.shown_slots), app.schema.outputs)))
            cuts, examples = cuts + 1, examples + len(cut.ids)
    reader.close()
    return cuts, examples


def run(broker: str, log_path: Path, events: int, runs: int) -> dict[str, Any]:
    """The row. Both sides read the same topics, in turn."""
    topics = {"impressions": reference.PARTITIONS, "feedback": reference.PARTITIONS}
    log = KafkaLog(broker, topics, f"freshet.bench-{uuid.uuid4().hex[:12]}.")
    try:
        log.create_topics()
        records = reference.fill(log, log_path, events)
        ours: list[float] = []
        theirs: list[float] = []
        examples = set()
        for n in range(runs + 1):
            seconds, (_, count) = _timed(lambda: batches(log))
            plain_seconds, plain_count = _timed(lambda: sum(len(b[0]) for b in plain.batches(log)))
            examples |= {count, plain_count}
            if n > 0:  # the first is for compiling and for the broker's cache
                ours.append(records / seconds)
                theirs.append(records / plain_seconds)
        if len(examples) != 1:
            raise RuntimeError(f"the two made different numbers of examples: {sorted(examples)}")
    finally:
        log.delete_topics()
        log.close()
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {
        "name": "pipeline.json",
        "value": round(statistics.median(ours)),
        "unit": "events/s",
        "baseline": {"name": "plain", "value": round(statistics.median(theirs))},
        "ratio": round(statistics.median(ratios), 2),
        "runs": runs,
    }


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result
