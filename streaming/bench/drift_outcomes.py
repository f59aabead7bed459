"""What one run over a planted stream came to: seen or not, lost how much, recovered when."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streaming.bench.drift_run import Run
from streaming.bench.drift_streams import DRIFTED, ONE_TASK, Stream
from streaming.bench.drift_worlds import Floats

SETTLED = 2_000
"""Examples at the start of which no cost is counted."""
SMOOTH, NEAR = 500, 1.05
"""A task has recovered when its loss over so many examples is so near the reference's."""


@dataclass(frozen=True)
class Outcome:
    """One policy on one stream. `area` is the loss beyond the reference's over all examples from
    the change to the horizon, of the tasks that drift; NaN where none does. `delay`, of the first
    event of a drifted task, and `recovery` are in examples, NaN where there was none. `loss` is
    what all tasks lose, `others` what those lose that do not drift, both as means of labels."""

    world: str
    kind: str
    seed: int
    policy: str
    area: float
    recovery: float
    delay: float
    false: int
    loss: float
    others: float


def outcome(
    world: str, kind: str, seed: int, policy: str, planted: Stream, run: Run,
    reference: Floats | None,
) -> Outcome:  # fmt: skip
    names = [task.name for task in planted.world.schema.tasks]
    drifted = [k for k in range(len(names)) if kind not in ONE_TASK or k == DRIFTED]
    after = run.loss[planted.at :]
    area = recovery = float("nan")
    if reference is not None:
        ours, theirs = after[:, drifted], reference[planted.at :, drifted]
        area = float(np.nansum(ours - theirs))
        recovery = _recovery(ours, theirs)
    changed = [] if kind == "none" else [names[k] for k in drifted]
    hits = [e.example - planted.at for e in run.drifts if e.task in changed]
    hits = [delay for delay in hits if delay > 0]
    whole = run.loss[SETTLED:] if kind == "none" else after
    others = [k for k in range(len(names)) if k not in drifted]
    return Outcome(
        world, kind, seed, policy, area, recovery,
        delay=min(hits, default=float("nan")),
        false=len(run.drifts) - len(hits),
        loss=float(np.nanmean(np.nanmean(whole, axis=0))),
        others=float(np.nanmean(np.nanmean(after[:, others], axis=0))) if others else float("nan"),
    )  # fmt: skip


def _recovery(ours: Floats, theirs: Floats) -> float:
    """The last example of the first stretch whose loss is near the reference's; NaN for none."""
    known = ~np.isnan(ours) & ~np.isnan(theirs)
    sums = [np.cumsum(np.where(known, loss, 0.0).sum(1)) for loss in (ours, theirs)]
    mine, wanted = (s[SMOOTH:] - s[:-SMOOTH] for s in sums)
    near = np.flatnonzero(mine <= NEAR * wanted)
    return float(near[0] + SMOOTH) if len(near) else float("nan")
