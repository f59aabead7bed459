"""Keys to places in arrays of rows, and the order in which the keys were last seen.

A place is the number of a row. The places from `first` on are in a ring of links, from the key
unseen for longest to the one seen last, which begins and ends at place 0; those before are pinned
and in no order. A key that leaves gives its place to the next new one. Every call does bounded
work, however many keys there are: nothing sweeps, and nothing is copied at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from model.idmap import EMPTY, LEAST_CAPACITY, IdMap, drop, put
from model.kernel import kernel

SIZE, HIGH, FREE = range(3)
CHUNK = 65_536
"""Places that arrays grow by. glibc moves large arrays by their page tables: no byte is copied."""


class Table(NamedTuple):
    """What kernels see of `Places`. `next_*` is the larger map in the making, or empty; `at` holds
    the number of keys, the first place never used, and the first free one (0 for none), from which
    `newer` leads to the others."""

    map_keys: np.ndarray
    map_values: np.ndarray
    next_keys: np.ndarray
    next_values: np.ndarray
    keys: np.ndarray
    older: np.ndarray
    newer: np.ndarray
    seen_ms: np.ndarray
    at: np.ndarray


class Places:
    """`pinned` keys at the first places, and at most `most` others (None for no bound)."""

    def __init__(self, pinned: np.ndarray, most: int | None = None):
        self.pinned, self.most = len(pinned), most
        self.first = max(self.pinned, 1)
        self.map = IdMap()
        self.at = np.array([self.pinned, self.first, 0], np.int64)
        self.keys, self.seen_ms = np.empty(0, np.int64), np.empty(0, np.int64)
        self.older, self.newer = np.empty(0, np.int32), np.empty(0, np.int32)
        self._next: tuple[np.ndarray, np.ndarray] | None = None
        self._cleared = self._moved = self._paced = 0
        self.map.insert(pinned, np.arange(self.pinned))
        self.make_ready(0)
        self.keys[: self.pinned] = pinned

    def __len__(self) -> int:
        return int(self.at[SIZE])

    @property
    def room(self) -> int:
        """Places that there is memory for."""
        return len(self.keys)

    @property
    def table(self) -> Table:
        """For kernels, until the next `make_ready`."""
        larger = self._next
        if larger is None or self._cleared < len(larger[0]):
            larger = (self.keys[:0], self.keys[:0])
        return Table(
            self.map.keys, self.map.values, larger[0], larger[1], self.keys, self.older, self.newer,
            self.seen_ms, self.at,
        )  # fmt: skip

    def make_ready(self, more: int) -> None:
        """Makes room for `more` keys to `enter`, as far as `most` lets them."""
        if self.most is not None:
            more = min(more, self.pinned + self.most - len(self))
        wanted = self.first + len(self) - self.pinned + more
        if wanted > self.room:
            room = max(wanted, self.room + min(max(self.room, 1024), CHUNK))
            if self.most is not None:
                room = min(room, self.first + self.most)
            self.keys = lengthened(self.keys, room, EMPTY)
            self.older, self.newer = lengthened(self.older, room), lengthened(self.newer, room)
            self.seen_ms = lengthened(self.seen_ms, room)
        self._widen(more)

    def _widen(self, more: int) -> None:
        """A larger map is begun at 50 % and has taken over before 60 %: it is made at the pace at
        which keys come, 64 slots and then 16 keys for each."""
        grown, slots = max(len(self) - self._paced, 0), len(self.map.keys)
        self._paced = self.map.size = len(self)
        bound = None if self.most is None else map_slots(self.pinned + self.most)
        if self._next is None and len(self) * 2 > slots and slots != bound:
            self._next = np.empty(2 * slots, np.int64), np.empty(2 * slots, np.int64)
            self._cleared = self._moved = 0
        if (len(self) + more) * 5 > slots * 3:  # more at once than the pace is made for
            self.map.reserve(more)
            self._next = None
        if self._next is None:
            return
        keys, values = self._next
        if self._cleared < len(keys):
            begin, self._cleared = self._cleared, min(self._cleared + 64 * grown, len(keys))
            keys[begin : self._cleared] = EMPTY
            return
        begin, self._moved = self._moved, min(self._moved + 16 * grown, self.used)
        _copy(self.keys, begin, self._moved, keys, values)
        if self._moved == self.used:
            self.map.keys, self.map.values = self._next
            self._next = None

    def fill(self, keys: np.ndarray, seen_ms: np.ndarray) -> np.ndarray:
        """Enters `keys`, the one unseen for longest first; returns their places."""
        self.make_ready(len(keys))
        places = np.empty(len(keys), np.int64)
        _enter_all(self.table, keys, seen_ms, places)
        self.map.size = len(self)
        return places

    @property
    def used(self) -> int:
        """The first place that no key has had yet."""
        return int(self.at[HIGH])

    def is_live(self, places: np.ndarray) -> np.ndarray:
        """bool, of `places` below `used`: whether there is a key."""
        return self.keys[places] != EMPTY

    def live(self) -> np.ndarray:
        """All places with a key, in the order of the keys."""
        places = np.flatnonzero(self.keys[: self.used] != EMPTY)
        return places[np.argsort(self.keys[places])]

    def in_order(self) -> np.ndarray:
        """The places that are not pinned, the one unseen for longest first."""
        places = np.empty(len(self) - self.pinned, np.int64)
        _walk(self.newer, places)
        return places

    def last(self, n: int) -> np.ndarray:
        """Of `in_order`, the last n."""
        places = np.empty(n, np.int64)
        _walk(self.older, places)
        return places[::-1]


def map_slots(keys: int) -> int:
    """Slots of an `IdMap` grown for so many keys."""
    slots = LEAST_CAPACITY
    while keys * 5 > slots * 3:
        slots *= 2
    return slots


def lengthened(array: np.ndarray, n: int, value: float = 0) -> np.ndarray:
    """`array` with n rows in all, new ones filled with `value`; the old object is no longer good,
    nor is any view of it."""
    old = len(array)
    array.resize((n, *array.shape[1:]), refcheck=False)
    if value != 0:
        array[old:] = value
    return array


@kernel
def enter(t, key, now):  # type: ignore[no-untyped-def]
    """The place of a key that is not there, as the one seen last."""
    place = t.at[FREE]
    if place > 0:
        t.at[FREE] = t.newer[place]
    else:
        place = t.at[HIGH]
        t.at[HIGH] += 1
    t.at[SIZE] += 1
    t.keys[place] = key
    put(t.map_keys, t.map_values, key, place)
    if t.next_keys.shape[0] > 0:
        put(t.next_keys, t.next_values, key, place)
    _link(t, place, now)
    return place


@kernel
def leave(t, place):  # type: ignore[no-untyped-def]
    """Takes away the key at `place`, and gives the place free."""
    key = t.keys[place]
    drop(t.map_keys, t.map_values, key)
    if t.next_keys.shape[0] > 0:
        drop(t.next_keys, t.next_values, key)
    _unlink(t, place)
    t.keys[place] = EMPTY
    t.newer[place] = t.at[FREE]
    t.at[FREE] = place
    t.at[SIZE] -= 1


@kernel
def see(t, place, now):  # type: ignore[no-untyped-def]
    """Makes the key at `place` the one seen last, at `now`."""
    _unlink(t, place)
    _link(t, place, now)


@kernel
def _unlink(t, place):  # type: ignore[no-untyped-def]
    t.newer[t.older[place]] = t.newer[place]
    t.older[t.newer[place]] = t.older[place]


@kernel
def _link(t, place, now):  # type: ignore[no-untyped-def]
    last = t.older[0]
    t.newer[last], t.older[place] = place, last
    t.newer[place], t.older[0] = 0, place
    t.seen_ms[place] = now


@kernel
def _copy(keys, begin, end, map_keys, map_values):  # type: ignore[no-untyped-def]
    for place in range(begin, end):
        if keys[place] != EMPTY:
            put(map_keys, map_values, keys[place], place)


@kernel
def _enter_all(t, keys, seen_ms, places):  # type: ignore[no-untyped-def]
    for i in range(keys.shape[0]):
        places[i] = enter(t, keys[i], seen_ms[i])


@kernel
def _walk(links, places):  # type: ignore[no-untyped-def]
    place = links[0]
    for i in range(places.shape[0]):
        places[i] = place
        place = links[place]
