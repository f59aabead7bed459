"""What a model reads: the layout of its inputs, and batches of them, all in columns.

Shapes: n examples; slots, the places for ids of one example; task, the schema's tasks in order.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from model.schema import nearest


@dataclass(frozen=True)
class Bag:
    """`size` consecutive slots whose rows are summed; bags of one `table` share its rows."""

    name: str
    table: str
    size: int = 1

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"Bag({self.name!r}).size is {self.size}: expected 1 or more")


@dataclass(frozen=True)
class Layout:
    """Bags in the order of their slots, and the names of the dense columns."""

    bags: tuple[Bag, ...]
    dense: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for what, names in (("bags", [b.name for b in self.bags]), ("dense", list(self.dense))):
            if len(set(names)) != len(names):
                raise ValueError(f"Layout.{what} has a name twice: {', '.join(names)}")

    @cached_property
    def slots(self) -> int:
        return sum(bag.size for bag in self.bags)

    @cached_property
    def tables(self) -> tuple[str, ...]:
        """Each table once, in the order of first use."""
        return tuple(dict.fromkeys(bag.table for bag in self.bags))

    @cached_property
    def bag_of_slot(self) -> np.ndarray:
        """int64 [slots]"""
        return np.repeat(np.arange(len(self.bags)), [bag.size for bag in self.bags])

    @cached_property
    def table_of_slot(self) -> np.ndarray:
        """int64 [slots]: places in `tables`."""
        places = [self.tables.index(bag.table) for bag in self.bags]
        return np.array(places, np.int64)[self.bag_of_slot]

    def bag(self, name: str) -> int:
        """The place of the bag called `name`; ValueError if there is none."""
        names = [bag.name for bag in self.bags]
        if name not in names:
            raise ValueError(f"no bag is called {name!r}: {nearest(name, names)}")
        return names.index(name)

    def spread(self, names: Collection[str]) -> Layout:
        """The same slots, with those of the bags `names` each a bag of its own."""
        bags: list[Bag] = []
        for bag in self.bags:
            alone = [Bag(f"{bag.name}.{i}", bag.table) for i in range(bag.size)]
            bags += alone if bag.name in names else [bag]
        return Layout(tuple(bags), self.dense)

    def crossed(self, pairs: Collection[tuple[str, str]]) -> Layout:
        """The same, and after it a bag of each of `pairs`, as large as its second one."""
        sizes = {bag.name: bag.size for bag in self.bags}
        named = [(f"{a}*{b}", sizes[b]) for a, b in pairs]
        return Layout((*self.bags, *(Bag(name, name, size) for name, size in named)), self.dense)

    def to_dict(self) -> dict[str, Any]:
        return {"bags": [[b.name, b.table, b.size] for b in self.bags], "dense": list(self.dense)}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Layout:
        return cls(tuple(Bag(*bag) for bag in raw["bags"]), tuple(raw["dense"]))


@dataclass
class Inputs:
    """`keys` int64 [n, slots], 0 in an empty slot; `weights` float32 [n, slots];
    `dense` float32 [n, len(layout.dense)], 0 where missing."""

    keys: np.ndarray
    weights: np.ndarray
    dense: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, part: slice) -> Inputs:
        return Inputs(self.keys[part], self.weights[part], self.dense[part])

    def check(self, layout: Layout) -> None:
        """Raises ValueError for a shape or a type that `layout` does not have."""
        n = len(self.keys)
        for name, array, dtype, width in (
            ("keys", self.keys, np.int64, layout.slots),
            ("weights", self.weights, np.float32, layout.slots),
            ("dense", self.dense, np.float32, len(layout.dense)),
        ):
            if array.shape != (n, width) or array.dtype != dtype:
                raise ValueError(
                    f"Inputs.{name} is {array.dtype} {array.shape}: "
                    f"expected {np.dtype(dtype)} {(n, width)}"
                )


@dataclass
class Batch:
    """`labels` float32 and `mask` bool, both [n, task]; a label counts where the mask is set.

    A binary label is 0 or 1, a multiclass one the number of its class, a regression's the value.
    `time_ms` is the event time of the whole batch: rows age by it.
    """

    inputs: Inputs
    labels: np.ndarray
    mask: np.ndarray
    time_ms: int = 0

    def __len__(self) -> int:
        return len(self.inputs)
