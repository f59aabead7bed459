"""Dead letters in their topic: each once, whatever restarts, and retried as they were."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from features.codec import Bad
from features.events import FEEDBACK, IMPRESSIONS
from model.schema import Field, Schema, Task
from streaming.application import Aggregates, Application, Signal
from streaming.checkpoint import Checkpoints
from streaming.dead_letters import DeadLetters
from streaming.dlq import DeadLetterTopic, find, letters, records, retry
from streaming.eventlog import EventLog, MemoryLog
from streaming.history import BadRow
from streaming.kafkalog import KafkaLog
from streaming.learn import Loop, learn
from streaming.learner import Learner
from streaming.memory_registry import MemoryRegistry
from streaming.sections import Kafka
from streaming.topics import DEAD, create, open_log, prefix

START = 1_700_000_000_000
SCHEMA = Schema((Field("user", "id"),), (Task("click", "binary", 1_000),), user="user")
LATER = Aggregates((Signal("share"),))  # knows a kind of feedback more


def app(name: str, aggregates: Aggregates | None = None) -> Application:
    return Application(
        name, SCHEMA, lambda row, tables: None, aggregates=aggregates or Aggregates()
    )


@dataclass
class Live:
    """Live topics on the broker."""

    name: str
    kafka: Kafka
    events: KafkaLog
    dead: KafkaLog

    def learned(self, application: Application, bad: DeadLetterTopic, **options) -> Learner:
        learner = Learner(application, self.events.topics, seed=0)
        loop = Loop(MemoryRegistry(), bad, **options)
        assert learn(self.events, learner, loop, self.events.end_position())
        bad.close()
        return learner


@pytest.fixture
def live(kafka: str, topic_prefix: str) -> Iterator[Live]:
    settings, name = Kafka(bootstrap=kafka, partitions=2), topic_prefix.strip("-")
    create(settings, name)
    with ExitStack() as stack:
        events, dead = (
            stack.enter_context(closing(open_log(settings, name, *which))) for which in ([], [DEAD])
        )
        yield Live(name, settings, events, dead)


def feedback(number: int, kind: str) -> bytes:
    event = {"type": "feedback", "v": 1, "id": number, "time_ms": START + number}
    return json.dumps({**event, "impression": 1, "kind": kind, "value": 1, "user": "u"}).encode()


def spoil(log: EventLog) -> None:
    """Two feedbacks of a kind that is not known yet, and bytes that are nothing."""
    log.append(FEEDBACK, b"u", feedback(1, "share"), START + 1, 1)
    log.append(FEEDBACK, b"v", feedback(2, "click"), START + 2, 1)
    log.append(FEEDBACK, b"w", feedback(3, "share"), START + 3, 0)
    log.append(IMPRESSIONS, b"x", b"\xff\x00", START + 4, 1)
    log.flush()


def test_what_the_learner_could_not_use_is_there_with_its_place_and_reason(live):
    spoil(live.events)
    live.learned(app(live.name), DeadLetterTopic(live.dead, "learn", 0))
    found = {(s["topic"], s["partition"], s["offset"]): s for _, _, s, _ in letters(live.dead)}
    assert set(found) == {(FEEDBACK, 1, 0), (FEEDBACK, 0, 0), (IMPRESSIONS, 1, 0)}
    shared = found[FEEDBACK, 1, 0]
    assert "kind 'share' is no feedback here" in shared["reason"] and shared["worker"] == "learn"
    assert shared["value"].encode() == feedback(1, "share")
    assert found[IMPRESSIONS, 1, 0]["value_base64"] == "/wA="


def test_a_restart_writes_no_letter_again_and_loses_none(live, tmp_path):
    spoil(live.events)
    checkpoints = Checkpoints(tmp_path)
    live.learned(app(live.name), DeadLetterTopic(live.dead, "learn", 0), checkpoints=checkpoints)
    newest = checkpoints.newest()
    assert newest is not None and newest.tree["dead_letters"] == 3
    # another worker's letter, and what this one wrote after the checkpoint, before it was killed
    spoil(live.events)
    others = DeadLetterTopic(live.dead, "ingest", 0)
    others.add([Bad(FEEDBACK, 1, 2, "also bad", b"x")])
    killed = DeadLetterTopic(live.dead, "learn", 3)
    killed.add([Bad(FEEDBACK, 1, 2, "bad", b"x")])
    killed.close()

    again = DeadLetterTopic(live.dead, "learn", newest.tree["dead_letters"])
    learner = Learner(app(live.name), live.events.topics, seed=0)
    learner.load(newest.tree)
    loop = Loop(MemoryRegistry(), again)
    assert learn(live.events, learner, loop, live.events.end_position())
    again.close()
    assert again.count == 3 and learner.bad == 6
    by_learner = [s for _, _, s, _ in letters(live.dead) if s["worker"] == "learn"]
    places = [(s["topic"], s["partition"], s["offset"]) for s in by_learner]
    assert len(places) == len(set(places)) == 6


def test_a_learner_without_its_checkpoint_writes_none_again(live):
    spoil(live.events)
    for _ in range(2):
        live.learned(app(live.name), DeadLetterTopic(live.dead, "learn", 0))
    assert len(list(letters(live.dead))) == 3


def test_retried_records_are_appended_as_they_were_and_taken(live):
    spoil(live.events)
    live.learned(app(live.name), DeadLetterTopic(live.dead, "learn", 0))
    chosen = [x.offset for x in letters(live.dead) if "share" in x.says["reason"]]
    before = live.events.end_position()
    assert [letter.offset for letter in retry(live.kafka, live.name, chosen)] == chosen

    grown = {tp: n - before[tp] for tp, n in live.events.end_position().items() if n != before[tp]}
    assert grown == {(FEEDBACK, 0): 1, (FEEDBACK, 1): 1}
    original, copy = (record(live, FEEDBACK, 1, offset) for offset in (0, 2))
    assert original == copy == (b"u", feedback(1, "share"), START + 1)
    assert [x.retried for x in letters(live.dead)] == [
        "share" in x.says["reason"] for x in letters(live.dead)
    ]
    for topic, partition in before:  # time passes, and all is released
        live.events.append(topic, None, None, START + 10_000, partition)
    live.events.flush()
    knowing = app(live.name, LATER)
    going_on, anew = (Learner(knowing, live.events.topics, seed=0) for _ in range(2))
    going_on.position.update(before)
    for learner in (going_on, anew):
        loop = Loop(MemoryRegistry(), DeadLetters())
        assert learn(live.events, learner, loop, live.events.end_position())
    assert going_on.merge.released == {"in": 2, "duplicate": 0, "late": 0, "delayed": 0}
    assert anew.merge.released["in"] - anew.merge.released["duplicate"] == 3


def record(live: Live, topic: str, partition: int, offset: int) -> tuple:
    """Key, value and timestamp of a record, by Kafka's own client."""
    consumer = Consumer({"bootstrap.servers": live.kafka.bootstrap, "group.id": "test"})
    consumer.assign([TopicPartition(prefix(live.name) + topic, partition, offset)])
    message = consumer.poll(10)
    consumer.close()
    return message.key(), message.value(), message.timestamp()[1]


def test_what_can_not_be_retried_is_said_and_nothing_is_appended(live):
    spoil(live.events)
    bad = DeadLetterTopic(live.dead, "learn", 0)
    bad.add([Bad(FEEDBACK, 1, 0, "bad", b""), Bad(FEEDBACK, 1, 99, "bad", b"")])
    bad.add_rows([BadRow(5, "no id", "{}")])
    bad.quarantine(7, [(IMPRESSIONS, 1, 0)])
    DeadLetterTopic(live.dead, "ingest").add([Bad(FEEDBACK, 1, 0, "bad", b"")])
    bad.close()
    before = live.events.end_position()
    for offsets, message in (
        ([0, 1], "offset is 1: its record, feedback.1. at 99, is gone"),
        ([0, 2], "offset is 2: no record can be retried for 'no id'"),
        ([0, 3], "offset is 3: no record can be retried for 'loss or gradient is not finite'"),
        ([0, 9], "offset is 9: expected that of a dead letter"),
        ([0, 4], "offset is 4: its record was retried already"),  # the same record's
    ):
        with pytest.raises(ValueError, match=message):
            retry(live.kafka, live.name, offsets)
    assert live.events.end_position() == before
    retry(live.kafka, live.name, [0])
    for offset in (0, 4, 5):
        with pytest.raises(ValueError, match=f"offset is {offset}"):
            retry(live.kafka, live.name, [offset])


def test_a_quarantined_batch_is_written_once_whatever_restarts():
    log = MemoryLog({DEAD: 1})
    for size in (0, 0):
        bad = DeadLetterTopic(log, "learn", size)
        bad.quarantine(7, [(IMPRESSIONS, 0, 1), (IMPRESSIONS, 1, 1)])
        bad.quarantine(8, [(IMPRESSIONS, 0, 2)])
    assert [s["batch_after_step"] for _, _, s, _ in letters(log)] == [7, 8]


def test_letters_keep_to_the_size_of_a_record_and_garbage_in_the_topic_is_shown():
    log = MemoryLog({DEAD: 1})
    log.append(DEAD, None, b"{garbage", 1, 0)
    log.append(DEAD, None, b"[]", 1, 0)
    DeadLetterTopic(log, "produce").add_rows([BadRow(1, "x" * 10_000_000, "y")])
    *garbage, letter = letters(log)
    assert [x.says["reason"] for x in garbage] == ["not a letter"] * 2
    assert len(letter.says["reason"]) == 1_000


def test_a_size_that_the_topic_does_not_hold_reads_it_whole():
    log = MemoryLog({DEAD: 1})
    DeadLetterTopic(log, "learn").add([Bad(FEEDBACK, 0, 1, "bad", b"")])
    assert len(list(records(log, 99))) == 1
    DeadLetterTopic(log, "learn", 99).add([Bad(FEEDBACK, 0, 1, "bad", b"")])
    assert len(list(letters(log))) == 1
    assert find(log, [0])[0].offset == 0 and math.isfinite(find(log, [0])[0].time_ms)


def test_the_commands_list_show_and_retry(live, tmp_path):
    spoil(live.events)
    live.learned(app(live.name), DeadLetterTopic(live.dead, "learn", 0))
    (tmp_path / "shop.py").write_text(
        "from dataclasses import replace\n"
        "from streaming.apps.kuairand import app as kuairand\n"
        f"app = replace(kuairand, name={live.name!r})\n"
    )
    (tmp_path / "freshet.toml").write_text(f'[kafka]\nbootstrap = "{live.kafka.bootstrap}"\n')
    offset = next(x.offset for x in letters(live.dead) if x.says["partition"] == 0)

    listed = dlq(tmp_path, "list")
    assert len(listed) == 3 and "  learn     feedback[0] at 0  " in listed[offset]
    assert "kind 'share' is no feedback here" in listed[offset]
    assert "retried" not in listed[offset]
    assert dlq(tmp_path, "retry", str(offset)) == [f"retried {offset}: feedback[0] at 0"]
    shown = json.loads("\n".join(dlq(tmp_path, "show", str(offset))))
    assert shown["retried"] and shown["letter"]["value"].encode() == feedback(3, "share")
    as_json = [json.loads(line) for line in dlq(tmp_path, "list", "--json")]
    assert [letter["retried"] for letter in as_json] == [n == offset for n in range(3)]
    assert "retried already" in dlq(tmp_path, "retry", str(offset), fails=2)[-1]


def dlq(folder: Path, what: str, *words: str, fails: int = 0) -> list[str]:
    """What the command says, a line each; on stderr where it fails."""
    command = [sys.executable, "-m", "streaming", "dlq", what, "shop.py:app", *words]
    done = subprocess.run(
        [*command, "--config", "freshet.toml"],
        cwd=folder, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == fails, done.stderr
    return (done.stderr if fails else done.stdout).rstrip("\n").split("\n")
