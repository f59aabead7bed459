"""`freshness.*`: from a label's closing to the first ranking by a version that learned it, at 2,000
events a second through real Kafka and Redis.

A source, a learner (`Live`, its gate on) and a server's reader, each a process, on topics of a
fresh name. Every 50th impression is a probe: when its labels close is known to the millisecond, and
of each leg, the first to have it in: the step, the version, its loading, the end of a ranking.
"""

from __future__ import annotations

import bisect
import json
import multiprocessing
import threading
import time
import uuid
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from features.events import CONTROL, FEEDBACK, IMPRESSIONS, Features, Feedback
from features.windows import Windows
from model.batch import Inputs
from streaming.application import Application
from streaming.bench import reference
from streaming.redis_registry import RedisRegistry
from streaming.sections import Kafka
from streaming.serve.versions import Loaded, Versions
from streaming.topics import create, open_log

RATE, WINDOW_MS, PARTITIONS, PROBE_EACH = 2_000, 500, 4, 50
PUBLISH_EVERY, BEAT_S, SETTLED_S, END_S = 4, 0.02, 5.0, 5.0
USERS, ITEMS, CANDIDATES = 5_000, 20_000, 100
LEGS = ("learned", "published", "loaded", "served")
EKKO_S = 2.4
"""Of its paper (OSDI'22): the time to a fresh model in its recommender."""


def application(name: str) -> Application:
    tasks = tuple(replace(t, window_ms=WINDOW_MS) for t in reference.app.schema.tasks)
    schema = replace(reference.app.schema, tasks=tasks)
    return replace(
        reference.app, name=name, schema=schema, lateness_ms=0, publish_every=PUBLISH_EVERY
    )


def run(broker: str, redis: str, seconds: float) -> list[dict[str, Any]]:
    """The rows: the whole way, and each leg by itself, at p50 and p99."""
    app = application(f"bench-{uuid.uuid4().hex[:10]}")
    create(Kafka(broker, PARTITIONS), app.name)
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    with TemporaryDirectory(prefix="freshet-bench-") as folder:
        files = {name: str(Path(folder) / name) for name in ("probes", "steps", "checkpoints")}
        learner = context.Process(target=_learn, args=(broker, redis, app.name, files, stop))
        source = context.Process(target=_send, args=(broker, app.name, files, stop))
        topics = open_log(Kafka(broker), app.name)
        registry = RedisRegistry(redis, app.name)
        reader = _Reader(app, registry)
        try:
            learner.start()
            source.start()
            moves = reader.run(seconds)
        finally:
            stop.set()
            learner.join()
            source.join()
            registry.clear()
            registry.close()
            topics.delete_topics()
            topics.close()
        probes = np.array(json.loads(Path(files["probes"]).read_text()), np.int64) + WINDOW_MS
        steps = np.array(json.loads(Path(files["steps"]).read_text()), np.float64)
    return _rows(_legs(probes, steps, moves, reader))


class _Reader:
    """A server without its HTTP: what it loaded and ranked by, and when. Times are ms."""

    def __init__(self, app: Application, registry: RedisRegistry) -> None:
        self.app, self._registry = app, registry
        self.loaded: list[tuple[int, float, int]] = []
        self.served: dict[int, float] = {}
        layout = Windows(app.schema, app.aggregates).layout
        self.versions = Versions(
            registry, app.schema, layout, lambda: time.time_ns() // 1_000_000,
            self._loads, lambda reason: None,
        )  # fmt: skip

    def _loads(self, loaded: Loaded) -> None:
        closed_ms = loaded.manifest.meta.get("closed_to_ms", 0)
        self.loaded.append((closed_ms, time.time() * 1_000, loaded.manifest.version))

    def run(self, seconds: float) -> dict[int, float]:
        """For so long from the first version on; returns when the pointer came to each."""
        self.versions.start()
        over, moves = threading.Event(), dict[int, float]()
        ranking = threading.Thread(target=self._rank, args=(over,))
        ranking.start()
        end = None
        while end is None or time.monotonic() < end:
            for move in self._registry.moves():
                moves.setdefault(move["version"], move["at_ms"])
            if end is None and self.loaded:
                end = time.monotonic() + SETTLED_S + seconds + END_S
            time.sleep(0.2)
        over.set()
        ranking.join()
        self.versions.close()
        return moves

    def _rank(self, over: threading.Event) -> None:
        """One ranking after another, a hundred a second at most."""
        windows = Windows(self.app.schema, self.app.aggregates)
        draw, slots = np.random.default_rng(1), windows.layout.slots
        keys = draw.integers(1, 2**62, (CANDIDATES, slots))
        dense = draw.random((CANDIDATES, len(windows.layout.dense)), np.float32)
        inputs = Inputs(keys, np.ones(keys.shape, np.float32), dense)
        while not over.wait(0.01):
            if (current := self.versions.current) is not None:
                current.scorer.rank(inputs)
                self.served.setdefault(current.manifest.version, time.time() * 1_000)
            del current


def _legs(
    probes: np.ndarray, steps: np.ndarray, moves: dict[int, float], reader: _Reader
) -> np.ndarray:
    """Seconds of each probe [n, leg]: since the leg before, of those that closed once all ran, and
    that came through all of it."""
    learned_to, learned_at = np.maximum.accumulate(steps[:, 0]), steps[:, 1]
    loaded = sorted(reader.loaded)
    out = []
    begin = loaded[0][1] + 1_000 * SETTLED_S
    for closed in probes[probes > begin].tolist():
        step = int(np.searchsorted(learned_to, closed))
        at = bisect.bisect_left(loaded, (closed, 0.0, 0))
        if step == len(steps) or at == len(loaded):
            break
        _, loaded_ms, version = loaded[at]
        if version not in moves or version not in reader.served:
            continue
        times = [closed, learned_at[step], moves[version], loaded_ms, reader.served[version]]
        out.append(np.diff(np.maximum.accumulate(times)) / 1_000)
    return np.array(out).reshape(-1, len(LEGS))


def _rows(legs: np.ndarray) -> list[dict[str, Any]]:
    rows = []
    columns = {"": legs.sum(1)} | {f".{name}": legs[:, i] for i, name in enumerate(LEGS)}
    for leg, values in columns.items():
        for percent in (50, 99):
            value = float(np.percentile(values, percent))
            row = {"name": f"freshness{leg}.p{percent}_s", "value": round(value, 4), "unit": "s"}
            if not leg:
                baseline = {"name": "Ekko, its paper's figure", "value": EKKO_S}
                row |= {"baseline": baseline, "ratio": round(EKKO_S / value, 2)}
            else:
                whole = float(np.percentile(columns[""], percent))
                row |= {"baseline": {"name": "the whole way", "value": round(whole, 4)}}
                row["ratio"] = round(whole / max(value, 1e-6), 2)
            rows.append({**row, "runs": len(values)})
    return rows


def _learn(broker: str, redis: str, name: str, files: dict[str, str], stop: Any) -> None:
    from streaming.live import Live

    steps: list[tuple[int, float]] = []
    live = Live(
        application(name), Kafka(broker), redis, checkpoints=Path(files["checkpoints"]),
        on_step=lambda _, step: steps.append((step.cut.closed_ms, time.time() * 1_000)),
    )  # fmt: skip

    def end() -> None:
        stop.wait()
        live.stop.set()

    threading.Thread(target=end, daemon=True).start()
    live.run()
    Path(files["steps"]).write_text(json.dumps(steps))


def _send(broker: str, name: str, files: dict[str, str], stop: Any) -> None:
    """Impressions and three feedbacks each, as of now, and a beat for partitions that are idle."""
    app = application(name)
    codec = Windows(app.schema, app.aggregates).codec
    draw, probes = np.random.default_rng(0), list[int]()
    logged = draw.random((997, codec.features)).round(4).tolist()
    started, sent, number, beaten = time.time(), 0, 0, 0.0
    with closing(open_log(Kafka(broker), name, IMPRESSIONS, FEEDBACK, CONTROL)) as log:
        while not stop.is_set():
            now = time.time()
            now_ms = int(now * 1_000)
            if now - beaten >= BEAT_S:
                beaten = now
                for topic, partitions in log.topics.items():
                    for p in range(partitions):
                        log.append(topic, None, None, now_ms, p)
            if sent >= (now - started) * RATE:
                time.sleep(0.001)
                continue
            user, item = int(draw.integers(USERS)), int(draw.integers(ITEMS))
            values = {"user_id": user, "video_id": item}
            event = codec.impression(number, now_ms, values, Features(logged[number % 997]))
            log.append(IMPRESSIONS, str(user).encode(), codec.encode(event), now_ms)
            for k in range(reference.FEEDBACK_EACH):
                task = reference.TASKS[k]
                told = Feedback(number * 4 + k, now_ms, number, task, 1.0, user, item)
                log.append(FEEDBACK, str(user).encode(), codec.encode(told), now_ms)
            if number % PROBE_EACH == 0:
                probes.append(now_ms)
            number, sent = number + 1, sent + 1 + reference.FEEDBACK_EACH
        log.flush()
    Path(files["probes"]).write_text(json.dumps(probes))
