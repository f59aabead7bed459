"""`recover.*`: what checkpoints of a learner with many embedding rows cost, and how soon it learns
again after `kill -9`. As a command, it is the learner that is killed."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from streaming.apps.kuairand import app as kuairand
from streaming.checkpoint import Checkpoints
from streaming.checkpoint_files import size_of
from streaming.dead_letters import DeadLetters
from streaming.eventlog import MemoryLog
from streaming.history import produce, read_rows, side_tables, topics
from streaming.learn import Loop, learn
from streaming.learner import Learner, Step
from streaming.memory_registry import MemoryRegistry

ROWS, STEPS, EVERY = 24_000, 350, 50
RATE = 2_000
"""Events a second that bytes an hour are reckoned for."""


class Job:
    """The shipped kuairand on its log, with `rows` embedding rows there from the beginning."""

    def __init__(self, log: Path, rows: int, folder: Path) -> None:
        started = time.perf_counter()
        self.log = MemoryLog(topics(1))
        self.learner = Learner(kuairand, self.log.topics, seed=0)
        tables = side_tables(kuairand, log)
        produce(kuairand, self.log, self.learner.codec, read_rows(kuairand, log, ROWS), tables)
        self.made_s = time.perf_counter() - started
        self.checkpoints = Checkpoints(folder)
        newest = self.checkpoints.newest()
        if newest is None:
            _fill(self.learner, rows)
        else:
            self.learner.load(newest.tree)
        self.stalls: list[float] = []
        self.sizes: list[int] = []

    def run(self, steps: int, on_step: Callable[[Step], None] = lambda step: None) -> None:
        """Learns up to so many steps."""
        loop = Loop(MemoryRegistry(), DeadLetters(), checkpoints=self.checkpoints)
        loop.checkpoint_every, loop.begun = EVERY, self.learner.trainer.steps

        def stepped(step: Step) -> None:
            on_step(step)
            if self.learner.trainer.steps >= steps:
                loop.stop.set()

        loop.on_step = stepped
        unsaved, start, settle = (
            self.learner.unsaved, self.checkpoints.start, self.checkpoints.settle,
        )  # fmt: skip
        began = 0.0

        def copied(whole: bool) -> dict[str, Any]:
            nonlocal began
            began = time.perf_counter()
            return unsaved(whole)

        def started(*what: Any) -> None:
            start(*what)
            self.stalls.append(1_000 * (time.perf_counter() - began))

        def settled(wait: bool = True) -> Path | None:
            if (path := settle(wait)) is not None:
                self.sizes.append(size_of(path))
            return path

        self.learner.unsaved = copied  # type: ignore[method-assign]
        self.checkpoints.start = started  # type: ignore[assignment, method-assign]
        self.checkpoints.settle = settled  # type: ignore[method-assign]
        learn(self.log, self.learner, loop, self.log.end_position())


def run(log: Path, rows: int, runs: int) -> list[dict[str, Any]]:
    """The rows. Their baselines: a whole checkpoint, which the loop waits for; and a start that has
    none to go on from."""
    stalls, sizes, hours, waits, wholes, all_hours = [], [], [], [], [], []
    restarts, starts = [], []
    for _ in range(runs):
        with tempfile.TemporaryDirectory(prefix="freshet-recover-") as name:
            folder = Path(name)
            job = Job(log, rows, folder / "parts")
            job.run(STEPS)
            an_hour = 3_600 * RATE / job.learner.merge.released["in"] / 2**30
            stalls.append(max(job.stalls[1:]))  # the first one is of all rows
            sizes.append(statistics.median(job.sizes[1:]) / 2**20)
            hours.append(sum(job.sizes[1:]) * an_hour)
            started = time.perf_counter()
            path = Checkpoints(folder / "whole").save(job.learner.state(), 1, STEPS)
            waits.append(1_000 * (time.perf_counter() - started))
            wholes.append(size_of(path) / 2**20)
            all_hours.append(size_of(path) * len(job.sizes[1:]) * an_hour)
            starts.append(_until_a_step(log, 0, folder / "none"))
            restarts.append(_until_a_step(log, rows, folder / "parts"))
    median, whole_hour = statistics.median, statistics.median(all_hours)
    return [
        _row("recover.stall", median(stalls), "ms", "whole, waited for", median(waits), runs),
        _row("recover.size", median(sizes), "MiB", "whole", median(wholes), runs),
        _row("recover.bytes", median(hours), "GiB/h", "whole each time", whole_hour, runs),
        _row(
            "recover.restart", median(restarts), "s", "without a checkpoint", median(starts), runs
        ),
    ]


def _fill(learner: Learner, rows: int) -> None:
    embedding = learner.trainer.predictor.embedding
    draw, before = np.random.default_rng(0), embedding.arrays()
    keys = np.setdiff1d(draw.integers(1, 2**62, rows), before["keys"])
    shapes = {name: a.shape[1:] for name, a in before.items() if name != "keys"}
    more = {name: np.zeros((len(keys), *shape), np.float32) for name, shape in shapes.items()}
    more["keys"] = keys
    joined = {name: np.concatenate([a, more[name]]) for name, a in before.items()}
    order = np.argsort(joined["keys"])
    embedding.load({name: a[order] for name, a in joined.items()})


def _until_a_step(log: Path, rows: int, folder: Path) -> float:
    """Seconds from the start of a process, as after a kill, to its first step, but for the making
    of the log, which would be there. It is killed too."""
    line = [sys.executable, "-m", "streaming.bench.recover", str(log), str(rows), str(folder)]
    started = time.perf_counter()
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        made_s = float(process.stdout.readline() or "nan")
        process.stdout.readline()
        seconds = time.perf_counter() - started - made_s
        process.kill()
    return seconds


def _row(name: str, value: float, unit: str, base: str, other: float, runs: int) -> dict[str, Any]:
    return {
        "name": name,
        "value": round(value, 2),
        "unit": unit,
        "baseline": {"name": base, "value": round(other, 2)},
        "ratio": round(value / other, 3),
        "runs": runs,
    }


def _main() -> None:
    log, rows, folder = sys.argv[1:]
    job = Job(Path(log), int(rows), Path(folder))
    print(job.made_s, flush=True)
    job.run(sys.maxsize, lambda step: print(step.cut.closed_ms, flush=True))


if __name__ == "__main__":
    _main()
