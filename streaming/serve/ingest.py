"""The windowed features as a server keeps them: read from the log, in whatever order it comes.

The aggregates do not depend on the order of arrival. An event's own time is its time here: what a
ranking was scored with is logged, so nobody has to compute it again.
"""

from __future__ import annotations

import logging
import threading

import numpy as np

from features.columns import Events
from features.events import FEEDBACK as FEEDBACK_TOPIC
from features.events import FEEDBACK_RANK, IMPRESSION, IMPRESSIONS
from features.windows import Windows
from streaming.application import Application
from streaming.eventlog import EventLog, Position, Reader
from streaming.merge import FRESH, IdMemory
from streaming.serve.candidates import Seen, logged_features
from streaming.serve.metrics import Metrics

log = logging.getLogger("freshet.serve")
READ_RECORDS = 512
POLL_S = 0.02
RETRY_S = 1.0


class Ingest:
    """A thread that reads the log into `windows`; hold `lock` to read them. What came in, and what
    was bad, is counted in `metrics`."""

    def __init__(self, app: Application, log: EventLog, metrics: Metrics) -> None:
        self.windows = Windows(app.schema, app.aggregates)
        self.codec, self.layout = self.windows.codec, self.windows.layout
        self.lock = threading.Lock()
        partitions = [(t, p) for t in (IMPRESSIONS, FEEDBACK_TOPIC) for p in range(log.topics[t])]
        self.position: Position = dict.fromkeys(partitions, 0)
        self._log, self._metrics = log, metrics
        self._ids = IdMemory(app.id_memory_ms)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="freshet-ingest", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def see(self, events: Events, user: int) -> Seen:
        with self.lock:
            inputs = self.windows.read(events)
            return Seen(inputs, logged_features(self.windows, user, inputs))

    def _run(self) -> None:
        while not self._stop.is_set():
            reader = None
            try:
                reader = self._log.reader(self.position)
                while not self._stop.is_set():
                    if not sum(self._read(reader, tp, 0.0) for tp in self.position):
                        self._read(reader, next(iter(self.position)), POLL_S)
            except Exception as error:  # a log that is away must not end this thread
                log.warning("the log can't be read: %s: %s", type(error).__name__, error)
                self._stop.wait(RETRY_S)
            finally:
                if reader is not None:
                    reader.close()

    def _read(self, reader: Reader, tp: tuple[str, int], timeout_s: float) -> int:
        chunk = reader.read(*tp, READ_RECORDS, timeout_s)
        if not chunk.offsets:
            return 0
        events, bad = self.windows.codec.decode(
            *tp, chunk.offsets, chunk.timestamps_ms, chunk.values
        )
        self._take(events)
        self.position[tp] = chunk.next_offset
        self._metrics.ingested.inc(len(events))
        self._metrics.bad.inc(len(bad))
        return len(chunk.offsets)

    def _take(self, events: Events) -> None:
        """Each event once, by its own time."""
        events = events.take((events.rank == IMPRESSION) | (events.rank == FEEDBACK_RANK))
        if not len(events):
            return
        events.e = events.time
        events = events.take(np.lexsort((events.id, events.rank, events.e)))
        events = events.take(self._ids.judge(events) == FRESH)
        with self.lock:
            self.windows.update(events)
