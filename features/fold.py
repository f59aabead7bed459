"""Events into stored rows: each event once for each row, however often it is delivered.

A row's `as_of` says which events are in it already. Those are left out, row by row, so a batch that
was written in part, or delivered again with other neighbours, ends in the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from features.as_of import Offsets, pack_as_of, union, unpack_as_of
from features.columns import Events
from features.rows import ALL, pack_rows
from features.store import Found, Rows
from features.stored import StoredWindows
from features.windows import Aggregates, Entity, Windows
from model.schema import Schema

Sources = Sequence[tuple[str, int]]
"""(topic, partition) that `Events.partition` counts through."""

_LEAST = Entity("user", rates=False, last=False)
"""Aggregates without an entity have no overall row."""


class Fold:
    """Folds events into the rows of one `kind` (`features.rows.stored_kinds`)."""

    def __init__(self, schema: Schema, aggregates: Aggregates, kind: str) -> None:
        of_kind = tuple(e for e in aggregates.entities if e.kind == kind)
        own = replace(
            aggregates,
            entities=(_LEAST,) if kind == ALL else of_kind,
            history=aggregates.history if kind == "user" else 0,
        )
        self.kind = kind
        self._stored = StoredWindows(lambda wanted: {}, schema, own)
        self._codec = self._stored.codec

    def rows(
        self,
        found: Found,
        events: Events,
        keys: np.ndarray,
        sources: Sources,
        covered: Offsets,
        time_ms: int,
    ) -> Rows:
        """The rows `found`, with the events that are not in them yet.

        `events` are impressions and feedback with their effective times, `keys` their rows
        (`event_keys`), `found.keys` the same, each once, ascending. `covered` is the source's
        offsets after the events, `time_ms` how far event time has come. All rows are returned,
        also those that had it all. Raises ValueError for a stored row of another layout.
        """
        stored = [unpack_as_of(packed) if packed else {} for packed in found.as_of]
        least = np.array([[at.get(tp, 0) for tp in sources] for at in stored], np.int64)
        row = np.searchsorted(found.keys, keys)
        new = events.offset >= least.reshape(-1, len(sources))[row, events.partition]
        windows = self._stored.holding({self.kind: found})
        windows.update(self._own(events.take(new)))
        return self._packed(windows, found, covered, time_ms)

    def _own(self, events: Events) -> Events:
        """The events without what they were logged with: nothing is read."""
        n = len(events)
        ints = np.full((n, self._codec.ints_width), -1, np.int64)
        width = min(ints.shape[1], events.ints.shape[1])
        ints[:, :width] = events.ints[:, :width]
        return replace(
            events, ints=ints, floats=np.zeros((n, self._codec.floats_width), np.float32)
        )

    def _packed(self, windows: Windows, found: Found, covered: Offsets, time_ms: int) -> Rows:
        rows = pack_rows(windows, {self.kind: found.keys}, {}, time_ms)[self.kind]
        new = pack_as_of(covered)
        of_key = dict(zip(found.keys.tolist(), found.as_of, strict=True))
        as_of = [union(of_key[key], new) if of_key[key] else new for key in rows.keys.tolist()]
        return replace(rows, as_of=as_of)
