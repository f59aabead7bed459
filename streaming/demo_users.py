"""Simulated users, live: they look, they answer when they would, and what they like changes."""

from __future__ import annotations

import heapq
import http.client
import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from features.codec import Codec
from features.events import FEEDBACK, IMPRESSIONS, End, Feedback
from features.simulate import Change, Simulation
from streaming.apps.simulated import fields
from streaming.eventlog import EventLog, Position

log = logging.getLogger("freshet.demo")
TICK_S = 0.02
MOST_BEHIND_S = 0.25
NEVER = 1 << 62


class Crowd(threading.Thread):
    """Puts the stream into a log at the times of the wall, with a heartbeat to each partition.

    It ends when `stop` is set or after `seconds`: once all feedback has come, it appends `end` and
    sets `until`, before out of reach, to the end of the log. `planted` says of each change of the
    stream that was reached the number of impressions before it, those that `others` got included.
    """

    def __init__(
        self, simulation: Simulation, events: EventLog, codec: Codec, stop: threading.Event,
        seconds: float | None, others: Callable[[], int],
    ) -> None:  # fmt: skip
        super().__init__(name="freshet-crowd", daemon=True)
        self.simulation = simulation
        self.until: Position = dict.fromkeys(events.end_position(), NEVER)
        self.planted: list[tuple[Change, int]] = []
        self.error: Exception | None = None
        self._changes = sorted(simulation.config.changes, key=lambda c: c.at, reverse=True)
        self._log, self._codec, self._stop_asked = events, codec, stop
        self._seconds, self._others = seconds, others
        self._coming: list[tuple[int, str, Feedback]] = []

    def run(self) -> None:
        try:
            self._come()
            while self._coming:
                time.sleep(TICK_S)
                self._tick(0)
        except Exception as error:
            log.exception("the simulated users failed")
            self.error = error
        self._end()

    def _come(self) -> None:
        started = clock = time.monotonic()
        rate, sent = self.simulation.config.rate_per_s, 0
        while not self._stop_asked.wait(TICK_S):
            now = time.monotonic()
            if self._seconds is not None and now - started >= self._seconds:
                return
            behind = (now - clock) - sent / rate
            if behind > MOST_BEHIND_S:  # a slow machine gets fewer, not all at once
                clock += behind - TICK_S
            due = int((now - clock) * rate) - sent
            self._tick(due)
            sent += due

    def _tick(self, n: int) -> None:
        """The next n impressions, the feedback that is due, and a heartbeat."""
        now_ms = time.time_ns() // 1_000_000
        while self._changes and self._changes[-1].at < self.simulation.position + n:
            change = self._changes.pop()
            self.planted.append((change, change.at + self._others()))
        for row in self.simulation.next(n, [now_ms] * n) if n > 0 else []:
            event = self._codec.impression(row.id, now_ms, fields(row))
            self._append(IMPRESSIONS, row.user_id, self._codec.encode(event), now_ms)
            for told in row.feedback:
                at_ms, name = now_ms + told.delay_ms, f"{row.id}:{told.kind}"
                feedback = Feedback(
                    name, at_ms, row.id, told.kind, told.value, row.user_id, row.item_id
                )
                heapq.heappush(self._coming, (at_ms, name, feedback))
        while self._coming and self._coming[0][0] <= now_ms:
            at_ms, _, feedback = heapq.heappop(self._coming)
            self._append(FEEDBACK, feedback.user, self._codec.encode(feedback), at_ms)
        for topic, partition in self.until:
            self._log.append(topic, None, None, now_ms, partition)

    def _append(self, topic: str, user: int | str, value: bytes, time_ms: int) -> None:
        self._log.append(topic, str(user).encode(), value, time_ms)

    def _end(self) -> None:
        now_ms = time.time_ns() // 1_000_000
        end = self._codec.encode(End(now_ms))
        for topic, partition in self.until:
            self._log.append(topic, None, end, now_ms, partition)
        self._log.flush()
        self.until.update(self._log.end_position())


class Visitors(threading.Thread):
    """A few users who ask the real server what to look at, and answer it, over HTTP.

    `shown` and `clicked` count what it ranked for them.
    """

    PER_S = 3.0
    K = 5

    def __init__(self, url: str, crowd: Crowd, stop: threading.Event) -> None:
        super().__init__(name="freshet-visitors", daemon=True)
        self.shown = self.clicked = 0
        self._where = urlsplit(url).netloc
        self._crowd, self._stop_asked = crowd, stop
        self._coming: list[tuple[float, str, dict[str, Any]]] = []

    def run(self) -> None:
        rng = np.random.default_rng(0)
        simulation = self._crowd.simulation
        connection = http.client.HTTPConnection(self._where, timeout=5)
        while not self._stop_asked.wait(1 / self.PER_S):
            try:
                user = int(rng.integers(1, simulation.config.users + 1))
                self._look(connection, user, request_for(simulation, user, rng, self.K))
                while self._coming and self._coming[0][0] <= time.monotonic():
                    _post(connection, "/v1/feedback", heapq.heappop(self._coming)[2])
            except (OSError, http.client.HTTPException) as error:
                log.info("a visitor was not answered: %s", error)
                connection.close()
        connection.close()

    def _look(self, connection: http.client.HTTPConnection, user: int, asked: Any) -> None:
        answer = _post(connection, "/v1/rank", asked)
        if answer is None:
            return
        shown, now = answer["impressions"], time.monotonic()
        items = np.array([i["item"] for i in shown])
        index = self._crowd.simulation.position + np.arange(len(items))
        times = np.full(len(items), time.time_ns() // 1_000_000)
        told = self._crowd.simulation.respond(index, np.full(len(items), user), items, times)
        self.shown += len(shown)
        for impression, answers in zip(shown, told, strict=True):
            self.clicked += bool(answers)
            for f in answers:
                body = {
                    "impression": impression["id"], "item": impression["item"], "user": user,
                    "kind": f.kind, "value": f.value,
                }  # fmt: skip
                due = now + f.delay_ms / 1000
                heapq.heappush(self._coming, (due, f"{impression['id']}:{f.kind}", body))


def request_for(
    simulation: Simulation, user: int, rng: np.random.Generator, k: int, candidates: int = 30
) -> dict[str, Any]:
    """A request to rank some items for a user (from 1), as it is known now."""
    people = simulation.population
    items = np.sort(rng.choice(simulation.config.items, candidates, replace=False))
    slot = int(people.slot(time.time_ns() // 1_000_000))
    return {
        "user": user,
        "candidates": (items + 1).tolist(),
        "context": {"segment_id": int(people.segment[user - 1]) + 1, "slot": slot},
        "candidate_fields": {"category_id": (people.category[items] + 1).tolist()},
        "k": k,
    }


def _post(connection: http.client.HTTPConnection, path: str, body: dict[str, Any]) -> Any:
    """The answer, or None where it is no success."""
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    content = response.read()
    if response.status >= 300:
        log.info("%s: %d %s", path, response.status, content[:300])
        return None
    return json.loads(content)
