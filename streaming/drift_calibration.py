"""Thresholds of drift detection from a user's own log: `freshet drift calibrate`.

The signals of a run over the log are its noise: slow changes are taken out of them, and blocks of
batches are drawn with replacement (Künsch 1989), of all signals together, so that what depends on
each other stays so. On such streams, in which nothing drifts, the least score is found that keeps
the budget; on others a change is planted, and its delay is told.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streaming.application import Application
from streaming.drift import DriftMonitor, Key, Sums
from streaming.evidence import Change
from streaming.learner import Learner, Step
from streaming.replay import Replay

CHANGES = (0.1, 0.5)
CANDIDATES: tuple[dict[str, Any], ...] = (
    {"detector": "page_hinkley", "allowance": 1.0, "threshold": 20.0},
    {"detector": "page_hinkley", "allowance": 0.5, "threshold": 14.0},
    {"detector": "page_hinkley", "allowance": 0.5, "threshold": 8.0},
    {"detector": "adwin"},
)
LEAST, MOST = 1_000_000, 4_000_000
"""Examples of a stream without drift: as many as two budgets, within these."""
RUNS, HORIZON = 8, 60_000
LOWEST = 0.7
"""Evidence is not set below this, however quiet the log was."""
SLOW = 16
"""Bootstrap blocks over which a level is taken to be steady."""
BETTER = 0.95
"""What another setting's delays must be of the present one's to be chosen instead."""


@dataclass(frozen=True)
class Calibrated:
    """One setting: `evidence` keeps the budget, of which `false_events` in `examples` is the check
    on a stream of its own. `delays` maps each of `CHANGES` to how many of the signals see it within
    `horizon` examples (a share) and after how many (median, None where none does)."""

    config: DriftMonitor.Config
    false_events: int
    examples: int
    horizon: int
    delays: dict[float, tuple[float, int | None]]
    mean_delay: float

    def settings(self) -> list[str]:
        """As `--set` takes them."""
        c = self.config
        told = [f"drift.detector={c.detector}", f"drift.budget={c.budget}"]
        if c.detector == "page_hinkley":
            told += [f"drift.allowance={c.allowance:g}", f"drift.threshold={c.threshold:g}"]
        return [*told, f"drift.evidence={c.evidence:g}"]


def calibrate(
    app: Application, log: Path | None, budget: int, limit: int | None = None, seed: int = 0
) -> list[Calibrated]:
    """The settings that were tried, each within the budget of one false event in so many examples:
    the one to choose first, the present one next. Raises ValueError for a log that is too short."""
    noise = Noise.of(app, log, limit)
    tried: list[Calibrated] = []
    for number, candidate in enumerate(({}, *CANDIDATES)):
        config = replace(app.drift, budget=budget, evidence=1.0, **candidate)
        if number and any(config == replace(t.config, evidence=1.0) for t in tried):
            continue
        tried.append(_calibrated(noise, config, seed))
    now = tried[0]
    best = min(tried, key=lambda t: t.mean_delay)
    best = best if best.mean_delay < BETTER * now.mean_delay else now
    return [best, *(t for t in tried if t is not best)]


class Noise:
    """Sums and counts [step, key] of a log, at one level throughout."""

    def __init__(
        self, keys: tuple[Key, ...], sums: NDArray[np.float64], counts: NDArray[np.int64], size: int
    ) -> None:
        self.keys, self.counts, self.size = keys, counts, size
        steps = len(counts)
        self.block = max(32, round(math.sqrt(steps)))
        sums = np.where(np.isfinite(sums), sums, 0.0)
        self.levels = sums.sum(0) / np.maximum(counts.sum(0), 1)
        reach = min(steps, self.block * SLOW) // 2
        slow = _moving(sums, reach) / np.maximum(_moving(counts.astype(float), reach), 1e-9)
        self.sums = sums + counts * (self.levels - slow)

    @classmethod
    def of(cls, app: Application, log: Path | None, limit: int | None) -> Noise:
        """That of a run over the log, from the end of the warm-up on."""
        kept: list[Sums] = []
        sizes: list[int] = []
        learners: list[Learner] = []

        def on_step(learner: Learner, step: Step) -> None:
            if step.signals is not None and learner.examples > app.drift.warm_up:
                learners[:] = [learner]
                kept.append(step.signals)
                sizes.append(len(step.cut.ids))

        Replay(app, log, limit=limit, on_step=on_step).run()
        if len(kept) < 200:
            raise ValueError(
                f"the log has {len(kept)} batches after the warm-up of {app.drift.warm_up} "
                "examples: expected 200 or more to calibrate by"
            )
        sums, counts = (np.stack(part) for part in zip(*kept, strict=True))
        return cls(learners[0].drift.keys, sums, counts, round(float(np.mean(sizes))))

    def drawn(
        self, examples: int, draw: np.random.Generator, change: float = 0.0, at: int = 0
    ) -> Iterator[tuple[Sums, int]]:
        """A stream of so many examples, without drift, or with all levels changed by a share of
        them from the example `at` on: losses and rates up, AUC down, and calibration by that share
        of the label rate; each with its example."""
        steps = len(self.counts)
        moves = np.array([self._move(key, change) for key in self.keys])
        for first in range(0, examples // self.size, self.block):
            start = int(draw.integers(steps))
            for i in range(self.block):
                row, example = (start + i) % steps, (first + i + 1) * self.size
                sums = self.sums[row]
                if change and example > at:
                    sums = sums + moves * self.counts[row]
                yield Sums(sums, self.counts[row]), example

    def _move(self, key: Key, change: float) -> float:
        of = key._replace(signal="label_rate") if key.signal == "calibration" else key
        level = float(self.levels[self.keys.index(of)]) if of in self.keys else 1.0
        return -change * level if key.signal == "auc" else change * level


class _Recorder(DriftMonitor):
    """Tells of nothing, and keeps the highest score each time, over the one asked."""

    def __init__(self, config: DriftMonitor.Config, keys: tuple[Key, ...]) -> None:
        super().__init__([], config, keys)
        self.example = 0
        self._seen: dict[int, int] = {}
        self.scores: list[tuple[int, float]] = []

    def _least(self, place: int, change: Change) -> float:
        score = abs(change.score) / super()._least(place, change)
        last = self._seen.get(place)
        near = last is not None and self.example - last < self.config.cool_down
        self._seen[place] = self.example
        if near:
            at = max(n for n, (where, _) in enumerate(self.scores) if where == place)
            self.scores[at] = (place, max(score, self.scores[at][1]))
        else:
            self.scores.append((place, score))
        return math.inf


def _calibrated(noise: Noise, config: DriftMonitor.Config, seed: int) -> Calibrated:
    draw = np.random.default_rng(seed)
    examples = min(MOST, max(LEAST, 2 * config.budget))
    recorder = _Recorder(config, noise.keys)
    for signals, example in noise.drawn(examples, draw):
        recorder.example = example
        recorder.update(signals, example, example)
    allowed = examples // (2 * config.budget)  # half of the budget, for what is only estimated
    scores = sorted((score for _, score in recorder.scores), reverse=True)
    highest = scores[allowed] if len(scores) > allowed else 0.0
    least = LOWEST if examples >= config.budget else 1.0
    config = replace(config, evidence=math.ceil(20 * max(1.05 * highest, least)) / 20)
    monitor, found = DriftMonitor([], config, noise.keys), 0
    for signals, example in noise.drawn(examples, draw):
        found += len(monitor.update(signals, example, example))
    delays, sums = {}, []
    span = int(np.median(monitor.blocks.span))
    for change in CHANGES:
        seen, after, capped = _delays(noise, config, change, draw, span)
        delays[change] = (seen, after)
        sums.append(capped)
    return Calibrated(config, found, examples, HORIZON * span, delays, float(np.mean(sums)))


def _delays(
    noise: Noise, config: DriftMonitor.Config, change: float, draw: np.random.Generator, span: int
) -> tuple[float, int | None, float]:
    """Of the tasks' signals in the whole: the share that sees a change, its median delay, and the
    mean one, of which an unseen one has the horizon. Blocks are `span` times as long as at first,
    and so is everything."""
    at, horizon = config.warm_up + 40 * config.block * span, HORIZON * span
    watched = {key for key in noise.keys if key.task and not key.segment}
    delays: list[float] = []
    for _ in range(max(1, RUNS // span)):
        monitor = DriftMonitor([], config, noise.keys)
        found: dict[Key, int] = {}
        for signals, example in noise.drawn(at + horizon, draw, change, at):
            for e in monitor.update(signals, example, example):
                if example > at:
                    found.setdefault(Key(e.task, e.signal, e.segment), example - at)
            if watched <= found.keys():
                break
        delays += [found.get(key, math.inf) for key in watched]
    seen = [delay for delay in delays if delay < math.inf]
    capped = float(np.mean(np.minimum(delays, horizon)))
    return len(seen) / len(delays), round(float(np.median(seen))) if seen else None, capped


def _moving(rows: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """Sums over so many rows before and after each."""
    n = len(rows)
    total = np.concatenate([np.zeros((1, rows.shape[1])), np.cumsum(rows, 0)])
    at = np.arange(n)
    return total[np.minimum(at + reach + 1, n)] - total[np.maximum(at - reach, 0)]
