"""The events, as they stand on the wire.

JSON, one event a record, versioned (`v`). A record without a value is a heartbeat: its timestamp
says how far its partition has come.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
import xxhash

from model.schema import Field

VERSION = 1
IMPRESSIONS, FEEDBACK, CONTROL = "impressions", "feedback", "control"
TOPICS = (IMPRESSIONS, FEEDBACK, CONTROL)

HEARTBEAT, TICK, CONTROL_RANK, IMPRESSION, FEEDBACK_RANK, CLOSING, END = -1, 0, 1, 2, 3, 4, 5
"""Places in the one order among events of the same millisecond."""

LATEST_TIME_MS = 253_402_300_799_999  # the end of the year 9999
MAX_ID = 2**63 - 1
LARGEST_VALUE = 1e8  # of a feedback; its fixed-point sums hold 22 million of the largest

Id = (
    Annotated[int, msgspec.Meta(ge=0, le=MAX_ID)]
    | Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
)
TimeMs = Annotated[int, msgspec.Meta(ge=0, le=LATEST_TIME_MS)]
Version = Annotated[int, msgspec.Meta(ge=VERSION, le=VERSION)]


def numbers_of(field: Field) -> Any:
    """The type of a series or an image on the wire: a list of as many numbers as its shape has."""
    return Annotated[list[float], msgspec.Meta(min_length=field.numbers, max_length=field.numbers)]


class Features(msgspec.Struct, omit_defaults=True, gc=False):
    """What an impression was scored with: window features, and the history with its weights.

    `as_of` says of which stored rows, where they were stored: kind of row -> topic -> of each
    partition the offset up to which the row covered it. `propensity` is the chance that it was
    shown, where chance had a hand in that. Nothing is learned from either.
    """

    dense: list[float]
    history: list[Id] = []
    weights: list[float] = []
    as_of: dict[str, dict[str, list[int]]] = {}
    propensity: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0


class Feedback(msgspec.Struct, tag="feedback", tag_field="type", omit_defaults=True, gc=False):
    """What a user did about an impression; `user` is the key of its record."""

    id: Id
    time_ms: TimeMs
    impression: Id
    kind: str
    value: float
    user: Id
    item: Id = 0
    v: Version = VERSION


class End(msgspec.Struct, tag="end", tag_field="type", gc=False):
    """The end of a log, in each of its partitions; `time_ms` is the log's last event time."""

    time_ms: TimeMs
    v: Version = VERSION


class Control(msgspec.Struct, tag="control", tag_field="type", omit_defaults=True, gc=False):
    """An operator's command, merged into the order like any other event."""

    id: Id
    time_ms: TimeMs
    command: str
    arguments: dict[str, Any] = {}
    v: Version = VERSION


def may_say(record: bytes, word: str) -> bool:
    """False where a record's JSON surely has no such word: a quick look before it is read."""
    return word.encode() in record or b"\\" in record  # which may be an escaped letter of it


def key(value: int | str) -> int:
    """The 63-bit key of an id: an integer is its own, a string is hashed (XXH3)."""
    return value if isinstance(value, int) else xxhash.xxh3_64_intdigest(value.encode()) & MAX_ID


def keys(values: Sequence[int | str]) -> np.ndarray:
    """`key` of each: int64 [n]."""
    array = np.array(values)
    if array.dtype == np.int64:  # not by conversion, which would read "7" as 7
        return array
    return np.fromiter((key(v) for v in values), np.int64, len(values))
