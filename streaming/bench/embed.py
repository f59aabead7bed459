"""`embed.*`: rows updated a second, and what a step takes as the table grows and ids come in."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from model.batch import Bag, Layout
from model.embedding import Embedding, EmbeddingConfig
from model.optim import RowOptimiser
from model.train import Trainer
from streaming.bench.train_work import FIELDS, Work, layout, schema

ROWS, DIM, BAGS, EXAMPLES, BATCHES = 1_000_000, 16, 8, 1_024, 50
TABLES = (10_000, 100_000, 1_000_000, 10_000_000)
STEP, STEPS, NEW, AGE_MS = 64, 200, 1_000_000, 3_600_000


def run(runs: int) -> list[dict[str, Any]]:
    """The rows `embed.update`, against each of what is importable, and `embed.step_<rows>`."""
    torch.set_num_threads(1)
    return [*_update(runs), *_steps(runs), _burst(runs)]


def _update(runs: int) -> list[dict[str, Any]]:
    """Ids whose rows get their bags' gradients, a second: duplicates merged, AdaGrad."""
    draw = np.random.default_rng(0)
    ids = (ROWS * draw.random((BATCHES, EXAMPLES, BAGS)) ** 2).astype(np.int64)
    gradient = torch.from_numpy(draw.normal(size=(EXAMPLES, DIM)).astype(np.float32))
    sides = {"ours": _ours(gradient), "EmbeddingBag + Adagrad": _torch(gradient)}
    fused = _fbgemm(gradient)
    if fused is not None:
        sides["fbgemm"] = fused
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for n in range(runs + 1):
        for name, update in sides.items():
            seconds = sum(update(batch) for batch in ids)
            if n > 0:  # the first is for compiling
                rates[name].append(ids.size / seconds)
    names = {"EmbeddingBag + Adagrad": "embed.update", "fbgemm": "embed.update_fbgemm"}
    return [_rate(names[name], rates["ours"], name, rates[name]) for name in sides if name in names]


def _rate(name: str, ours: list[float], against: str, theirs: list[float]) -> dict[str, Any]:
    value, base = statistics.median(ours), statistics.median(theirs)
    return {
        "name": name,
        "value": round(value),
        "unit": "rows/s",
        "baseline": {"name": against, "value": round(base)},
        "ratio": round(value / base, 2),
        "runs": len(ours),
    }


Update = Callable[[np.ndarray], float]
"""Ids [examples, bags] -> seconds that the update of their rows took, once they have been read."""


def _ours(gradient: torch.Tensor) -> Update:
    bags = Layout((Bag("ids", "ids", BAGS),))
    table = Embedding(bags, 0, EmbeddingConfig(DIM), RowOptimiser(), 0)
    deep, wide = gradient[:, None].contiguous(), torch.zeros(EXAMPLES, 0)
    weights, rates = np.ones((EXAMPLES, BAGS), np.float32), torch.full((1,), 0.1)
    everyone = np.arange(1, ROWS + 1).reshape(-1, BAGS)
    for start in range(0, len(everyone), EXAMPLES):
        keys = everyone[start : start + EXAMPLES]
        n = len(keys)
        table.learn(keys, table.find(keys), weights[:n], 0 * deep[:n], wide[:n], rates)

    def update(ids: np.ndarray) -> float:
        keys = ids + 1
        index = table.find(keys)
        start = time.thread_time()
        table.learn(keys, index, weights, deep, wide, rates)
        return time.thread_time() - start

    return update


def _torch(gradient: torch.Tensor) -> Update:
    table = torch.nn.EmbeddingBag(ROWS, DIM, mode="sum", sparse=True)
    optimiser = torch.optim.Adagrad(table.parameters(), lr=0.1)

    def update(ids: np.ndarray) -> float:
        optimiser.zero_grad()
        pooled = table(torch.from_numpy(ids))
        start = time.thread_time()
        pooled.backward(gradient)
        optimiser.step()
        return time.thread_time() - start

    return update


def _fbgemm(gradient: torch.Tensor) -> Update | None:
    """FBGEMM's table, whose backward pass updates the rows; None where it can't be imported."""
    try:
        from fbgemm_gpu.split_embedding_configs import EmbOptimType  # type: ignore[import-not-found]
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation  # type: ignore[import-not-found]
        from fbgemm_gpu.split_table_batched_embeddings_ops_training import (  # type: ignore[import-not-found]
            ComputeDevice,
            SplitTableBatchedEmbeddingBagsCodegen,
        )
    except (ImportError, OSError):
        return None
    table = SplitTableBatchedEmbeddingBagsCodegen(
        [(ROWS, DIM, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=0.1,
    )
    offsets = torch.arange(0, (EXAMPLES + 1) * BAGS, BAGS)

    def update(ids: np.ndarray) -> float:
        pooled = table(torch.from_numpy(ids.ravel()), offsets)
        start = time.thread_time()
        pooled.backward(gradient)
        return time.thread_time() - start

    return update


def _steps(runs: int) -> list[dict[str, Any]]:
    """What `Trainer.step` takes at 64 examples whose ids are drawn evenly from a full table."""
    medians = {rows: _step_ms(rows, runs) for rows in TABLES}
    first = medians[TABLES[0]]
    return [
        {
            "name": f"embed.step_{rows:.0e}".replace("+0", ""),
            "value": round(ms, 3),
            "unit": "ms",
            "baseline": {"name": f"{TABLES[0]:,} rows", "value": round(first, 3)},
            "ratio": round(first / ms, 2),
            "runs": runs,
        }
        for rows, ms in medians.items()
    ]


def _trainer(capacity: int) -> Trainer:
    embedding = EmbeddingConfig(DIM, capacity=capacity, max_age_ms=AGE_MS)
    return Trainer(schema, layout, Trainer.Config(embedding=embedding, batch_size=STEP), seed=0)


def _step_ms(rows: int, runs: int) -> float:
    trainer, draw = _trainer(rows), np.random.default_rng(0)
    _admit(trainer, rows)
    batches = Work(7_000, STEP, STEPS).batches
    times = []
    for run in range(runs + 1):
        for batch in batches:
            batch.inputs.keys[:] = draw.integers(1, rows + 1, batch.inputs.keys.shape)
            start = time.thread_time()
            trainer.step(batch)
            if run > 0:
                times.append(time.thread_time() - start)
    assert len(trainer.predictor.embedding) >= rows
    return 1e3 * statistics.median(times)


def _admit(trainer: Trainer, rows: int) -> None:
    """Gives the keys 1 .. `rows` their rows, without a gradient."""
    table, outputs = trainer.predictor.embedding, schema.outputs
    deep = torch.zeros(EXAMPLES, len(layout.bags), DIM)
    wide, rates = torch.zeros(EXAMPLES, outputs), torch.zeros(1 + outputs)
    for start in range(1, rows + 1, EXAMPLES * layout.slots):
        keys = np.arange(start, start + EXAMPLES * layout.slots).reshape(EXAMPLES, -1)
        keys[keys > rows] = 0
        weights = (keys > 0).astype(np.float32)
        table.learn(keys, table.find(keys), weights, deep, wide, rates)


def _burst(runs: int) -> dict[str, Any]:
    """The slowest step, in processor time, while a million new ids come in a minute of event time,
    with no bound of rows but age; against the median step that reads known ids only."""
    batches = Work(7_000, STEP, STEPS).batches
    slowest, usual = [], []
    for _ in range(runs):
        settings = Trainer.Config(
            embedding=EmbeddingConfig(DIM, max_age_ms=AGE_MS), batch_size=STEP
        )
        trainer, last, times = Trainer(schema, layout, settings, seed=0), 10_000, []
        _admit(trainer, last)
        for n in range(STEPS + NEW // (STEP * FIELDS)):
            batch = batches[n % STEPS]
            if n >= STEPS:
                begin, last = last + 1, last + STEP * FIELDS
                batch.inputs.keys[:] = np.arange(begin, last + 1).reshape(STEP, FIELDS)
            batch.time_ms = 60_000 * n // (NEW // (STEP * FIELDS))
            start = time.thread_time()
            trainer.step(batch)
            times.append(1e3 * (time.thread_time() - start))
        slowest.append(max(times[STEPS:]))
        usual.append(statistics.median(times[20:STEPS]))
    value, base = statistics.median(slowest), statistics.median(usual)
    return {
        "name": "embed.burst_slowest",
        "value": round(value, 2),
        "unit": "ms",
        "baseline": {"name": "a usual step", "value": round(base, 2)},
        "ratio": round(base / value, 2),
        "runs": runs,
    }
