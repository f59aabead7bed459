"""`pipeline.weights`: from Kafka to trained weights, the shipped kuairand application, against a
Faust agent that learns River's logistic regressions one example at a time."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

from features.windows import Windows
from streaming.apps.kuairand import app as kuairand
from streaming.dead_letters import DeadLetters
from streaming.history import produce, read_rows, side_tables, topics
from streaming.kafkalog import KafkaLog
from streaming.learn import Loop, learn
from streaming.learner import Learner
from streaming.memory_registry import MemoryRegistry

PARTITIONS = 4
LABELLED = "labelled"
PLAIN_EXAMPLES = 4_000


def run(broker: str, log_path: Path, runs: int, rows: int | None = None) -> dict[str, Any]:
    """The row, in examples a second, over all of the log or its first `rows`; the first run of ours
    is for compiling, and not counted."""
    prefix = f"freshet.bench-{uuid.uuid4().hex[:12]}."
    log = KafkaLog(broker, topics(PARTITIONS), prefix)
    labelled = KafkaLog(broker, {LABELLED: 1}, prefix)
    try:
        log.create_topics()
        labelled.create_topics()
        tables = side_tables(kuairand, log_path)
        codec = Windows(kuairand.schema, kuairand.aggregates).codec
        produce(kuairand, log, codec, read_rows(kuairand, log_path, rows), tables)
        count = _label(labelled, log_path)
        ours = [_ours(log) for _ in range(runs + 1)][1:]
        theirs = [_plain(broker, prefix + LABELLED, count) for _ in range(runs)]
    finally:
        for each in (log, labelled):
            each.delete_topics()
            each.close()
    value, baseline = statistics.median(ours), statistics.median(theirs)
    return {
        "name": "pipeline.weights",
        "value": round(value),
        "unit": "examples/s",
        "baseline": {"name": "Faust and River", "value": round(baseline)},
        "ratio": round(value / baseline, 2),
        "runs": runs,
    }


def _label(log: KafkaLog, path: Path) -> int:
    """Examples for the baseline, which are joined already; returns how many."""
    tables = side_tables(kuairand, path)
    binary = [t.name for t in kuairand.schema.tasks if t.kind == "binary"]
    for row in read_rows(kuairand, path, PLAIN_EXAMPLES):
        shown = kuairand.rows(row, tables)
        if shown is None:
            continue
        told = {f.kind: f.value for f in shown.told}
        x = {f"{name}={value}": 1.0 for name, value in shown.fields.items()}
        y = {name: bool(told.get(name, 0.0)) for name in binary}
        log.append(LABELLED, None, json.dumps({"x": x, "y": y}).encode(), 1, 0)
    log.flush()
    return log.end_position()[LABELLED, 0]


def _ours(log: KafkaLog) -> float:
    learner = Learner(kuairand, topics(PARTITIONS), seed=0)
    started = time.perf_counter()
    with closing(MemoryRegistry()) as registry:
        learn(log, learner, Loop(registry, DeadLetters()), log.end_position())
    return learner.examples / (time.perf_counter() - started)


def _plain(broker: str, topic: str, count: int) -> float:
    """In a process of its own, as Faust wants it."""
    done = subprocess.run(
        [sys.executable, "-m", "streaming.bench.faust_river", broker, topic, str(count)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the baseline failed: {done.stderr.strip()[-500:]}")
    return float(done.stdout)
