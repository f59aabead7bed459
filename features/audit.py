"""What impressions were scored with, computed again from the log: has anything skewed?

An impression logs its features, and of each stored row how far that covered the log (`as_of`). From
the log's events up to there the pure code makes the rows anew, and from the rows the features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from features.as_of import offsets_of, pack_as_of
from features.columns import Events
from features.fold import Fold
from features.rows import ALL, event_keys, stored_kinds
from features.store import Found
from features.stored import StoredWindows
from features.windows import Aggregates, Windows
from model.batch import Inputs
from model.schema import Schema

NOTHING: tuple[dict[tuple[str, int], int], bytes] = ({}, b"")
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
        self._last = NOTHING  # the overall row made last, which the next one may go on from

    def row(self, kind: str, key: int, as_of: Mapping[str, list[int]]) -> bytes:
        """The stored row of an entity as the pure code makes it; `b""` where it knows none."""
        offsets = offsets_of(as_of)
        before = self._last if kind == ALL and _covers(offsets, self._last[0]) else NOTHING
        upto, since = (
            np.array([of.get(tp, 0) for tp in self._sources], np.int64)
            for of in (offsets, before[0])
        )
        at = self._places[kind].get(key, np.zeros(0, np.int64))
        offset, source = self._events.offset[at], self._events.partition[at]
        events = self._events.take(at[(offset < upto[source]) & (offset >= since[source])])
        row = before[1]
        if len(events):
            found = Found(np.array([key], np.int64), [row], [pack_as_of(before[0]) if row else b""])
            keys = np.full(len(events), key, np.int64)
            rows = self._folds[kind].rows(found, events, keys, self._sources, offsets, 0)
            row = rows.values[0]
        if kind == ALL:
            self._last = (offsets, row)
        return row

    def inputs(self, impression: Events, as_of: AsOf) -> Inputs:
        """What one impression (its own features are not looked at) would be scored with, from the
        rows as of `as_of`."""
        event = replace(impression, e=impression.time, floats=impression.floats.copy())
        event.floats[:, self._plain.codec.raw_columns] = 0.0
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


def _covers(offsets: Mapping[tuple[str, int], int], others: Mapping[tuple[str, int], int]) -> bool:
    return all(offsets.get(tp, 0) >= other for tp, other in others.items())


def _places(keys: np.ndarray) -> dict[int, np.ndarray]:
    """Key -> positions, ascending."""
    order = np.argsort(keys, kind="stable")
    found, starts = np.unique(keys[order], return_index=True)
    return dict(zip(found.tolist(), np.split(order, starts[1:]), strict=True))
