"""Served predictions as Parquet: one row for each impression and task, when its label closes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.schema import Schema
from streaming.learner import Step

FIELDS = pa.schema(
    [
        ("event_id", pa.int64()),
        ("event_time_ms", pa.int64()),
        ("task", pa.dictionary(pa.int16(), pa.string())),
        ("prediction", pa.float32()),
        ("label", pa.float32()),
    ]
)
ROWS = 65_536


class Predictions:
    """Writes `path`. `event_id` is the event's 63-bit key (`features.events.key`), `event_time_ms`
    the effective time, `label` null where none closed. A multi-class task has a row `task.class`
    for each class."""

    def __init__(self, path: Path, schema: Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(path, FIELDS, compression="zstd")
        self._tables: list[pa.Table] = []

    def add(self, step: Step) -> None:
        for k, task in enumerate(self._schema.tasks):
            rows = np.flatnonzero(step.cut.closes[:, k])
            if not len(rows):
                continue
            labels, unknown = step.cut.batch.labels[rows, k], ~step.cut.batch.mask[rows, k]
            for c in range(task.outputs):
                one = task.outputs == 1
                self._tables.append(
                    pa.table(
                        {
                            "event_id": step.cut.ids[rows],
                            "event_time_ms": step.cut.times[rows],
                            "task": pa.DictionaryArray.from_arrays(
                                np.zeros(len(rows), np.int16),
                                [task.name if one else f"{task.name}.{c}"],
                            ),
                            "prediction": step.served[
                                rows, self._schema.output_slices[task.name].start + c
                            ],
                            "label": pa.array(
                                labels if one else (labels == c).astype(np.float32), mask=unknown
                            ),
                        },
                        schema=FIELDS,
                    )
                )
        if sum(map(len, self._tables)) >= ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._tables:
            self._writer.write_table(pa.concat_tables(self._tables).unify_dictionaries())
            self._tables = []

    def close(self) -> None:
        self._flush()
        self._writer.close()
