"""`freshet serve` as a process: what it does while Kafka or Redis is away, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from replays import LOGS
from workers import Command

from features.events import CONTROL, FEEDBACK, IMPRESSIONS
from features.windows import Windows
from model.snapshot import Snapshot, encode
from model.train import Trainer
from streaming.__main__ import load_application
from streaming.bundled import bundled_redis
from streaming.eventlog import Position
from streaming.history import read_rows, side_tables
from streaming.redis_registry import RedisRegistry
from streaming.sections import Kafka
from streaming.topics import create, open_log

BUFFER = 40
LEAST = BUFFER - 5  # a heartbeat in each partition may wait too
MODULE = """
from dataclasses import replace
from streaming.apps.kuairand import app as kuairand
app = replace(kuairand, name={name!r})
"""


class Served:
    """An application with topics and a version, of which nothing else runs; and a request."""

    def __init__(self, broker: str, redis_url: str, folder: Path, data: Path) -> None:
        self.broker, self.redis_url, self.folder = broker, redis_url, folder
        self.file = folder / "served_app.py"
        self.file.write_text(MODULE.format(name=f"served-{uuid.uuid4().hex[:8]}"))
        self.app = app = load_application(f"{self.file}:app")
        create(Kafka(broker, 2), app.name)
        self.log = open_log(Kafka(broker), app.name)
        self.publish(1, {})
        path = data / LOGS["kuairand"]
        shown = app.rows(next(read_rows(app, path)), side_tables(app, path))
        fields = {k: v for k, v in shown.fields.items() if k not in (app.schema.user, "item")}
        fields = {k: v for k, v in fields.items() if k != app.schema.item}
        self.asked = {"user": 7, "candidates": [1, 2, 3, 4, 5], "context": fields, "k": 5}

    def publish(self, version: int, card: dict[str, Any]) -> None:
        app = self.app
        trainer = Trainer(app.schema, Windows(app.schema, app.aggregates).layout, app.trainer, 0)
        with closing(RedisRegistry(self.redis_url, app.name)) as registry:
            registry.publish(encode(Snapshot(version, *trainer.snapshot())), version, 1, card)

    def serve(self, **more: str) -> Command:
        environ = {
            "FRESHET_KAFKA__BOOTSTRAP": self.broker,
            "FRESHET_SERVE__PORT": "0",
            "FRESHET_SERVE__BUFFER": str(BUFFER),
        }
        words = ["serve", f"{self.file}:app", "--redis", self.redis_url]
        worker = Command(words, environ | more, self.folder / "serve.log")
        worker.until(lambda: "http://" in worker.said.read_text())
        self.http = httpx.Client(
            base_url=re.findall(r"http://\S+", worker.said.read_text())[-1], timeout=20
        )
        worker.until(lambda: self.http.get("/readyz").status_code == 200)
        return worker

    def rank(self) -> httpx.Response:
        return self.http.post("/v1/rank", json=self.asked)

    def tell(self, impression: str) -> httpx.Response:
        told = {"impression": impression, "user": 7, "item": 1, "kind": "is_click"}
        return self.http.post("/v1/feedback", json=told)

    def metric(self, name: str) -> float:
        lines = self.http.get("/metrics").text.splitlines()
        return sum(float(x.rpartition(" ")[2]) for x in lines if re.match(rf"{name}[ {{]", x))

    def events(self, *topics: str) -> list[dict]:
        """What the topics hold, heartbeats left out."""
        return [json.loads(value) for _, value in self.records(*topics) if value is not None]

    def records(self, *topics: str) -> list[tuple[int, bytes | None]]:
        """(timestamp, value) of all records."""
        end: Position = self.log.end_position()
        out: list[tuple[int, bytes | None]] = []
        with closing(self.log.reader(dict.fromkeys(end, 0))) as reader:
            for tp in end:
                read = 0 if tp[0] in topics else end[tp]
                while read < end[tp]:
                    chunk = reader.read(*tp, timeout_s=1.0)
                    out += zip(chunk.timestamps_ms, chunk.values, strict=True)
                    read = chunk.next_offset if chunk.offsets else read
        return out


@pytest.fixture
def served(kafka, redis_client, redis_url, data_dir, tmp_path) -> Iterator[Served]:
    made = Served(kafka, redis_url, tmp_path, data_dir)
    yield made
    made.log.delete_topics()
    made.log.close()


def test_what_it_shows_and_is_told_is_in_the_topics_when_it_has_ended(served):
    with served.serve() as worker:
        shown = served.rank().json()["impressions"]
        assert served.tell(shown[0]["id"]).status_code == 202
        worker.stop()
    impressions, (told,) = served.events(IMPRESSIONS), served.events(FEEDBACK)
    assert {e["id"] for e in impressions} == {i["id"] for i in shown}
    assert all(e["features"]["dense"] for e in impressions)
    assert told["impression"] == shown[0]["id"]


def test_it_beats_in_every_partition_once_it_has_shown_something(served):
    """The topics may be in a historical log's time: a server that shows nothing says nothing."""
    with served.serve() as worker:
        worker.until(lambda: served.metric("freshet_request_seconds_count") > 5)
        before = served.log.end_position()
        assert set(before.values()) == {0}
        served.rank()
        worker.until(lambda: all(n > 1 for n in served.log.end_position().values()))
        worker.stop()
    times = [time_ms for time_ms, value in served.records(CONTROL) if value is None]
    assert times == sorted(times) and times[0] >= served.events(IMPRESSIONS)[0]["time_ms"]


def test_while_kafka_is_away_it_ranks_and_keeps_what_it_can(
    own_kafka, redis_client, redis_url, data_dir, tmp_path
):
    broker, pid = own_kafka
    served = Served(broker, redis_url, tmp_path, data_dir)
    with served.serve() as worker:
        os.kill(pid, signal.SIGSTOP)
        try:
            while served.metric("freshet_events_not_logged_total") == 0:
                ranked = served.rank()
                assert ranked.status_code == 200
            full = served.tell(ranked.json()["impressions"][0]["id"])
            assert (full.status_code, full.json()["type"]) == (
                503, "urn:freshet:problem:log-unavailable",
            )  # fmt: skip
            assert served.metric("freshet_log_buffer_events") >= LEAST
        finally:
            os.kill(pid, signal.SIGCONT)
        worker.until(lambda: served.metric("freshet_log_buffer_events") == 0)
        assert served.tell("later").status_code == 202
        logged = served.metric("freshet_events_logged_total")
        worker.stop()
    events = served.events(IMPRESSIONS, FEEDBACK)
    assert len(events) == len({e["id"] for e in events}) == logged >= LEAST


def test_it_says_what_it_could_not_deliver(own_kafka, redis_client, redis_url, data_dir, tmp_path):
    broker, pid = own_kafka
    served = Served(broker, redis_url, tmp_path, data_dir)
    with served.serve() as worker:
        os.kill(pid, signal.SIGSTOP)
        try:
            served.rank()
            os.kill(worker.pid, signal.SIGTERM)
            assert worker.wait(10) == 1
        finally:
            os.kill(pid, signal.SIGCONT)
    assert "5 events are lost" in worker.said.read_text()


def test_while_redis_is_away_it_says_so_and_comes_back(kafka, data_dir, tmp_path):
    with bundled_redis(tmp_path / "redis") as server, redis.Redis.from_url(server.url) as client:
        pid = client.info("server")["process_id"]
        served = Served(kafka, server.url, tmp_path, data_dir)
        with served.serve() as worker:
            os.kill(pid, signal.SIGSTOP)
            try:
                away = served.rank()
                assert away.status_code == 503
                assert away.json()["type"] == "urn:freshet:problem:features-unavailable"
                assert served.http.get("/healthz").status_code == 200
            finally:
                os.kill(pid, signal.SIGCONT)
            worker.until(lambda: served.rank().status_code == 200)
            os.kill(pid, signal.SIGSTOP)
            try:
                worker.stop()
            finally:
                os.kill(pid, signal.SIGCONT)
        served.log.delete_topics()
        served.log.close()


def test_a_version_says_how_fresh_its_labels_are_unless_they_are_of_long_ago(served):
    with served.serve() as worker:
        assert served.metric("freshet_label_to_served_seconds_count") == 0
        now_ms = time.time_ns() // 1_000_000
        served.publish(2, {"closed_from_ms": now_ms - 1_500, "closed_to_ms": now_ms - 1_000})
        worker.until(lambda: served.http.get("/readyz").json()["version"] == 2)
        assert served.metric("freshet_label_to_served_seconds_count") == 2
        assert served.metric("freshet_label_to_served_seconds_sum") >= 2.5
        served.publish(3, {"closed_from_ms": 1_650_000_000_000, "closed_to_ms": 1_650_000_000_500})
        worker.until(lambda: served.http.get("/readyz").json()["version"] == 3)
        assert served.metric("freshet_label_to_served_seconds_count") == 2
        worker.stop()


def test_topics_that_are_not_there_end_it_in_one_line(served):
    served.file.write_text(served.file.read_text() + "app = replace(app, name='nowhere')\n")
    words = ["serve", f"{served.file}:app", "--broker", served.broker, "--redis", served.redis_url]
    with Command(words, {}, served.folder / "none.log") as worker:
        assert worker.wait() == 2
    assert "freshet topics create nowhere" in worker.said.read_text()
    assert worker.said.read_text().count("\n") == 1
