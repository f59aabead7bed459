"""The commonest values of a field at the start of a stream, which are its measure from then on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


class TopValues:
    """Counts the keys of the first `sample` examples; the `most` commonest are then `keys` (int64,
    ascending), each with its share of the sample. Of equal ones the lower keys are taken."""

    def __init__(self, sample: int, most: int) -> None:
        self.sample, self.most = sample, most
        self._waiting: NDArray[np.int64] | None = np.zeros(0, np.int64)
        self.keys, self.shares = np.zeros(0, np.int64), np.zeros(0)

    @property
    def known(self) -> bool:
        """Whether the sample is whole."""
        return self._waiting is None

    def see(self, keys: NDArray[np.int64]) -> None:
        """Takes the keys of a batch into the sample, unless that is whole."""
        if self._waiting is None:
            return
        self._waiting = np.append(self._waiting, keys)[: self.sample]
        if len(self._waiting) < self.sample:
            return
        found, counts = np.unique(self._waiting, return_counts=True)
        top = np.sort(np.lexsort((found, -counts))[: self.most])
        self.keys, self.shares = found[top], counts[top] / self.sample
        self._waiting = None

    def place(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where in `keys` each of these is; -1 for one that is not there."""
        if not len(self.keys):
            return np.full(len(keys), -1)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, at, -1)

    def state(self) -> dict[str, Any]:
        waiting = self._waiting
        return {
            "waiting": None if waiting is None else waiting.copy(),
            "keys": self.keys.copy(),
            "shares": self.shares.copy(),
        }

    def load(self, tree: Mapping[str, Any]) -> None:
        self._waiting = None if tree["waiting"] is None else tree["waiting"].copy()
        self.keys, self.shares = tree["keys"].copy(), tree["shares"].copy()
