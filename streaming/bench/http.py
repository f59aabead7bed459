"""`serve.http`: rankings a second over HTTP, at the same p99, against a naive FastAPI server.

Both are one process with one scoring thread, have the same network, and are asked the same from a
third process, open-loop. Features come in the request; Redis and Kafka are left out on both sides.
What ours shows is made into events, which nobody takes.
"""

from __future__ import annotations

import json
import random
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

from features.store import MemoryStore
from features.windows import Windows
from model.snapshot import Snapshot, encode
from model.train import Trainer
from streaming.application import Application
from streaming.bench.load import Answers, load
from streaming.bench.naive_server import serve as serve_naive
from streaming.bench.train import config
from streaming.bench.train_work import DENSE, FIELDS, schema
from streaming.memory_registry import MemoryRegistry
from streaming.serve.listen import Listener
from streaming.serve.metrics import Metrics
from streaming.serve.server import Server
from streaming.serve.stored import StoredFeatures

CANDIDATES, K, BODIES = 100, 10, 100
SETTLED_S, STEPS = 2.0, 6
START_S = 60.0


def application() -> Application:
    """The reference network's, with an item."""
    trainer = config(64, "cpu")
    return Application(
        "bench", replace(schema, item="f1"), lambda row, tables: None, trainer=trainer
    )


class Nowhere:
    """A log that forgets."""

    def append(self, topic: str, key: Any, value: Any, timestamp_ms: int) -> None:
        pass


def serve_ours(port: int) -> None:
    app = application()
    layout = Windows(app.schema, app.aggregates).layout
    registry, metrics = MemoryRegistry(), Metrics()
    trainer = Trainer(app.schema, layout, app.trainer, seed=0)
    registry.publish(encode(Snapshot(1, *trainer.snapshot())), 1, 1, {})
    features = StoredFeatures(app, MemoryStore([]), 1, metrics)
    server = Server(app, Nowhere(), registry, features, metrics)
    with Listener(server, port=port):
        while True:
            time.sleep(1)


def bodies(candidates: int = CANDIDATES) -> list[bytes]:
    """Requests of several users: half of the fields are the request's, half the candidates'."""
    draw = random.Random(0)
    made = []
    for _ in range(BODIES):
        ids = draw.sample(range(100_000), candidates)
        context: dict[str, float] = {f"f{i}": draw.randrange(800) for i in (2, 3, 4)}
        context |= {f"x{i}": draw.gauss(0, 1) for i in range(DENSE // 2)}
        each: dict[str, list[float]] = {
            f"f{i}": [draw.randrange(800) for _ in ids] for i in range(5, FIELDS)
        }
        each |= {f"x{i}": [draw.gauss(0, 1) for _ in ids] for i in range(DENSE // 2, DENSE)}
        asked = {"user": draw.randrange(10_000), "candidates": ids, "context": context}
        made.append(json.dumps(asked | {"candidate_fields": each, "k": K}).encode())
    return made


def run(seconds: float, p99_ms: float) -> dict[str, Any]:
    """The row: the highest rate that each was found to answer with this p99 at most."""
    asked = bodies()
    found = {}
    for name, serve in (("ours", serve_ours), ("naive", serve_naive)):
        with process(serve) as url:
            found[name] = highest(f"{url}/v1/rank", asked, seconds, p99_ms)
    (value, _), (baseline, _) = found["ours"], found["naive"]
    return {
        "name": "serve.http",
        "value": round(value),
        "unit": "req/s",
        "baseline": {"name": "fastapi", "value": round(baseline)},
        "ratio": round(value / baseline, 2),
        "runs": STEPS,
        "ms": {
            name: {f"p{100 * q:g}": answers.quantile_ms(q) for q in (0.5, 0.99, 0.999)}
            for name, (_, answers) in found.items()
        },
    }


def highest(url: str, asked: list[bytes], seconds: float, p99_ms: float) -> tuple[float, Answers]:
    """The highest rate of which 99 % are answered within bounds, by halving; and its answers."""
    load([url], asked, 20, SETTLED_S)
    low, high, best = 0.0, 0.0, None
    rate = 100.0
    for _ in range(STEPS + 4):
        answers = load([url], asked, rate, seconds)
        if answers.within(0.99, p99_ms):
            low, best = rate, answers
        else:
            high = rate
        if high and high / max(low, 1) < 1.1:
            break
        rate = (low + high) / 2 if high else 2 * rate
    assert best is not None, f"no rate has a p99 of {p99_ms} ms"
    return low, best


@contextmanager
def process(serve: Callable[[int], None]) -> Iterator[str]:
    """The server in a process of its own, once it is ready; `url` is where."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = get_context("spawn").Process(target=serve, args=(port,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_S
        while not _answers(url):
            assert server.is_alive() and time.monotonic() < deadline, f"{url} does not come up"
            time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.join()


def _answers(url: str) -> bool:
    request = urllib.request.Request(
        f"{url}/v1/rank", bodies(2)[0], {"Content-Type": "application/json"}
    )
    with suppress(OSError):
        with urllib.request.urlopen(request, timeout=5) as answer:
            return bool(answer.status == 200)
    return False
