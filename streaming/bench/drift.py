"""`freshet bench drift`: what rebalancing policies do about planted changes, against doing nothing.

Streams of `drift_streams.py`, run as `drift_run.py` says. `none` has, in each world, the constant
learning rate and weights that lost least on other seeds; the policies start from the same. Where
one segment changes, the detectors watch each segment too.
`in hindsight` does nothing either, with those that lost least after the change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import lru_cache
from itertools import product
from multiprocessing import get_context
from typing import TypeVar

import numpy as np

from streaming.bench.drift_outcomes import SETTLED, Outcome, outcome
from streaming.bench.drift_run import Run, Runner, Setting
from streaming.bench.drift_streams import KINDS, Stream, stream
from streaming.bench.drift_table import IN_HINDSIGHT
from streaming.bench.drift_worlds import WORLDS, Floats
from streaming.rebalance import Rebalancer

T = TypeVar("T")
U = TypeVar("U")

DEFAULT = Rebalancer.Config().policy
POLICIES = {
    "none": Rebalancer.Config("none"),
    DEFAULT: Rebalancer.Config(),
    "boost": Rebalancer.Config("boost"),
    "follow": Rebalancer.Config("follow"),
    "gradient": Rebalancer.Config("gradient"),
    "focus": Rebalancer.Config("focus", lr_factor=3.0, row_factor=1.5, keep=0.95),
    "boost+gradient": Rebalancer.Config("boost+gradient"),
}
"""With the shipped factors, but for a `focus` that stands alone."""
PLACEBOS = ("shifted", "permuted")
LATER = 1_500
"""Examples by which the placebo `shifted` comes too late."""
WORLDS_OF = {
    "one_task": tuple(WORLDS),
    "none": tuple(WORLDS),
    "sudden": ("simulator", "agrawal"),
    "gradual": ("sea", "rbf"),
    "incremental": ("hyperplane", "led"),
    "recurring": ("agrawal", "led"),
    "one_segment": ("simulator", "rbf"),
    "label_rate": ("simulator", "sea"),
    "feature": ("agrawal", "hyperplane"),
}
FIRST_SEARCH_SEED = 1_000
LRS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
WEIGHTS = (1.0, 2.0)
CONSTANT = {
    "simulator": Setting(3.0),
    "sea": Setting(6.0, 2.0),
    "agrawal": Setting(4.0),
    "led": Setting(3.0),
    "hyperplane": Setting(6.0, 2.0),
    "rbf": Setting(4.0),
}
"""What lost least over whole streams, on seeds from `FIRST_SEARCH_SEED` on: of most of the grid of
`search`, and the simulator's by hand, of two that were level (infra/decisions/0017)."""
HINDSIGHT = {
    "simulator": Setting(4.0),
    "sea": Setting(6.0, 2.0),
    "agrawal": Setting(6.0),
    "led": Setting(6.0, 2.0),
    "hyperplane": Setting(6.0, 2.0),
    "rbf": Setting(6.0, 2.0),
}
"""What lost least from the change to the horizon: of who knows that all streams change, and which
task."""


def outcomes(
    seeds: Iterable[int],
    kinds: Sequence[str] = tuple(KINDS),
    policies: Mapping[str, Rebalancer.Config] = POLICIES,
    jobs: int = 1,
    on_done: Callable[[int, int], None] = lambda done, of: None,
) -> list[Outcome]:
    """Every policy on every stream, and on those of one task the placebos of the default."""
    work = [
        (w, seed, tuple(k for k in kinds if w in WORLDS_OF[k])) for seed in seeds for w in WORLDS
    ]
    work = [(w, seed, some) for w, seed, some in work if some]
    found: list[Outcome] = []
    for done, some in enumerate(_mapped(_of_world, [(*w, policies) for w in work], jobs), 1):
        found += some
        on_done(done, len(work))
    return found


def _mapped(function: Callable[[T], U], items: Sequence[T], jobs: int) -> Iterator[U]:
    if jobs == 1:
        yield from map(function, items)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        yield from pool.map(function, items)


def _of_world(
    work: tuple[str, int, tuple[str, ...], Mapping[str, Rebalancer.Config]],
) -> list[Outcome]:
    world, seed, kinds, policies = work
    setting = CONSTANT[world]

    @lru_cache
    def old() -> Runner:
        still = stream(world, "none", seed)
        return Runner(still, still.labels, setting, seed)

    @lru_cache
    def new(rate: bool) -> Floats:
        """What a model loses that has only known the new concept."""
        planted = stream(world, "label_rate" if rate else "sudden", seed)
        return Runner(planted, planted.after, setting, seed).none.loss

    found = []
    for kind in kinds:
        planted = stream(world, kind, seed)
        runner = old()
        if kind != "none":
            by_segment = kind == "one_segment"
            start = None if by_segment or kind == "feature" else old().start
            runner = Runner(planted, planted.labels, setting, seed, start, by_segment)
        reference = None
        if planted.fresh.any():
            reference = np.where(planted.fresh, new(kind == "label_rate"), old().none.loss)
        runs = {
            name: runner.none if config.policy == "none" else runner.run(config)
            for name, config in policies.items()
        }
        if kind == "one_task":
            runs |= _placebos(runner, runs[DEFAULT])
        if kind in ("one_task", "none"):
            runs[IN_HINDSIGHT] = Runner(planted, planted.labels, HINDSIGHT[world], seed).none
        found += [
            outcome(world, kind, seed, policy, planted, run, reference)
            for policy, run in runs.items()
        ]
    return found


def _placebos(runner: Runner, own: Run) -> dict[str, Run]:
    """The default policy on its `own` run's events, at another time, or of another task."""
    default, tasks = Rebalancer.Config(), [t.name for t in runner.stream.world.schema.tasks]
    events = [event for event in own.drifts if event.task]
    if not events:
        return dict.fromkeys(PLACEBOS, runner.none)
    following = dict(zip(tasks, [*tasks[1:], tasks[0]], strict=True))
    shifted = [replace(event, example=event.example + LATER) for event in events]
    permuted = [replace(event, task=following[event.task]) for event in events]
    return {"shifted": runner.told(default, shifted), "permuted": runner.told(default, permuted)}


def search(seeds: int, jobs: int = 1) -> dict[str, dict[str, Setting]]:
    """The constant settings of each world that lose least, of all tasks of streams in which one
    changes: over the whole of it (`constant`), and in hindsight, from the change to the horizon."""
    settings = [Setting(lr, weight) for lr, weight in product(LRS, WEIGHTS)]
    searched = range(FIRST_SEARCH_SEED, FIRST_SEARCH_SEED + seeds)
    work = [(w, s, seed) for w in WORLDS for seed in searched for s in settings]
    found = dict(zip(work, _mapped(_constant, work, jobs), strict=True))
    return {
        world: {
            name: min(
                settings, key=lambda s: sum(found[world, s, seed][place] for seed in searched)
            )
            for place, name in enumerate(("constant", "hindsight"))
        }
        for world in WORLDS
    }


def _constant(work: tuple[str, Setting, int]) -> tuple[float, float]:
    world, setting, seed = work
    planted = _planted(world, seed)
    loss = Runner(planted, planted.labels, setting, seed).none.loss
    whole, after = (loss[start:] for start in (SETTLED, planted.at))
    return float(np.nanmean(np.nanmean(whole, 0))), float(np.nanmean(np.nanmean(after, 0)))


@lru_cache(4)
def _planted(world: str, seed: int) -> Stream:
    return stream(world, "one_task", seed)
