"""Candidates of one user as impressions in columns, and what they are scored with, for the log."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple, Protocol

import numpy as np
from msgspec import UNSET

from features.codec import Codec
from features.columns import Events
from features.events import IMPRESSION, Features, keys
from features.windows import Windows
from model.batch import Inputs, Layout


class Seen(NamedTuple):
    """What candidates are scored with, and of each row what is logged of that."""

    inputs: Inputs
    logged: Callable[[int], Features]


class FeatureSource(Protocol):
    """Where a server has its windowed features from."""

    codec: Codec
    layout: Layout

    def see(self, events: Events, user: int) -> Seen:
        """Of impressions that nobody has seen yet, all of one user (key). Raises Problem."""

    def start(self) -> None: ...

    def close(self) -> None: ...


def candidate_events(codec: Codec, asked: Any, time_ms: int) -> Events:
    """One impression a candidate of a request, [n], that nobody has seen yet."""
    schema, n = codec.schema, len(asked.candidates)
    ints = np.full((n, codec.ints_width), -1, np.int64)
    floats = np.zeros((n, codec.floats_width), np.float32)
    for column, name in enumerate(codec.id_fields):
        if name == schema.user:
            ints[:, column] = keys([asked.user])
        elif name == schema.item:
            ints[:, column] = keys(asked.candidates)
        else:
            ints[:, column] = keys(_values(asked, name))
    column = len(codec.id_fields)
    for name, size in codec.ids_fields:
        rows = [row[:size] for row in _values(asked, name)]
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        block = np.full((len(rows), size), -1, np.int64)
        block[np.arange(size) < lengths[:, None]] = keys(list(chain.from_iterable(rows)))
        ints[:, column : column + size] = block
        column += size
    for column, name in enumerate(codec.dense_fields):
        floats[:, column] = _values(asked, name)
    column = len(codec.dense_fields)
    for field in schema.grids:
        floats[:, column : column + field.numbers] = _values(asked, field.name)
        column += field.numbers
    times = np.full(n, time_ms, np.int64)
    nothing = np.zeros(n, np.int64)
    return Events(
        time=times, e=times, rank=np.full(n, IMPRESSION, np.int8), id=np.arange(n),
        value=np.zeros(n), ints=ints, floats=floats, partition=nothing.astype(np.int32),
        offset=nothing, controls={},
    )  # fmt: skip


def _values(asked: Any, name: str) -> list[Any]:
    """A field's value for each candidate, or the one that all share."""
    each = getattr(asked.candidate_fields, name)
    return [getattr(asked.context, name)] if each is UNSET else each


def field_values(codec: Codec, asked: Any) -> Callable[[int], dict[str, Any]]:
    """A row's number -> the fields of its candidate's impression, as they were given."""
    schema = codec.schema
    shared: dict[str, Any] = {}
    each: dict[str, list[Any]] = {}
    for field in schema.fields:
        if field.name == schema.user:
            shared[field.name] = asked.user
        elif field.name == schema.item:
            each[field.name] = asked.candidates
        else:
            values = _values(asked, field.name)
            if getattr(asked.candidate_fields, field.name) is UNSET:
                shared[field.name] = values[0]
            else:
                each[field.name] = values
    return lambda row: shared | {name: values[row] for name, values in each.items()}


def logged_features(windows: Windows, user: int, inputs: Inputs) -> Callable[[int], Features]:
    """A row's number -> what it was scored with, so that learning needs to look up nothing.

    `user` is the key of the one user that all rows are of.
    """
    codec, history = windows.codec, windows.history
    items: list[int | str] = []
    if codec.history:
        at = int(history.map.lookup(np.array([user]))[0])
        if at >= 0:
            items = history.columns["item"][at, : history.columns["used"][at]].tolist()

    def of_row(row: int) -> Features:
        dense = inputs.dense[row, codec.raw_columns :].tolist()
        weights = inputs.weights[row, codec.raw_slots :][: len(items)].tolist()
        return Features(dense, items, weights)

    return of_row
