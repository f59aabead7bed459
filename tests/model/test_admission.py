"""Who has a row, against ordered dicts that say the same plainly."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.admission import Admission
from model.places import Places, leave, map_slots

PINNED = np.array([-5, -9], np.int64)
SLOTS = 4
BOUND = st.one_of(st.none(), st.integers(1, 40), st.integers(100, 20_000))


class Plain:
    """Rows and waiting ids by last sighting, the oldest first; one sighting after another."""

    def __init__(self, after: int, capacity: int | None, max_age: int | None):
        self.after, self.capacity, self.max_age = after, capacity, max_age
        self.rows: OrderedDict[int, int] = OrderedDict()
        self.waiting: OrderedDict[int, list[int]] = OrderedDict()

    def learn(self, keys: list[int], now: int) -> set[int]:
        """Returns who was evicted."""
        gone, read = set(), dict.fromkeys(key for key in keys if key in self.rows)
        for key in read:
            self.rows[key] = now
            self.rows.move_to_end(key)
        if self.max_age is not None:
            for table in (self.rows, self.waiting):
                old = [k for k, v in table.items() if self._time(v) < now - self.max_age]
                for key in old[: 2 * len(keys)]:
                    del table[key]
                    gone |= {key} if table is self.rows else set()
        for key in keys:
            if key == 0 or key in self.rows:
                continue
            if self.after > 1 and not self._enough(key, now):
                continue
            if len(self.rows) == self.capacity:
                oldest = next(iter(self.rows))
                if oldest in read:
                    continue
                del self.rows[oldest]
                gone.add(oldest)
            self.waiting.pop(key, None)
            self.rows[key] = now
            read[key] = None
        return gone

    @staticmethod
    def _time(value: int | list[int]) -> int:
        return value if isinstance(value, int) else value[1]

    def _enough(self, key: int, now: int) -> bool:
        if key not in self.waiting and len(self.waiting) == self.capacity:
            self.waiting.popitem(last=False)
        count = min(self.waiting.pop(key, [0, 0])[0] + 1, self.after)
        self.waiting[key] = [count, now]
        return count == self.after


def learn(table: Admission, keys: np.ndarray, now: int) -> tuple[np.ndarray, set[int]]:
    """The rows that the keys of a batch have afterwards, and who was evicted."""
    index = table.rows.map.lookup(keys)
    own = np.where(keys == 0, -1, np.where(index < 0, keys % 2, index))
    return own, set(table.admit(keys, own, now)[2].tolist())


def reloaded(table: Admission) -> Admission:
    live = table.rows.live()
    state, keys = table.state(live), table.rows.keys[live]
    own = keys > 0
    state |= {name: state[name][own] for name in ("turn", "seen_ms") if name in state}
    again = Admission(PINNED, table.after, table.rows.most, table.max_age_ms)
    again.load(keys[own], state)
    return again


def check(table: Admission, plain: Plain) -> None:
    rows, waiting = table.rows, table.waiting
    assert len(rows) == len(plain.rows) + 2
    if table.limited:
        assert rows.keys[rows.in_order()].tolist() == list(plain.rows)
        assert rows.seen_ms[rows.in_order()].tolist() == list(plain.rows.values())
        assert waiting.keys[waiting.in_order()].tolist() == list(plain.waiting)
    else:
        assert set(rows.keys[rows.in_order()].tolist()) == set(plain.rows)
    at = waiting.live()
    counts = dict(zip(waiting.keys[at].tolist(), table.counts[at].tolist(), strict=True))
    assert counts == {key: count for key, (count, _) in plain.waiting.items()}
    keys, places = rows.map.items()
    assert len(set(places.tolist())) == len(places) == len(rows)
    assert (rows.keys[places] == keys).all()
    assert (table.marks == -1).all()


@settings(max_examples=20)
@given(
    st.integers(0, 2**32), st.integers(1, 4), BOUND, st.one_of(st.none(), st.integers(1, 2_000)),
    st.sampled_from([30, 3_000, 10**6]), st.sampled_from([8, 500]),
)  # fmt: skip
def test_a_million_sightings_end_as_in_ordered_dicts(
    seed: int, after: int, capacity: int | None, max_age: int | None, ids: int, n: int
) -> None:
    """20 tables of 50,000 sightings each."""
    draw, now = np.random.default_rng(seed), 0
    table, plain = Admission(PINNED, after, capacity, max_age), Plain(after, capacity, max_age)
    batches = 50_000 // (n * SLOTS)
    for batch in range(batches):
        keys = (ids * draw.random((n, SLOTS)) ** 3).astype(np.int64)
        now += int(draw.integers(0, 60))
        own, gone = learn(table, keys, now)
        assert gone == plain.learn(keys.ravel().tolist(), now)
        has = own > 1
        assert (table.rows.keys[own[has]] == keys[has]).all()
        assert (own[~has & (keys != 0)] == keys[~has & (keys != 0)] % 2).all()
        if batch in (batches // 2, batches - 1):
            check(table, plain)
            table = reloaded(table)
            check(table, plain)


def test_a_burst_of_new_ids_stays_in_its_bounds_and_leaves_with_age() -> None:
    """A million new ids in a minute, then one known id for long enough that they age."""
    table, work = Admission(PINNED, 1, 50_000, 3_600_000), np.zeros((256, SLOTS), np.int64)
    for step in range(1_000):
        work[:] = np.arange(1 + step * work.size, 1 + (step + 1) * work.size).reshape(-1, SLOTS)
        learn(table, work, step * 60)
        assert len(table.rows) <= 50_002 and table.rows.room <= 50_002
    work[:] = work[0, 0]
    for step in range(1 + 50_000 // (2 * work.size)):
        learn(table, work, 4_000_000)
        assert len(table.rows) >= max(3, 50_002 - (step + 1) * 2 * work.size)
    assert len(table.rows) == 3 and len(table.rows.map.keys) == map_slots(50_002)


def test_a_larger_map_is_made_a_part_at_a_time() -> None:
    """1,000 new keys fill at most 64,000 slots and move 16,000 keys, and it is done in time."""
    places, sizes = Places(PINNED), set()
    for start in range(1, 1_500_000, 1_000):
        before = places._next, places._cleared, places._moved
        places.fill(np.arange(start, start + 1_000), np.zeros(1_000, np.int64))
        if places._next is not None and places._next is before[0]:
            assert places._cleared - before[1] <= 64_000 and places._moved - before[2] <= 16_000
        elif before[0] is not None and len(places.map.keys) >= 2**17:
            assert places.map.keys is before[0][0], "given up for one made at once"
            sizes.add(len(places.map.keys))
    assert sizes == {2**17, 2**18, 2**19, 2**20, 2**21, 2**22}
    assert (places.map.lookup(np.arange(1, 1_500_001)) >= 2).all()


def test_keys_come_and_go_while_a_larger_map_is_made() -> None:
    draw, places, oracle, meanwhile = np.random.default_rng(0), Places(PINNED), {}, 0
    for start in range(1, 20_000, 20):
        new = np.arange(start, start + 20)
        oracle |= dict(zip(new.tolist(), places.fill(new, new).tolist(), strict=True))
        for key in draw.choice(list(oracle), 5, replace=False).tolist():
            leave(places.table, oracle.pop(key))
            meanwhile += len(places.table.next_keys) > 0
    assert meanwhile > 100
    keys = np.array(sorted(oracle))
    assert places.map.lookup(keys).tolist() == [oracle[key] for key in keys.tolist()]
    assert places.map.items()[0].tolist() == [*PINNED[::-1].tolist(), *keys.tolist()]


@pytest.mark.parametrize("limits", [(1, None, None), (2, None, None), (1, 3, None), (2, 3, 50)])
def test_state_says_what_decides_the_future_and_no_more(limits: tuple) -> None:
    table = Admission(PINNED, *limits)
    for now, keys in enumerate([[1, 2, 3, 4], [4, 3, 3, 9], [9, 9, 1, 1]]):
        learn(table, np.array([keys]), now)
    state, limited = table.state(table.rows.live()), limits[1:] != (None, None)
    expected = {"turn", "seen_ms"} if limited else set()
    expected |= {"waiting", "sightings"} if limits[0] > 1 else set()
    expected |= {"waiting_turn", "waiting_seen_ms"} if limited and limits[0] > 1 else set()
    assert set(state) == expected | ({"now_ms"} if expected else set())
