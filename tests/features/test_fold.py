"""Events folded into stored rows: once each, whatever is delivered again and written in part."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from window_events import SCHEMA, SOME, WHOLE, asked, columns, same, streams

from features.as_of import unpack_as_of
from features.columns import Events
from features.fold import Fold
from features.rows import event_keys, stored_kinds
from features.store import MemoryStore, Rows
from features.stored import StoredWindows
from features.windows import Aggregates, Entity, Windows

SOURCES = [("impressions", 0), ("feedback", 0)]


def numbered(windows: Windows, plain: list[dict]) -> Events:
    """The events with their sources, and offsets that count up in each."""
    events = columns(windows, plain)
    source = np.array([p["kind"] is not None for p in plain], np.int32)
    offset = np.zeros(len(plain), np.int64)
    for s in (0, 1):
        offset[source == s] = np.arange(int((source == s).sum()))
    return dataclasses.replace(events, partition=source, offset=offset)


def deliver(store, folds, windows: Windows, events: Events, until: int = 99) -> None:
    """One batch into the store, but only the first `until` kinds of its rows."""
    covered = {
        tp: int(events.offset[events.partition == s].max()) + 1
        for s, tp in enumerate(SOURCES)
        if (events.partition == s).any()
    }
    for kind, keys in [*event_keys(windows, events).items()][:until]:
        found = store.read({kind: np.unique(keys)})[kind]
        rows = folds[kind].rows(found, events, keys, SOURCES, covered, int(events.e.max()))
        store.write(kind, rows)


@settings(max_examples=80)
@given(
    aggregates=SOME,
    plain=streams(),
    batches=st.lists(st.tuples(st.integers(0, 8), st.integers(1, 20), st.integers(0, 5))),
)
def test_each_event_counts_once_however_it_is_delivered(aggregates, plain, batches):
    windows = Windows(SCHEMA, aggregates)
    store = MemoryStore(stored_kinds(aggregates))
    folds = {kind: Fold(SCHEMA, aggregates, kind) for kind in stored_kinds(aggregates)}
    events, done = numbered(windows, plain), 0
    for back, size, until in batches:  # some again, some new, not all of it written
        start = max(0, done - back)
        part = events.take(np.arange(start, min(len(plain), start + size)))
        if len(part):
            deliver(store, folds, windows, part, until)
            done = start if until < len(folds) else max(done, start + size)
    if done < len(plain):
        deliver(store, folds, windows, events.take(np.arange(max(0, done), len(plain))))
    windows.update(columns(windows, plain))
    wanted = asked(windows, plain[-1]["e"] + 50)
    same(StoredWindows(store.read, SCHEMA, aggregates).read(wanted), windows.read(wanted))


def test_rows_that_had_it_all_come_back_as_they_were():
    windows = Windows(SCHEMA, WHOLE)
    fold = Fold(SCHEMA, WHOLE, "user")
    events = numbered(windows, [{"e": 1, "id": 1, "kind": None, "u": 1, "i": 2}])
    keys = event_keys(windows, events)["user"]
    store = MemoryStore(["user"])
    rows = fold.rows(store.read({"user": keys})["user"], events, keys, SOURCES, {SOURCES[0]: 9}, 5)
    store.write("user", rows)
    again = fold.rows(store.read({"user": keys})["user"], events, keys, SOURCES, {SOURCES[0]: 1}, 5)
    assert list(again.values) == list(rows.values)
    assert unpack_as_of(again.as_of[0]) == {SOURCES[0]: 9}


def test_a_stored_row_of_other_aggregates_is_refused():
    windows = Windows(SCHEMA, WHOLE)
    events = numbered(windows, [{"e": 1, "id": 1, "kind": None, "u": 1, "i": 2}])
    keys = event_keys(windows, events)["item"]
    store = MemoryStore(["item"])

    def folded(aggregates: Aggregates) -> Rows:
        found = store.read({"item": keys})["item"]
        fold = Fold(SCHEMA, aggregates, "item")
        return fold.rows(found, events, keys, SOURCES, {SOURCES[0]: 1}, 5)

    store.write("item", folded(WHOLE))
    with pytest.raises(ValueError, match="were the application's aggregates changed"):
        folded(dataclasses.replace(WHOLE, entities=(Entity("item", decays_ms=(401,)),)))
