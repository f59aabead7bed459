"""Which keys have a row of their own: admission after so many sightings, eviction by age and room.

A sighting is a place in a batch that was learnt from. Time is the batches' own; the order of
eviction is that of the last sightings, so it is a function of the batches alone.
"""

from __future__ import annotations

import numpy as np

from model.idmap import find
from model.kernel import kernel
from model.places import SIZE, Places, enter, leave, lengthened, see


class Admission:
    """`rows`: who has a row; `waiting`: who was seen, but not often enough, and how often.

    Not more than `capacity` keys have rows, and as many wait; a new one takes the place of the one
    unseen for longest. One that the batch itself reads keeps its row: where all are such, the new
    one is not admitted. Keys unseen for more than `max_age_ms` leave with the next batches, at
    most twice as many as a batch has places.
    """

    def __init__(
        self, pinned: np.ndarray, admit_after: int, capacity: int | None, max_age_ms: int | None
    ):
        self.after, self.max_age_ms = admit_after, max_age_ms
        self.limited = capacity is not None or max_age_ms is not None
        self.rows = Places(pinned, capacity)
        self.waiting = Places(np.empty(0, np.int64), capacity)
        self.counts = np.zeros(self.waiting.room, np.int32)
        self.marks = np.full(self.rows.room, -1, np.int64)
        self.now_ms = 0

    def admit(
        self, keys: np.ndarray, own: np.ndarray, now_ms: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The places of new rows, their keys' parents (the rows read so far), and who was evicted.

        keys, own int64 [n, slots]: the rows that `keys` read; on return the rows that are theirs.
        """
        self.now_ms = max(self.now_ms, now_ms)
        self.rows.make_ready(keys.size)
        if self.rows.room > len(self.marks):
            self.marks = lengthened(self.marks, self.rows.room, -1)
        if self.after > 1:
            self.waiting.make_ready(keys.size)
            if self.waiting.room > len(self.counts):
                self.counts = lengthened(self.counts, self.waiting.room)
        places, parents = np.empty(keys.size, np.int64), np.empty(keys.size, np.int64)
        gone = np.empty(3 * keys.size if self.limited else 0, np.int64)
        capacity, max_age = (-1 if m is None else m for m in (self.rows.most, self.max_age_ms))
        admitted, evicted = _admit(
            keys, own, self.rows.pinned, self.now_ms, self.after, capacity, max_age,
            self.rows.table, self.waiting.table, self.counts, self.marks, places, parents, gone,
        )  # fmt: skip
        self.rows.map.size, self.waiting.map.size = len(self.rows), len(self.waiting)
        return places[:admitted], parents[:admitted], gone[:evicted]

    def state(self, live: np.ndarray) -> dict[str, np.ndarray]:
        """What decides who comes and goes: nothing, where all are admitted and none ever leaves.

        `turn` is the order of last sightings, of the keys at the places `live` (-1 if pinned).
        """
        if not self.limited:
            return self.rest()
        turn, seen_ms = _turns(self.rows)[live], self.rows.seen_ms[live]
        return {"turn": turn, "seen_ms": seen_ms, **self.rest()}

    def rest(self) -> dict[str, np.ndarray]:
        """Of `state`, what does not stand beside keys with rows."""
        if not self.limited and self.after == 1:
            return {}
        state = {"now_ms": np.array([self.now_ms])}
        if self.after > 1:
            at = self.waiting.live()
            state |= {"waiting": self.waiting.keys[at], "sightings": self.counts[at]}
            if self.limited:
                turn, seen_ms = _turns(self.waiting)[at], self.waiting.seen_ms[at]
                state |= {"waiting_turn": turn, "waiting_seen_ms": seen_ms}
        return state

    def load(self, keys: np.ndarray, state: dict[str, np.ndarray]) -> np.ndarray:
        """Takes over `keys` with rows, pinned ones not among them, and `state()` of these.

        Returns their places.
        """
        if "now_ms" in state:
            self.now_ms = int(state["now_ms"][0])
        places = _entered(self.rows, keys, state.get("turn"), state.get("seen_ms"))
        self.marks = lengthened(self.marks, self.rows.room, -1)
        if "waiting" in state:
            turn, seen_ms = state.get("waiting_turn"), state.get("waiting_seen_ms")
            at = _entered(self.waiting, state["waiting"], turn, seen_ms)
            self.counts = lengthened(self.counts, self.waiting.room)
            self.counts[at] = state["sightings"]
        return places


def _turns(places: Places) -> np.ndarray:
    turns = np.full(places.room, -1, np.int64)
    order = places.in_order()
    turns[order] = np.arange(len(order))
    return turns


def _entered(
    places: Places, keys: np.ndarray, turn: np.ndarray | None, seen_ms: np.ndarray | None
) -> np.ndarray:
    if turn is None or seen_ms is None:
        return places.fill(keys, np.zeros(len(keys), np.int64))
    order = np.argsort(turn)
    at = np.empty(len(keys), np.int64)
    at[order] = places.fill(keys[order], seen_ms[order])
    return at


@kernel
def _admit(  # type: ignore[no-untyped-def]
    keys, own, pinned, now, after, capacity, max_age, rows, waiting, counts, marks, places,
    parents, gone,
):  # fmt: skip
    limited = capacity >= 0 or max_age >= 0
    admitted = evicted = 0
    if limited:
        for i in range(keys.shape[0]):
            for s in range(keys.shape[1]):
                row = own[i, s]
                if row >= pinned and marks[row] < 0:
                    marks[row] = 0
                    see(rows, row, now)
    if max_age >= 0:
        evicted = _expire(rows, now - max_age, 2 * keys.size, gone)
        _expire(waiting, now - max_age, 2 * keys.size, gone[:0])
    for i in range(keys.shape[0]):
        for s in range(keys.shape[1]):
            parent = own[i, s]
            if parent < 0 or parent >= pinned:
                continue
            key = keys[i, s]
            row = find(rows.map_keys, rows.map_values, key)
            if row < 0:
                if after > 1 and not _enough(waiting, counts, key, now, after, capacity):
                    continue
                if capacity >= 0 and rows.at[SIZE] - pinned == capacity:
                    last = rows.newer[0]
                    if marks[last] >= 0:
                        continue
                    gone[evicted] = rows.keys[last]
                    evicted += 1
                    leave(rows, last)
                if after > 1:
                    leave(waiting, find(waiting.map_keys, waiting.map_values, key))
                row = enter(rows, key, now)
                places[admitted] = row
                parents[admitted] = parent
                admitted += 1
                if limited:
                    marks[row] = 0
            own[i, s] = row
    if limited:
        for i in range(keys.shape[0]):
            for s in range(keys.shape[1]):
                if own[i, s] >= 0:
                    marks[own[i, s]] = -1
    return admitted, evicted


@kernel
def _enough(waiting, counts, key, now, after, capacity):  # type: ignore[no-untyped-def]
    """Counts a sighting of a key without a row, and says whether that was enough of them."""
    place = find(waiting.map_keys, waiting.map_values, key)
    if place < 0:
        if waiting.at[SIZE] == capacity:
            leave(waiting, waiting.newer[0])
        place = enter(waiting, key, now)
        counts[place] = 0
    else:
        see(waiting, place, now)
    counts[place] = min(counts[place] + 1, after)
    return counts[place] == after


@kernel
def _expire(t, before, most, gone):  # type: ignore[no-untyped-def]
    """Takes away keys last seen before `before`, the oldest first; keeps them in `gone`."""
    count = 0
    while count < most and t.newer[0] != 0 and t.seen_ms[t.newer[0]] < before:
        if gone.shape[0] > 0:
            gone[count] = t.keys[t.newer[0]]
        leave(t, t.newer[0])
        count += 1
    return count
