"""The offline side of the feature store: rows as Parquet parts, a folder for each kind.

Feast reads them (`features.views`); its own way of appending reads and rewrites the whole file.
Small parts are put together after a while, and old ones go: a worker writes for months.
"""

from __future__ import annotations

import math
import os
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.as_of import unpack_as_of
from features.rows import RowLayout
from features.store import Rows

_STAMP = pa.timestamp("us", tz="UTC")


MERGE = 100
"""Parts of one kind that a writer puts together."""
DAY_S = 86_400


class OfflineParts:
    """Rows under `folder`/KIND, a Parquet part at each flush, whole or not at all.

    Parts that were written more than `keep_days` ago are removed, None for never. Several writers
    may share the folder: each puts together what it wrote itself.
    """

    def __init__(
        self, folder: Path, layouts: Mapping[str, RowLayout], keep_days: float | None = None
    ) -> None:
        self.folder, self._layouts, self._keep_days = folder, layouts, keep_days
        self._waiting: dict[str, list[Rows]] = {kind: [] for kind in layouts}
        self._small: dict[str, list[Path]] = {kind: [] for kind in layouts}

    def add(self, kind: str, rows: Rows) -> None:
        """Keep rows for the next flush."""
        if len(rows):
            self._waiting[kind].append(rows)

    def flush(self) -> None:
        """Write the rows added since the last flush, and see them on the disk."""
        for kind, waiting in self._waiting.items():
            if waiting:
                self._small[kind].append(self._write(kind, waiting))
                waiting.clear()
            if len(self._small[kind]) >= MERGE:
                self._merge(kind)
                self._remove_old(kind)

    def prepare(self) -> None:
        """An empty part for each kind that has none: DuckDB wants one to know the columns by."""
        for kind, layout in self._layouts.items():
            self._remove_old(kind)
            if not list((self.folder / kind).glob("*.parquet")):
                counts = np.zeros((0, len(layout.counts)), np.int64)
                self._write(kind, [Rows(np.zeros(0, np.int64), [], [], counts, 0)])

    def _merge(self, kind: str) -> None:
        """Cut short in the middle, some rows are there twice, and say the same."""
        small, self._small[kind] = self._small[kind], []
        there = [part for part in small if part.exists()]
        if there:
            self._put(kind, (pq.read_table(part) for part in there))
        for part in there:
            part.unlink(missing_ok=True)

    def _remove_old(self, kind: str) -> None:
        """All but the newest, by which the columns are known; and what a writer that was killed
        left half written a day ago."""
        for half in (self.folder / kind).glob("*.writing"):
            if _written_s(half) < time.time() - DAY_S:
                half.unlink(missing_ok=True)
        if self._keep_days is None:
            return
        since = time.time() - self._keep_days * DAY_S
        parts = [(_written_s(p), p) for p in (self.folder / kind).glob("*.parquet")]
        for written, part in sorted(parts)[:-1]:
            if written < since:
                part.unlink(missing_ok=True)

    def _write(self, kind: str, parts: Sequence[Rows]) -> Path:
        times = [r.time_ms * 1_000 for r in parts for _ in range(len(r))]
        covered = [sum(unpack_as_of(a).values()) for r in parts for a in r.as_of]
        counts = np.concatenate([r.counts for r in parts])
        table = pa.table(
            {
                f"{kind}_key": np.concatenate([r.keys for r in parts]),
                "row": pa.array([v for r in parts for v in r.values], pa.binary()),
                "as_of": pa.array([a for r in parts for a in r.as_of], pa.binary()),
                "event_timestamp": pa.array(times, pa.int64()).cast(_STAMP),
                "covered": pa.array(covered, pa.int64()).cast(_STAMP),
                **{name: counts[:, i] for i, name in enumerate(self._layouts[kind].counts)},
            }
        )
        return self._put(kind, [table])

    def _put(self, kind: str, tables: Iterable[pa.Table]) -> Path:
        """Tables, of which there is at least one, as a new part."""
        folder = self.folder / kind
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{uuid.uuid4().hex}.parquet"
        with open(f"{part}.writing", "wb") as file:
            tables = iter(tables)
            first = next(tables)
            with pq.ParquetWriter(file, first.schema, compression="zstd") as writer:
                for table in chain([first], tables):
                    writer.write_table(table)
            file.flush()
            os.fsync(file.fileno())
        os.replace(f"{part}.writing", part)
        return part


def _written_s(part: Path) -> float:
    """When it was written, by the clock; infinity for one that another writer has moved since."""
    try:
        return part.stat().st_mtime
    except FileNotFoundError:
        return math.inf
