"""`publish.*`: a delta of 5 % of a million rows through Redis, against the full version, and the
files that torch and safetensors make of it."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save

from model.snapshot import Snapshot, encode
from model.train import Trainer
from streaming.bench.train import config
from streaming.bench.train_work import Work, layout, schema
from streaming.manifest import Base
from streaming.redis_registry import RedisRegistry
from streaming.registry import Published

ROWS, DIRTY = 1_000_000, 0.05


class Publisher:
    """A trainer of the reference work with so many embedding rows, which publishes to Redis."""

    def __init__(self, url: str, rows: int, run: str) -> None:
        torch.set_num_threads(1)
        self.trainer = Trainer(schema, layout, config(64, "cpu"), seed=0)
        for batch in Work(7_000, 64, 20).batches:
            self.trainer.step(batch)
        self._draw = np.random.default_rng(0)
        self._fill(rows)
        self.registry = RedisRegistry(url, "bench", run, keep=2)
        self.version = 0
        self._base: Base | None = None

    def _fill(self, rows: int) -> None:
        embedding = self.trainer.predictor.embedding
        there = embedding.arrays()
        keys = np.setdiff1d(self._draw.integers(1, 2**62, rows - len(there["keys"])), there["keys"])
        more: dict[str, np.ndarray] = {"keys": keys}
        for name in ("rows", "state"):
            more[name] = self._draw.random((len(keys), there[name].shape[1]), np.float32)
        joined = {name: np.concatenate([there[name], more[name]]) for name in more}
        order = np.argsort(joined["keys"])
        embedding.load({name: array[order] for name, array in joined.items()})

    def touch(self, share: float) -> None:
        """Moves a share of the rows, drawn at random: what no locality helps with."""
        embedding = self.trainer.predictor.embedding
        n = len(embedding)
        places = np.unique(self._draw.integers(0, n, round(share * n)))
        embedding.rows[torch.from_numpy(places)] += 0.001
        embedding.changes.note(places, places[:0])
        self.trainer.steps += 1

    def publish(self, whole: bool) -> Published:
        """A version of what is there now."""
        self.version += 1
        told = self.trainer.version(whole)
        data = encode(Snapshot(self.version, told.arrays, told.meta))
        base = None if told.whole else self._base
        published = self.registry.publish(
            data, self.version, 1, {}, base=base, content=told.content
        )
        self.trainer.told()
        self._base = Base(self.version, told.content)
        return published

    def close(self) -> None:
        self.registry.clear()
        self.registry.close()


def run(url: str, runs: int, rows: int = ROWS) -> list[dict[str, Any]]:
    """The rows: seconds and bytes of a delta, gathering, encoding and hashing included."""
    with closing(Publisher(url, rows, "publish")) as publisher:
        publisher.publish(True)
        publisher.touch(DIRTY)
        publisher.publish(False)  # the first is for compiling
        seconds: dict[str, list[float]] = {
            name: [] for name in ("delta", "full", "safetensors", "torch.save")
        }
        sizes: dict[str, int] = {}
        for _ in range(runs):
            publisher.touch(DIRTY)
            for name, whole in (("delta", False), ("full", True)):
                started = time.perf_counter()
                published = publisher.publish(whole)
                seconds[name].append(time.perf_counter() - started)
                sizes[name] = published.size
                assert published.new and (published.kind == "full") is whole
            for name, write in _files().items():
                arrays, _ = publisher.trainer.snapshot()
                started = time.perf_counter()
                sizes[name] = write(arrays)
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    others = [name for name in medians if name != "delta"]
    return [
        *(_row("publish.delta_time", "s", medians, other, runs) for other in others),
        *(_row("publish.delta_bytes", "B", sizes, other, runs) for other in others),
    ]


def _files() -> dict[str, Callable[[dict[str, np.ndarray]], int]]:
    """Writers of a whole model's arrays to memory, without gathering, hashing or sending them."""

    def to_torch(arrays: dict[str, np.ndarray]) -> int:
        file = io.BytesIO()
        torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, file)
        return file.tell()

    return {"safetensors": lambda arrays: len(save(arrays)), "torch.save": to_torch}


def _row(name: str, unit: str, values: dict[str, Any], baseline: str, runs: int) -> dict[str, Any]:
    return {
        "name": name,
        "value": round(values["delta"], 4),
        "unit": unit,
        "baseline": {"name": baseline, "value": round(values[baseline], 4)},
        "ratio": round(values[baseline] / values["delta"], 2),
        "runs": runs,
    }
