"""What one partition of the log has held lately, so that each event counts once.

The log itself is the memory: where a worker goes on in the middle of a partition, the records
before that place are read again, as far back as the memory reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from confluent_kafka.admin import OffsetSpec

from features.codec import Codec
from features.columns import Events
from features.events import END, FEEDBACK_RANK, IMPRESSION
from streaming.application import Application
from streaming.eventlog import Chunk
from streaming.kafkalog import ANSWER_S, CONSUMER_CONFIG, KafkaLog, KafkaReader
from streaming.merge import FRESH, NEVER, IdMemory, effective_times


class Sightings:
    """The event ids of one partition, and how far its time has come. `next_offset` is where it
    goes on; `time_ms` the latest time that was said; `counted` the offset after the last event that
    counts, of those from `sure_ms` on, as copies of what came before are not known for older ones.
    """

    def __init__(self, app: Application, next_offset: int, sure_ms: int = NEVER) -> None:
        self._window_ms, self._lateness_ms = app.schema.longest_window_ms, app.lateness_ms
        self._ids = IdMemory(app.id_memory_ms)
        self._maximum = NEVER
        self._sure_ms = sure_ms
        self.next_offset, self.time_ms, self.counted = next_offset, 1, 0

    def take(self, events: Events, next_offset: int) -> Events:
        """The impressions and feedback that are no copies and not too late, with their effective
        times, as the merge gives them. `events` come as decoded, in the order of offsets."""
        if len(events):
            events.e, self._maximum = effective_times(
                events, self._maximum, self._window_ms, self._lateness_ms
            )
            said = events.time[events.rank != END]
            self.time_ms = max([self.time_ms, *said.max(initial=1).reshape(1).tolist()])
        self.next_offset = next_offset
        events = events.take((events.rank == IMPRESSION) | (events.rank == FEEDBACK_RANK))
        events = events.take(np.flatnonzero(self._ids.judge(events) == FRESH))
        if len(events) and events.e[-1] >= self._sure_ms:
            self.counted = int(events.offset[-1]) + 1
        return events


class Recall(KafkaLog):
    """Sightings of the live topics' partitions, as of any offset. `stopping` cuts it short."""

    stopping: Callable[[], bool] = staticmethod(lambda: False)

    def sightings(
        self, app: Application, codec: Codec, tp: tuple[str, int], offset: int, time_ms: int
    ) -> Sightings:
        """As they were before `offset`, whose record has the timestamp `time_ms`.

        Raises ConnectionError where the records don't come, or where it is `stopping`.
        """
        reach_ms = app.id_memory_ms + app.schema.longest_window_ms
        reach_ms += 2 * (app.lateness_ms + codec.max_ahead_ms) + 1
        since_ms = time_ms - reach_ms
        first = self._first_since(tp, max(1, since_ms), offset)
        sightings = Sightings(app, first, since_ms + app.id_memory_ms if first else NEVER)
        for chunk in self._between(tp, first, offset):
            events, _ = codec.decode(*chunk)
            sightings.take(events, chunk.next_offset)
        sightings.next_offset = offset
        return sightings

    def _first_since(self, tp: tuple[str, int], time_ms: int, most: int) -> int:
        first: int = self._offsets(OffsetSpec.for_timestamp(time_ms))[tp]
        return most if first < 0 else min(first, most)

    def _between(self, tp: tuple[str, int], first: int, stop: int) -> Iterator[Chunk]:
        """The records of one partition from offset `first` to before `stop`."""
        if first >= stop:
            return
        reader = KafkaReader({**CONSUMER_CONFIG, **self._config}, self._prefix, {tp: first})
        try:
            while first < stop:
                if self.stopping():
                    raise ConnectionError("asked to stop while the log is read again")
                chunk = reader.read(*tp, timeout_s=ANSWER_S)
                if not chunk.offsets:
                    raise ConnectionError(f"kafka: {tp[0]}[{tp[1]}]: no records at {first}")
                first = chunk.next_offset
                kept = int(np.searchsorted(chunk.offsets, stop))
                yield Chunk(*tp, *(column[:kept] for column in chunk[2:]))  # type: ignore[arg-type]
        finally:
            reader.close()
