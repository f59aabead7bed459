from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.idmap import EMPTY, IdMap, drop, find, put, table_key, table_keys, table_salt

KEY = st.one_of(st.integers(-20, 20), st.integers(EMPTY + 1, 2**63 - 1))
STEP = st.tuples(st.sampled_from(["insert", "remove"]), st.lists(KEY, max_size=30))


@settings(max_examples=150)
@given(st.lists(STEP, max_size=20))
def test_map_holds_what_a_dict_holds(steps: list[tuple[str, list[int]]]) -> None:
    table, oracle, row = IdMap(), {}, 0
    for action, keys in steps:
        array = np.array(keys, np.int64)
        if action == "insert":
            added = table.insert(array, np.arange(row, row + array.size))
            assert added == len(set(keys) - set(oracle))
            for key in keys:
                oracle[key], row = row, row + 1
        else:
            assert table.remove(array) == len(set(keys) & set(oracle))
            for key in keys:
                oracle.pop(key, None)
    keys, values = table.items()
    assert dict(zip(keys.tolist(), values.tolist(), strict=True)) == oracle
    assert keys.tolist() == sorted(oracle) and len(table) == len(oracle)
    assert (table.lookup(keys) == values).all()


def test_map_grows_before_it_is_full() -> None:
    table = IdMap()
    for start in range(0, 5_000, 7):
        table.insert(np.arange(start, start + 7), np.arange(start, start + 7))
        assert len(table) <= 0.6 * table.keys.size
    assert (table.lookup(np.arange(5_000)) == np.arange(5_000)).all()
    assert (table.lookup(np.arange(6_000, 6_100)) == -1).all()


def test_dropping_inside_a_run_of_collisions_loses_no_other_key() -> None:
    keys, values = np.full(8, EMPTY, np.int64), np.zeros(8, np.int64)
    for key in range(7):
        put(keys, values, key, key * 10)
    for gone in range(7):
        assert drop(keys, values, gone) == gone * 10
        assert drop(keys, values, gone) == -1
        for key in range(gone + 1, 7):
            assert find(keys, values, key) == key * 10


def test_empty_mark_is_refused_as_a_key() -> None:
    with pytest.raises(ValueError, match="empty slot"):
        IdMap().insert(np.array([EMPTY]), np.array([1]))


def test_lookup_keeps_the_shape() -> None:
    table = IdMap()
    table.insert(np.array([5, 0]), np.array([1, 2]))
    assert table.lookup(np.array([[5, 6], [0, 5]])).tolist() == [[1, -1], [2, 1]]


def test_table_keys_are_positive_and_differ_by_table() -> None:
    ids = np.array([0, 1, -1, 2**63 - 1, EMPTY], np.int64)
    users, items = table_salt("user"), table_salt("item")
    a, b = table_keys(users, ids), table_keys(items, ids)
    assert (a > 0).all() and (b > 0).all()
    assert len({*a.tolist(), *b.tolist()}) == 10
    assert a[1] == table_key(users, 1)


def test_table_key_is_the_same_in_every_version() -> None:
    # splitmix64 with state 0 gives 0xE220A8397B1DCDAF first (Vigna's reference code).
    assert table_key(0, 0) == 0xE220A8397B1DCDAF >> 1
