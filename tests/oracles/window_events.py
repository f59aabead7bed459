"""Small streams of events in columns, for what is tested on windows and their stored rows."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from features.columns import Events
from features.events import FEEDBACK_RANK, IMPRESSION
from features.windows import Aggregates, Entity, Signal, Windows
from model.schema import Field, Schema, Task

SCHEMA = Schema(
    (Field("u", "id"), Field("i", "id"), Field("tags", "ids", size=2), Field("price", "dense")),
    (Task("click", "binary", 10), Task("stars", "regression", 10)),
    user="u",
    item="i",
)
SIGNALS = (Signal("click", per="seen"), Signal("stars"))
WHOLE = Aggregates(
    signals=SIGNALS,
    entities=(
        Entity("user", decays_ms=(100, 1_000)),
        Entity("item", decays_ms=(400,)),
        Entity("pair", rates=False),
    ),
    history=3,
    history_signal="stars",
)
ONLY_HISTORY = Aggregates(signals=SIGNALS, history=3, history_signal="stars")
ONLY_ITEMS = Aggregates(signals=SIGNALS, entities=(Entity("item"),))
SOME = st.sampled_from([WHOLE, ONLY_HISTORY, ONLY_ITEMS])


def columns(windows: Windows, plain: list[dict]) -> Events:
    n, codec = len(plain), windows.codec
    ints = np.full((n, codec.ints_width), -1, np.int64)
    floats = np.zeros((n, codec.floats_width), np.float32)
    for row, p in enumerate(plain):
        if p["kind"] is None:
            ints[row, :2] = [p["u"], p["i"]]
            floats[row, 0] = 0.5
        else:
            ints[row, :4] = [0, codec.kinds.index(p["kind"]), p["u"], p["i"]]
    e = np.array([p["e"] for p in plain], np.int64)
    rank = np.array([IMPRESSION if p["kind"] is None else FEEDBACK_RANK for p in plain], np.int8)
    value = np.array([p.get("value", 1.0) for p in plain])
    zeros = np.zeros(n, np.int64)
    ids = np.array([p["id"] for p in plain], np.int64)
    return Events(e, e, rank, ids, value, ints, floats, zeros.astype(np.int32), zeros, {})


@st.composite
def streams(draw, most=60):
    events = []
    for id in range(draw(st.integers(1, most))):
        event = {"id": id, "kind": draw(st.sampled_from([None, "click", "stars", "seen"]))}
        event |= {"e": draw(st.integers(0, 3_000)), "value": draw(st.floats(-5, 5, width=16))}
        event |= {"u": draw(st.integers(0, 3)), "i": draw(st.integers(0, 4))}
        events.append(event)
    return sorted(events, key=lambda p: (p["e"], p["kind"] is not None, p["id"]))


def asked(windows: Windows, time_ms: int) -> Events:
    """Every user with every item, and some that nobody has met."""
    plain = [{"u": u, "i": i, "kind": None} for u in range(5) for i in range(6)]
    return columns(windows, [p | {"e": time_ms, "id": n} for n, p in enumerate(plain)])


def same(one, other) -> None:
    for name in ("dense", "weights", "keys"):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), name
