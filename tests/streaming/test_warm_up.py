"""A historical log first and live events after: the same as one log of both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from threading import Event

import pytest

from streaming.application import Shown
from streaming.apps.simulated import calm
from streaming.dead_letters import DeadLetters
from streaming.eventlog import Chunk, MemoryLog, Position
from streaming.history import BadRow, produce, topics
from streaming.learn import Loop, learn
from streaming.learner import Learner, Step
from streaming.memory_registry import MemoryRegistry
from streaming.warm_up import BLOCK, PARTITIONS, Past, add_past, hand_over, handed_over, has_past

APP = replace(calm, publish_every=10_000)
ROWS = 6_000


@pytest.fixture(scope="module")
def rows() -> list[Shown]:
    assert calm.source is not None
    return list(islice(calm.source(), ROWS))


def loop(**options) -> Loop:
    return Loop(MemoryRegistry(), DeadLetters(), **options)


def live_log(learner: Learner, rows: Iterable[Shown], partitions: int) -> MemoryLog:
    log = MemoryLog(topics(partitions))
    produce(learner.app, log, learner.codec, rows, {})
    return log


class Live:
    """A log in memory that, like Kafka's live one, passes over the historical log's partitions."""

    def __init__(self, log: MemoryLog) -> None:
        self.log = log

    def reader(self, position: Position) -> Live:
        self.inner = self.log.reader({tp: o for tp, o in position.items() if tp not in PARTITIONS})
        return self

    def read(self, topic: str, partition: int, *more) -> Chunk:
        if (topic, partition) in PARTITIONS:
            return Chunk(topic, partition, [], [], [])
        return self.inner.read(topic, partition, *more)

    def close(self) -> None:
        self.inner.close()


def learned_at_once(app, rows: Sequence[Shown]) -> Learner:
    learner = Learner(app, topics(1), 0)
    log = live_log(learner, rows, 1)
    assert learn(log, learner, loop(), log.end_position())
    return learner


def past_of(learner: Learner, rows: Iterable, record: dict | None = None, on_bad=None) -> Past:
    made = {} if record is None else record
    return Past(learner.app, learner, rows, {}, made, on_bad or (lambda bad: None))


def learned_in_two(app, past: Sequence[Shown], after: Sequence[Shown], partitions=1) -> Learner:
    learner = Learner(app, topics(partitions), 0)
    add_past(learner)
    history = past_of(learner, past)
    assert learn(history, learner, loop(), history.until)
    hand_over(learner)
    log = live_log(learner, after, partitions)
    assert learn(Live(log), learner, loop(), log.end_position())
    return learner


@pytest.fixture(scope="module")
def whole(rows) -> Learner:
    return learned_at_once(APP, rows)


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("cut", [1, 900, 3_001, ROWS - 1])
def test_there_is_neither_a_gap_nor_an_overlap(cut, partitions, rows, whole):
    learner = learned_in_two(APP, rows[:cut], rows[cut:], partitions)
    assert learner.state_hash() == whole.state_hash()
    assert learner.merge.released == whole.merge.released
    assert learner.examples == whole.examples


def test_lateness_is_allowed_for_at_the_seam(rows):
    app = replace(APP, lateness_ms=400)
    whole = learned_at_once(app, rows)
    assert learned_in_two(app, rows[:3_001], rows[3_001:], 2).state_hash() == whole.state_hash()
    mixed = [*rows[:3_000], rows[3_100], *rows[3_000:3_100], *rows[3_101:]]  # 3,100 is in the past
    learner = learned_in_two(app, mixed[:3_001], mixed[3_001:])
    assert learner.state_hash() == whole.state_hash()
    assert learner.merge.released["delayed"] == 0


def test_rows_that_are_in_both_are_learned_once(rows, whole):
    learner = learned_in_two(APP, rows[:3_000], rows[2_500:])
    assert learner.state_hash() == whole.state_hash()
    assert learner.merge.released["duplicate"] > 500


def test_what_lies_beyond_the_last_impression_waits_for_live_events(rows):
    learner = Learner(APP, topics(1), 0)
    add_past(learner)
    history = past_of(learner, rows[:2_000])
    assert not handed_over(learner)
    assert learn(history, learner, loop(), history.until)
    assert learner.merge.watermark == rows[1_999].time_ms
    hand_over(learner)
    assert handed_over(learner)
    assert learner.merge.watermark == rows[1_999].time_ms


def test_stopped_in_the_history_it_goes_on_from_there(rows, whole):
    record: dict = {}
    tree, stops = None, 0
    while True:
        stop, counted = Event(), iter(range(1, 10**9))

        def on_step(step: Step, stop: Event = stop, counted=counted) -> None:
            if next(counted) == 15:
                stop.set()

        learner = Learner(APP, topics(1), 0)
        add_past(learner)
        if tree is not None:
            assert has_past(tree)
            learner.load(tree)
        history = past_of(learner, rows[:5_000], record)
        if learn(history, learner, loop(stop=stop, on_step=on_step), history.until):
            break
        tree, stops = learner.state(), stops + 1
        assert not handed_over(learner)
    assert stops > 2
    hand_over(learner)
    log = live_log(learner, rows[5_000:], 1)
    assert learn(Live(log), learner, loop(), log.end_position())
    assert learner.state_hash() == whole.state_hash()
    assert learner.merge.released == whole.merge.released, "some was read twice"


def learned_past(rows: Iterable, record: dict, tree: dict | None = None, on_bad=None) -> Learner:
    learner = Learner(APP, topics(1), 0)
    add_past(learner)
    if tree is not None:
        learner.load(tree)
    history = past_of(learner, rows, record, on_bad)
    assert learn(history, learner, loop(), history.until)
    return learner


def test_another_history_is_refused_when_it_goes_on(rows):
    record: dict = {}
    tree = learned_past(rows[:3_000], record).state()
    assert record["blocks"] > 1
    changed = [*rows[:100], rows[100]._replace(time_ms=rows[100].time_ms + 1), *rows[101:3_000]]
    for other in (changed, rows[: BLOCK // 4]):
        with pytest.raises(ValueError, match="--from is not the log"):
            learned_past(other, dict(record), tree)
    assert learned_past(rows[:3_000], dict(record), tree).state_hash()


def test_a_bad_row_is_told_of_once(rows):
    bad: list[BadRow] = []
    broken = rows[10]._replace(fields={})
    some = [*rows[:10], broken, *rows[11:2_500], broken]
    record: dict = {}
    tree = learned_past(some, record, on_bad=bad.extend).state()
    assert [b.row for b in bad] == [10, 2_500]
    assert record["bad_rows"] == 2
    learned_past(some, record, tree, bad.extend)
    assert len(bad) == 2
