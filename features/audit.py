"""What impressions were scored with, computed again from the log: has anything skewed?

An impression logs its features, and of each stored row how far that covered the log (`as_of`). From
the log's events up to there the pure code makes the rows anew, and from the rows the features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from features.as_of import offsets_of
from features.columns import Events
from features.fold import Fold
from features.rows import event_keys, stored_kinds
from features.store import Found
from features.stored import StoredWindows
from features.windows import Aggregates, Windows
from model.batch import Inputs
from model.schema import Schema

AsOf = Mapping[str, Mapping[str, list[int]]]
"""`features.events.Features.as_of`."""


class Past:
    """A log's impressions and feedback, each once and with its effective time; `Events.partition`
    counts through `sources`, (topic, partition)."""

    def __init__(
        self,
        schema: Schema,
        aggregates: Aggregates,
        events: Events,
        sources: Sequence[tuple[str, int]],
    ) -> None:
        self._events = events.take(np.lexsort((events.id, events.rank, events.e)))
        self._sources = sources
        self._folds = {kind: Fold(schema, aggregates, kind) for kind in stored_kinds(aggregates)}
        self._stored = StoredWindows(lambda wanted: {}, schema, aggregates)
        self._plain = Windows(schema, aggregates)
        self._places = {
            kind: _places(keys) for kind, keys in event_keys(self._plain, self._events).items()
        }
        self._rows: dict[tuple[object, ...], bytes] = {}

    def row(self, kind: str, key: int, as_of: Mapping[str, list[int]]) -> bytes:
        """The stored row of an entity as the pure code makes it; `b""` where it knows none."""
        named = (kind, key, *((topic, *offsets) for topic, offsets in as_of.items()))
        if named not in self._rows:
            self._rows[named] = self._folded(kind, key, as_of)
        return self._rows[named]

    def _folded(self, kind: str, key: int, as_of: Mapping[str, list[int]]) -> bytes:
        offsets = offsets_of(as_of)
        least = np.array([offsets.get(tp, 0) for tp in self._sources], np.int64)
        at = self._places[kind].get(key, np.zeros(0, np.int64))
        events = self._events.take(at)
        events = events.take(events.offset < least[events.partition])
        found = Found(np.array([key], np.int64), [b""], [b""])
        keys = np.full(len(events), key, np.int64)
        rows = self._folds[kind].rows(found, events, keys, self._sources, offsets, 0)
        return rows.values[0] if len(rows) and len(events) else b""

    def inputs(self, impression: Events, as_of: AsOf) -> Inputs:
        """What one impression (its own features are not looked at) would be scored with, from the
        rows as of `as_of`."""
        event = replace(impression, e=impression.time, floats=impression.floats.copy())
        event.floats[:, len(self._plain.codec.dense_fields)] = 0.0
        found = {}
        for kind, keys in event_keys(self._plain, event).items():
            key = int(keys[0])
            row = self.row(kind, key, as_of[kind]) if kind in as_of else b""
            found[kind] = Found(np.array([key], np.int64), [row], [b""])
        return self._stored.holding(found).read(event)

    def logged(self, impression: Events) -> Inputs:
        """What one impression says that it was scored with."""
        return self._plain.read(replace(impression, e=impression.time))

    def differing(self, impression: Events, as_of: AsOf) -> list[str]:
        """The names of the features of which the log says other bits than the pure code."""
        logged, again = self.logged(impression), self.inputs(impression, as_of)
        layout = self._plain.layout
        names = [
            name
            for name, a, b in zip(layout.dense, logged.dense[0], again.dense[0], strict=True)
            if a.tobytes() != b.tobytes()
        ]
        same = np.array_equal(logged.keys, again.keys)
        same &= logged.weights.tobytes() == again.weights.tobytes()
        return names if same else [*names, "history"]


def _places(keys: np.ndarray) -> dict[int, np.ndarray]:
    """Key -> positions, ascending."""
    order = np.argsort(keys, kind="stable")
    found, starts = np.unique(keys[order], return_index=True)
    return dict(zip(found.tolist(), np.split(order, starts[1:]), strict=True))
