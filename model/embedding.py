"""One table for the ids of all fields: a row is `dim` deep numbers and a wide weight an output.

Each table of the layout has a row for ids not seen yet. Scoring an unseen id reads that row. A
training step reads it too; then the id is admitted with a copy of it (and a little noise, so that
ids can tell apart), and the gradient of its first sighting moves both. Scoring admits nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch

from model.batch import Layout
from model.idmap import IdMap, find, mix64, put, table_salt
from model.optim import RowOptimiser
from model.pooling import merge, pool


@dataclass(frozen=True)
class EmbeddingConfig:
    """`init` and `noise`: half the width of the uniform noise of an unseen row, of a new one."""

    dim: int = 16
    init: float = 0.03
    noise: float = 0.01

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"EmbeddingConfig.dim is {self.dim}: expected 1 or more")


class Embedding:
    """Rows [capacity, dim + outputs] on `device`, and where each key's row is."""

    def __init__(
        self, layout: Layout, outputs: int, config: EmbeddingConfig, optimiser: RowOptimiser,
        seed: int, device: str = "cpu",
    ):  # fmt: skip
        self.layout, self.config, self.optimiser = layout, config, optimiser
        self.dim, self.outputs, self.seed, self.device = config.dim, outputs, seed, device
        self._fresh = torch.from_numpy(optimiser.fresh(config.dim, outputs)).to(device)
        self._unseen_of_slot = layout.table_of_slot
        unseen = np.array([-1 - table_salt(table) for table in layout.tables], np.int64)
        rows = np.zeros((unseen.size, self.dim + outputs), np.float32)
        _noise(rows, unseen, self.dim, config.init, seed)
        state = self._fresh.cpu().expand(unseen.size, -1).numpy()
        self._unseen_keys = unseen
        self._set(unseen, rows, state)

    def __len__(self) -> int:
        return len(self.ids)

    def _set(self, keys: np.ndarray, rows: np.ndarray, state: np.ndarray) -> None:
        self.ids = IdMap(len(keys))
        self.ids.insert(keys, np.arange(len(keys)))
        self.rows = torch.tensor(rows, device=self.device)
        self.state = torch.tensor(state, device=self.device)
        self.marks = np.full(len(keys), -1, np.int64)
        self._reserve(1024)

    def _reserve(self, more: int) -> None:
        capacity, wanted = len(self.rows), len(self.ids) + more
        if wanted <= capacity:
            return
        extra = max(wanted, 2 * capacity) - capacity
        self.rows = torch.cat([self.rows, self.rows.new_zeros(extra, self.rows.shape[1])])
        self.state = torch.cat([self.state, self.state.new_zeros(extra, self.state.shape[1])])
        self.marks = np.full(capacity + extra, -1, np.int64)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """int64 [n, slots]: the row that each key reads, its table's unseen row if it is not here;
        -1 for an empty slot."""
        index = np.empty(keys.shape, np.int64)
        _find_or_unseen(self.ids.keys, self.ids.values, keys, self._unseen_of_slot, index)
        return index

    def pool(
        self, index: np.ndarray, weights: np.ndarray, deep: torch.Tensor, wide: torch.Tensor
    ) -> None:
        """Fills deep [n, bags, dim] and wide [n, outputs] from the rows `index` (see `find`)."""
        pool(self.rows, index, weights, self.layout.bag_of_slot, self.dim, deep, wide)

    def learn(
        self, keys: np.ndarray, index: np.ndarray, weights: np.ndarray,
        deep: torch.Tensor, wide: torch.Tensor, rates: torch.Tensor,
    ) -> None:  # fmt: skip
        """Admits what is new among `keys` and moves every row read by its gradient.

        deep [n, bags, dim], wide [n, outputs]: gradients of the pooled; rates [1 + outputs]: the
        learning rates of the deep part and of each wide weight.
        """
        own = self._admit(keys, index)
        bag_of = self.layout.bag_of_slot
        touched, grads = merge(own, index, weights, bag_of, deep, wide, self.marks)
        self.optimiser.update(self.rows, self.state, touched, grads, rates)

    def _admit(self, keys: np.ndarray, index: np.ndarray) -> np.ndarray:
        """The own row of each key, new ones made; `index` is what `find` gave."""
        self.ids.reserve(keys.size)
        own = index.copy()
        fresh = np.empty(keys.size, np.int64)
        parents = np.empty(keys.size, np.int64)
        count = _place(
            self.ids.keys, self.ids.values, len(self.ids), keys, own,
            len(self._unseen_keys), fresh, parents,
        )  # fmt: skip
        if count == 0:
            return own
        self._reserve(count)
        begin, end = len(self.ids), len(self.ids) + count
        self.ids.size = end
        noise = np.zeros((count, self.dim), np.float32)
        _noise(noise, fresh[:count], self.dim, self.config.noise, self.seed)
        parent = torch.from_numpy(parents[:count]).to(self.device)
        self.rows[begin:end] = self.rows[parent]
        self.rows[begin:end, : self.dim] += torch.from_numpy(noise).to(self.device)
        self.state[begin:end] = self._fresh
        return own

    def arrays(self) -> dict[str, np.ndarray]:
        """`keys` int64 ascending, `rows` and `state` in that order: no trace of arrival."""
        keys, places = self.ids.items()
        at = torch.from_numpy(places).to(self.device)
        return {
            "keys": keys,
            "rows": self.rows[at].cpu().numpy(),
            "state": self.state[at].cpu().numpy(),
        }

    def load(self, arrays: dict[str, Any]) -> None:
        """Takes over `arrays()` of another; without `state` for scoring only."""
        keys, rows = arrays["keys"], arrays["rows"]
        state = arrays.get("state", np.zeros((len(keys), 0), np.float32))
        # The unseen rows stand first, in the order of the layout's tables.
        first = np.searchsorted(keys, self._unseen_keys)
        order = np.concatenate([first, np.setdiff1d(np.arange(len(keys)), first)])
        self._set(keys[order], rows[order], state[order])


@numba.njit(cache=True)
def _find_or_unseen(map_keys, map_values, keys, unseen, out) -> None:  # type: ignore[no-untyped-def]
    for i in range(keys.shape[0]):
        for s in range(keys.shape[1]):
            if keys[i, s] == 0:
                out[i, s] = -1
            else:
                row = find(map_keys, map_values, keys[i, s])
                out[i, s] = unseen[s] if row < 0 else row


@numba.njit(cache=True)
def _place(map_keys, map_values, size, keys, own, tables, fresh, parents) -> int:  # type: ignore[no-untyped-def]
    """Gives each unseen key a row number, in the order of the batch, and writes it to `own`."""
    count = 0
    for i in range(keys.shape[0]):
        for s in range(keys.shape[1]):
            parent = own[i, s]
            if parent < 0 or parent >= tables:
                continue
            row = find(map_keys, map_values, keys[i, s])
            if row < 0:
                row = size + count
                put(map_keys, map_values, keys[i, s], row)
                fresh[count] = keys[i, s]
                parents[count] = parent
                count += 1
            own[i, s] = row
    return count


@numba.njit(cache=True)
def _noise(rows, keys, dim, width, seed) -> None:  # type: ignore[no-untyped-def]
    """Adds uniform noise of (seed, key, column) to the deep part, in [-width, width)."""
    for i in range(keys.shape[0]):
        start = mix64(np.uint64(keys[i]) + mix64(np.uint64(seed)))
        for c in range(dim):
            bits = mix64(start + np.uint64(c)) >> np.uint64(11)
            rows[i, c] += width * (2.0 * (np.float64(bits) / 9007199254740992.0) - 1.0)
