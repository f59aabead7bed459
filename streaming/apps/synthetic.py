"""Two regressions of set correlation over the same numbers (Ma et al., KDD 2018, section 3.2).

The label of each task is w x + the sum over i of sin(a_i w x + b_i) + noise, where the two tasks
differ in w alone: vectors of one length, whose cosine is the correlation. One example a second, its
labels a second after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from streaming.application import Application, Field, Schema, Shown, Task, Told

SECOND = 1_000
START_MS = 1_500_000_000_000
INPUTS, SCALE, NOISE = 100, 1.0, 0.1
RATES, SHIFTS = (1.0, 2.0, 3.0), (0.0, 1.0, 2.0)
TASKS = ("first", "second")
BLOCK = 1_000

schema = Schema(
    fields=(Field("nobody", "id"), *(Field(f"x{i}", "dense") for i in range(INPUTS))),
    tasks=tuple(Task(name, "regression", 2 * SECOND) for name in TASKS),
    user="nobody",
)


def labels(correlation: float, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of inputs [n, INPUTS] and labels [n, 2], without end."""
    draw = np.random.default_rng(seed)
    first, other = np.linalg.qr(draw.normal(size=(INPUTS, 2)))[0].T
    second = correlation * first + np.sqrt(1 - correlation**2) * other
    weights = SCALE * np.stack([first, second], 1)
    while True:
        x = draw.normal(size=(BLOCK, INPUTS))
        y = x @ weights
        waves = sum(np.sin(a * y + b) for a, b in zip(RATES, SHIFTS, strict=True))
        yield x, y + waves + NOISE * draw.normal(size=y.shape)


def examples(correlation: float) -> Callable[[], Iterator[Shown]]:
    """The log of an application: see above."""

    def source() -> Iterator[Shown]:
        number = 0
        for block in labels(correlation):
            for x, y in zip(*(part.tolist() for part in block), strict=True):
                inputs = {f"x{i}": value for i, value in enumerate(x)}
                told = [Told(name, value, SECOND) for name, value in zip(TASKS, y, strict=True)]
                yield Shown(number, START_MS + number * SECOND, {"nobody": 0, **inputs}, told)
                number += 1

    return source


def rows(row: Mapping[str, Any], tables: Mapping[str, Any]) -> Shown:
    raise ValueError("application 'synthetic' makes its own log: leave out --log")


def _application(name: str, correlation: float) -> Application:
    return Application(name=name, schema=schema, rows=rows, source=examples(correlation))


half = _application("synthetic-half", 0.5)
most = _application("synthetic-most", 0.9)
same = _application("synthetic-same", 1.0)
