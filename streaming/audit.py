"""`freshet features audit`: the impressions of the live topics against the pure code."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from features.audit import AsOf, Past
from features.columns import Events
from features.events import FEEDBACK, IMPRESSION, IMPRESSIONS
from features.windows import Windows
from streaming.application import Application
from streaming.eventlog import Chunk, EventLog
from streaming.ingest.sightings import Sightings
from streaming.kafkalog import ANSWER_S

SHOWN_DIFFERENCES = 20
_AS_OF = b'"as_of"'


class Scored(NamedTuple):
    """An impression of the log, in a row of columns, and as of what it was scored."""

    topic: str
    partition: int
    offset: int
    event: Events
    as_of: AsOf


def read(app: Application, log: EventLog, last: int | None = None) -> tuple[Past, list[Scored]]:
    """The past that a log holds now, and its `last` impressions (None: all), in the order of time,
    of those that say as of what they were scored. Raises ConnectionError where it ends to answer.
    """
    windows, end = Windows(app.schema, app.aggregates), log.end_position()
    sources = [tp for tp in end if tp[0] in (IMPRESSIONS, FEEDBACK)]
    parts = [windows.codec.decode(IMPRESSIONS, 0, [], [], [])[0]]
    scored: list[Scored] = []
    with closing(log.reader(dict.fromkeys(end, 0))) as reader:
        for index, tp in enumerate(sources):
            sightings = Sightings(app, 0)
            while sightings.next_offset < end[tp]:
                chunk = reader.read(*tp, timeout_s=ANSWER_S)
                if not chunk.offsets:
                    at = sightings.next_offset
                    raise ConnectionError(f"kafka: {tp[0]}[{tp[1]}]: no records at {at}")
                events, _ = windows.codec.decode(*chunk)
                if tp[0] == IMPRESSIONS:
                    scored = _last(scored + _scored(windows, chunk, events), last)
                taken = sightings.take(events, chunk.next_offset)
                parts.append(replace(taken, partition=np.full(len(taken), index, np.int32)))
    return Past(app.schema, app.aggregates, Events.concatenate(parts), sources), scored


def _scored(windows: Windows, chunk: Chunk, events: Events) -> list[Scored]:
    values = dict(zip(chunk.offsets, chunk.values, strict=True))
    found = []
    for row in np.flatnonzero(events.rank == IMPRESSION).tolist():
        offset = int(events.offset[row])
        value = values[offset]
        if value is None or _AS_OF not in value:
            continue
        features = windows.codec.scored_with(value)
        if features is not None and features.as_of:
            event = events.take(np.array([row]))
            found.append(Scored(chunk.topic, chunk.partition, offset, event, features.as_of))
    return found


def _last(scored: list[Scored], last: int | None) -> list[Scored]:
    scored.sort(key=lambda s: int(s.event.time[0]))
    return scored if last is None else scored[-last:]


def audit(app: Application, log: EventLog, last: int | None = None) -> dict[str, Any]:
    """Of the `last` impressions that were scored with stored features (None: of all) how many were
    `audited`, how many are `equal` to the last bit, and some of the `different`."""
    past, scored = read(app, log, last)
    different: list[dict[str, Any]] = []
    equal = 0
    for s in scored:
        names = past.differing(s.event, s.as_of)
        equal += not names
        if names and len(different) < SHOWN_DIFFERENCES:
            where = {"topic": s.topic, "partition": s.partition, "offset": s.offset}
            different.append({**where, "features": names})
    return {"audited": len(scored), "equal": equal, "different": different}
