"""What ingest does with records, whoever delivers them: no Faust in it, and no event loop.

A batch is read once (`read`), and written until it is (`write`): both may be repeated, and end in
the same rows. `write` returns what is to be sent to the topic `items`; the source is acknowledged
when that is sent, and `flush` has put the rows' history on the disk. A store that has lost rows
(flushed, or failed over) is found out by the row of the partition, which is written last; nothing
more is written to it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from features.as_of import unpack_as_of
from features.codec import Bad
from features.columns import Events
from features.events import FEEDBACK, IMPRESSIONS
from features.fold import Fold
from features.rows import ALL, event_keys, stored_kinds
from features.store import Found, Rows, Store
from features.windows import Windows
from streaming.application import Application
from streaming.dead_letters import DeadLetters
from streaming.eventlog import Chunk
from streaming.ingest import items
from streaming.ingest.metrics import Metrics
from streaming.ingest.sightings import Recall, Sightings
from streaming.topics import ITEMS

BY_USER, BY_ITEM = ("user", "pair", ALL), ("item",)


@dataclass(frozen=True)
class Part:
    """Events that change rows of one writer: what `sources` they are from, how far those are
    `covered` with them, and how far the rows have `known` them before. `partition` is that of the
    topic that they were read from."""

    partition: int
    sources: list[tuple[str, int]]
    covered: dict[tuple[str, int], int]
    known: dict[tuple[str, int], int]
    time_ms: int
    events: Events


class StoreLost(ValueError):
    """The store holds less than was written to it."""


class Batches:
    """Records of one application's topics into rows of `store`."""

    def __init__(
        self,
        app: Application,
        log: Recall,
        store: Store,
        letters: DeadLetters,
        item_partitions: int,
        metrics: Metrics,
    ) -> None:
        self._app, self._log, self._store, self._letters = app, log, store, letters
        self._metrics = metrics
        self._windows = Windows(app.schema, app.aggregates)
        kinds = stored_kinds(app.aggregates)
        self._folds = {kind: Fold(app.schema, app.aggregates, kind) for kind in kinds}
        self._item_partitions = item_partitions if "item" in kinds else 0
        self._sightings: dict[tuple[str, int], Sightings] = {}

    def read(self, chunks: Iterable[Chunk]) -> list[Part]:
        """Of impressions and feedback: each event once, by partition. Bad records become dead
        letters. Raises ConnectionError where the log has to be read again, and can't be."""
        parts: dict[int, list[_Source]] = defaultdict(list)
        bad: list[Bad] = []
        for chunk in chunks:
            tp = (chunk.topic, chunk.partition)
            self._metrics.events.labels(chunk.topic).inc(len(chunk.offsets))
            events, some_bad = self._windows.codec.decode(*chunk)
            seen = self._sightings_at(tp, chunk)
            bad += some_bad
            known, events = seen.counted, seen.take(events, chunk.next_offset)
            parts[chunk.partition].append(_Source(tp, known, seen, events))
        self._refuse(bad)
        return [_part(partition, several) for partition, several in parts.items()]

    def read_items(self, chunks: Iterable[Chunk]) -> list[Part]:
        """The same of the topic `items`."""
        parts = []
        for chunk in chunks:
            said, bad = [], []
            self._metrics.events.labels(chunk.topic).inc(len(chunk.offsets))
            for offset, value in zip(chunk.offsets, chunk.values, strict=True):
                try:
                    said.append(items.read(self._windows.codec, value or b""))
                except ValueError as error:
                    bad.append(Bad(ITEMS, chunk.partition, offset, str(error), value or b""))
            self._refuse(bad)
            if said:
                parts.append(_item_part(chunk.partition, said))
        return parts

    def write(self, part: Part) -> list[tuple[int, bytes]]:
        """Writes the rows of users, pairs and the partition. Returns partition and value of records
        for the topic `items`. Raises StoreUnavailable, then call it again; and StoreLost."""
        self._fold(part, BY_USER)
        return list(self._by_item(part)) if self._item_partitions else []

    def write_items(self, part: Part) -> None:
        """Writes the rows of items; raises StoreUnavailable."""
        self._fold(part, BY_ITEM)

    def _refuse(self, bad: list[Bad]) -> None:
        self._metrics.bad.inc(len(bad))
        self._letters.add(bad)

    def _sightings_at(self, tp: tuple[str, int], chunk: Chunk) -> Sightings:
        seen = self._sightings.get(tp)
        if seen is None or seen.next_offset != chunk.offsets[0]:
            app, codec = self._app, self._windows.codec
            seen = self._log.sightings(app, codec, tp, chunk.offsets[0], chunk.timestamps_ms[0])
            self._sightings[tp] = seen
        return seen

    def _fold(self, part: Part, kinds: tuple[str, ...]) -> None:
        if not len(part.events):
            return
        keys = event_keys(self._windows, part.events, part.partition)
        keys = {kind: keys[kind] for kind in kinds if kind in keys}
        found = self._store.read({kind: np.unique(k) for kind, k in keys.items()})
        if ALL in found:
            _check(part, found[ALL])
        for kind, of_kind in keys.items():
            rows: Rows = self._folds[kind].rows(
                found[kind], part.events, of_kind, part.sources, part.covered, part.time_ms
            )
            self._store.write(kind, rows)

    def _by_item(self, part: Part) -> Iterator[tuple[int, bytes]]:
        for index, tp in enumerate(part.sources):
            events = part.events.take(part.events.partition == index)
            if len(events):
                yield from items.records(
                    self._windows, events, tp, part.covered[tp], part.time_ms, self._item_partitions
                )


class _Source(NamedTuple):
    tp: tuple[str, int]
    known: int
    seen: Sightings
    events: Events


def _check(part: Part, found: Found) -> None:
    """Raises StoreLost where the partition's row does not know what was written before."""
    at = unpack_as_of(found.as_of[0]) if found.as_of[0] else {}
    for tp, known in part.known.items():
        if at.get(tp, 0) < known:
            raise StoreLost(
                f"the feature store has lost rows: it held {tp[0]}[{tp[1]}] up to offset {known}, "
                f"and holds it up to {at.get(tp, 0)}; stop every ingest worker and start one with "
                "--rebuild"
            )


def _part(partition: int, several: list[_Source]) -> Part:
    events = [
        replace(of.events, partition=np.full(len(of.events), index, np.int32))
        for index, of in enumerate(several)
    ]
    return Part(
        partition,
        [of.tp for of in several],
        {of.tp: of.seen.next_offset for of in several},
        {of.tp: of.known for of in several},
        max(of.seen.time_ms for of in several),
        _in_order(Events.concatenate(events)),
    )


def _item_part(partition: int, said: list[tuple[items.ItemEvents, Events]]) -> Part:
    sources = [(topic, p) for topic in (IMPRESSIONS, FEEDBACK) for p in _partitions(said)]
    covered: dict[tuple[str, int], int] = {}
    parts = []
    for record, events in said:
        tp = (record.topic, record.partition)
        new = events.offset >= covered.get(tp, 0)  # what is sent again follows what was sent
        covered[tp] = max(covered.get(tp, 0), record.covered)
        index = np.full(len(events), sources.index(tp), np.int32)
        parts.append(replace(events, partition=index).take(new))
    time_ms = max(record.time_ms for record, _ in said)
    return Part(partition, sources, covered, {}, time_ms, _in_order(Events.concatenate(parts)))


def _partitions(said: list[tuple[items.ItemEvents, Events]]) -> list[int]:
    return sorted({record.partition for record, _ in said})


def _in_order(events: Events) -> Events:
    return events.take(np.lexsort((events.id, events.rank, events.e)))
