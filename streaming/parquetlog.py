"""The event log in a folder of Parquet files.

    folder/topic/00003/00000000000000004096.parquet

is a part of partition 3 whose first offset is 4096. A part is written whole, then renamed into
place, and never changed: a reader sees all of it or nothing.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from streaming.eventlog import Chunk, Position, Reader, check_topics, place, start_position

SCHEMA = pa.schema(
    [
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("timestamp_ms", pa.int64(), nullable=False),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
    ]
)
ROW_GROUP = 16_384
PART_BYTES = 64 << 20
"""A partition's events are written out by themselves when they reach this, to bound memory."""
EVENT_BYTES = 64
"""Reckoned for an event's own weight in the buffer, beside its key and value."""
POLL_S = 0.01


class ParquetLog:
    """An event log under `folder`, made where missing and gone on with where not. One process
    appends, from one thread; any number read."""

    def __init__(self, folder: str | Path, topics: dict[str, int]) -> None:
        self.topics = check_topics(topics)
        self.folder = Path(folder)
        for topic, partitions in self.topics.items():
            existing = len(list((self.folder / topic).glob("[0-9]*")))
            if existing not in (0, partitions):
                raise ValueError(
                    f"topics[{topic!r}]: {partitions} partitions; {self.folder} has {existing}"
                )
            for p in range(partitions):
                self._partition(topic, p).mkdir(parents=True, exist_ok=True)
        self._buffers = {
            (topic, p): _Buffer(offset) for (topic, p), offset in self.end_position().items()
        }

    def append(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        timestamp_ms: int,
        partition: int | None = None,
    ) -> None:
        at = place(self.topics, topic, key, value, timestamp_ms, partition)
        buffer = self._buffers[topic, at]
        buffer.timestamps.append(timestamp_ms)
        buffer.keys.append(key)
        buffer.values.append(value)
        buffer.bytes += len(key or b"") + len(value or b"") + EVENT_BYTES
        if buffer.bytes >= PART_BYTES:
            self._write(topic, at, buffer)

    def flush(self) -> None:
        for (topic, partition), buffer in self._buffers.items():
            if buffer.values:
                self._write(topic, partition, buffer)

    def reader(self, position: Position | None = None) -> Reader:
        end = self.end_position()
        return _ParquetReader(self, start_position(position, dict.fromkeys(end, 0), end))

    def end_position(self) -> Position:
        """The offset after the last event of each partition that is in a part."""
        position = {}
        for topic, partitions in self.topics.items():
            for p in range(partitions):
                parts = self._parts(topic, p)
                last = parts[-1] if parts else 0
                rows = pq.read_metadata(self._part(topic, p, last)).num_rows if parts else 0
                position[topic, p] = last + rows
        return position

    def close(self) -> None:
        self.flush()

    def _partition(self, topic: str, partition: int) -> Path:
        return self.folder / topic / f"{partition:05d}"

    def _part(self, topic: str, partition: int, offset: int) -> Path:
        return self._partition(topic, partition) / f"{offset:020d}.parquet"

    def _parts(self, topic: str, partition: int) -> list[int]:
        """First offsets of a partition's parts, rising."""
        return sorted(
            int(part.stem) for part in self._partition(topic, partition).glob("*.parquet")
        )

    def _write(self, topic: str, partition: int, buffer: _Buffer) -> None:
        rows = len(buffer.values)
        table = pa.table(
            [
                pa.array(range(buffer.offset, buffer.offset + rows), pa.int64()),
                pa.array(buffer.timestamps, pa.int64()),
                pa.array(buffer.keys, pa.binary()),
                pa.array(buffer.values, pa.binary()),
            ],
            schema=SCHEMA,
        )
        part = self._part(topic, partition, buffer.offset)
        unfinished = part.with_suffix(".unfinished")
        with unfinished.open("wb") as file:
            pq.write_table(table, file, row_group_size=ROW_GROUP, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(part)
        folder = os.open(part.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._buffers[topic, partition] = _Buffer(buffer.offset + rows)


class _Buffer:
    """A partition's events since its last part; `offset` is the first one's."""

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.timestamps: list[int] = []
        self.keys: list[bytes | None] = []
        self.values: list[bytes | None] = []
        self.bytes = 0


class _ParquetReader:
    def __init__(self, log: ParquetLog, start: Position) -> None:
        self._cursors = {(topic, p): _Cursor(log, topic, p, at) for (topic, p), at in start.items()}

    def read(
        self, topic: str, partition: int, max_records: int = 4096, timeout_s: float = 0.0
    ) -> Chunk:
        cursor = self._cursors[topic, partition]
        deadline = time.monotonic() + timeout_s
        while not cursor.rows and not cursor.load():
            if (left := deadline - time.monotonic()) <= 0:
                break
            time.sleep(min(POLL_S, left))
        rows = cursor.take(max_records)
        return Chunk(
            topic,
            partition,
            rows.column(0).to_pylist(),
            rows.column(1).to_pylist(),
            rows.column(2).to_pylist(),
        )

    def close(self) -> None:
        for cursor in self._cursors.values():
            cursor.close()
        self._cursors.clear()


class _Cursor:
    """Reads one partition a row group at a time; `rows` is what is left of the last one."""

    def __init__(self, log: ParquetLog, topic: str, partition: int, offset: int) -> None:
        self._log, self._topic, self._partition = log, topic, partition
        self._next = offset
        self._at_part = False  # whether the next part's first offset is the next offset
        self._part: pq.ParquetFile | None = None
        self._first = self._group = 0  # of the open part: its first offset, the next row group
        self.rows = _no_rows()

    def load(self) -> bool:
        """Read the next row group; False when the log holds none yet."""
        if self._part is None and not self._open():
            return False
        assert self._part is not None
        group = self._part.read_row_group(
            self._group, columns=["offset", "timestamp_ms", "value"], use_threads=False
        )
        self.rows = group.combine_chunks().to_batches()[0].slice(self._next - self._first)
        self._first += group.num_rows
        self._group += 1
        if self._group == self._part.num_row_groups:
            self.close()
        return True

    def take(self, count: int) -> pa.RecordBatch:
        taken = self.rows.slice(0, count)
        self.rows = self.rows.slice(count)
        self._next += len(taken)
        return taken

    def close(self) -> None:
        if self._part is not None:
            self._part.close()
            self._part = None

    def _open(self) -> bool:
        """Open the part that holds the next offset, at its row group."""
        self._first = self._next
        if not self._at_part:  # only at the start can it lie inside a part
            parts = [p for p in self._log._parts(self._topic, self._partition) if p <= self._next]
            self._first = parts[-1] if parts else self._next
        path = self._log._part(self._topic, self._partition, self._first)
        if not path.exists():
            return False
        part = pq.ParquetFile(path)
        self._at_part = True
        for self._group in range(part.num_row_groups):
            rows = part.metadata.row_group(self._group).num_rows
            if self._next < self._first + rows:
                self._part = part
                return True
            self._first += rows
        part.close()
        return False


def _no_rows() -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], pa.schema([SCHEMA.field(i) for i in (0, 1, 3)]))
