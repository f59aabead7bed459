"""Stored rows hold what the live windows hold: the same inputs from both, to the last bit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from window_events import ONLY_ITEMS, SCHEMA, SOME, WHOLE, asked, columns, same, streams

from features.as_of import advances, pack_as_of, union, unpack_as_of
from features.columns import Events
from features.rows import ALL, entity_keys, load_rows, pack_rows, row_layouts, stored_kinds
from features.show import show
from features.store import Found, MemoryStore
from features.stored import StoredWindows
from features.windows import Aggregates, Entity, Signal, Windows
from model.digest import tree_hash


def write(store: MemoryStore, windows: Windows, events: Events, covered: int) -> None:
    touched = entity_keys(windows, events)
    for kind, rows in pack_rows(windows, touched, {("feedback", 0): covered}, 0).items():
        store.write(kind, rows)


@settings(max_examples=120)
@given(aggregates=SOME, events=streams(), chunk=st.integers(1, 20), after=st.integers(0, 5_000))
def test_inputs_from_stored_rows_are_those_of_the_live_windows(aggregates, events, chunk, after):
    windows = Windows(SCHEMA, aggregates)
    store = MemoryStore(stored_kinds(aggregates))
    stored = StoredWindows(store.read, SCHEMA, aggregates)
    for start in range(0, len(events), chunk):
        part = columns(windows, events[start : start + chunk])
        windows.update(part)
        write(store, windows, part, start + 1)
        wanted = asked(windows, events[min(start + chunk, len(events)) - 1]["e"] + after)
        same(stored.read(wanted), windows.read(wanted))


@settings(max_examples=60)
@given(events=streams(), cut=st.integers(0, 60))
def test_windows_that_were_loaded_from_rows_go_on_exactly(events, cut):
    whole, first, second = (Windows(SCHEMA, WHOLE) for _ in range(3))
    whole.update(columns(whole, events))
    before, after = columns(first, events[:cut]), columns(first, events[cut:])
    first.update(before)
    store = MemoryStore(stored_kinds(WHOLE))
    write(store, first, before, 1)
    load_rows(second, store.read(entity_keys(second, columns(second, events))))
    second.update(after)
    assert tree_hash(second.state()) == tree_hash(whole.state())


def test_a_row_has_nothing_of_another_entity():
    windows = Windows(SCHEMA, WHOLE)
    events = [{"e": n, "id": n, "kind": "stars", "u": 1, "i": n} for n in range(3)]
    events += [{"e": 9, "id": 9, "kind": None, "u": 2, "i": 0}]
    windows.update(columns(windows, events))
    full = Windows(SCHEMA, WHOLE)
    full.load(windows.state())  # its arrays have no row to spare
    store = MemoryStore(stored_kinds(WHOLE))
    write(store, full, columns(full, events), 1)
    alone = show(StoredWindows(store.read, SCHEMA, WHOLE), 2, None, 10)
    assert alone["history"] == [] and alone["features"]["user_log_impressions"] > 0


def test_packed_are_the_known_keys_with_their_counts():
    windows = Windows(SCHEMA, WHOLE)
    kinds = [None, None, "click", "stars", "stars", "stars"]
    events = columns(
        windows, [{"e": n, "id": n, "kind": k, "u": 1, "i": 2} for n, k in enumerate(kinds)]
    )
    windows.update(events)
    touched = {"user": np.array([0, 1]), ALL: np.array([4])}
    packed = pack_rows(windows, touched, {("feedback", 0): 6}, 70)
    assert row_layouts(windows)["user"].counts == (
        *("impressions", "count_click", "count_stars", "count_seen"),
    )
    for kind, key in (("user", 1), (ALL, 4)):
        assert packed[kind].keys.tolist() == [key]
        assert packed[kind].counts.tolist() == [[2, 1, 3, 0]]
        assert packed[kind].time_ms == 70
        assert unpack_as_of(packed[kind].as_of[0]) == {("feedback", 0): 6}


def test_a_read_leaves_nothing_behind():
    windows, stores = Windows(SCHEMA, WHOLE), [MemoryStore(stored_kinds(WHOLE)) for _ in "ab"]
    stored = StoredWindows(lambda wanted: stores[-1].read(wanted), SCHEMA, WHOLE)
    events = columns(windows, [{"e": 1, "id": 1, "kind": "stars", "u": 1, "i": 2}])
    windows.update(events)
    write(stores[-1], windows, events, 1)
    same(stored.read(asked(windows, 5)), windows.read(asked(windows, 5)))
    stores.pop()
    same(stored.read(asked(windows, 5)), Windows(SCHEMA, WHOLE).read(asked(windows, 5)))


def test_overall_rows_of_several_partitions_add_up():
    whole, events = Windows(SCHEMA, WHOLE), [
        {"e": n, "id": n, "kind": (None, "seen", "click", "stars")[n % 4], "u": n % 3, "i": n % 2}
        for n in range(50)
    ]  # fmt: skip
    whole.update(columns(whole, events))
    store = MemoryStore(stored_kinds(WHOLE))
    write(store, whole, columns(whole, events), 1)
    for partition in range(3):
        own = Windows(SCHEMA, WHOLE)
        part = columns(own, [p for p in events if p["u"] == partition])
        own.update(part)
        touched = {ALL: entity_keys(own, part, partition)[ALL]}
        store.write(ALL, pack_rows(own, touched, {("feedback", partition): 9}, 0)[ALL])
    wanted = asked(whole, 100)
    same(StoredWindows(store.read, SCHEMA, WHOLE, partitions=3).read(wanted), whole.read(wanted))


@settings(max_examples=100)
@given(
    values=arrays.arrays(
        np.int64,
        (3, row_layouts(Windows(SCHEMA, WHOLE))["pair"].width),
        elements=st.integers(-(2**63), 2**63 - 1),
        fill=st.just(0),
    )
)
def test_any_integers_survive_packing(values):
    layout = row_layouts(Windows(SCHEMA, WHOLE))["pair"]
    packed = layout.pack(values)
    assert (layout.unpack(packed, np.arange(3)) == values).all()
    assert packed == layout.pack(values)


def test_the_bytes_of_a_row_stay_what_they_are():
    layout = dataclasses.replace(
        row_layouts(Windows(SCHEMA, ONLY_ITEMS))["item"], columns=(("a", 9),)
    )
    packed = layout.pack(np.array([[1, 0, -1, 300, 0, 0, 0, 0, 2]], np.int64))[0]
    assert packed == layout.header + bytes([0b00001101, 0b1, 2, 1, 0xD8, 0x04, 4])


@pytest.mark.parametrize("spoil", ["cut", "longer", "header", "endless"])
def test_a_row_that_is_not_whole_is_refused_by_its_key(spoil):
    layout = row_layouts(Windows(SCHEMA, WHOLE))["item"]
    one = layout.pack(np.ones((1, layout.width), np.int64))[0]
    bad = {
        "cut": one[:-1],
        "longer": one + b"\0",
        "header": b"\xff" + one[1:],
        "endless": one[:-1] + b"\xff" * 12,
    }[spoil]
    with pytest.raises(ValueError, match="the item row of key 8 begins with"):
        layout.unpack([one, bad, one], np.array([7, 8, 9]))


@pytest.mark.parametrize(
    "changed",
    [
        {"signals": (Signal("click", per="seen"), Signal("stars"), Signal("more"))},
        {"entities": (Entity("item", decays_ms=(401,)),)},
        {"entities": (Entity("item", decays_ms=(400, 500)),)},
    ],
)
def test_rows_of_other_aggregates_are_refused(changed):
    windows = Windows(SCHEMA, WHOLE)
    events = columns(windows, [{"e": 1, "id": 1, "kind": None, "u": 1, "i": 2}])
    windows.update(events)
    store = MemoryStore(stored_kinds(WHOLE))
    write(store, windows, events, 1)
    other = dataclasses.replace(ONLY_ITEMS, **changed)
    with pytest.raises(ValueError, match="were the application's aggregates changed"):
        StoredWindows(store.read, SCHEMA, other).read(asked(Windows(SCHEMA, other), 5))


OFFSETS = st.dictionaries(
    st.tuples(st.sampled_from(["impressions", "feedback"]), st.integers(0, 3)), st.integers(0, 9)
)


@given(a=OFFSETS, b=OFFSETS)
def test_offsets_covered_are_compared_partition_by_partition(a, b):
    one, other = pack_as_of(a), pack_as_of(b)
    assert unpack_as_of(one) == {tp: n for tp, n in a.items() if n}
    assert pack_as_of(dict(reversed(a.items()))) == one
    both = unpack_as_of(union(one, other))
    assert both == {tp: n for tp in {**a, **b} if (n := max(a.get(tp, 0), b.get(tp, 0)))}
    more = any(n > b.get(tp, 0) for tp, n in a.items())
    less = any(n > a.get(tp, 0) for tp, n in b.items())
    if more and less:
        with pytest.raises(ValueError, match="neither covers the other"):
            advances(one, other)
    else:
        assert advances(one, other) == more


def test_what_is_shown_is_what_the_model_gets():
    windows = Windows(SCHEMA, WHOLE)
    events = columns(
        windows,
        [
            {"e": 10, "id": 1, "kind": None, "u": 1, "i": 2},
            {"e": 20, "id": 2, "kind": "stars", "value": 4.0, "u": 1, "i": 2},
            {"e": 30, "id": 3, "kind": "stars", "value": 2.0, "u": 1, "i": 3},
        ],
    )
    windows.update(events)
    store = MemoryStore(stored_kinds(WHOLE))
    write(store, windows, events, 3)
    stored = StoredWindows(store.read, SCHEMA, WHOLE)
    seen = show(stored, 1, 2, 500)
    one = columns(windows, [{"e": 500, "id": 9, "kind": None, "u": 1, "i": 2}])
    inputs = windows.read(one)
    assert list(seen["features"]) == WHOLE.names()
    assert list(seen["features"].values()) == inputs.dense[0, 1:].tolist()
    assert seen["history"] == [{"item": 3, "weight": -0.5}, {"item": 2, "weight": 0.5}]
    assert seen["as_of"] == {k: {"feedback/0": 3} for k in ("user", "item", "pair")}
    alone = show(stored, 1, None, 500)
    assert all(name.startswith("user_") for name in alone["features"])
    assert alone["history"] == seen["history"] and list(alone["as_of"]) == ["user"]
    nobody = show(stored, "a stranger", None, 500)
    assert nobody["history"] == [] and nobody["as_of"] == {"user": None}
    with pytest.raises(ValueError, match="user is -1"):
        show(stored, -1, None, 500)


def test_an_application_without_aggregates_reads_no_store():
    bare = Aggregates()

    def read(wanted: object) -> dict[str, Found]:
        raise AssertionError("read")

    windows = Windows(SCHEMA, bare)
    wanted = asked(windows, 5)
    same(StoredWindows(read, SCHEMA, bare).read(wanted), windows.read(wanted))
    assert show(StoredWindows(read, SCHEMA, bare), 1, 2, 5)["features"] == {}
