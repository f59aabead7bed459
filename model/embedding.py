"""One table for the ids of all fields: a row is `dim` deep numbers and a wide weight an output.

Each table of the layout has a row for ids not seen yet. Scoring an unseen id reads that row. A
training step reads it too; then the id is admitted with a copy of it (and a little noise, so that
ids can tell apart), and the gradient of that sighting moves both. Scoring admits nothing. With
`admit_after` above 1 the earlier sightings move the unseen row only; an id that was evicted comes
back as any new one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch

from model.admission import Admission
from model.batch import Layout
from model.changes import Changes
from model.idmap import IdMap, find, mix64, table_salt
from model.optim import RowOptimiser
from model.places import lengthened, map_slots
from model.pooling import merge, pool

MOST_ROWS = 2**31 - 2**16  # places are linked by int32
BY_KEY = ("turn", "seen_ms")  # what `Admission.state` says of each key with a row


@dataclass(frozen=True)
class EmbeddingConfig:
    """`init` and `noise`: half the width of the uniform noise of an unseen row, of a new one.

    An id is admitted at its sighting number `admit_after` (a place in a batch learnt from). At
    most `capacity` ids have rows, and as many are counted before they have; past that, the one
    unseen for longest goes. Ids unseen for more than `max_age_ms` of event time go too. So an id
    takes 4 bytes a number of its row and of the optimiser's state beside it, 41 more, and 27 to 80
    in the map: `Embedding.most_bytes` is the bound of all.
    """

    dim: int = 16
    init: float = 0.03
    noise: float = 0.01
    admit_after: int = 1
    capacity: int | None = None
    max_age_ms: int | None = None

    def __post_init__(self) -> None:
        for name in ("dim", "admit_after", "capacity", "max_age_ms"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"EmbeddingConfig.{name} is {value}: expected 1 or more")
        if self.capacity is not None and self.capacity > MOST_ROWS:
            raise ValueError(
                f"EmbeddingConfig.capacity is {self.capacity}: expected {MOST_ROWS} at most"
            )


class Embedding:
    """Rows [places, dim + outputs] on `device`, and where each key's row is. `changes` says which
    of them are new to who took them last."""

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
        self._set(unseen, rows, state, {})

    def __len__(self) -> int:
        return len(self._admission.rows)

    @property
    def ids(self) -> IdMap:
        return self._admission.rows.map

    @property
    def most_bytes(self) -> int | None:
        """Memory that `capacity` bounds all of this to, on a CPU; None where there is no bound."""
        if self.config.capacity is None:
            return None
        keys = self.config.capacity + len(self._unseen_keys) + 1
        floats = self.dim + self.outputs + self._fresh.numel()
        # a key, links and a time in `Places`; a mark; a flag, and a key that has gone, in `Changes`
        row, waiting = 4 * floats + 24 + 8 + 9, 24 + 4
        maps = 16 * map_slots(keys) * 3 // 2  # the last one, made while the one before serves
        return keys * row + maps + (keys * waiting + maps if self.config.admit_after > 1 else 0)

    def _set(
        self, keys: np.ndarray, rows: np.ndarray, state: np.ndarray, order: dict[str, np.ndarray]
    ) -> None:
        """Takes over rows, the unseen ones first."""
        config, pinned = self.config, len(self._unseen_keys)
        self._admission = Admission(
            self._unseen_keys, config.admit_after, config.capacity, config.max_age_ms
        )
        self.changes = Changes(self._admission.rows)
        places = np.append(np.arange(pinned), self._admission.load(keys[pinned:], order))
        at = torch.from_numpy(places).to(self.device)
        self._memory = [np.zeros((0, a.shape[1]), np.float32) for a in (rows, state)]
        self.rows, self.state = (torch.from_numpy(a).to(self.device) for a in self._memory)
        self._reserve()
        self.rows[at] = torch.tensor(rows, device=self.device)
        self.state[at] = torch.tensor(state, device=self.device)

    def _reserve(self) -> None:
        room = self._admission.rows.room
        if room == len(self.rows):
            return
        if self.device == "cpu":
            self._memory = [lengthened(array, room) for array in self._memory]
            self.rows, self.state = (torch.from_numpy(array) for array in self._memory)
        else:
            self.rows, self.state = (
                torch.cat([array, array.new_zeros(room - len(array), array.shape[1])])
                for array in (self.rows, self.state)
            )

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
        deep: torch.Tensor, wide: torch.Tensor, rates: torch.Tensor, now_ms: int = 0,
    ) -> None:  # fmt: skip
        """Admits what is new among `keys` and moves every row read by its gradient.

        deep [n, bags, dim], wide [n, outputs]: gradients of the pooled; rates [1 + outputs]: the
        learning rates of the deep part and of each wide weight; now_ms: the batch's event time.
        """
        own = index.copy()
        places, parents, gone = self._admission.admit(keys, own, now_ms)
        self._reserve()
        if places.size:
            self._begin(places, parents)
        bag_of, marks = self.layout.bag_of_slot, self._admission.marks
        touched, grads = merge(own, index, weights, bag_of, deep, wide, marks)
        self.optimiser.update(self.rows, self.state, touched, grads, rates)
        if not self.changes.whole:
            self.changes.note(places, gone)
            self.changes.note(touched.cpu().numpy(), gone[:0])

    def _begin(self, places: np.ndarray, parents: np.ndarray) -> None:
        """New rows, copies of their parents' with noise, and a new optimiser's state."""
        noise = np.zeros((places.size, self.dim), np.float32)
        _noise(noise, self._admission.rows.keys[places], self.dim, self.config.noise, self.seed)
        at, parent = (torch.from_numpy(a).to(self.device) for a in (places, parents))
        rows = self.rows[parent]
        rows[:, : self.dim] += torch.from_numpy(noise).to(self.device)
        self.rows[at] = rows
        self.state[at] = self._fresh

    def arrays(self) -> dict[str, np.ndarray]:
        """`keys` int64 ascending, `rows` and `state` in that order: no trace of arrival, but for
        what decides who comes and goes next (`Admission.state`), where that is limited."""
        places = self._admission.rows.live()
        at = torch.from_numpy(places).to(self.device)
        return {
            "keys": self._admission.rows.keys[places],
            "rows": self.rows[at].cpu().numpy(),
            "state": self.state[at].cpu().numpy(),
            **self._admission.state(places),
        }

    def load(self, arrays: dict[str, Any]) -> None:
        """Takes over `arrays()` of another; without `state` for scoring only.

        Raises ValueError where there are more ids than `EmbeddingConfig.capacity`.
        """
        keys, rows = arrays["keys"], arrays["rows"]
        most = max(len(keys) - len(self._unseen_keys), len(arrays.get("waiting", ())))
        if self.config.capacity is not None and most > self.config.capacity:
            raise ValueError(
                f"state has {most} ids: EmbeddingConfig.capacity is {self.config.capacity}"
            )
        state = arrays.get("state", np.zeros((len(keys), 0), np.float32))
        # The unseen rows stand first, in the order of the layout's tables.
        first = np.searchsorted(keys, self._unseen_keys)
        order = np.concatenate([first, np.setdiff1d(np.arange(len(keys)), first)])
        by_key = {name: arrays[name][order[len(first) :]] for name in BY_KEY if name in arrays}
        self._set(keys[order], rows[order], state[order], {**arrays, **by_key})


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
def _noise(rows, keys, dim, width, seed) -> None:  # type: ignore[no-untyped-def]
    """Adds uniform noise of (seed, key, column) to the deep part, in [-width, width)."""
    for i in range(keys.shape[0]):
        start = mix64(np.uint64(keys[i]) + mix64(np.uint64(seed)))
        for c in range(dim):
            bits = mix64(start + np.uint64(c)) >> np.uint64(11)
            rows[i, c] += width * (2.0 * (np.float64(bits) / 9007199254740992.0) - 1.0)
