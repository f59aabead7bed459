"""The topic `items`: events by their item, on their way from the users' partitions to the items'.

A record holds the events of one source partition whose items belong to one partition here, in the
order of their offsets, as JSON columns. Each keeps its source offset, by which the rows of items
know it again when it is delivered twice.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np

from features.codec import Codec
from features.columns import Events
from features.events import FEEDBACK_RANK, IMPRESSION, IMPRESSIONS, Version
from features.rows import event_keys
from features.windows import Windows
from streaming.eventlog import partition_of

SHOWN = -1
"""The kind of an impression."""
MOST = 4_000
"""Events in a record, so that it stays well below a megabyte."""


class ItemEvents(msgspec.Struct, gc=False):
    """Events of the source (topic, partition), and `covered`, the offset that they reach up to.

    `kind` counts through `kinds`, `e` is the effective time and `value` as its task transforms it.
    """

    topic: str
    partition: int
    covered: int
    time_ms: int
    kinds: list[str]
    offset: list[int]
    e: list[int]
    id: list[int]
    kind: list[int]
    value: list[float]
    user: list[int]
    item: list[int]
    v: Version = 1


def records(
    windows: Windows,
    events: Events,
    source: tuple[str, int],
    covered: int,
    time_ms: int,
    parts: int,
) -> Iterator[tuple[int, bytes]]:
    """Partition (of `parts`) and value of each record that the events of a source make."""
    keys = event_keys(windows, events)
    item, user = keys["item"], keys["user"]
    target = np.array([partition_of(str(key).encode(), parts) for key in item.tolist()], np.int64)
    kind = np.where(events.rank == IMPRESSION, SHOWN, events.ints[:, 1])
    columns = (events.offset, events.e, events.id, kind, events.value, user, item)
    for part in np.unique(target).tolist():
        rows = np.flatnonzero(target == part)
        for start in range(0, len(rows), MOST):
            some = rows[start : start + MOST]
            last = start + MOST >= len(rows)
            upto = covered if last else int(events.offset[some[-1]]) + 1
            lists = (column[some].tolist() for column in columns)
            kinds = list(windows.codec.kinds)
            yield part, _encode(ItemEvents(*source, upto, time_ms, kinds, *lists))


def read(codec: Codec, value: bytes) -> tuple[ItemEvents, Events]:
    """A record, and its events in columns. ValueError says what is wrong with it."""
    try:
        said = _decode(value)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from None
    n = len(said.offset)
    if any(len(c) != n for c in (said.e, said.id, said.kind, said.value, said.user, said.item)):
        raise ValueError(f"columns of different lengths: expected {n} each, as $.offset")
    try:
        kind_of = np.array([codec.kinds.index(name) for name in said.kinds] + [SHOWN], np.int64)
        kind = kind_of[np.array(said.kind, np.int64)]
    except (ValueError, IndexError) as error:
        raise ValueError(f"kinds {said.kinds} are not all feedback here: {error}") from None
    shown = kind == SHOWN
    ints = np.full((n, codec.ints_width), -1, np.int64)
    ints[:, 1], ints[:, 2], ints[:, 3] = kind, said.user, said.item
    ids, schema = codec.id_fields, codec.schema
    assert schema.item is not None
    ints[shown, ids.index(schema.user)] = np.array(said.user, np.int64)[shown]
    ints[shown, ids.index(schema.item)] = np.array(said.item, np.int64)[shown]
    e = np.array(said.e, np.int64)
    rank = np.where(said.topic == IMPRESSIONS, IMPRESSION, FEEDBACK_RANK)
    return said, Events(
        time=e, e=e, rank=np.full(n, rank, np.int8), id=np.array(said.id, np.int64),
        value=np.array(said.value, np.float64), ints=ints,
        floats=np.zeros((n, codec.floats_width), np.float32), partition=np.zeros(n, np.int32),
        offset=np.array(said.offset, np.int64), controls={},
    )  # fmt: skip


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ItemEvents).decode
