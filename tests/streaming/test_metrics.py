"""infra/metrics.md names every metric that a worker shows, and nothing else; and a version says
which labels it is the first to have learned."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from streaming.__main__ import load_application
from streaming.checkpoint import Checkpoints
from streaming.dead_letters import DeadLetters
from streaming.eventlog import MemoryLog
from streaming.history import produce, topics
from streaming.ingest.metrics import Metrics as IngestMetrics
from streaming.learn import Loop, learn
from streaming.learn_metrics import Metrics as LearnMetrics
from streaming.learner import Learner, Step
from streaming.memory_registry import MemoryRegistry
from streaming.serve.metrics import Metrics as ServeMetrics

TABLE = Path(__file__).parents[2] / "infra" / "metrics.md"
ROW = re.compile(r"\| `(freshet_\w+)` \| (\w+) \|([^|]*)\| [^|]+ \| ([^|]+) \|")
APP = replace(load_application("simulated"), publish_every=7)


def learner() -> Learner:
    return Learner(APP, topics(1), seed=0)


def registry_of(worker: str) -> CollectorRegistry:
    if worker == "ingest":
        return IngestMetrics().registry
    if worker == "serve":
        return ServeMetrics().registry
    registry = CollectorRegistry()
    registry.register(LearnMetrics(learner(), Loop(MemoryRegistry(), DeadLetters()), dict))
    return registry


@pytest.mark.parametrize("worker", ["ingest", "learn", "serve"])
def test_the_table_is_what_the_workers_show(worker):
    shown = set()
    for collector in registry_of(worker)._collector_to_names:
        metrics = [collector] if isinstance(collector, MetricWrapperBase) else collector.collect()
        for metric in metrics:
            family = metric.describe()[0] if isinstance(metric, MetricWrapperBase) else metric
            name = family.name + "_total" * (family.type == "counter")
            shown.add((name, family.type, tuple(metric._labelnames)))
    rows = ROW.findall(TABLE.read_text())
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    assert len(rows) == TABLE.read_text().count("| `freshet_")
    written = {
        (name, type_, tuple(re.findall(r"`(\w+)`", labels)))
        for name, type_, labels, workers in rows
        if worker in workers.split(", ")
    }
    assert written == shown


class Spans:
    """When labels closed, as the manifests say and as the steps show."""

    def __init__(self, folder: Path) -> None:
        self.log, self.registry = MemoryLog(topics(1)), MemoryRegistry(keep=1_000)
        self.checkpoints = Checkpoints(folder)
        self.of_step: dict[int, tuple[int, int]] = {}
        produce(APP, self.log, learner().codec, islice(APP.source(), 4_000), {})

    def learn(self, stop_after: int | None) -> None:
        state, newest = learner(), self.checkpoints.newest()
        if newest is not None:
            state.load(newest.tree)
        window_ms = np.array([task.window_ms for task in APP.schema.tasks])

        def on_step(step: Step) -> None:
            if step.report is not None:
                closed = step.cut.times + np.where(step.cut.closes, window_ms, 0).max(axis=1)
                self.of_step[state.trainer.steps] = (int(closed.min()), int(closed.max()))
            if state.trainer.steps == stop_after:
                loop.stop.set()

        loop = Loop(
            self.registry, DeadLetters(), checkpoints=self.checkpoints, checkpoint_every=10,
            on_step=on_step,
        )  # fmt: skip
        learn(self.log, state, loop, self.log.end_position())


def test_a_version_says_when_the_labels_closed_that_it_is_the_first_to_have(tmp_path):
    """Also where the learner was ended between two versions."""
    spans = Spans(tmp_path)
    for stop_after in (17, None):
        spans.learn(stop_after)
    versions = spans.registry.versions()
    assert versions[0].version == 7 and len(versions) > 5
    before = 0
    for manifest in versions:
        steps = [spans.of_step[n] for n in range(before + 1, manifest.version + 1)]
        said = (manifest.meta["closed_from_ms"], manifest.meta["closed_to_ms"])
        assert said == (steps[0][0], steps[-1][1]), manifest.version
        before = manifest.version
