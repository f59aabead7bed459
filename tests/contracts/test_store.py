"""What every feature store holds. A new one joins by adding itself to `make`."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from features.as_of import pack_as_of
from features.feast_store import FeastStore
from features.rows import row_layouts, stored_kinds
from features.store import MemoryStore, Rows, Store
from features.windows import Aggregates, Entity, Signal, Windows
from model.schema import Field, Schema, Task

SCHEMA = Schema(
    (Field("u", "id"), Field("i", "id")), (Task("click", "binary", 10),), user="u", item="i"
)
AGGREGATES = Aggregates(
    signals=(Signal("click"),), entities=tuple(Entity(k) for k in ("user", "item", "pair"))
)
KEYS = np.array([0, 5, 2**63 - 1], np.int64)
WINDOWS = Windows(SCHEMA, AGGREGATES)
WIDTH = len(row_layouts(WINDOWS)["user"].counts)
apps = itertools.count()
Make = Callable[[], Store]


@pytest.fixture(params=["memory", "feast"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    made: list[Store] = []
    app, url = f"contract-{next(apps)}", None
    if request.param == "feast":
        url = request.getfixturevalue("redis_url")

    def build() -> Store:
        """The store; called again, for Feast, another client of the same."""
        if url:
            made.append(FeastStore(url, app, tmp_path, WINDOWS))
        elif not made:
            made.append(MemoryStore(stored_kinds(AGGREGATES)))
        return made[-1]

    yield build
    for store in made:
        store.close()


def rows(values: dict[int, bytes], impressions: int, feedback: int = 1) -> Rows:
    covered = pack_as_of({("impressions", 0): impressions, ("feedback", 2): feedback})
    n = len(values)
    counts = np.ones((n, WIDTH), np.int64)
    return Rows(np.array([*values], np.int64), [*values.values()], [covered] * n, counts, 1_000)


def test_what_was_written_is_read_by_any_client(make):
    written = rows({0: b"zero", 5: b"\x00\xff" * 300, 2**63 - 1: b"last"}, 7)
    assert make().write("user", written) == 3
    found = make().read({"user": KEYS})["user"]
    assert found.values == written.values and found.as_of == written.as_of
    assert found.mask.all() and (found.keys == KEYS).all()


def test_what_is_missing_is_a_mask(make):
    store = make()
    store.write("user", rows({5: b"five"}, 7))
    found = store.read({"user": KEYS, "item": KEYS[1:2], "pair": KEYS[:0]})
    assert list(found) == ["user", "item", "pair"]
    assert found["user"].mask.tolist() == [False, True, False]
    assert found["user"].values == [b"", b"five", b""] and found["user"].as_of[0] == b""
    assert found["item"].mask.tolist() == [False]
    assert found["pair"].values == [] and found["pair"].mask.shape == (0,)
    assert store.read({}) == {}


def test_a_key_may_be_asked_for_twice(make):
    store = make()
    store.write("item", rows({5: b"five"}, 7))
    assert store.read({"item": KEYS[[1, 1]]})["item"].values == [b"five", b"five"]


def test_a_write_that_covers_no_more_is_skipped(make):
    store = make()
    assert store.write("user", rows({5: b"new"}, impressions=7)) == 1
    for stale in (7, 6, 0):
        assert make().write("user", rows({5: b"again"}, impressions=stale)) == 0
    assert store.write("user", rows({5: b"again", 0: b"other"}, impressions=7)) == 1
    assert store.read({"user": KEYS[:2]})["user"].values == [b"other", b"new"]
    assert store.write("user", rows({5: b"newer"}, impressions=8)) == 1
    assert store.read({"user": KEYS[1:2]})["user"].values == [b"newer"]


def test_a_row_of_two_writers_is_refused_and_stays(make):
    store = make()
    store.write("user", rows({5: b"one"}, impressions=7, feedback=3))
    with pytest.raises(ValueError, match="expected one writer for each row"):
        store.write("user", rows({5: b"two"}, impressions=8, feedback=2))
    assert store.read({"user": KEYS[1:2]})["user"].values == [b"one"]


def test_a_key_twice_in_one_write_is_refused(make):
    twice = rows({5: b"a", 0: b"b"}, 7).take(np.array([0, 0]))
    with pytest.raises(ValueError, match="has a key twice"):
        make().write("user", twice)


def test_an_unknown_kind_is_refused(make):
    with pytest.raises(ValueError, match="kind is 'users': expected one of all, user, item, pair"):
        make().read({"users": KEYS})
    with pytest.raises(ValueError, match="kind is 'users'"):
        make().write("users", rows({}, 7))


def test_nothing_to_write_is_no_error(make):
    assert make().write("user", rows({}, 7)) == 0


def test_many_rows_at_once(make):
    store, many = make(), {n: str(n).encode() * (n % 50 + 1) for n in range(10_000)}
    assert store.write("pair", rows(many, 7)) == len(many)
    keys = np.arange(10_001)
    found = store.read({"user": keys[:5_000], "pair": keys, "item": keys[:3]})
    assert found["pair"].values == [*many.values(), b""]
    assert not found["user"].mask.any() and not found["item"].mask.any()


def test_a_reader_sees_whole_rows_while_they_are_written(make):
    store, seen, done = make(), [], threading.Event()
    store.write("user", rows({5: b"0" * 1000}, 1))
    reader = make()

    def read() -> None:
        while not done.is_set():
            found = reader.read({"user": KEYS[1:2]})["user"]
            seen.append((found.values[0], found.as_of[0]))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for n in range(2, 60):
            store.write("user", rows({5: str(n % 10).encode() * 1000}, n))
    finally:
        done.set()
        thread.join()
    whole = {(str(n % 10).encode() * 1000, rows({5: b""}, n).as_of[0]) for n in range(2, 60)}
    whole.add((b"0" * 1000, rows({5: b""}, 1).as_of[0]))
    assert len(seen) > 1 and set(seen) <= whole
