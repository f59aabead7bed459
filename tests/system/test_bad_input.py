"""What can't be used goes to the dead letters with its reason and position; the stream goes on."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.events import IMPRESSIONS
from model.weighting import Weighting
from streaming.application import (
    Aggregates,
    Application,
    Entity,
    Field,
    Schema,
    Shown,
    Signal,
    Task,
    Told,
)
from streaming.dead_letters import DeadLetters
from streaming.early_stopping import EarlyStopping
from streaming.eventlog import MemoryLog
from streaming.history import produce, topics
from streaming.kafkalog import KafkaLog
from streaming.learn import Loop, learn
from streaming.learner import Learner
from streaming.memory_registry import MemoryRegistry
from streaming.parquetlog import ParquetLog
from streaming.replay import Replay

START = 1_700_000_000_000


def rows(row, tables):
    told = [Told("click", row["click"], 100)] if row["click"] else []
    return Shown(
        row["id"], START + 1_000 * row["second"], {"user": row["user"], "price": row["price"]}, told
    )


APP = Application(
    name="shop",
    schema=Schema(
        (Field("user", "id"), Field("price", "dense")),
        (Task("click", "binary", 1_000),),
        user="user",
    ),
    rows=rows,
    aggregates=Aggregates((Signal("click"),), (Entity("user"),)),
)


def good(n: int = 300) -> list[dict]:
    return [
        {"id": i, "second": i, "user": f"u{i % 7}", "price": i / 10, "click": int(i % 3 == 0)}
        for i in range(n)
    ]


def bad_records() -> dict[str, tuple[bytes, str]]:
    """Records of the impressions topic, each with a part of its reason."""
    event = {
        "v": 1,
        "type": "impression",
        "id": 9_000,
        "time_ms": START,
        "fields": {"user": "u1", "price": 1.5},
    }

    def changed(**what) -> bytes:
        return json.dumps({**event, **what}).encode()

    return {
        "poison": (b"\xff\x00{]", "malformed"),
        "another type": (changed(type="feedback"), "feedback"),
        "an unknown version": (changed(v=2), "$.v"),
        "oversized": (changed(more="x" * 70_000), "oversized"),
        "a missing field": (changed(fields={"user": "u1"}), "price"),
        "a NaN field": (changed(fields={"user": "u1", "price": math.nan}), "malformed"),
        "a null field": (changed(fields={"user": "u1", "price": None}), "$.fields.price"),
        "a field out of range": (changed(fields={"user": "u1", "price": 1e200}), "price"),
        "an id of the wrong type": (changed(fields={"user": 1.5, "price": 1.0}), "$.fields.user"),
        "a negative id": (changed(id=-1), "$.id"),
        "the far future": (changed(time_ms=START + 10**9), "from the future"),
        "no time": (changed(time_ms=10**18), "$.time_ms"),
        "features of another model": (changed(features={"dense": [1.0]}), "features"),
        "deeply nested": (b'{"fields":' + b"[" * 60_000, "recursion"),
    }


@pytest.mark.parametrize("via", ["memory", "parquet", "kafka"])
def test_bad_records_are_set_aside_and_change_nothing(via, tmp_path, request):
    def finished(spoiled: bool) -> tuple[Learner, DeadLetters]:
        names = topics(2)
        log = {
            "memory": lambda: MemoryLog(names),
            "parquet": lambda: ParquetLog(tmp_path / str(spoiled), names),
        }
        if via == "kafka":
            prefix = request.getfixturevalue("topic_prefix") + str(spoiled)
            events = KafkaLog(request.getfixturevalue("kafka"), names, prefix)
            events.create_topics()
        else:
            events = log[via]()
        learner, letters = Learner(APP, names, seed=0), DeadLetters()
        if spoiled:
            for value, _ in bad_records().values():
                events.append(IMPRESSIONS, None, value, START, partition=1)
        produce(APP, events, learner.codec, good(), {})
        assert learn(events, learner, Loop(MemoryRegistry(), letters), events.end_position())
        events.close()
        return learner, letters

    (clean, none), (spoiled, letters) = finished(False), finished(True)
    assert none.count == 0 and letters.count == spoiled.bad == len(bad_records())
    assert spoiled.state_hash() == clean.state_hash()
    for offset, (name, (value, reason)) in enumerate(bad_records().items()):
        letter = letters.last[offset]
        assert (letter["topic"], letter["partition"], letter["offset"]) == (IMPRESSIONS, 1, offset)
        assert reason in letter["reason"], (name, letter["reason"])
        assert letter["value"] == value[:4096].decode("utf-8", "backslashreplace")


def test_bad_rows_of_a_log_are_counted_and_written_out(tmp_path):
    table = good(100)
    table[10]["price"] = math.nan
    table[20]["user"] = None
    table[30]["second"] = None
    table[40]["second"] = 10**10  # in some three hundred years
    table += [{**row, "id": 5_000 + i, "second": i} for i, row in enumerate(good(2_500)[100:], 100)]
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "log.parquet")
    report = Replay(APP, tmp_path / "log.parquet", dead_letters=tmp_path / "dead.jsonl").run()
    assert report is not None
    letters = [json.loads(line) for line in (tmp_path / "dead.jsonl").read_text().splitlines()]
    assert report["events"]["bad"] == len(letters) == 4
    assert report["events"]["late"] == 0
    assert report["tasks"]["click"]["count"] == 2_500 - 4
    assert all(letter["reason"] for letter in letters)
    assert [letter["row"] for letter in letters if "row" in letter] == [30]


def test_steps_that_are_not_finite_are_quarantined_the_same_way_each_time(tmp_path):
    pq.write_table(pa.Table.from_pylist(good(2_000)), tmp_path / "log.parquet")
    app = APP.with_settings(["trainer.dense.kind=sgd", "trainer.dense.lr=1e38"])
    first, second = (
        Replay(app, tmp_path / "log.parquet", dead_letters=tmp_path / f"{n}.jsonl").run()
        for n in range(2)
    )
    assert first is not None and second is not None
    assert first["quarantined"] > 0 and first["steps"] > 0
    assert (first["quarantined"], first["state_hash"]) == (
        second["quarantined"],
        second["state_hash"],
    )
    letters = (tmp_path / "0.jsonl").read_text().splitlines()
    assert len(letters) == first["quarantined"]
    assert "not finite" in letters[0] and json.loads(letters[0])["impressions"]


SIZES = Application(
    name="sizes",
    schema=Schema(
        (Field("user", "id"), Field("tags", "ids", size=4)),
        (
            Task("click", "binary", 5_000),
            Task("size", "multiclass", 5_000, classes=3),
            Task("stay", "regression", 5_000),
        ),
        user="user",
    ),
    rows=rows,
)


def shown(n: int, every_s: int = 1, silent: range = range(0)) -> list[Shown]:
    """A row each `every_s` seconds, of which the `silent` ones are told no size and no stay."""
    return [
        Shown(
            i, START + 1_000 * every_s * i, {"user": i % 9, "tags": [i % 5, i % 3]},
            [Told("click", i % 9 > 4, 50)]
            + ([] if i in silent else [Told("size", i % 3, 60), Told("stay", i % 9, 70)]),
        )
        for i in range(n)
    ]  # fmt: skip


def test_labels_outside_their_range_and_a_million_ids_in_one_row_are_counted_and_skipped() -> None:
    table = shown(600)
    spoilt = {
        100: (Told("click", 2, 50), "expected 0 or 1"),
        200: (Told("size", 3, 50), "expected a class, 0 to 2"),
        300: (Told("size", 0.5, 50), "expected a class, 0 to 2"),
        400: (Told("stay", 1e30, 50), "out of range"),
    }
    for at, (told, _) in spoilt.items():
        table[at] = table[at]._replace(told=[told])
    many = {"user": 1, "tags": list(range(10**6))}
    table[500] = table[500]._replace(fields=many)
    letters = DeadLetters()
    events, learner = MemoryLog(topics(1)), Learner(SIZES, topics(1), seed=0)
    made = produce(SIZES, events, learner.codec, table, {})
    assert learn(events, learner, Loop(MemoryRegistry(), letters), events.end_position())
    (many_ids,) = made.bad
    assert many_ids.row == 500 and "oversized: an event of more than" in many_ids.reason
    assert learner.bad == letters.count == len(spoilt)
    for letter, (_, said) in zip(letters.last, spoilt.values(), strict=True):
        assert said in letter["reason"]
    assert learner.examples == 599 and learner.quarantined == 0


@pytest.mark.parametrize("kind", ["fixed", "reference", "gradnorm", "pcgrad"])
def test_tasks_without_a_label_for_an_hour_of_event_time_go_on_after_it(kind: str) -> None:
    """Two tasks are told nothing for the second of three hours; a third one always."""
    table = shown(3 * 1_200, every_s=3, silent=range(1_200, 2_400))
    app = replace(
        SIZES, source=lambda: iter(table), weighting=Weighting(kind, window=5),
        early_stopping=EarlyStopping.Config(threshold=4, labels=200),
    )  # fmt: skip
    report = Replay(app).run()
    assert report is not None and report["quarantined"] == 0 and report["events"]["bad"] == 0
    tasks = report["tasks"]
    assert [tasks[name]["count"] for name in ("click", "size", "stay")] == [3_600, 2_400, 2_400]
    assert tasks["click"]["served"]["auc"] > 0.9 and tasks["stay"]["served"]["mse"] < 1
    silent = [point for point in report["task_weights"] if 0 < point["example"]]
    assert all(0 < w < 3 for point in silent for w in point["weights"].values())


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda: Field("price", "dens"), "did you mean 'dense'"),
        (lambda: Task("click", "binry", 5), "did you mean 'binary'"),
        (lambda: Task("click", "binary", -5), "window_ms"),
        (
            lambda: Schema((Field("user", "id"),), (Task("c", "binary", 5),), user="usr"),
            "did you mean 'user'",
        ),
        (lambda: Schema((Field("a", "id"), Field("a", "dense")), APP.schema.tasks, "a"), "twice"),
        (lambda: Schema((Field("a", "id"),), (), "a"), "at least one task"),
        (lambda: Schema((Field("a", "id"),), APP.schema.tasks * 2, "a"), "twice: click, click"),
        (lambda: replace(APP.schema, item="price"), "no field of kind 'id'"),
        (lambda: replace(APP.schema, weight="user"), "no field of kind 'dense'"),
        (lambda: Task("click", "binary", 5, classes=4), "1 for the other kinds"),
        (lambda: Task("click", "multiclass", 5), "2 or more for 'multiclass'"),
        (lambda: Task("click", "binary", 5, transform="log1p"), "only a regression"),
        (lambda: Field("user", "id", size=5), "more for kind 'ids'"),
        (lambda: Application("a b", APP.schema, rows), "Application.name"),
        (lambda: APP.with_settings(["memory_ms=5"]), "memory_ms"),
        (lambda: APP.with_settings(["trainer.network.sharing=mmo"]), "mmoe"),
        (lambda: APP.with_settings(["trainer.network=mmoe"]), "a group"),
        (lambda: APP.with_settings(["publish_every"]), "name=value"),
        (lambda: APP.with_settings(["trainer.dense.lr=nan"]), "trainer.dense.lr"),
    ],
)
def test_a_bad_application_or_setting_is_named(broken, message):
    with pytest.raises(ValueError, match=message) as error:
        broken()
    assert "\n" not in str(error.value)
