"""The windows' state of one entity as a packed row, and back: what a feature store holds.

The kinds of rows: `user` (with the history), `item` and `pair`, and `all`, the overall counts and
sums, one row for each partition of the source, which a reader adds up.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import prod

import numpy as np
import xxhash

from features.as_of import Offsets, pack_as_of
from features.columns import Events
from features.events import FEEDBACK_RANK, IMPRESSION
from features.rows_kernels import HEADER_BYTES, pack, unpack
from features.store import Found, Rows
from features.windows import Aggregates, History, Table, Windows, _pairs
from features.windows_kernels import BUCKETS, FIXED_POINT

VERSION = 1
ALL = "all"


def stored_kinds(aggregates: Aggregates) -> tuple[str, ...]:
    """The kinds of rows that these aggregates need; none where there are no aggregates."""
    kinds = [e.kind for e in aggregates.entities]
    kinds += ["user"] if aggregates.history and "user" not in kinds else []
    return (ALL, *kinds) if kinds else ()


@dataclass(frozen=True)
class RowLayout:
    """Where the integers of one kind of row stand. Two layouts with one `header` are the same."""

    kind: str
    columns: tuple[tuple[str, int], ...]  # name and how many integers
    counts: tuple[str, ...]  # for people: impressions, then each kind of feedback
    meaning: str  # what else a reader must share, JSON

    @cached_property
    def width(self) -> int:
        return sum(size for _, size in self.columns)

    @cached_property
    def header(self) -> bytes:
        """A version byte and 7 bytes of the layout's hash (XXH3)."""
        text = json.dumps([self.kind, self.columns, self.meaning])
        return bytes([VERSION]) + xxhash.xxh3_64_digest(text.encode())[: HEADER_BYTES - 1]

    def pack(self, values: np.ndarray) -> list[bytes]:
        """Each row of int64 [n, width] as bytes."""
        most = HEADER_BYTES + (self.width + 7) // 8 + 10 * self.width
        packed = np.empty(len(values) * most, np.uint8)
        ends = pack(self._header, np.ascontiguousarray(values), packed).tolist()
        whole = packed[: ends[-1] if ends else 0].tobytes()
        return [whole[a:b] for a, b in pairwise([0, *ends])]

    def unpack(self, rows: Sequence[bytes], keys: np.ndarray) -> np.ndarray:
        """int64 [n, width]. Raises ValueError naming the key of a row that has another layout."""
        out = np.zeros((len(rows), self.width), np.int64)
        ends = np.cumsum(np.fromiter(map(len, rows), np.int64, len(rows)))
        bad = unpack(self._header, np.frombuffer(b"".join(rows), np.uint8), ends, out)
        if bad >= 0:
            raise ValueError(
                f"the {self.kind} row of key {keys[bad]} begins with "
                f"{rows[bad][:HEADER_BYTES].hex()}: expected {self.header.hex()} and a whole row "
                "(were the application's aggregates changed? then ingest its log anew)"
            )
        return out

    @cached_property
    def _header(self) -> np.ndarray:
        return np.frombuffer(self.header, np.uint8)


def row_layouts(windows: Windows) -> dict[str, RowLayout]:
    """The layout of each kind of row that the application stores."""
    kinds = windows.codec.kinds
    counts = ("impressions", *(f"count_{k}" for k in kinds))
    layouts = {}
    for kind in stored_kinds(windows.aggregates):
        meaning: list[object] = [kinds, FIXED_POINT]
        columns = [("counts", len(kinds) + 1), ("sums", len(kinds) + 1)] if kind == ALL else []
        table = kind == ALL
        for part in _parts(windows, kind):
            columns += [(name, prod(shape)) for name, shape in part.shapes.items()]
            if isinstance(part, Table):
                meaning += [BUCKETS, part.decays.tolist()]
                table = True
            else:
                meaning += [windows.aggregates.history_signal]
        layouts[kind] = RowLayout(
            kind, tuple(columns), counts if table else (), json.dumps(meaning)
        )
    return layouts


def _parts(windows: Windows, kind: str) -> list[Table | History]:
    parts: list[Table | History] = [
        table
        for entity, table in zip(windows.aggregates.entities, windows.tables, strict=True)
        if entity.kind == kind
    ]
    return parts + ([windows.history] if kind == "user" and windows.aggregates.history else [])


def event_keys(windows: Windows, events: Events, partition: int = 0) -> dict[str, np.ndarray]:
    """The row of each kind that each event changes: of impressions and feedback the keys, [n].

    The overall row is that of `partition`."""
    shown, schema = events.rank == IMPRESSION, windows.schema
    ids = windows.codec.id_fields
    user = np.where(shown, events.ints[:, ids.index(schema.user)], events.ints[:, 2])
    keys = {ALL: np.full(len(events), partition, np.int64), "user": user}
    if schema.item is not None:
        keys["item"] = np.where(shown, events.ints[:, ids.index(schema.item)], events.ints[:, 3])
        keys["pair"] = _pairs(user, keys["item"])
    return {kind: keys[kind] for kind in stored_kinds(windows.aggregates)}


def entity_keys(windows: Windows, events: Events, partition: int = 0) -> dict[str, np.ndarray]:
    """The rows that impressions and feedback read or change: of each kind the keys, ascending."""
    events = events.take((events.rank == IMPRESSION) | (events.rank == FEEDBACK_RANK))
    return {k: np.unique(keys) for k, keys in event_keys(windows, events, partition).items()}


def pack_rows(
    windows: Windows, touched: dict[str, np.ndarray], as_of: Offsets, time_ms: int
) -> dict[str, Rows]:
    """The rows of `touched` keys (`entity_keys` of the events since the last write), to write.

    `as_of` says how far the source is in the windows, `time_ms` how far event time has come. Keys
    that the windows don't know are left out.
    """
    layouts, covered = row_layouts(windows), pack_as_of(as_of)
    packed = {}
    for kind, keys in touched.items():
        keys, values = _gather(windows, kind, keys)
        layout = layouts[kind]
        start = 0
        counts = np.zeros((len(keys), 0), np.int64)
        for name, size in layout.columns:
            if name == "counts":  # the impressions stand last in it
                counts = np.roll(values[:, start : start + size], 1, axis=1)
            start += size
        packed[kind] = Rows(keys, layout.pack(values), [covered] * len(keys), counts, time_ms)
    return packed


def load_rows(
    windows: Windows, found: dict[str, Found], layouts: dict[str, RowLayout] | None = None
) -> None:
    """Put stored rows in the windows, over what these know of the entities. `all` rows are summed.
    `layouts` are `row_layouts(windows)`, where they are at hand.

    Raises ValueError for a row of another layout.
    """
    layouts = layouts or row_layouts(windows)
    for kind, rows in found.items():
        there = rows.mask
        keys = rows.keys[there]
        values = layouts[kind].unpack([value for value in rows.values if value], keys)
        if kind == ALL:
            total, half = values.sum(0), len(windows.counts)
            windows.counts, windows.sums = total[:half], total[half:]
            continue
        start = 0
        for part in _parts(windows, kind):
            width = sum(prod(shape) for shape in part.shapes.values())
            block = values[:, start : start + width]
            start += width
            some = block.any(axis=1)  # a user without a history has none, not an empty one
            _put(part, keys[some], block[some])


def _put(part: Table | History, keys: np.ndarray, block: np.ndarray) -> None:
    columns: dict[str, np.ndarray] = {}
    start = 0
    for name, shape in part.shapes.items():
        columns[name] = block[:, start : start + prod(shape)].reshape(len(keys), *shape)
        start += prod(shape)
    used = int(part.next[0])
    if not used:
        part.load({"keys": keys, **columns})
        return
    part.reserve(len(keys))
    at = part.map.lookup(keys)
    new = at < 0
    at[new] = np.arange(used, used + int(new.sum()))
    part.next[0] += new.sum()
    part.map.insert(keys, at)
    for name, column in columns.items():
        part.columns[name][at] = column


def _gather(windows: Windows, kind: str, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The keys that are known, and their integers [n, width]."""
    if kind == ALL:
        values = np.concatenate((windows.counts, windows.sums))
        return keys, np.broadcast_to(values, (len(keys), len(values)))
    parts = [(part, part.map.lookup(keys)) for part in _parts(windows, kind)]
    known = np.logical_or.reduce([at >= 0 for _, at in parts])
    blocks = []
    for part, at in parts:
        at = at[known]
        for column in part.columns.values():
            block = np.zeros((len(at), *column.shape[1:]), np.int64)
            block[at >= 0] = column[at[at >= 0]]
            blocks.append(block.reshape(len(at), prod(column.shape[1:])))
    return keys[known], np.concatenate(blocks, axis=1)
