"""Whatever producers do to the log, what is learned is what an undisturbed log teaches, or what is
missing is counted; and it is the same for every way of fetching, and gone on from a checkpoint.

Records that can't be read are in `tests/system/test_bad_input.py`, the merge and the join against
their plain versions, with all of this at random, in `tests/streaming/test_merge_join.py`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from streaming import learn as loop
from streaming.application import Application, Field, Schema, Task
from streaming.dead_letters import DeadLetters
from streaming.eventlog import EventLog, MemoryLog, partition_of
from streaming.learn import Loop, learn
from streaming.learner import Learner
from streaming.memory_registry import MemoryRegistry

START = 1_700_000_000_000
N, STEP_MS = 600, 50
WINDOW_MS, LATENESS_MS = 1_000, 500
HOUR_MS = 3_600_000
APP = Application(
    name="shop",
    schema=Schema(
        (Field("user", "id"), Field("price", "dense")),
        (Task("click", "binary", WINDOW_MS),),
        user="user",
    ),
    rows=lambda row, tables: None,
    source=lambda: iter(()),
    lateness_ms=LATENESS_MS,
).with_settings(["trainer.batch_size=16"])


class Record(NamedTuple):
    """As a producer sends it."""

    topic: str
    user: str
    time_ms: int
    value: bytes | None
    partition: int | None = None


def impression(n: int, time_ms: int, user: str, **more: Any) -> Record:
    event = {"v": 1, "type": "impression", "id": n, "time_ms": time_ms}
    event |= {"fields": {"user": user, "price": n % 11 / 2}} | more
    return Record("impressions", user, time_ms, json.dumps(event).encode())


def feedback(n: int, time_ms: int, user: str, of: int, **more: Any) -> Record:
    event = {"v": 1, "type": "feedback", "id": n, "time_ms": time_ms, "impression": of}
    event |= {"kind": "click", "value": 1, "user": user} | more
    return Record("feedback", user, time_ms, json.dumps(event).encode())


def records(user_of: Callable[[int], str] = lambda n: f"u{n % 9}", **more: Any) -> list[Record]:
    """Impressions, a third of them clicked soon after, in the order of time."""
    out = []
    for n in range(N):
        time_ms, user = START + n * STEP_MS, user_of(n)
        out.append(impression(n, time_ms, user, **more))
        if n % 3 == 0:
            out.append(feedback(n, time_ms + 120, user, n, **more))
    return sorted(out, key=lambda r: r.time_ms)


def log_of(sent: Iterable[Record], partitions: int = 2, end_ms: int | None = None) -> EventLog:
    """A log that holds them, and its end, at the last of their times."""
    topics = {"impressions": partitions, "feedback": partitions, "control": 1}
    log, last_ms = MemoryLog(topics), START
    for topic, user, time_ms, value, p in sent:
        log.append(topic, user.encode(), value, time_ms, p)
        last_ms = max(last_ms, time_ms)
    end(log, end_ms or last_ms)
    return log


def end(log: EventLog, time_ms: int) -> None:
    value = json.dumps({"v": 1, "type": "end", "time_ms": time_ms}).encode()
    for topic, partitions in log.topics.items():
        for p in range(partitions):
            log.append(topic, None, value, time_ms, p)


def learned(log: EventLog, app: Application = APP) -> Learner:
    """What the log teaches, which is the same read in large chunks, and in small ones with another
    learner going on half way."""
    whole = _read(Learner(app, log.topics, 0), log, 4_096, None)
    cut = max(1, whole.trainer.steps // 2)
    again = _read(Learner(app, log.topics, 0), log, 7, cut)
    assert again.state_hash() == whole.state_hash()
    assert (again.examples, again.merge.released) == (whole.examples, whole.merge.released)
    return whole


def _read(learner: Learner, log: EventLog, size: int, cut: int | None) -> Learner:
    reader, until = log.reader(learner.position), log.end_position()
    while True:
        for _ in learner.steps():
            if learner.trainer.steps == cut:
                fresh = Learner(learner.app, log.topics, 0)
                fresh.load(learner.state())
                return _read(fresh, log, size, None)
        if learner.position == until:
            return learner
        chunks = (reader.read(*tp, size) for tp in learner.merge.furthest_behind())
        learner.take(next(chunk for chunk in chunks if chunk.offsets))


@pytest.fixture(scope="module")
def undisturbed() -> Learner:
    learner = learned(log_of(records()))
    assert learner.examples == N and not any(learner.join.counts.values())
    return learner


def test_what_a_producer_sends_again_counts_once(undisturbed):
    draw, sent = random.Random(1), []
    for n, record in enumerate(records()):
        sent.append((n, record))
        if draw.random() < 0.5:  # soon, or once much else has been sent
            sent.append((n + draw.choice([0, 1, 200]), record))
    learner = learned(log_of(r for _, r in sorted(sent, key=lambda s: s[0])))
    assert learner.state_hash() == undisturbed.state_hash()
    assert learner.merge.released["duplicate"] > N // 3


def test_what_comes_out_of_order_within_the_lateness_changes_nothing(undisturbed):
    draw = random.Random(2)
    sent = sorted(records(), key=lambda r: r.time_ms + draw.uniform(0, LATENESS_MS))
    learner = learned(log_of(sent))
    assert learner.state_hash() == undisturbed.state_hash()
    assert learner.merge.released["delayed"] == 0


def test_what_comes_beyond_the_lateness_is_counted_and_every_impression_learned_once():
    draw = random.Random(3)
    sent = sorted(records(), key=lambda r: r.time_ms + draw.uniform(0, 6 * LATENESS_MS))
    learner = learned(log_of(sent))
    assert learner.merge.released["delayed"] > N // 4
    assert learner.examples == N


def test_feedback_that_is_late_or_of_nothing_is_counted_and_changes_no_label(undisturbed):
    sent = records()
    middle = START + N * STEP_MS // 2
    late = [feedback(10_000 + n, middle + n, f"u{n % 9}", n + 1) for n in range(20)]
    orphans = [feedback(20_000 + n, middle + n, "u1", 10**6 + n) for n in range(30)]
    learner = learned(log_of(sorted(sent + late + orphans, key=lambda r: r.time_ms)))
    assert learner.trainer.state_hash() == undisturbed.trainer.state_hash()
    assert learner.join.counts == {"orphan": 50, "expired": 0}


def test_feedback_that_is_there_before_its_impression_waits_for_it(undisturbed):
    """Said to be earlier, as by a client whose clock is slow, and earlier in the log."""
    sent = []
    for r in records():
        if r.topic == "feedback":
            told = json.loads(r.value or b"")
            r = feedback(told["id"], r.time_ms - 320, told["user"], told["impression"])
        sent.append(r)
    learner = learned(log_of(sorted(sent, key=lambda r: r.time_ms)))
    assert learner.scores.headline() == undisturbed.scores.headline()
    assert learner.state_hash() == undisturbed.state_hash()
    assert learner.join.counts["orphan"] == 0


def test_tombstones_and_fields_that_nobody_knows_change_nothing(undisturbed):
    sent = [r for n, r in enumerate(records(seen_by="someone", more={"a": [1, None]}))]
    sent = [t for r in sent for t in (r, r._replace(value=None))]
    learner = learned(log_of(sent))
    assert learner.state_hash() == undisturbed.state_hash() and learner.bad == 0


@pytest.mark.parametrize("price", ["NaN", "Infinity", "-Infinity", "1e39", "1e999", "null"])
def test_a_feature_that_is_not_finite_is_a_dead_letter(price, undisturbed):
    bad = impression(10**6, START, "u1")
    assert bad.value is not None and b'"price": 0.5' in bad.value
    bad = bad._replace(value=bad.value.replace(b'"price": 0.5', b'"price": %b' % price.encode()))
    learner = learned(log_of([bad, *records()]))
    assert learner.bad == 1
    assert learner.state_hash() == undisturbed.state_hash()


def test_one_hot_key_with_half_the_traffic_gives_one_hash_on_any_number_of_partitions():
    sent = records(lambda n: "hot" if n % 2 else f"u{n % 9}")
    hashes = {learned(log_of(sent, partitions)).state_hash() for partitions in (1, 2, 5)}
    assert len(hashes) == 1


def test_a_flood_of_ids_is_learned_within_the_capacity():
    app = APP.with_settings(["trainer.embedding.capacity=64"])
    learner = learned(log_of(records(lambda n: f"new-{n}")), app)
    assert learner.examples == N
    assert len(learner.trainer.predictor.embedding) == 64 + 1  # and the row of ids unseen


def test_an_idle_partition_holds_time_back_until_a_heartbeat_says_that_it_passed(undisturbed):
    sent = [r._replace(partition=0) for r in records()]
    topics = {"impressions": 2, "feedback": 2, "control": 1}
    log = MemoryLog(topics)
    for topic, user, time_ms, value, p in sent:
        log.append(topic, user.encode(), value, time_ms, p)
    learner = _read(Learner(APP, topics, 0), log, 50, None)
    assert learner.examples == 0
    for tp in (("impressions", 1), ("feedback", 1), ("control", 0)):
        log.append(tp[0], None, None, START + N * STEP_MS // 2, tp[1])
    learner = _read(learner, log, 50, None)
    assert N // 4 < learner.examples < N // 2
    end(log, sent[-1].time_ms)
    assert learned(log).state_hash() == undisturbed.state_hash()


def test_a_partition_an_hour_behind_catches_up_and_lag_grows_in_the_log(undisturbed, monkeypatch):
    """What the others bring meanwhile stays in the log, not in memory."""
    monkeypatch.setattr(loop, "HELD_EVENTS", 40)
    monkeypatch.setattr(loop, "READ_RECORDS", 10)
    sent = records()
    behind = [r for r in sent if partition_of(r.user.encode(), 2)]
    log = MemoryLog({"impressions": 2, "feedback": 2, "control": 1})
    for topic, user, time_ms, value, _ in (r for r in sent if r not in behind):
        log.append(topic, user.encode(), value, time_ms)
    learner, reader = Learner(APP, log.topics, 0), log.reader()
    state = Loop(MemoryRegistry(), DeadLetters())
    for _ in range(100):
        loop._read(reader, learner, state, {})
        assert not list(learner.steps())
    assert 40 <= learner.merge.waiting <= 50
    for topic, user, time_ms, value, _ in behind:
        log.append(topic, user.encode(), value, time_ms)
    end(log, sent[-1].time_ms)
    assert learn(log, learner, state, log.end_position())
    assert learner.state_hash() == undisturbed.state_hash()


def jumping(sent: list[Record]) -> list[Record]:
    """Of one partition's producers the clock goes an hour ahead for a while, and an hour behind."""
    out = []
    for n, r in enumerate(sent):
        away_ms = HOUR_MS if n in range(200, 260) else -HOUR_MS if n in range(400, 460) else 0
        if away_ms and partition_of(r.user.encode(), 2):
            event = json.loads(r.value or b"")
            event["time_ms"] += away_ms
            r = r._replace(time_ms=r.time_ms + away_ms, value=json.dumps(event).encode())
        out.append(r)
    return out


def test_when_a_producers_clock_jumps_by_an_hour_what_is_not_learned_is_counted():
    learner = learned(log_of(jumping(records())))
    counts = learner.merge.released
    assert counts["in"] == len(records()) and counts["late"] > 0
    assert N - counts["late"] <= learner.examples < N


def test_with_a_memory_of_ids_longer_than_the_jump_nothing_is_lost():
    learner = learned(log_of(jumping(records())), replace(APP, memory_ms=3 * HOUR_MS))
    assert learner.merge.released["late"] == 0 and learner.merge.released["delayed"] > 0
    assert learner.examples == N
