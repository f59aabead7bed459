"""The windows of some impressions, from stored rows: what a server scores with.

The same kernels over the same integers, so the inputs are those of the live windows, bit for bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import numpy as np

from features.columns import Events
from features.rows import ALL, entity_keys, load_rows, row_layouts, stored_kinds
from features.store import Found
from features.windows import Aggregates, History, Table, Windows
from model.batch import Inputs
from model.schema import Schema

Read = Callable[[Mapping[str, np.ndarray]], dict[str, Found]]


class StoredWindows:
    """Reads a store (`Store.read`) as `Windows` reads its own state. Safe to share among threads.

    `partitions` is the number of partitions of the source: there are as many `all` rows.
    """

    def __init__(
        self, read: Read, schema: Schema, aggregates: Aggregates, partitions: int = 1
    ) -> None:
        self._read, self._empty = read, Windows(schema, aggregates)
        self.schema, self._layouts = schema, row_layouts(self._empty)
        self._all = np.arange(partitions, dtype=np.int64)
        self.codec, self.layout = self._empty.codec, self._empty.layout

    def find(self, events: Events) -> dict[str, Found]:
        """The stored rows of the impressions' entities, in one round trip."""
        wanted = entity_keys(self._empty, events)
        if not stored_kinds(self._empty.aggregates) or not len(wanted[ALL]):
            return {}
        return self._read(wanted | {ALL: self._all})

    def holding(self, found: dict[str, Found]) -> Windows:
        """Windows that hold these rows and nothing else; to read, not to go on learning."""
        windows = copy.copy(self._empty)
        kinds = len(windows.codec.kinds)
        windows.counts, windows.sums = np.zeros((2, kinds + 1), np.int64)
        windows.tables = [Table(e.decays_ms, kinds) for e in windows.aggregates.entities]
        windows.history = History(windows.aggregates.history)
        load_rows(windows, found, self._layouts)
        return windows

    def read(self, events: Events) -> Inputs:
        """The inputs of impressions as of their effective times, as `Windows.read` makes them.

        Raises ValueError for rows of another layout, StoreUnavailable.
        """
        return self.holding(self.find(events)).read(events)
