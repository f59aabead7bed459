"""A historical log into the live topics: paced, and as if it happened then, or now.

As of then, a record's timestamp is its event's time, and the events are those of a replay. As of
now, the topics are in wall time. Which of the two holds for all that writes to a topic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from threading import Event
from typing import Any, NamedTuple

from features.codec import Codec
from features.events import End
from features.windows import Windows
from streaming.application import Application, Row, Shown
from streaming.dead_letters import DeadLetters
from streaming.eventlog import EventLog
from streaming.history import HEARTBEAT_EVERY, Occurrence
from streaming.pace import IDLE_S, Paced, wall_ms


class Sent(NamedTuple):
    """How far it came: the `rows` that lie behind, `bad` of them sent now as dead letters, the
    `events` sent now, and whether all was sent, `finished`."""

    rows: int
    events: int
    bad: int
    finished: bool


@dataclass
class Production:
    """What to send, and how.

    `rate` is in events a second, None for as fast as it goes (shifted: as it went). The first
    `skip` rows were sent before. `end` ends the log, for those who wait for it. Set `stop` to have
    it end at the next row.
    """

    app: Application
    log: EventLog
    letters: DeadLetters
    rate: float | None = None
    shift_to_now: bool = False
    skip: int = 0
    end: bool = False
    stop: Event = field(default_factory=Event)
    on_sent: Callable[[Sent], None] = lambda sent: None

    def run(self, rows: Iterable[Row | Shown], tables: Mapping[str, Any]) -> Sent:
        """Sends the rows, with heartbeats, and at the end the `end`; all is in the log when it
        returns.

        As of then, after one that was stopped, another that skips its `rows` ends in the very log
        of one that was not.
        """
        codec = Windows(self.app.schema, self.app.aggregates).codec
        paced = Paced(self.app, codec, self.rate, self.skip, self.stop)
        started_ms = wall_ms()
        writer = _Writer(self.log, codec)
        events = (
            paced.as_of_now(rows, tables)
            if self.shift_to_now
            else paced.as_of_then(rows, tables, started_ms + codec.max_ahead_ms)
        )
        for event in events:
            now_ms = wall_ms() if self.shift_to_now else started_ms
            if event is None:
                writer.beat(now_ms)
            else:
                writer.append(event, now_ms)
            self._bad(paced)
            self.on_sent(Sent(paced.rows_done, writer.events, self.letters.count, False))
        self._bad(paced)
        if self.end and paced.finished:
            writer.end(paced.skipped_ms)
        self.log.flush()
        return Sent(paced.rows_done, writer.events, self.letters.count, paced.finished)

    def _bad(self, paced: Paced) -> None:
        self.letters.add_rows(b for b in paced.bad if b.row >= self.skip)
        paced.bad.clear()


class _Writer:
    """Appends events in the order of time, and heartbeats in all partitions."""

    def __init__(self, log: EventLog, codec: Codec) -> None:
        self._log, self._codec = log, codec
        self._partitions = [(topic, p) for topic, n in log.topics.items() for p in range(n)]
        self._last_ms, self._beat_events, self._beat_at_ms = 1, 0, wall_ms()
        self.events = 0

    def append(self, event: Occurrence, now_ms: int) -> None:
        if event.time_ms <= now_ms:
            self._last_ms = max(self._last_ms, event.time_ms)
        time_ms = max(1, min(event.time_ms, now_ms))
        self._log.append(event.topic, event.key, event.value, time_ms)
        self.events += 1
        many = self.events - self._beat_events >= HEARTBEAT_EVERY
        if many or wall_ms() - self._beat_at_ms >= 1000 * IDLE_S:
            self.beat(self._last_ms)

    def beat(self, time_ms: int) -> None:
        """Says in all partitions that nothing comes from before `time_ms`."""
        self._last_ms = max(self._last_ms, time_ms)
        self._beat_events, self._beat_at_ms = self.events, wall_ms()
        for topic, p in self._partitions:
            self._log.append(topic, None, None, self._last_ms, p)

    def end(self, least_ms: int) -> None:
        """The log's last event, in all partitions; its time is not before `least_ms`."""
        last_ms = max(least_ms, self._last_ms)
        value = self._codec.encode(End(last_ms))
        for topic, p in self._partitions:
            self._log.append(topic, None, value, last_ms, p)
