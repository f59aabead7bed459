"""`train.*`: examples a second of the shipped `Trainer.step`, against the naive version, River's
factorisation machine, other libraries' steps where they are installed, and what the machine's own
matrix product would allow."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from model.batch import Batch
from model.network import NetworkConfig
from model.train import Trainer
from streaming.bench import train_rivals
from streaming.bench.naive import NaiveMMoE
from streaming.bench.train_work import DENSE, FIELDS, TASKS, Work, layout, schema

EXPERTS, WIDTH, TOWER, DIM = 8, 128, 32, 16
SIZES = {
    "train.fp32": (7_000, 1_024),
    "train.bf16": (7_000, 1_024),
    "train.1m": (1_000_000, 1_024),
    "train.b64": (7_000, 64),
}
EXAMPLES, SETTLING = 60_000, 0.3
RIVER_EXAMPLES = 1_500

Step = Callable[[int], float]
"""A batch's number -> its mean loss before learning."""


def run(runs: int, device: str = "cpu") -> list[dict[str, Any]]:
    """The rows. Each run trains both sides anew on the same batches, in turn; the first part of a
    run is for admitting ids and compiling. `loss` is the mean over the rest, before learning."""
    torch.set_num_threads(1)
    rows = []
    for name, (items, size) in SIZES.items():
        work = Work(items, size, EXAMPLES // size)
        ours, naive = [], []
        losses = []
        rivals = train_rivals.installed() if name == "train.fp32" and device == "cpu" else {}
        theirs: dict[str, list[float]] = {rival: [] for rival in rivals}
        for _ in range(runs):
            shipped = _ours(work, device, bf16=name == "train.bf16")
            one, other = _timed(shipped, work), _timed(_naive(work, device), work)
            ours.append(one[0])
            naive.append(other[0])
            losses.append((one[1], other[1]))
            for rival, build in rivals.items():
                theirs[rival].append(_timed(build(work, EXPERTS, WIDTH, TOWER, DIM), work)[0])
        row = _row(name, ours, "naive", naive)
        row["loss"], row["baseline"]["loss"] = np.mean(losses, axis=0).round(4).tolist()
        rows.append(row)
        if name == "train.fp32":
            rows.append(_row("train.limit", ours, "matrix products alone", [_limit(size, device)]))
            rows.append(_row("train.river_fm", ours, "river FM", [_river(work)]))
            rows += [_row(f"train.{r}", ours, train_rivals.NAMES[r], theirs[r]) for r in rivals]
    return rows


def _row(
    name: str, ours: Sequence[float], baseline: str, theirs: Sequence[float]
) -> dict[str, Any]:
    value, base = statistics.median(ours), statistics.median(theirs)
    return {
        "name": name,
        "value": round(value),
        "unit": "examples/s",
        "baseline": {"name": baseline, "value": round(base)},
        "ratio": round(value / base, 2),
        "runs": len(ours),
    }


def _timed(step: Step, work: Work) -> tuple[float, float]:
    """Examples a second, and the mean loss, after the settling."""
    first = int(SETTLING * len(work.batches))
    for number in range(first):
        step(number)
    started = time.perf_counter()
    losses = [step(number) for number in range(first, len(work.batches))]
    seconds = time.perf_counter() - started
    return len(losses) * len(work.batches[0]) / seconds, float(np.mean(losses))


def config(size: int, device: str, bf16: bool = False) -> Trainer.Config:
    """The shipped defaults but for the reference network's sizes."""
    network = NetworkConfig(
        "mmoe", EXPERTS, width=WIDTH, tower=TOWER, products=(), cross=0, bf16=bf16
    )
    return Trainer.Config(network=network, batch_size=size, device=device)


def _ours(work: Work, device: str, bf16: bool) -> Step:
    trainer = Trainer(schema, layout, config(len(work.batches[0]), device, bf16), seed=0)
    return lambda number: float(trainer.step(work.batches[number]).loss.mean())


def naive(work: Work, device: str) -> NaiveMMoE:
    torch.manual_seed(0)
    items = work.items_of_field
    return NaiveMMoE(FIELDS, items, DIM, DENSE, EXPERTS, WIDTH, TOWER, TASKS).to(device)


def _naive(work: Work, device: str) -> Step:
    model = naive(work, device)
    optimiser = torch.optim.Adam(model.parameters())
    of_loss = nn.BCEWithLogitsLoss()

    def step(number: int) -> float:
        batch: Batch = work.batches[number]
        ids = torch.from_numpy(work.ids[number]).to(device)
        dense = torch.from_numpy(batch.inputs.dense).to(device)
        optimiser.zero_grad()
        loss = of_loss(model(ids, dense), torch.from_numpy(batch.labels).to(device))
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    return step


def _limit(size: int, device: str) -> float:
    """Examples a second, if a step were its matrix products alone: thrice the forward ones, at the
    rate of the largest of them, measured here and now."""
    inputs = FIELDS * DIM + DENSE
    x = torch.randn(size, inputs, device=device)
    weights = torch.randn(inputs, EXPERTS * WIDTH, device=device)
    times = []
    for _ in range(50):
        started = time.perf_counter()
        product = x @ weights
        if device != "cpu":
            product.sum().item()
        times.append(time.perf_counter() - started)
    flops = 2 * size * inputs * EXPERTS * WIDTH / statistics.median(times)
    gates, towers = inputs * TASKS * EXPERTS, TASKS * (WIDTH * TOWER + TOWER)
    mixture = TASKS * EXPERTS * WIDTH
    return flops / (3 * 2 * (inputs * EXPERTS * WIDTH + gates + mixture + towers))


def _river(work: Work) -> float:
    """One factorisation machine a task, one example at a time: examples a second."""
    from river.facto import FMClassifier

    models = [FMClassifier(n_factors=DIM, seed=0) for _ in range(TASKS)]
    ids, dense = np.concatenate(work.ids), np.concatenate([b.inputs.dense for b in work.batches])
    labels = np.concatenate([b.labels for b in work.batches]).astype(bool)
    started = time.perf_counter()
    for n in range(RIVER_EXAMPLES):
        x: dict[str, float] = {f"{i}={id}": 1.0 for i, id in enumerate(ids[n].tolist())}
        x |= {f"x{i}": value for i, value in enumerate(dense[n].tolist())}
        for model, label in zip(models, labels[n].tolist(), strict=True):
            model.predict_proba_one(x)
            model.learn_one(x, label)
    return RIVER_EXAMPLES / (time.perf_counter() - started)
