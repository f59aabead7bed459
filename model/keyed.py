"""Rows by key, as a checkpoint holds them: all of a table's, or those that changed since it was
last taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class Rows:
    """`arrays` are `keys`, int64 in any order, and what stands beside each; `rest` is small, and
    of the whole table. Where not `whole`, `gone` are keys that are no longer there."""

    arrays: dict[str, np.ndarray]
    whole: bool
    gone: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    rest: dict[str, np.ndarray] = field(default_factory=dict)


def merged(before: Mapping[str, np.ndarray], rows: Rows) -> dict[str, np.ndarray]:
    """The arrays of a table after `rows`, of what they were `before`, in the order of keys."""
    arrays = rows.arrays
    if not rows.whole:
        left = ~np.isin(before["keys"], np.concatenate([arrays["keys"], rows.gone]))
        arrays = {
            name: np.concatenate([before[name][left], array]) for name, array in arrays.items()
        }
    order = np.argsort(arrays["keys"])
    return {name: array[order] for name, array in arrays.items()} | rows.rest
