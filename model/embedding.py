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

import numpy as np
import torch

from model.admission import Admission
from model.batch import Layout
from model.changes import Changes
from model.contents import Contents
from model.idmap import IdMap, find, mix64, table_salt
from model.kernel import kernel
from model.keyed import Rows
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
    takes 4 bytes a number of its row and of the optimiser's state beside it, 59 more, and 27 to 80
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
    of them are new to who took them last for a version, and `unsaved` for a checkpoint."""

    def __init__(
        self, layout: Layout, outputs: int, config: EmbeddingConfig, optimiser: RowOptimiser,
        seed: int, device: str = "cpu",
    ):  # fmt: skip
        self.layout, self.config, self.optimiser = layout, config, optimiser
        self.dim, self.outputs, self.seed, self.device = config.dim, outputs, seed, device
        fresh = optimiser.fresh(config.dim, outputs)
        self._fresh = torch.from_numpy(fresh).to(device)
        self.unseen_of_slot = layout.table_of_slot
        unseen = np.array([-1 - table_salt(table) for table in layout.tables], np.int64)
        rows = np.zeros((unseen.size, self.dim + outputs), np.float32)
        _noise(rows, unseen, self.dim, config.init, seed)
        state = np.tile(fresh, (unseen.size, 1))
        self.unseen_keys = unseen
        self._set(unseen, rows, state, {})
        self._frozen: np.ndarray | None = None

    def freeze(self, slots: np.ndarray) -> None:
        """Admits and moves nothing for the slots that are set in bool [slots], from here on."""
        self._frozen = slots

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
        keys = self.config.capacity + len(self.unseen_keys) + 1
        floats = self.dim + self.outputs + self._fresh.numel()
        # a key, links and a time in `Places`; a mark; a flag, and a key that has gone, in each of
        # two `Changes`; a hash and a flag in `Contents`
        row, waiting = 4 * floats + 24 + 8 + 2 * 9 + 9, 24 + 4
        maps = 16 * map_slots(keys) * 3 // 2  # the last one, made while the one before serves
        return keys * row + maps + (keys * waiting + maps if self.config.admit_after > 1 else 0)

    def _set(
        self, keys: np.ndarray, rows: np.ndarray, state: np.ndarray, order: dict[str, np.ndarray]
    ) -> None:
        """Takes over rows, the unseen ones first."""
        config, pinned = self.config, len(self.unseen_keys)
        self._admission = Admission(
            self.unseen_keys, config.admit_after, config.capacity, config.max_age_ms
        )
        self.changes = Changes(self._admission.rows)
        self.unsaved = Changes(self._admission.rows)
        self.contents = Contents(self._admission.rows)
        self._turn = len(keys)
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
        find_or_unseen(self.ids.keys, self.ids.values, keys, self.unseen_of_slot, index)
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
        if self._frozen is not None:
            own[self._frozen & (own < len(self.unseen_keys))] = -1
        places, parents, gone = self._admission.admit(keys, own, now_ms)
        seen = own[own >= 0]
        self._reserve()
        if places.size:
            self._begin(places, parents)
        if self._frozen is not None:
            own[:, self._frozen] = -1
        bag_of, marks = self.layout.bag_of_slot, self._admission.marks
        touched, grads = merge(own, index, weights, bag_of, deep, wide, marks)
        self.optimiser.update(self.rows, self.state, touched, grads, rates)
        for changes in (self.changes, self.unsaved):
            if not changes.whole:
                changes.note(seen, gone)
                changes.note(touched.cpu().numpy(), gone[:0])

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

    def tell(self, whole: bool) -> tuple[dict[str, np.ndarray], int]:
        """Rows for a version, and the sum of all (see `Contents`): `keys` ascending and `rows` of
        all; or, unless `whole` or `changes` is, `keys` and `rows` in no order that are new since
        `changes` was cleaned last, and the keys `gone` since."""
        found = None if whole else self.changes.at()
        if found is None or not self.contents.known:
            arrays, places = self._told(self._admission.rows.live())
            total = self.contents.tell(places, arrays["rows"], True, False)
        if found is None:
            return arrays, total
        arrays, places = self._told(found[0])
        total = self.contents.tell(places, arrays["rows"], False, len(found[1]) > 0)
        return arrays | {"gone": found[1]}, total

    def _told(self, places: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        rows = self.rows[torch.from_numpy(places).to(self.device)].cpu().numpy()
        return {"keys": self._admission.rows.keys[places], "rows": rows}, places

    def take(self, whole: bool) -> Rows:
        """`arrays()`, or what of it changed since this was called last, or `unsaved` was cleaned:
        copies, in no order."""
        found = None if whole else self.unsaved.at()
        self.unsaved.clean()
        admission = self._admission
        rest = admission.rest()
        if found is None:
            arrays = self.arrays()
            self._turn = len(arrays["keys"])
            return Rows({n: a for n, a in arrays.items() if n not in rest}, True, rest=rest)
        places, gone = found
        turn = {}
        if admission.limited:  # what was seen since then stands last, in the order of sightings
            unseen = places[places < len(self.unseen_keys)]
            places = np.append(unseen, admission.rows.last(len(places) - len(unseen)))
            turns = self._turn + np.arange(len(places))
            turns[: len(unseen)] = -1
            turn = {"turn": turns, "seen_ms": admission.rows.seen_ms[places]}
            self._turn += len(places)
        at = torch.from_numpy(places).to(self.device)
        arrays = {
            "keys": admission.rows.keys[places],
            "rows": self.rows[at].cpu().numpy(),
            "state": self.state[at].cpu().numpy(),
        }
        return Rows(arrays | turn, False, gone, rest)

    def load(self, arrays: dict[str, Any]) -> None:
        """Takes over `arrays()` of another; without `state` for scoring only.

        Raises ValueError where there are more ids than `EmbeddingConfig.capacity`.
        """
        keys, rows = arrays["keys"], arrays["rows"]
        most = max(len(keys) - len(self.unseen_keys), len(arrays.get("waiting", ())))
        if self.config.capacity is not None and most > self.config.capacity:
            raise ValueError(
                f"state has {most} ids: EmbeddingConfig.capacity is {self.config.capacity}"
            )
        state = arrays.get("state", np.zeros((len(keys), 0), np.float32))
        # The unseen rows stand first, in the order of the layout's tables.
        first = np.searchsorted(keys, self.unseen_keys)
        order = np.concatenate([first, np.setdiff1d(np.arange(len(keys)), first)])
        by_key = {name: arrays[name][order[len(first) :]] for name in BY_KEY if name in arrays}
        self._set(keys[order], rows[order], state[order], {**arrays, **by_key})
        self._turn = 1 + int(arrays["turn"].max(initial=0)) if "turn" in arrays else 0


@kernel
def find_or_unseen(map_keys, map_values, keys, unseen, out) -> None:  # type: ignore[no-untyped-def]
    """Fills out [n, slots] with the row of each key, or its slot's of `unseen`, -1 for no key."""
    for i in range(keys.shape[0]):
        for s in range(keys.shape[1]):
            if keys[i, s] == 0:
                out[i, s] = -1
            else:
                row = find(map_keys, map_values, keys[i, s])
                out[i, s] = unseen[s] if row < 0 else row


@kernel
def _noise(rows, keys, dim, width, seed) -> None:  # type: ignore[no-untyped-def]
    """Adds uniform noise of (seed, key, column) to the deep part, in [-width, width)."""
    for i in range(keys.shape[0]):
        start = mix64(np.uint64(keys[i]) + mix64(np.uint64(seed)))
        for c in range(dim):
            bits = mix64(start + np.uint64(c)) >> np.uint64(11)
            rows[i, c] += width * (2.0 * (np.float64(bits) / 9007199254740992.0) - 1.0)
