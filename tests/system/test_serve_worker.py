"""`freshet serve` as a process: what it does while Kafka or Redis is away, and how it ends."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
import redis
from served import LEAST, Served
from workers import Command

from features.events import CONTROL, FEEDBACK, IMPRESSIONS
from streaming.bundled import bundled_redis


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
