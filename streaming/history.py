"""A historical log's rows into events: in order of time, heartbeats between, `end` at the end."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from features.codec import Codec
from features.events import CONTROL, FEEDBACK, IMPRESSIONS, TOPICS, Control, End, Feedback, key
from model.schema import nearest
from streaming.application import Application, Row, Shown
from streaming.eventlog import EventLog

HEARTBEAT_EVERY = 1_000


def topics(partitions: int) -> dict[str, int]:
    """The topics of an application's log. Commands have one partition."""
    if partitions < 1:
        raise ValueError(f"partitions is {partitions}: expected 1 or more")
    return {topic: 1 if topic == CONTROL else partitions for topic in TOPICS}


def read_rows(app: Application, log: Path, limit: int | None = None) -> Iterator[Row]:
    """The rows of a Parquet file (or of those in a folder, but the side tables), in the order of
    the time column, those without a time last; of a log without one as they stand, with their
    `row_number`.

    Raises ValueError at once where there is no such file, or no such column.
    """
    if app.source is not None:
        raise ValueError(f"application {app.name!r} makes its own log: leave out --log")
    if not log.exists():
        raise ValueError(f"log {str(log)!r} is not there: expected a Parquet file, or a folder")
    sides = {side.file for side in app.side_tables.values()}
    files = (
        sorted(f for f in log.glob("*.parquet") if f.name not in sides) if log.is_dir() else [log]
    )
    if not files:
        raise ValueError(f"log {str(log)!r} holds no Parquet file")
    try:
        table = pq.read_table(files)
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        raise ValueError(f"log {str(log)!r} is no Parquet: {error}") from None
    if app.time_column:
        if app.time_column not in table.column_names:
            raise ValueError(
                f"Application.time_column is {app.time_column!r}, no column of the log: "
                + nearest(app.time_column, table.column_names)
            )
        table = table.take(
            pc.sort_indices(table, sort_keys=[(app.time_column, "ascending", "at_end")])
        )
    else:
        table = table.append_column("row_number", pa.array(range(len(table)), pa.int64()))
    batches = table.slice(0, limit).to_batches(max_chunksize=4096)
    return (row for batch in batches for row in batch.to_pylist())


def side_tables(app: Application, log: Path | None) -> dict[str, dict[Any, Row]]:
    """The application's side tables, from beside the log: name -> key -> row."""
    tables = {}
    for name, side in app.side_tables.items():
        if log is None:
            raise ValueError(f"side table {name!r} of {app.name!r} wants a log to lie beside")
        path = (log if log.is_dir() else log.parent) / side.file
        if not path.exists():
            raise ValueError(f"side table {name!r} of {app.name!r}: {str(path)!r} is not there")
        table = pq.read_table(path)
        if side.key not in table.column_names:
            raise ValueError(
                f"SideTable({side.file!r}).key is {side.key!r}, no column of it: "
                + nearest(side.key, table.column_names)
            )
        tables[name] = {row[side.key]: row for row in table.to_pylist()}
    return tables


class BadRow(NamedTuple):
    """A row that `Application.rows` could not turn into an event."""

    row: int
    reason: str
    value: str


class Occurrence(NamedTuple):
    """A record on its way into a log; sorts by time, then by place in the source."""

    time_ms: int
    place: int
    topic: str
    key: bytes
    value: bytes


def occurrences(
    app: Application,
    codec: Codec,
    rows: Iterable[Row | Shown],
    tables: Mapping[str, Any],
    bad: list[BadRow],
    latest_ms: int,
) -> Iterator[Occurrence]:
    """Impressions in the order of the rows; feedback when it came, between them.

    What lies after `latest_ms` is bad; it is passed on for the dead letters, and holds nothing up.
    """
    coming: list[Occurrence] = []
    place = 0
    for number, row in enumerate(rows):
        try:
            shown = row if isinstance(row, Shown) else app.rows(row, tables)
            if shown is None:
                continue
            records = records_of(app, codec, shown, place)
        except Exception as error:  # the application's own code may raise anything
            reason = f"{type(error).__name__}: {error}"
            bad.append(BadRow(number, reason, str(row)[:4096]))
            continue
        place += len(records)
        if records[0].time_ms > latest_ms:
            yield from records
            continue
        while coming and coming[0].time_ms <= records[0].time_ms:
            yield heapq.heappop(coming)
        yield records[0]
        for record in records[1:]:
            heapq.heappush(coming, record)
    while coming:
        yield heapq.heappop(coming)


def records_of(app: Application, codec: Codec, shown: Shown, place: int) -> list[Occurrence]:
    """An impression and its feedback. Raises ValueError, and what `codec` raises."""
    schema, time_ms = app.schema, milliseconds(shown.time_ms)
    impression = codec.impression(shown.id, time_ms, shown.fields)
    user = shown.fields[schema.user]
    item = shown.fields[schema.item] if schema.item else 0
    user_key = str(user).encode()
    out = [Occurrence(time_ms, place, IMPRESSIONS, user_key, codec.encode(impression))]
    for n, told in enumerate(shown.told):
        if told.after_ms < 0:
            raise ValueError(
                f"feedback {told.kind!r} comes {told.after_ms} ms after: expected 0 or more"
            )
        feedback = Feedback(
            key(f"{shown.id}:{told.kind}:{n}"), time_ms + int(told.after_ms), shown.id,
            told.kind, float(told.value), user, item,
        )  # fmt: skip
        out.append(
            Occurrence(feedback.time_ms, place + n + 1, FEEDBACK, user_key, codec.encode(feedback))
        )
    if any(len(record.value) > codec.max_bytes for record in out):
        raise ValueError(f"oversized: an event of more than {codec.max_bytes} bytes")
    return out


def milliseconds(time: Any) -> int:
    """Milliseconds since 1970: of a datetime (UTC where it names no zone), or a number as it is."""
    if isinstance(time, datetime):
        time = (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000
    return int(time)


class Produced(NamedTuple):
    """What went into a log: the impressions and feedback, the rows left out, and a digest of all
    that was appended, in hex."""

    events: int
    bad: list[BadRow]
    digest: str


def produce(
    app: Application,
    log: EventLog,
    codec: Codec,
    rows: Iterable[Row | Shown],
    tables: Mapping[str, Any],
    controls: Iterable[Control] = (),
    copies: int = 1,
    stop: Event | None = None,
) -> Produced:
    """Appends a whole history to a log that is empty, with its end.

    A record's timestamp is its event's time, but never later than now. `controls` are merged in;
    `copies` delivers every event so many times. Set `stop` to have it end early, without `end`.
    """
    bad: list[BadRow] = []
    now_ms = time.time_ns() // 1_000_000
    commands = sorted((c.time_ms, -n, codec.encode(c)) for n, c in enumerate(controls, 1))
    source = heapq.merge(
        occurrences(app, codec, rows, tables, bad, now_ms + codec.max_ahead_ms),
        (Occurrence(t, place, CONTROL, b"", value) for t, place, value in commands),
    )
    partitions = [(topic, p) for topic, n in log.topics.items() for p in range(n)]
    digest, last, number = xxhash.xxh3_128(f"{copies} {log.topics}".encode()), 1, 0
    for number, (time_ms, _, topic, record_key, value) in enumerate(source, 1):
        if time_ms <= now_ms:
            last = max(last, time_ms)
        digest.update(record_key + b"\0" + value + b"\0")
        for _ in range(copies):
            log.append(
                topic,
                record_key,
                value,
                max(1, min(time_ms, now_ms)),
                0 if topic == CONTROL else None,
            )
        if number % HEARTBEAT_EVERY == 0:
            if stop is not None and stop.is_set():
                return Produced(number, bad, digest.hexdigest())
            for beat_topic, p in partitions:
                log.append(beat_topic, None, None, last, p)
    end = codec.encode(End(last))
    for topic, p in partitions:
        log.append(topic, None, end, last, p)
    log.flush()
    return Produced(number, bad, digest.hexdigest())
