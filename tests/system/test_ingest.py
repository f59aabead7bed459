"""`freshet ingest`: after a log, Feast holds what the pure code holds, however often it was killed;
what can't be used is a dead letter; and it waits for a store that is away."""

from __future__ import annotations

import json
import os
import signal
from urllib.request import urlopen

import pytest
import redis
from live_topics import free_address, shown, topics
from replays import LOGS
from workers import Command

from streaming.bundled import bundled_redis
from streaming.dlq import PLACE, letters
from streaming.history import read_rows
from streaming.topics import DEAD, ITEMS

ROWS = 16_000
KILLS = 20
TOLD = """{"v": 1, "type": "feedback", "id": "late", "time_ms": 1660000000000, "impression": 9,
"kind": "is_click", "value": 1, "user": %s, "item": 1}"""


def commands(client: redis.Redis) -> int:
    return int(client.info("stats")["total_commands_processed"])


@pytest.mark.timeout(600)
def test_online_equals_replay_after_twenty_kills(
    kafka, data_dir, redis_client, redis_url, tmp_path
):
    """Each time a little further on, and at last after something is acknowledged."""
    with topics(kafka, tmp_path, data_dir, ROWS) as made:
        acknowledged = set()
        for kill in range(1, KILLS + 1):
            before = commands(redis_client)
            with made.ingest(redis_url) as worker:
                if kill < KILLS:
                    worker.until(lambda n=before + kill * 4_000: commands(redis_client) >= n)
                else:
                    worker.until(lambda: made.acknowledged() > 0)
                worker.kill()
            acknowledged.add(made.acknowledged())
        assert max(acknowledged) < made.records, "it was not killed in the middle"
        assert len(acknowledged) > 1, "it never acknowledged anything"
        with made.ingest(redis_url) as worker:
            worker.until(lambda: made.settled(redis_url))
            worker.stop()
        assert made.acknowledged() == made.records


def test_two_share_the_work(kafka, data_dir, redis_client, redis_url, tmp_path):
    with topics(kafka, tmp_path, data_dir, 8_000) as made:
        with made.ingest(redis_url) as one:
            one.until(lambda: redis_client.dbsize() > 100)
            with made.ingest(redis_url, "two") as two:
                two.until(lambda: made.settled(redis_url))
                one.stop()
                two.stop()
        assert made.acknowledged() == made.records


def test_what_cannot_be_used_is_a_dead_letter_once(
    kafka, data_dir, redis_client, redis_url, tmp_path
):
    with topics(kafka, tmp_path, data_dir, 500) as made, made.more(ITEMS, DEAD) as log:
        log.append("impressions", b"1", b'{"type": "impre', 1, 0)
        log.append(ITEMS, None, b'{"v": 1, "topic": "impressions"}', 1, 1)
        log.flush()
        for times, end in enumerate((Command.kill, Command.stop), 1):
            with made.ingest(redis_url) as worker:  # nothing of the first one is acknowledged
                worker.until(lambda n=times: worker.said.read_text().count("offset=") == 2 * n)
                worker.until(lambda: len(list(letters(log))) == 2 and made.settled(redis_url))
                end(worker)
        places = {tuple(letter.says[name] for name in PLACE) for letter in letters(log)}
        last = log.end_position()["impressions", 0] - 1
        assert places == {("impressions", 0, last), (ITEMS, 1, 0)}
        reasons = {letter.says["topic"]: letter.says["reason"] for letter in letters(log)}
        assert "truncated" in reasons["impressions"] and "partition" in reasons[ITEMS]
        assert all(letter.says["worker"] == "ingest" for letter in letters(log))


def test_it_waits_for_redis_and_can_be_ended_while_it_waits(kafka, data_dir, tmp_path):
    with bundled_redis(tmp_path / "redis") as server, redis.Redis.from_url(server.url) as client:
        pid = client.info("server")["process_id"]
        with topics(kafka, tmp_path, data_dir, 2_000) as made:
            with made.ingest(server.url) as worker:
                worker.until(lambda: client.dbsize() > 100)
                os.kill(pid, signal.SIGSTOP)
                try:
                    worker.until(lambda: "not written" in worker.said.read_text())
                    worker.stop()
                finally:
                    os.kill(pid, signal.SIGCONT)
            assert made.acknowledged() < made.records
            with made.ingest(server.url) as worker:
                worker.until(lambda: made.settled(server.url))
                worker.stop()
            assert made.acknowledged() == made.records


def test_no_redis_or_rows_of_another_layout_end_it_in_one_line(
    kafka, data_dir, redis_client, redis_url, tmp_path
):
    with topics(kafka, tmp_path, data_dir, 500) as made:
        nobody = f"redis://{free_address()}/0"
        with made.ingest(nobody, "none") as worker:
            assert worker.wait() == 1
        (line,) = worker.said.read_text().splitlines()
        assert json.loads(line)["level"] == "critical" and "feature store" in line, line
        with made.ingest(redis_url) as worker:
            worker.until(lambda: made.settled(redis_url))
            worker.stop()
        acknowledged = made.acknowledged()
        more = "app = replace(app, aggregates=replace(app.aggregates, history=3))\n"
        made.file.write_text(made.file.read_text() + more)
        user = next(read_rows(made.app, data_dir / LOGS["kuairand"]))["user_id"]
        told = (TOLD % user).encode()
        made.log.append("feedback", str(user).encode(), told, 1_660_000_000_000)
        made.log.flush()
        with made.ingest(redis_url) as worker:
            code = worker.wait()
        assert code == 2 and worker.said.read_text().count("\n") == 1, worker.said.read_text()
        assert "aggregates changed" in worker.said.read_text()
        assert made.acknowledged() == acknowledged


def test_both_workers_show_what_they_do_and_say_it_in_json(
    kafka, data_dir, redis_client, redis_url, tmp_path
):
    """Away from a terminal, as they are here."""
    rows, at = 2_000, {name: free_address() for name in ("ingest", "learn")}
    with topics(kafka, tmp_path, data_dir, rows) as made:
        made.log.append("impressions", b"1", b'{"type": "impre', 1, 0)
        made.log.flush()
        said = {name: tmp_path / f"{name}.log" for name in at}
        often = ("--set", "publish_every=10", "--checkpoint-every", "10")
        with (
            made.worker(
                "ingest", redis_url, said["ingest"], LOG__LEVEL="info", INGEST__METRICS=at["ingest"]
            ) as ingest,
            made.worker(
                "learn", redis_url, said["learn"], *often,
                LOG__LEVEL="info", LEARN__METRICS=at["learn"],
            ) as learn,
        ):  # fmt: skip
            for name, worker in (("ingest", ingest), ("learn", learn)):
                worker.until(lambda name=name: shown(at[name]).get("freshet_events_read_total"))
                worker.until(lambda name=name: shown(at[name]).get("freshet_lag_events") == 0)
            ingest.until(lambda: made.settled(redis_url))
            learn.until(lambda: shown(at["learn"])["freshet_checkpoint_step"] == 30)
            by_ingest, by_learn, records = shown(at["ingest"]), shown(at["learn"]), made.records
            lines = {name: path.read_text().splitlines() for name, path in said.items()}
            with urlopen(f"http://{at['learn']}/healthz") as answer:
                assert answer.status == 200
            learn.stop()
            ingest.stop()
    assert by_ingest["freshet_events_read_total"] >= records
    assert by_ingest["freshet_rows_written_total"] > rows
    assert by_ingest["freshet_store_seconds_count"] > 0
    assert by_ingest["freshet_events_bad_total"] == by_learn["freshet_events_bad_total"] == 1
    assert by_learn["freshet_examples_total"] >= 30 * 64
    assert by_learn["freshet_batch_seconds_count"] > by_learn["freshet_batches_total"] > 0
    assert by_learn["freshet_published_version"] == 30
    assert by_learn["freshet_lease_epoch"] == 1
    assert 0 < by_learn["freshet_watermark_delay_seconds"] < 10 * 365 * 86_400
    for name, of_worker in lines.items():
        events = [json.loads(line) for line in of_worker]
        assert all({"time", "level", "logger", "message"} <= event.keys() for event in events)
        assert any(event.get("offset") is not None for event in events), name
