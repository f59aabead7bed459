"""Batch means into means of blocks: the values that a drift detector sees, of many signals at once.

Shapes: signal, the watched ones; a row of `values` holds its kept ones, oldest first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streaming.drift_kernels import add

_PER_SIGNAL = (
    "total", "count", "began", "resumes", "span", "fitted", "pending", "last_ms", "held", "spoilt",
)  # fmt: skip


class Blocks:
    """A value of a signal is the mean of `block` labels of it, or a few more, times its `span`.

    `began` and `begins` are the examples before a value's first batch. `resumes`: nothing is taken
    up to this example. `fitted` values are the reference; `last_ms` is when something was taken
    last, -1 for never; `spoilt` counts what was passed over since. `pending` is of the monitor.
    """

    def __init__(self, signals: int, block: int, room: int, resumes: int) -> None:
        self.block = block
        self.total = np.zeros(signals)
        self.count, self.began, self.fitted, self.pending = np.zeros((4, signals), np.int64)
        self.last_ms, self.held, self.spoilt = np.zeros((3, signals), np.int64)
        self.last_ms[:] = -1
        self.resumes = np.full(signals, resumes, np.int64)
        self.span = np.ones(signals, np.int64)
        self.values = np.zeros((signals, room))
        self.begins = np.zeros((signals, room), np.int64)
        self._ready = np.zeros(signals, np.int64)
        self._last = self._time_ms = 0  # example and time of the last call

    def add(
        self, sums: NDArray[np.float64], counts: NDArray[np.int64], example: int, time_ms: int
    ) -> NDArray[np.int64]:
        """Takes a batch's sums and counts [signal]; the signals that have a new value.

        A sum that is not finite is passed over.
        """
        before, self._last, self._time_ms = self._last, example, time_ms
        n = add(
            sums, counts, example, before, time_ms, self.block,
            self.total, self.count, self.began, self.resumes, self.span, self.last_ms, self.spoilt,
            self.held, self.values, self.begins, self._ready,
        )  # fmt: skip
        return self._ready[:n].copy()

    def blind(self, signal: int, least: int, silent_ms: int) -> str:
        """Why nothing can be seen in a signal: it never came, is not finite, was silent for so
        long, or did not move in `least` values and all since; empty where it is well."""
        if self.spoilt[signal]:
            return "not finite"
        if self.last_ms[signal] < 0:
            return "never came" if self._last > self.resumes[signal] else ""
        if self._time_ms - self.last_ms[signal] >= silent_ms:
            return "silent"
        values = self.of(signal)
        still = len(values) >= least and float(np.ptp(values)) == 0.0
        return "constant" if still else ""

    def of(self, signal: int) -> NDArray[np.float64]:
        """Its kept values."""
        return self.values[signal, : self.held[signal]]

    def forget(self, signal: int, first: int) -> None:
        """Drops its first values."""
        kept = self.held[signal] - first
        for rows in (self.values, self.begins):
            rows[signal, :kept] = rows[signal, first : first + kept].copy()
        self.held[signal] = kept

    def lengthen(self, signal: int) -> None:
        """Twice as long blocks: of each two values their mean; an odd first one goes."""
        self.forget(signal, int(self.held[signal]) % 2)
        held = int(self.held[signal])
        pairs = self.values[signal, :held].reshape(-1, 2).mean(1)
        self.values[signal, : held // 2] = pairs
        self.begins[signal, : held // 2] = self.begins[signal, :held:2].copy()
        self.held[signal] = held // 2
        self.span[signal] *= 2

    def state(self) -> dict[str, Any]:
        """Plain arrays; the kept values one signal after another."""
        kept = np.arange(self.values.shape[1]) < self.held[:, None]
        return {
            **{name: getattr(self, name).copy() for name in _PER_SIGNAL},
            "values": self.values[kept],
            "begins": self.begins[kept],
            "last": self._last,
            "time_ms": self._time_ms,
        }

    def load(self, tree: Mapping[str, Any]) -> None:
        for name in _PER_SIGNAL:
            mine = getattr(self, name)
            mine[:] = np.array(tree[name], mine.dtype)
        kept = np.arange(self.values.shape[1]) < self.held[:, None]
        self.values[kept], self.begins[kept] = tree["values"], tree["begins"]
        self._last, self._time_ms = int(tree["last"]), int(tree["time_ms"])
