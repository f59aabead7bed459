"""The offline side of the feature store: rows as Parquet parts, a folder for each kind.

Feast reads them (`features.views`); its own way of appending reads and rewrites the whole file.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.as_of import unpack_as_of
from features.rows import RowLayout
from features.store import Rows

_STAMP = pa.timestamp("us", tz="UTC")


class OfflineParts:
    """Rows under `folder`/KIND, a Parquet part at each flush, whole or not at all."""

    def __init__(self, folder: Path, layouts: Mapping[str, RowLayout]) -> None:
        self.folder, self._layouts = folder, layouts
        self._waiting: dict[str, list[Rows]] = {kind: [] for kind in layouts}

    def add(self, kind: str, rows: Rows) -> None:
        """Keep rows for the next flush."""
        if len(rows):
            self._waiting[kind].append(rows)

    def flush(self) -> None:
        """Write the rows added since the last flush, and see them on the disk."""
        for kind, waiting in self._waiting.items():
            if waiting:
                self._write(kind, waiting)
                waiting.clear()

    def prepare(self) -> None:
        """An empty part for each kind that has none: DuckDB wants one to know the columns by."""
        for kind, layout in self._layouts.items():
            if not list((self.folder / kind).glob("*.parquet")):
                counts = np.zeros((0, len(layout.counts)), np.int64)
                self._write(kind, [Rows(np.zeros(0, np.int64), [], [], counts, 0)])

    def _write(self, kind: str, parts: Sequence[Rows]) -> None:
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
        folder = self.folder / kind
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{uuid.uuid4().hex}.parquet"
        with open(f"{part}.writing", "wb") as file:
            pq.write_table(table, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(f"{part}.writing", part)
