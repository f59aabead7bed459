"""Learning from a historical log first, then going on live: no gap, no overlap.

The historical log is two more partitions beside the live ones, numbered `PAST`. While it is read,
the live partitions hold nothing back. At its end (`hand_over`) it holds nothing back any more, and
the live partitions begin as though each had last said the time of the log's last impression. What
the merge still holds then, feedback from after that time, is merged with the live events: the
result is that of one log. See infra/decisions/0004-hand-over.md.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

import xxhash

from features.events import FEEDBACK, IMPRESSIONS
from streaming.application import Application, Row
from streaming.eventlog import Chunk, Position
from streaming.history import BadRow, occurrences
from streaming.learner import Learner
from streaming.merge import NEVER, Merge

PAST = -1
"""The number of the historical log's partition of a topic."""
PARTITIONS = [(IMPRESSIONS, PAST), (FEEDBACK, PAST)]
FOREVER = -NEVER
BLOCK = 4_096


def add_past(learner: Learner) -> None:
    """Has a new learner read a historical log first, and the live partitions after `hand_over`."""
    app, live = learner.app, learner.merge.partitions
    added = learner.merge.added
    learner.merge = Merge([*live, *PARTITIONS], learner.codec, app.lateness_ms, app.id_memory_ms)
    learner.merge.added = added
    for tp in live:
        learner.merge.maxima[learner.merge.index[tp]] = FOREVER
    learner.position |= dict.fromkeys(PARTITIONS, 0)


def has_past(tree: Mapping[str, Any]) -> bool:
    """Whether a learner's state is of one that read, or reads, a historical log first."""
    return any(partition == PAST for _, partition in tree["merge"]["partitions"])


def handed_over(learner: Learner) -> bool:
    """Whether the learner is live: it read its historical log wholly, or has none."""
    maxima, index = learner.merge.maxima, learner.merge.index
    return all(maxima[index[tp]] == FOREVER for tp in PARTITIONS if tp in index)


def hand_over(learner: Learner) -> None:
    """From the historical log, which has been read wholly, to the live partitions."""
    merge = learner.merge
    last = merge.maxima[merge.index[PARTITIONS[0]]]
    merge.maxima[:] = last
    for tp in PARTITIONS:
        merge.maxima[merge.index[tp]] = FOREVER


class Past:
    """A historical log's rows as a log of the partitions `PARTITIONS`, made as they are read.

    Blocks of 4,096 events; after each a heartbeat in both, with the time of the last impression
    (later feedback must not be released before live events are there to be put in order with it).
    `until` is the position of the end, as soon as it is known. `record` is kept up to what was
    read, for checkpoints; as it comes from one, the log must be the same: else `read` raises
    ValueError.
    """

    def __init__(
        self,
        app: Application,
        learner: Learner,
        rows: Iterable[Row],
        tables: Mapping[str, Any],
        record: dict[str, Any],
        on_bad: Callable[[list[BadRow]], None],
    ) -> None:
        self.until: Position = dict.fromkeys(PARTITIONS, sys.maxsize)
        self._bad: list[BadRow] = []
        self._on_bad, self._record, self._kept = on_bad, record, dict(record)
        self._now_ms = time.time_ns() // 1_000_000
        latest_ms = self._now_ms + learner.codec.max_ahead_ms
        self._events = occurrences(app, learner.codec, rows, tables, self._bad, latest_ms)
        self._digest = xxhash.xxh3_128()
        self._blocks = self._bad_rows = 0
        self._reach = 1
        self._offsets = dict.fromkeys(PARTITIONS, 0)
        self._queues: dict[tuple[str, int], deque[tuple[int, int, bytes | None]]] = {
            tp: deque() for tp in PARTITIONS
        }

    def reader(self, position: Position | None = None) -> Past:
        """Itself: it can be read once. What lies before `position` is made again, and left out."""
        self._start = position or {}
        return self

    def read(
        self, topic: str, partition: int, max_records: int = 4096, timeout_s: float = 0.0
    ) -> Chunk:
        queue = self._queues.get((topic, partition))
        if queue is None:
            return Chunk(topic, partition, [], [], [])
        if not queue:
            self._make()
        some = [queue.popleft() for _ in range(min(max_records, len(queue)))]
        offsets, times, values = ([r[column] for r in some] for column in range(3))
        return Chunk(topic, partition, offsets, times, values)  # type: ignore[arg-type]

    def close(self) -> None:
        """Nothing to release."""

    def _make(self) -> None:
        """The next block into the queues, or `until`."""
        block = list(islice(self._events, BLOCK))
        again = self._blocks < self._kept.get("blocks", 0)
        if block:
            self._blocks += 1
        for event in block:
            self._digest.update(event.key + b"\0" + event.value + b"\0")
            time_ms = max(1, min(event.time_ms, self._now_ms))
            self._put((event.topic, PAST), time_ms, event.value)
            if event.topic == IMPRESSIONS and event.time_ms <= self._now_ms:
                self._reach = max(self._reach, event.time_ms)
        known = max(0, self._kept.get("bad_rows", 0) - self._bad_rows)
        self._on_bad(self._bad[known:])
        self._bad_rows += len(self._bad)
        self._bad.clear()
        self._check(again, bool(block))
        if self._blocks >= self._kept.get("blocks", 0):
            self._record.update(
                blocks=self._blocks, digest=self._digest.hexdigest(), bad_rows=self._bad_rows
            )
        for tp in PARTITIONS:
            if block:
                self._put(tp, self._reach, None)
            else:
                self.until[tp] = self._offsets[tp]

    def _put(self, tp: tuple[str, int], time_ms: int, value: bytes | None) -> None:
        if self._offsets[tp] >= self._start.get(tp, 0):
            self._queues[tp].append((self._offsets[tp], time_ms, value))
        self._offsets[tp] += 1

    def _check(self, again: bool, more: bool) -> None:
        last = self._blocks == self._kept.get("blocks", 0)
        same = self._digest.hexdigest() == self._kept["digest"] if again and last else True
        if again and (not more or not same):
            raise ValueError(
                "--from is not the log that the checkpoint was made on: give that one, or another "
                "--checkpoints folder"
            )
