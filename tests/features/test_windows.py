"""Windowed features: what a plain version over all past events says, in any order of arrival."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.columns import Events
from features.events import FEEDBACK_RANK, IMPRESSION
from features.windows import Aggregates, Entity, Signal, Windows
from features.windows_kernels import BUCKETS, NEVER_SECONDS, SMOOTHING
from model.digest import tree_hash
from model.idmap import table_key, table_salt
from model.schema import Field, Schema, Task

SCHEMA = Schema(
    (Field("u", "id"), Field("i", "id"), Field("tags", "ids", size=2), Field("price", "dense")),
    (Task("click", "binary", 10), Task("stars", "regression", 10)),
    user="u",
    item="i",
)
AGGREGATES = Aggregates(
    signals=(Signal("click", per="seen"), Signal("stars")),
    entities=(
        Entity("user", decays_ms=(100, 1_000)),
        Entity("item", decays_ms=(400,)),
        Entity("pair", rates=False),
    ),
    history=3,
    history_signal="stars",
)
KINDS = ("click", "stars", "seen")


def columns(windows: Windows, plain: list[dict]) -> Events:
    """Events as the merge would hand them over."""
    n, codec = len(plain), windows.codec
    ints = np.full((n, codec.ints_width), -1, np.int64)
    floats = np.zeros((n, codec.floats_width), np.float32)
    for row, p in enumerate(plain):
        if p["kind"] is None:
            ints[row, : 2 + len(p["tags"])] = [p["u"], p["i"], *p["tags"]]
            floats[row, 0] = p["price"]
        else:
            ints[row, :4] = [0, codec.kinds.index(p["kind"]), p["u"], p["i"]]
    e = np.array([p["e"] for p in plain], np.int64)
    rank = np.array([IMPRESSION if p["kind"] is None else FEEDBACK_RANK for p in plain], np.int8)
    ids = np.array([p["id"] for p in plain], np.int64)
    value = np.array([p["value"] for p in plain])
    zeros = np.zeros(n, np.int64)
    return Events(e, e, rank, ids, value, ints, floats, zeros.astype(np.int32), zeros, {})


def expected(past: list[dict], shown: dict) -> tuple[list[float], list[int], list[float]]:
    """The dense features, the history's items and its weights, from all events before."""

    def mean(events, kind, per, prior=None):
        above = sum(p["value"] for p in events if p["kind"] == kind)
        count = sum(p["kind"] == per for p in events)
        if prior is None:
            return above / count if count else 0.0
        return (above + SMOOTHING * prior) / (count + SMOOTHING)

    signals = (("click", "seen"), ("stars", "stars"))
    priors = [mean(past, *s) for s in signals]
    now, out = shown["e"], [shown["price"]]
    for entity, names, with_rates in (
        (AGGREGATES.entities[0], ("u",), True),
        (AGGREGATES.entities[1], ("i",), True),
        (AGGREGATES.entities[2], ("u", "i"), False),
    ):
        own = [p for p in past if all(p[n] == shown[n] for n in names)]
        times = [p["e"] for p in own if p["kind"] is None]
        out.append(math.log1p(len(times)))
        out.append(math.log1p((now - max(times)) / 1000) if times else NEVER_SECONDS)
        rates = [mean(own, *s, prior) for s, prior in zip(signals, priors, strict=True)]
        if with_rates:
            out += rates
        for tau in entity.decays_ms:
            width = tau // 2
            kept = [p for p in own if now // width - BUCKETS < p["e"] // width]
            weight = [
                math.exp(-max(now - (p["e"] // width * width + width // 2), 0) / tau) for p in kept
            ]
            out.append(
                math.log1p(sum(w for w, p in zip(weight, kept, strict=True) if p["kind"] is None))
            )
            for (kind, per), rate in zip(signals, rates, strict=True):
                pairs = list(zip(weight, kept, strict=True))
                above = sum(w * p["value"] for w, p in pairs if p["kind"] == kind)
                below = sum(w for w, p in pairs if p["kind"] == per)
                out.append((above + SMOOTHING * rate) / (below + SMOOTHING))
        for (kind, _), prior in zip(signals, priors, strict=True):
            told = [(p["e"], p["id"], p["value"]) for p in own if p["kind"] == kind]
            out.append(max(told)[2] if told else prior)
    told = [p for p in past if p["kind"] == "stars" and p["u"] == shown["u"]]
    told = sorted(told, key=lambda p: (p["e"], p["id"]), reverse=True)[:3]
    weights = [(p["value"] - priors[1]) / len(told) for p in told]
    return out, [p["i"] for p in told], weights


@st.composite
def streams(draw):
    events = []
    for id in range(draw(st.integers(1, 40))):
        kind = draw(st.sampled_from([None, *KINDS]))
        value = {None: 0.0, "click": 1.0, "seen": 1.0, "stars": draw(st.integers(1, 10)) / 2}[kind]
        event = {"e": draw(st.integers(0, 3_000)), "id": id, "kind": kind, "value": value}
        event |= {"u": draw(st.integers(0, 2)), "i": draw(st.integers(0, 3))}
        event |= {"tags": draw(st.lists(st.integers(0, 9), max_size=2)), "price": 0.5 * id}
        events.append(event)
    return sorted(events, key=lambda p: (p["e"], p["kind"] is not None, p["id"]))


@settings(max_examples=150)
@given(events=streams(), chunk=st.integers(1, 9))
def test_features_are_those_of_a_plain_version(events, chunk):
    windows = Windows(SCHEMA, AGGREGATES)
    past: list[dict] = []
    for start in range(0, len(events), chunk):
        part = events[start : start + chunk]
        inputs = windows.update(columns(windows, part))
        shown = 0
        for event in part:
            if event["kind"] is None:
                dense, items, weights = expected(past, event)
                np.testing.assert_allclose(inputs.dense[shown], np.float32(dense), rtol=2e-6)
                keys = [table_key(table_salt("i"), i) for i in items]
                assert inputs.keys[shown, 4:].tolist() == keys + [0] * (3 - len(items))
                np.testing.assert_allclose(
                    inputs.weights[shown, 4 : 4 + len(items)], weights, rtol=1e-5, atol=1e-6
                )
                assert inputs.weights[shown, 2:4].sum() == pytest.approx(float(bool(event["tags"])))
                shown += 1
            past.append(event)


@settings(max_examples=100)
@given(events=streams(), data=st.data())
def test_the_state_does_not_depend_on_the_order_of_arrival(events, data):
    in_order, shuffled = Windows(SCHEMA, AGGREGATES), Windows(SCHEMA, AGGREGATES)
    in_order.update(columns(in_order, events))
    for event in data.draw(st.permutations(events)):
        shuffled.update(columns(shuffled, [event]))
    assert tree_hash(in_order.state()) == tree_hash(shuffled.state())


def test_reading_changes_nothing_and_says_what_an_update_would():
    windows = Windows(SCHEMA, AGGREGATES)
    events = [
        {"e": t, "id": t, "kind": kind, "value": 2.0, "u": 1, "i": t % 2, "tags": [], "price": 0.0}
        for t, kind in enumerate([None, "seen", "stars", None, "click", None])
    ]
    windows.update(columns(windows, events))
    before = tree_hash(windows.state())
    shown = [{**events[0], "e": 50, "i": i, "tags": [7]} for i in range(4)]
    read = windows.read(columns(windows, shown))
    assert tree_hash(windows.state()) == before
    one = windows.update(columns(windows, shown[:1]))
    assert (read.dense[0] == one.dense[0]).all() and (read.keys[0] == one.keys[0]).all()


def test_a_loaded_state_goes_on_exactly():
    windows, other = Windows(SCHEMA, AGGREGATES), Windows(SCHEMA, AGGREGATES)
    rng = np.random.default_rng(0)
    events = [
        {"e": 10 * n, "id": n, "kind": (None, *KINDS)[n % 4], "value": 1.0, "tags": [n % 5]}
        | {"u": int(rng.integers(30)), "i": int(rng.integers(30)), "price": 1.0}
        for n in range(3_000)
    ]
    windows.update(columns(windows, events[:1_500]))
    other.load(windows.state())
    a, b = (w.update(columns(w, events[1_500:])) for w in (windows, other))
    assert (a.dense == b.dense).all() and (a.keys == b.keys).all()
    assert tree_hash(windows.state()) == tree_hash(other.state())


def test_no_value_makes_a_weight_of_the_history_large():
    windows = Windows(SCHEMA, AGGREGATES)
    event = {"e": 0, "id": 0, "kind": "stars", "value": 3.0, "u": 1, "i": 2, "tags": []}
    stars = [{**event, "e": t, "id": t, "u": t % 2, "i": t} for t in range(6)]
    stars[5]["value"] = 1e8
    windows.update(columns(windows, stars))
    shown = [{**event, "kind": None, "price": 0.0, "e": 9, "id": 9 + u, "u": u} for u in range(2)]
    events = columns(windows, shown)
    assert windows.read(events).weights[:, 4:].tolist() == [[-8, -8, -8], [8, -8, -8]]
    codec = windows.codec
    events.floats[0, 1] = 1
    events.floats[0, 2 + codec.features :] = [1e8, -1e8, 0.5]
    for inputs in (windows.read(events), windows.update(events)):
        assert inputs.weights[:, 4:].tolist() == [[8, -8, 0.5], [8, -8, -8]]


def test_logged_features_are_taken_as_they_are():
    windows = Windows(SCHEMA, AGGREGATES)
    event = {"e": 5, "id": 1, "kind": None, "value": 0, "u": 1, "i": 2, "tags": [], "price": 3.0}
    logged = columns(windows, [event])
    codec = windows.codec
    logged.floats[0, 1] = 1
    logged.floats[0, 2 : 2 + codec.features] = np.arange(codec.features)
    logged.floats[0, 2 + codec.features :] = [0.5, 0.25, 0]
    logged.ints[0, codec.raw_slots : codec.raw_slots + 2] = [8, 9]
    inputs = windows.update(logged)
    assert inputs.dense[0].tolist() == [3.0, *range(codec.features)]
    assert inputs.weights[0, 4:].tolist() == [0.5, 0.25, 0]
    assert inputs.keys[0, 4] == table_key(table_salt("i"), 8)


@pytest.mark.parametrize(
    ("aggregates", "message"),
    [
        (dict(entities=(("itm",),)), "did you mean 'item'"),
        (
            dict(history=3, history_signal="starz", signals=(Signal("stars"),)),
            "did you mean 'stars'",
        ),
    ],
)
def test_a_wrong_name_is_refused_with_the_nearest(aggregates, message):
    with pytest.raises(ValueError, match=message):
        made = {
            k: tuple(Entity(*e) for e in v) if k == "entities" else v for k, v in aggregates.items()
        }
        Windows(SCHEMA, Aggregates(**made))
