"""A version in another runtime gives the scores that it gives here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from model.export import CLOSE, export, furthest
from model.schema import Task
from model.score import Scorer
from model.structure import NetworkConfig
from model.train import Trainer

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize(
    ("format", "network"),
    [
        ("onnx", NetworkConfig(fm=True)),
        ("torch", NetworkConfig("ple", norm=True, residual=1)),
        ("torch", NetworkConfig(attention=("seen",), cross=2)),
        ("torch", NetworkConfig("single_task")),
    ],
)
def test_other_runtimes_give_the_same_scores(
    small: SimpleNamespace, tmp_path: Path, format: str, network: NetworkConfig
) -> None:
    model = small.trainer(network=network)
    for seed in range(20):
        model.step(small.batch(seed))
    scorer = Scorer(*model.snapshot())
    inputs = small.batch(50, 1_000, ids=80).inputs  # half of the ids were never seen
    inputs.dense[::7, 1] *= 1e6
    file = tmp_path / "graph"
    export(scorer, format, file)
    assert furthest(scorer, format, file, inputs) < CLOSE
    assert furthest(scorer, format, file, inputs[:1]) < CLOSE
    other = Scorer(*small.trainer(seed=1, network=network).snapshot())
    assert furthest(other, format, file, inputs) > 100 * CLOSE


def test_chains_and_sampled_negatives_are_in_the_graph(
    small: SimpleNamespace, tmp_path: Path
) -> None:
    tasks = (
        Task("click", "binary", 0),
        Task("buy", "binary", 0, given="click"),
        Task("look", "binary", 0, kept_negatives=0.1),
    )
    schema = replace(small.SCHEMA, tasks=tasks)
    model = Trainer(schema, small.LAYOUT, Trainer.Config(), seed=0)
    for seed in range(20):
        batch = small.batch(seed)
        batch.labels[:, 1] = batch.labels[:, 0] * (batch.labels[:, 1] > 0)
        batch.labels[:, 2] = batch.labels[:, 0]
        model.step(batch)
    scorer = Scorer(*model.snapshot())
    export(scorer, "torch", tmp_path / "graph")
    examples = scorer.examples(1_000)
    assert np.ptp(scorer.predict(examples)[:, 0]) > 0.01
    assert furthest(scorer, "torch", tmp_path / "graph", examples) < CLOSE
