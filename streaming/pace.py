"""When the events of a historical log are sent: at a rate, and as of then or as of now."""

from __future__ import annotations

import heapq
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from threading import Event
from typing import Any

from features.codec import Codec
from features.events import IMPRESSIONS
from streaming.application import Application, Row, Shown
from streaming.history import BadRow, Occurrence, milliseconds, occurrences, records_of

BEHIND_S = 1.0
"""A pace that fell so far behind begins anew; it does not make up for it at once."""
IDLE_S = 1.0


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class Paced:
    """Events of `app`'s rows, each yielded when it is to be sent.

    `rate` is in events a second; None: as fast as it goes (or went, `as_of_now`). `rows_done`
    counts the rows that lie behind, the first `skip` among them; `finished` says that all do;
    `skipped_ms` is the last time of the skipped ones. Rows that give no event are in `bad`, with
    their number.
    """

    app: Application
    codec: Codec
    rate: float | None
    skip: int
    stop: Event
    rows_done: int = 0
    finished: bool = False
    bad: list[BadRow] = field(default_factory=list)
    skipped_ms: int = 1
    _next_ms: float = 0.0

    def as_of_then(
        self, rows: Iterable[Row | Shown], tables: Mapping[str, Any], latest_ms: int
    ) -> Iterator[Occurrence]:
        """The events of `occurrences`, after those up to the impression of the last skipped row;
        none, where all rows are skipped.

        Once `stop` is set, it ends after an impression: skipping `rows_done` rows then goes on
        exactly. After the last row's it goes on to the end, which is not far.
        """
        read = _Counted(rows)
        skipping = self.skip > 0
        for event in occurrences(self.app, self.codec, read, tables, self.bad, latest_ms):
            skipping = skipping and read.count <= self.skip
            shown = event.topic == IMPRESSIONS
            if not skipping:
                self._wait(self._due_ms())
                self._next_ms += 0 if self.rate is None else 1000 / self.rate
                yield event
            else:
                skipping = read.finished or not (shown and read.count == self.skip)
                if event.time_ms <= latest_ms - self.codec.max_ahead_ms:
                    self.skipped_ms = max(self.skipped_ms, event.time_ms)
            if shown:
                self.rows_done = max(read.count, self.skip)
                if self.stop.is_set() and not read.finished:
                    return
        self.rows_done, self.finished = read.count, True

    def as_of_now(
        self, rows: Iterable[Row | Shown], tables: Mapping[str, Any]
    ) -> Iterator[Occurrence | None]:
        """Each impression with the time at which it is sent, its feedback as long after it as it
        was; None about every second in which there is nothing to send.

        Ends at once when `stop` is set. Feedback of skipped rows is left out.
        """
        read = _Counted(rows)
        coming: list[Occurrence] = []
        self.skipped_ms = wall_ms()
        latest_ms = self.skipped_ms + self.codec.max_ahead_ms
        shift_ms: int | None = None
        place = 0
        for row in read:
            if read.count <= self.skip:
                continue
            try:
                shown = row if isinstance(row, Shown) else self.app.rows(row, tables)
                if shown is None:
                    continue
                if (time_ms := milliseconds(shown.time_ms)) > latest_ms:
                    raise ValueError(f"time_ms {time_ms} is from the future")
                if shift_ms is None:
                    shift_ms = wall_ms() - time_ms
                due_ms = time_ms + shift_ms if self.rate is None else self._due_ms()
                self.rows_done = read.count - 1
                now_ms = yield from self._feedback_until(due_ms, coming)
                if self.stop.is_set():
                    return
                shown = shown._replace(time_ms=now_ms)
                first, *others = records_of(self.app, self.codec, shown, place)
            except Exception as error:  # the application's own code may raise anything
                reason = f"{type(error).__name__}: {error}"
                self.bad.append(BadRow(read.count - 1, reason, str(row)[:4096]))
                continue
            place += 1 + len(others)
            for record in others:
                heapq.heappush(coming, record)
            self.rows_done = read.count
            yield self._sent(first)
        self.rows_done = read.count
        while coming and not self.stop.is_set():
            yield from self._feedback_until(coming[0].time_ms, coming)
        self.finished = not coming

    def _feedback_until(
        self, due_ms: float, coming: list[Occurrence]
    ) -> Generator[Occurrence | None, None, int]:
        """What comes before `due_ms`; returns the time at which nothing more did, or at which it
        was stopped."""
        idle_ms = wall_ms()
        while True:
            now_ms = wall_ms()
            if self.stop.is_set():
                return now_ms
            if coming and coming[0].time_ms <= now_ms:
                yield self._sent(heapq.heappop(coming))
            elif now_ms >= due_ms:
                return now_ms
            elif now_ms - idle_ms >= 1000 * IDLE_S:
                idle_ms = now_ms
                yield None
            else:
                soonest_ms = min(due_ms, coming[0].time_ms) if coming else due_ms
                self._wait(min(soonest_ms, now_ms + 1000 * IDLE_S))

    def _sent(self, event: Occurrence) -> Occurrence:
        self._next_ms += 0 if self.rate is None else 1000 / self.rate
        return event

    def _due_ms(self) -> float:
        """When the next event may be sent, by the rate."""
        now_ms = float(wall_ms())
        if self.rate is None or self._next_ms < now_ms - 1000 * BEHIND_S:
            self._next_ms = now_ms
        return self._next_ms

    def _wait(self, until_ms: float) -> None:
        ahead_s = until_ms / 1000 - time.time()
        if ahead_s > 0:
            self.stop.wait(ahead_s)


class _Counted:
    """An iterator that says how many rows it gave, and whether those were all."""

    def __init__(self, rows: Iterable[Row | Shown]) -> None:
        self._rows = iter(rows)
        self._next: list[Row | Shown] = list(islice(self._rows, 1))
        self.count = 0

    @property
    def finished(self) -> bool:
        return not self._next

    def __iter__(self) -> _Counted:
        return self

    def __next__(self) -> Row | Shown:
        if not self._next:
            raise StopIteration
        (row,), self._next = self._next, list(islice(self._rows, 1))
        self.count += 1
        return row
