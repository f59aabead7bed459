"""What the model would see of a user, and of an item for that user, at a moment: for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from features.as_of import unpack_as_of
from features.columns import Events
from features.events import IMPRESSION, Id, key
from features.store import Found
from features.stored import StoredWindows
from features.windows import Windows


def show(
    stored: StoredWindows, user: int | str, item: int | str | None, time_ms: int
) -> dict[str, Any]:
    """The stored features of `user`, and with `item` those of the item and of the pair.

    Returns `features`, name -> value as the model gets it, `history`, the user's last items (their
    keys) and weights, newest first, and `as_of`, kind -> the source's offsets in the row, or None
    where the store has no row. Raises ValueError for an id that is none, and for an item where the
    application has none; StoreUnavailable.
    """
    schema, codec = stored.schema, stored.codec
    if item is not None and schema.item is None:
        raise ValueError(f"item is {item!r}, but this application's schema names no item")
    ints = np.full((1, codec.ints_width), -1, np.int64)
    ints[0, codec.id_fields.index(schema.user)] = _id_key("user", user)
    if schema.item is not None and item is not None:
        ints[0, codec.id_fields.index(schema.item)] = _id_key("item", item)
    event = _impression(ints, np.zeros((1, codec.floats_width), np.float32), time_ms)
    found = stored.find(event)
    windows = stored.holding(found)
    inputs = windows.read(event)
    values = inputs.dense[0, codec.raw_columns :].tolist()
    shown = ("user", "item", "pair") if item is not None else ("user",)
    return {
        "features": {
            name: value
            for name, value in zip(windows.aggregates.names(), values, strict=True)
            if name.startswith(tuple(f"{kind}_" for kind in shown))
        },
        "history": _history(windows, found, inputs.weights[0, codec.raw_slots :]),
        "as_of": {kind: _offsets(found[kind].as_of[0]) for kind in shown if kind in found},
    }


def _history(
    windows: Windows, found: Mapping[str, Found], weights: np.ndarray
) -> list[dict[str, Any]]:
    if not windows.aggregates.history:
        return []
    at = int(windows.history.map.lookup(found["user"].keys)[0])
    if at < 0:
        return []
    items = windows.history.columns["item"][at, : windows.history.columns["used"][at]].tolist()
    return [{"item": i, "weight": w} for i, w in zip(items, weights.tolist(), strict=False)]


def _offsets(packed: bytes) -> dict[str, int] | None:
    if not packed:
        return None
    return {f"{topic}/{p}": offset for (topic, p), offset in unpack_as_of(packed).items()}


def _id_key(what: str, value: int | str) -> int:
    try:
        return key(msgspec.convert(value, Id))
    except msgspec.ValidationError as error:
        raise ValueError(f"{what} is {value!r}: {error}") from None


def _impression(ints: np.ndarray, floats: np.ndarray, time_ms: int) -> Events:
    time, zero = np.array([time_ms], np.int64), np.zeros(1, np.int64)
    return Events(
        time=time, e=time, rank=np.array([IMPRESSION], np.int8), id=zero, value=np.zeros(1),
        ints=ints, floats=floats, partition=zero.astype(np.int32), offset=zero, controls={},
    )  # fmt: skip
