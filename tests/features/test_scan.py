"""The scanner reads what msgspec reads, to the last bit, or leaves it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.codec import Codec
from features.events import FEEDBACK, IMPRESSIONS, LATEST_TIME_MS, MAX_ID
from model.schema import Field, Schema, Task

schema = Schema(
    fields=(
        Field("user", "id"),
        Field("price", "dense"),
        Field("item", "id"),
        Field("tags", "ids", 3),
        Field("weight", "dense"),
    ),
    tasks=(
        Task("click", "binary", 1000),
        Task("stars", "multiclass", 1000, classes=3),
        Task("seconds", "regression", 1000, transform="log1p"),
    ),
    user="user",
    item="item",
)
codec = Codec(schema, features=2, history=3, more_kinds=("feedback", "shared"))
plain = Codec(schema, features=2, history=3, more_kinds=("feedback", "shared"))
plain._scanner.scan = lambda topic, values, events: np.zeros(len(values), np.bool_)  # type: ignore[method-assign]

numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.floats(0, 1).map(lambda x: round(x, 4)),
    st.sampled_from([0, 1, -0.0, 3.4e38, 3.5e38, 1e22, 1e23, 2**53 + 1, 123456789012345678]),
)
whole = st.one_of(
    st.integers(0, 10**12),
    st.sampled_from([0, 10**18 - 1, 10**18, MAX_ID, MAX_ID + 1, -1, 1.0, "a7", "ünï", "", None]),
)
lists = st.lists(whole, max_size=4)
logged = st.fixed_dictionaries(
    {"dense": st.lists(numbers, min_size=2, max_size=2) | st.lists(numbers, max_size=3)},
    optional={
        "history": lists,
        "weights": st.lists(numbers, max_size=4),
        "as_of": st.sampled_from(
            [{}, {"user": {}}, {"user": {"feedback": [1, 2], "x": []}, "item": {"y": [3]}}, [1]]
        ),
    },
)
times = st.integers(0, 2000) | st.sampled_from([LATEST_TIME_MS, LATEST_TIME_MS + 1])
shown = st.fixed_dictionaries(
    {
        "type": st.just("impression"),
        "id": whole,
        "time_ms": times,
        "fields": st.fixed_dictionaries(
            {
                "user": whole,
                "price": numbers | st.booleans(),
                "item": whole,
                "tags": lists,
                "weight": numbers,
            }
        ),
    },
    optional={"features": st.none() | logged, "v": st.sampled_from([1, 1, 2])},
)
told = st.fixed_dictionaries(
    {
        "type": st.just("feedback"),
        "id": whole,
        "time_ms": times,
        "impression": whole,
        "kind": st.sampled_from(["click", "stars", "seconds", "shared", "feedback", "clock"]),
        "value": numbers,
        "user": whole,
    },
    optional={"item": whole, "v": st.sampled_from([1, 1, 2])},
)


@st.composite
def records(draw, events):
    """An event's JSON: as it is, in another order or form, with more or less, or damaged."""
    event = draw(events)
    how = draw(st.sampled_from(["as it is"] * 4 + ["order", "more", "less", "spaced", "damaged"]))
    if how == "order":
        event = dict(draw(st.permutations(list(event.items()))))
    elif how == "more":
        event |= {draw(st.sampled_from(["extra", "features", "v", "item"])): 1}
    elif how == "less":
        event.pop(draw(st.sampled_from(sorted(event))))
    value = json.dumps(event, **({"indent": 1} if how == "spaced" else {"separators": (",", ":")}))
    record = bytearray(value.encode())
    if how == "damaged":
        for _ in range(draw(st.integers(1, 3))):
            at = draw(st.integers(0, len(record) - 1))
            record[at : at + draw(st.integers(0, 1))] = draw(
                st.sampled_from([b"", b"{", b"}", b'"', b",", b"0", b"-", b".", b"e", b" ", b"\\"])
            )
    return bytes(record)


def assert_same(topic, values):
    offsets, timestamps = range(len(values)), [1000] * len(values)
    events, bad = codec.decode(topic, 0, offsets, timestamps, values)
    wanted, wanted_bad = plain.decode(topic, 0, offsets, timestamps, values)
    assert bad == wanted_bad
    for name in ("time", "rank", "id", "value", "ints", "floats", "offset"):
        assert getattr(events, name).tobytes() == getattr(wanted, name).tobytes(), name


@settings(max_examples=300, deadline=None)
@given(st.lists(records(shown) | st.none(), max_size=4))
def test_impressions_are_read_as_by_msgspec(values):
    assert_same(IMPRESSIONS, values)


@settings(max_examples=300, deadline=None)
@given(st.lists(records(told) | st.none(), max_size=4))
def test_feedback_is_read_as_by_msgspec(values):
    assert_same(FEEDBACK, values)


@pytest.mark.parametrize("topic", [IMPRESSIONS, FEEDBACK])
def test_what_the_codec_writes_is_scanned(topic):
    if topic == IMPRESSIONS:
        single = float(np.float32(0.1))  # 17 digits
        fields = {"user": 7, "price": 0.1, "item": 9, "tags": [1, 2], "weight": 1e-5}
        seen = {"dense": [single, 2.5], "history": [5], "weights": [single], "as_of": {}}
        event = {"type": "impression", "id": 1, "time_ms": 5, "fields": fields, "features": seen}
    else:
        event = {"type": "feedback", "id": 1, "time_ms": 5, "impression": 2, "kind": "seconds"}
        event |= {"value": 0.25, "user": 7}
    value = codec.encode(event)
    events, _ = codec.decode(topic, 0, [0], [5], [value])
    assert codec._scanner.scan(topic, [value], events).all()
