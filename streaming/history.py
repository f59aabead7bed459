"""A historical log's rows into events: in order of time, heartbeats between, `end` at the end."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from features.codec import Codec
from features.events import CONTROL, FEEDBACK, IMPRESSIONS, TOPICS, Control, End, Feedback
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
    """The rows of a Parquet file (or a folder of them), in the order of the time column.

    Raises ValueError at once where there is no such file, or no such column.
    """
    if not log.exists():
        raise ValueError(f"log {str(log)!r} is not there: expected a Parquet file, or a folder")
    try:
        table = pq.read_table(log)
    except (OSError, ValueError) as error:
        raise ValueError(f"log {str(log)!r} is no Parquet: {error}") from None
    if app.time_column:
        if app.time_column not in table.column_names:
            raise ValueError(
                f"Application.time_column is {app.time_column!r}, no column of the log: "
                + nearest(app.time_column, table.column_names)
            )
        times = table[app.time_column].to_numpy()
        if (times[1:] < times[:-1]).any():
            table = table.take(np.argsort(times, kind="stable"))
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
        tables[name] = {row[side.key]: row for row in pq.read_table(path).to_pylist()}
    return tables


class BadRow(NamedTuple):
    """A row that `Application.rows` could not turn into an event."""

    row: int
    reason: str
    value: str


class Occurrence(NamedTuple):
    """An event on its way into a log; sorts by time, then by place in the source."""

    time_ms: int
    place: int
    topic: str
    key: bytes
    event: Any


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
            events = list(_of_row(app, codec, shown, place))
        except Exception as error:  # the application's own code may raise anything
            reason = f"{type(error).__name__}: {error}"
            bad.append(BadRow(number, reason, str(row)[:4096]))
            continue
        place += len(events)
        if events[0].time_ms > latest_ms:
            yield from events
            continue
        while coming and coming[0].time_ms <= events[0].time_ms:
            yield heapq.heappop(coming)
        yield events[0]
        for event in events[1:]:
            heapq.heappush(coming, event)
    while coming:
        yield heapq.heappop(coming)


def _of_row(app: Application, codec: Codec, shown: Shown, place: int) -> Iterator[Occurrence]:
    schema = app.schema
    user = shown.fields[schema.user]
    item = shown.fields[schema.item] if schema.item else 0
    key = str(user).encode()
    event = codec.impression(shown.id, int(shown.time_ms), **shown.fields)
    yield Occurrence(event.time_ms, place, IMPRESSIONS, key, event)
    for n, told in enumerate(shown.told):
        feedback = Feedback(
            f"{shown.id}:{told.kind}:{n}", int(shown.time_ms + told.after_ms), shown.id,
            told.kind, float(told.value), user, item,
        )  # fmt: skip
        yield Occurrence(feedback.time_ms, place + n + 1, FEEDBACK, key, feedback)


def produce(
    app: Application,
    log: EventLog,
    codec: Codec,
    rows: Iterable[Row | Shown],
    tables: Mapping[str, Any],
    controls: Iterable[Control] = (),
    copies: int = 1,
) -> list[BadRow]:
    """Appends a whole history to a log that is empty, with its end. Returns the rows left out.

    A record's timestamp is its event's time, but never later than now. `controls` are merged in;
    `copies` delivers every event so many times.
    """
    bad: list[BadRow] = []
    now_ms = time.time_ns() // 1_000_000
    source = heapq.merge(
        occurrences(app, codec, rows, tables, bad, now_ms + codec.max_ahead_ms),
        (Occurrence(c.time_ms, -1, CONTROL, b"", c) for c in controls),
    )
    partitions = [(topic, p) for topic, n in log.topics.items() for p in range(n)]
    last = 1
    for number, (time_ms, _, topic, key, event) in enumerate(source, 1):
        if time_ms <= now_ms:
            last = max(last, time_ms)
        value = codec.encode(event)
        for _ in range(copies):
            log.append(
                topic, key, value, max(1, min(time_ms, now_ms)), 0 if topic == CONTROL else None
            )
        if number % HEARTBEAT_EVERY == 0:
            for beat_topic, p in partitions:
                log.append(beat_topic, None, None, last, p)
    end = codec.encode(End(last))
    for topic, p in partitions:
        log.append(topic, None, end, last, p)
    log.flush()
    return bad
