"""The one order of all partitions' events, whatever was fetched when.

Effective time e = max(event time, the partition's maximum so far - lateness). An event is released
once e lies below the least of all partitions' (maximum - lateness), in the order (e, rank, event
id); copies that agree in all three go by their place in the log. Duplicates, and what is older than
the memory of ids, are dropped in that order, so the result is the same for every way of fetching.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from features.codec import Codec
from features.columns import Events
from features.events import CONTROL_RANK, END, HEARTBEAT, Control
from model.idmap import IdMap, drop, find, put, table_key, table_salt
from model.kernel import kernel

NEVER = np.iinfo(np.int64).min // 4
"""The maximum of a partition that has said nothing yet."""

FRESH, DUPLICATE, LATE = 0, 1, 2
_RANKS = 8
"""More than there are, so that (e, rank) is one number."""


class Merge:
    """Events of many partitions in; one ordered stream without duplicates out.

    `partitions` are all (topic, partition) of the log; `memory_ms` is how long an event id is
    remembered, in event time. `released` counts what came out: all (`in`), `duplicate` and `late`
    ones that were dropped, and `delayed` ones, which came after the lateness and count as of then:
    where there are any, another number of partitions may give another result. `added` says which
    partitions a command adds: they are taken up at its place.
    """

    def __init__(
        self,
        partitions: Sequence[tuple[str, int]],
        codec: Codec,
        lateness_ms: int,
        memory_ms: int,
    ) -> None:
        self._know(partitions)
        self.lateness_ms = lateness_ms
        self.longest_window_ms = codec.schema.longest_window_ms
        self.maxima = np.full(len(self.partitions), NEVER, np.int64)
        self.held: list[Events] = []
        self.ids = IdMemory(memory_ms)
        self.released = {"in": 0, "duplicate": 0, "late": 0, "delayed": 0}
        self.added: Callable[[Control | None], list[tuple[str, int]]] = lambda control: []
        self._empty, _ = codec.decode(self.partitions[0][0], 0, [], [], [])

    @property
    def watermark(self) -> int:
        """Effective time below which nothing can come any more."""
        return int(self.maxima.min()) - self.lateness_ms

    @property
    def waiting(self) -> int:
        """Events that are held until nothing can come before them."""
        return sum(map(len, self.held))

    def holding_back(self) -> list[tuple[str, int]]:
        """The partitions whose maximum is the least: nothing is released but by them."""
        return [self.partitions[i] for i in np.flatnonzero(self.maxima == self.maxima.min())]

    def furthest_behind(self) -> list[tuple[str, int]]:
        """The partitions, least maximum first: the order in which to read them."""
        return [self.partitions[i] for i in np.argsort(self.maxima, kind="stable")]

    def push(self, events: Events) -> None:
        """Takes decoded records of one partition, in the order of their offsets."""
        if not len(events):
            return
        p = int(events.partition[0])
        events.e, self.maxima[p] = effective_times(
            events, int(self.maxima[p]), self.longest_window_ms, self.lateness_ms
        )
        real = events.rank != HEARTBEAT
        if real.any():
            self.held.append(events if real.all() else events.take(real))

    def release(self) -> Events:
        """All events that nothing can come before any more, in order."""
        parts = self._due()
        if not parts:
            return self._empty
        out = Events.concatenate(parts)
        # Copies keep their place: parts come by partition, and each in the order of offsets.
        order = self._to_growth(out, np.lexsort((out.id, out.e * _RANKS + out.rank)))
        rank, id, time, e = (column[order] for column in (out.rank, out.id, out.time, out.e))
        verdict = self.ids.judge_columns(rank, id, time, e)
        fresh = verdict == FRESH
        self.released["in"] += int((rank != END).sum())
        self.released["delayed"] += int(((e > time) & (rank != END) & fresh).sum())
        self.released["duplicate"] += int((verdict == DUPLICATE).sum())
        self.released["late"] += int((verdict == LATE).sum())
        return out.take(order[fresh])

    def _to_growth(self, out: Events, order: np.ndarray) -> np.ndarray:
        """The order up to the first command that adds partitions; what comes after is held, as
        nothing of theirs may come before it."""
        for place in np.flatnonzero(out.rank[order] == CONTROL_RANK).tolist():
            row = int(order[place])
            new = [tp for tp in self.added(out.control(row)) if tp not in self.index]
            if new:
                rest = out.take(np.sort(order[place + 1 :]))  # by partition and offset
                parts = [rest.take(rest.partition == p) for p in np.unique(rest.partition)]
                self.held = parts + self.held
                self._know([*self.partitions, *new])
                said = np.full(len(new), out.e[row] + self.lateness_ms, np.int64)
                self.maxima = np.concatenate([self.maxima, said])
                return order[: place + 1]
        return order

    def _know(self, partitions: Sequence[tuple[str, int]]) -> None:
        self.partitions = list(partitions)
        self.index = {tp: i for i, tp in enumerate(self.partitions)}

    def _due(self) -> list[Events]:
        """Takes from what is held what nothing can come before any more, by partition; what all of
        is to stay is not touched."""
        parts, held = [], []
        for part in self.held:
            due = part.e < self.watermark
            if due.all():
                parts.append(part)
            elif due.any():
                parts.append(part.take(due))
                held.append(part.take(~due))
            else:
                held.append(part)
        self.held = held
        return sorted(parts, key=lambda part: int(part.partition[0]))

    def state(self) -> dict[str, Any]:
        held = Events.concatenate(self.held) if self.held else self._empty
        return {
            "partitions": [list(tp) for tp in self.partitions],
            "maxima": self.maxima.copy(),
            "held": held.state(),
            "ids": self.ids.state(),
            "released": dict(self.released),
        }

    def load(self, tree: dict[str, Any]) -> None:
        """Goes on from `state()`, also with partitions that were taken up since. Raises ValueError
        where the log has other partitions."""
        there = [tuple(tp) for tp in tree["partitions"]]
        if there[: len(self.partitions)] != self.partitions:
            raise ValueError(
                f"the checkpoint was made on {len(there)} partitions, this log has "
                f"{len(self.partitions)}: use the log it was made on; where partitions were added "
                "to live topics, `freshet topics grow --had N` says so in the log"
            )
        self._know(there)
        self.maxima = tree["maxima"].copy()
        held = Events.restored(tree["held"])
        held = held.take(np.lexsort((held.offset, held.partition)))
        self.held = [held.take(held.partition == p) for p in np.unique(held.partition).tolist()]
        self.ids.load(tree["ids"])
        self.released = dict(tree["released"])


def effective_times(
    events: Events, maximum: int, window_ms: int, lateness_ms: int
) -> tuple[np.ndarray, int]:
    """Of one partition's events, in the order of their offsets: int64 [n], and the partition's
    maximum after them; `maximum` is the one before."""
    is_end = events.rank == END
    reach = events.time + np.where(is_end, window_ms + lateness_ms + 1, 0)
    so_far = np.maximum.accumulate(np.concatenate(([maximum], reach)))
    own = events.time + np.where(is_end, window_ms, 0)
    return np.maximum(own, so_far[:-1] - lateness_ms), int(so_far[-1])


class IdMemory:
    """Event ids of the last `memory_ms` of effective time.

    An event is a duplicate when an event of its rank and id was fresh at most `memory_ms` before;
    it is late when its own time is more than that before its effective time, so that nobody could
    tell. The rule is exact, whenever old ids are swept out.
    """

    def __init__(self, memory_ms: int) -> None:
        self.memory_ms = memory_ms
        self.seen = IdMap()  # key of (rank, id) -> e
        self.queue = np.empty((1024, 2), np.int64)  # the same in the order of e
        self.first = self.last = 0

    def judge(self, events: Events) -> np.ndarray:
        """FRESH, DUPLICATE or LATE for each of the events, which come in order: int8 [n]."""
        return self.judge_columns(events.rank, events.id, events.time, events.e)

    def judge_columns(
        self, rank: np.ndarray, id: np.ndarray, time: np.ndarray, e: np.ndarray
    ) -> np.ndarray:
        """`judge`, of those columns of events that it looks at, [n] each."""
        n = len(rank)
        self.seen.reserve(n)
        if self.last + n > len(self.queue):
            live = self.queue[self.first : self.last]
            self.queue = np.empty((2 * (len(live) + n), 2), np.int64)
            self.queue[: len(live)] = live
            self.first, self.last = 0, len(live)
        verdict = np.zeros(n, np.int8)
        self.first, self.last = _judge(
            rank, id, time, e, self.memory_ms, _SALTS,
            self.seen.keys, self.seen.values, self.queue, self.first, self.last, verdict,
        )  # fmt: skip
        self.seen.size = self.last - self.first
        return verdict

    def state(self) -> dict[str, Any]:
        return {"queue": self.queue[self.first : self.last].copy()}

    def load(self, tree: dict[str, Any]) -> None:
        self.queue = tree["queue"].copy()
        self.first, self.last = 0, len(self.queue)
        self.seen = IdMap(len(self.queue))
        self.seen.insert(self.queue[:, 0], self.queue[:, 1])


_SALTS = np.array([table_salt(f"rank {rank}") for rank in range(END + 1)], np.int64)


@kernel
def _judge(  # type: ignore[no-untyped-def]
    rank, id, time, e, memory_ms, salts, seen_keys, seen_values, queue, first, last, verdict
):
    for i in range(rank.shape[0]):
        if rank[i] == END:
            continue
        while first < last and queue[first, 1] < e[i] - memory_ms:
            drop(seen_keys, seen_values, queue[first, 0])
            first += 1
        if time[i] < e[i] - memory_ms:
            verdict[i] = LATE
            continue
        key = table_key(salts[rank[i]], id[i])
        if find(seen_keys, seen_values, key) >= 0:
            verdict[i] = DUPLICATE
            continue
        put(seen_keys, seen_values, key, e[i])
        queue[last, 0] = key
        queue[last, 1] = e[i]
        last += 1
    return first, last
