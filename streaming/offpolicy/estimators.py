"""What a policy would have earned, from the log of another: three estimates with intervals.

Shapes: n rounds of the log, in the order of time. For each a `reward`, the `weight` of the action
that was taken, pi(a | x) / p(a | x) of the policy evaluated and the logging one, its predicted
reward `q`, and `v`, that of the policy, the sum over actions of pi(a | x) q(x, a). Where q was
predicted before the reward came, as served predictions are, no sample has to be split.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from streaming.compare.bootstrap import Blocks, Interval


@dataclass(frozen=True)
class Estimates:
    """`direct` trusts the predictions alone. `effective` is Kish's size of the weighted sample,
    (sum of weights) squared over the sum of squares; `mean_weight` is 1 but for chance where the
    log gives every action of the policy a chance, and no less."""

    rounds: int
    effective: float
    mean_weight: float
    largest_weight: float
    direct: Interval
    ips: Interval
    snips: Interval
    dr: Interval

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def estimates(reward: np.ndarray, weight: np.ndarray, q: np.ndarray, v: np.ndarray) -> Estimates:
    """All float64 [n].

    ips    the mean of w r (Horvitz and Thompson 1952)
    snips  the sum of w r over the sum of w (Swaminathan and Joachims 2015)
    dr     the mean of v + w (r - q) (Dudik, Langford and Li 2011)

    Raises ValueError for a weight below 0, or none.
    """
    if not len(reward) or not np.isfinite(weight).all() or (weight < 0).any() or not weight.any():
        raise ValueError("weights of a policy: expected finite ones, 0 or more, and one above 0")
    blocks = Blocks(len(reward))
    return Estimates(
        rounds=len(reward),
        effective=float(weight.sum() ** 2 / (weight**2).sum()),
        mean_weight=float(weight.mean()),
        largest_weight=float(weight.max()),
        direct=blocks.mean(v),
        ips=blocks.mean(weight * reward),
        snips=blocks.ratio(weight * reward, weight),
        dr=blocks.mean(v + weight * (reward - q)),
    )
