"""A historical log that is sent is the log: paced, stopped and gone on with, or shifted to now."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from threading import Event

import pytest

from model.schema import Field, Schema, Task
from streaming.application import Application, Shown, Told
from streaming.dead_letters import DeadLetters
from streaming.dlq import DeadLetterTopic, letters
from streaming.eventlog import EventLog, MemoryLog
from streaming.history import produce as whole_history
from streaming.history import topics
from streaming.learner import Learner
from streaming.produce import Production, Sent
from streaming.sections import Kafka
from streaming.topics import DEAD, create, open_log

START = 1_700_000_000_000


def rows(row, tables):
    if row["user"] == "left out":
        return None
    told = [Told("click", 1, row["after"])] if row["after"] else []
    return Shown(row["id"], START + row["ms"], {"user": row["user"]}, told)


APP = Application(
    name="shop",
    schema=Schema((Field("user", "id"),), (Task("click", "binary", 1_000),), user="user"),
    rows=rows,
)


def history(n: int = 60) -> list[dict]:
    """A row every 100 ms; some are left out, some are bad, feedback comes up to 1.2 s after."""
    made = [{"id": i, "ms": 100 * i, "user": f"u{i % 5}", "after": i % 4 * 400} for i in range(n)]
    for i in (7, 8, n - 1):
        made[i]["user"] = "left out"
    for i in (20, n // 2):
        made[i]["ms"] = "soon"
    return made


def contents(log: EventLog) -> dict[tuple[str, int], list[tuple[int, bytes]]]:
    """Timestamps and values by partition, but the heartbeats."""
    found = {}
    end = log.end_position()
    reader = log.reader()
    for tp, last in end.items():
        found[tp], at = [], 0
        while at < last:
            chunk = reader.read(*tp, timeout_s=10.0)
            at = chunk.next_offset
            found[tp] += [
                pair
                for pair in zip(chunk.timestamps_ms, chunk.values, strict=True)
                if pair[1] is not None
            ]
    reader.close()
    return found


def stopping(job: Production, events: int) -> Callable[[Sent], None]:
    """Stops it after so many events."""
    return lambda sent: job.stop.set() if sent.events >= events else None


def production(log: EventLog, **options) -> Production:
    return Production(APP, log, DeadLetters(), **options)


@pytest.mark.parametrize("n", [59, 60])  # the last row gives an event, or none
def test_wherever_it_was_stopped_and_gone_on_with_the_log_is_that_of_a_whole_run(n):
    log, rows = MemoryLog(topics(2)), history(60)[:n]
    whole = production(log, end=True).run(rows, {})
    expected = contents(log)
    assert (whole.rows, whole.bad, whole.finished) == (n, 2, True)
    for stop_after in range(1, whole.events + 1):
        log, bad, skip, parts = MemoryLog(topics(2)), 0, 0, 0
        while True:
            job = production(log, end=True, skip=skip)
            job.on_sent = stopping(job, stop_after)
            sent = job.run(rows, {})
            skip, bad, parts = sent.rows, bad + sent.bad, parts + 1
            if sent.finished:
                break
        assert contents(log) == expected, stop_after
        assert bad == 2 and (parts > 1 or stop_after > whole.events - 10)


@pytest.mark.parametrize("n", [59, 60])  # the last row gives an event, or none
def test_all_rows_skipped_sends_nothing_but_the_end_of_the_whole_log(n):
    log, whole = MemoryLog(topics(2)), MemoryLog(topics(2))
    assert production(log).run(history(60)[:n], {}).rows == n
    sent = production(log, skip=n, end=True).run(history(60)[:n], {})
    assert sent == Sent(n, 0, 0, True)
    production(whole, end=True).run(history(60)[:n], {})
    assert contents(log) == contents(whole)


def test_what_is_sent_is_what_a_replay_reads():
    sent, replayed = MemoryLog(topics(3)), MemoryLog(topics(3))
    production(sent, end=True, rate=2_000).run(history(), {})
    whole_history(APP, replayed, Learner(APP, topics(3), 0).codec, history(), {})
    assert contents(sent) == contents(replayed)


def test_without_an_end_the_log_stays_open():
    log = MemoryLog(topics(1))
    production(log).run(history(), {})
    assert not any(b'"end"' in value for part in contents(log).values() for _, value in part)


def test_a_rate_is_kept():
    log = MemoryLog(topics(1))
    started = time.monotonic()
    sent = production(log, rate=100.0).run(history(), {})
    seconds = time.monotonic() - started
    assert sent.events / 100 - 0.1 < seconds < sent.events / 100 + 1.0


@pytest.mark.parametrize("rate", [None, 40.0])
def test_shifted_to_now_all_happens_as_it_is_sent_and_feedback_as_long_after(rate):
    log, lag_ms = Clocked(topics(1)), 300  # of this machine, with others at work
    began = time.time_ns() // 1_000_000
    sent = production(log, rate=rate, shift_to_now=True, end=True).run(history(40), {})
    assert sent.finished and (sent.rows, sent.bad) == (40, 1)
    found = [(t, json.loads(v)) for (topic, _), part in contents(log).items() for t, v in part]
    times = {e["id"]: e["time_ms"] for _, e in found if e["type"] == "impression"}
    after = {e["impression"]: e["time_ms"] for _, e in found if e["type"] == "feedback"}
    assert len(times) == 36 and len(after) == 28
    for i, time_ms in after.items():
        assert time_ms - times[i] == i % 4 * 400
    for appended_ms, timestamp_ms, value in log.appended:
        event_ms = json.loads(value)["time_ms"] if value else timestamp_ms
        assert event_ms - 1 <= appended_ms < event_ms + lag_ms or b'"end"' in (value or b"")
    if rate is None:
        assert all(abs(times[i] - times[0] - 100 * i) < lag_ms for i in times)
    assert min(times.values()) >= began
    # in the order of time, so that nothing counts as of later than it was
    order = [json.loads(v)["time_ms"] for _, _, v in log.appended if v]
    assert order == sorted(order)


class Clocked(MemoryLog):
    """A log that notes when each record was appended."""

    def __init__(self, names: dict[str, int]) -> None:
        super().__init__(names)
        self.appended: list[tuple[int, int, bytes | None]] = []

    def append(self, topic, key, value, timestamp_ms, partition=None) -> None:
        self.appended.append((time.time_ns() // 1_000_000, timestamp_ms, value))
        super().append(topic, key, value, timestamp_ms, partition)


def test_while_nothing_happens_now_heartbeats_say_so():
    log = Clocked(topics(2))
    far_between = [
        {"id": 0, "ms": 0, "user": "u", "after": 0},
        {"id": 1, "ms": 2_500, "user": "u", "after": 0},
    ]
    production(log, shift_to_now=True).run(far_between, {})
    first, *beats, last = (appended for appended in log.appended)
    assert first[2] and last[2] and len(beats) == 2 * 5
    assert all(abs(appended - timestamp) <= 5 for appended, timestamp, _ in beats)


def test_ctrl_c_ends_a_wait_at_once_and_says_how_many_rows_were_sent():
    stop = Event()
    far_between = [
        {"id": 0, "ms": 0, "user": "u", "after": 900_000},
        {"id": 1, "ms": 3_600_000, "user": "u", "after": 0},
    ]
    job = production(MemoryLog(topics(1)), shift_to_now=True, stop=stop)
    job.on_sent = lambda sent: stop.set()
    started = time.monotonic()
    assert job.run(far_between, {}) == Sent(1, 1, 0, False)
    assert time.monotonic() - started < 5


def test_bad_rows_are_dead_letters(kafka, topic_prefix):
    shop, name = Kafka(bootstrap=kafka, partitions=1), topic_prefix.strip("-")
    create(shop, name)
    with closing(open_log(shop, name)) as log, closing(open_log(shop, name, DEAD)) as dead:
        with closing(DeadLetterTopic(dead, "produce")) as bad:
            Production(APP, log, bad, skip=21).run(history(), {})
        (letter,) = letters(dead)
    assert letter.says["row"] == 30 and "soon" in letter.says["value"]
    assert letter.says["worker"] == "produce" and "TypeError" in letter.says["reason"]
