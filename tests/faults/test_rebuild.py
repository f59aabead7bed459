"""A feature store that has lost rows is found out, and made again from the log."""

from __future__ import annotations

import json

from live_topics import Topics, topics
from replays import LOGS
from workers import Command

from streaming.history import read_rows

TOLD = """{"v": 1, "type": "feedback", "id": "%s", "time_ms": %d, "impression": 9,
"kind": "is_click", "value": 1, "user": %s, "item": 1}"""
ROWS = 3_000
MONTH_MS = 30 * 86_400_000


def tell(made: Topics, data, name: str) -> None:
    """Some more feedback, in every partition, and that its time has passed."""
    rows = list(read_rows(made.app, data / LOGS["kuairand"], ROWS))
    now_ms = max(row["time_ms"] for row in rows) + 60_000
    for user in sorted({row["user_id"] for row in rows[:200]}):
        told = TOLD % (f"{name}-{user}", now_ms, user)
        made.log.append("feedback", str(user).encode(), told.encode(), now_ms)
    for topic, partitions in made.log.topics.items():
        for p in range(partitions):
            made.log.append(topic, None, None, now_ms + MONTH_MS, p)
    made.log.flush()


def rebuild(made: Topics, url: str, name: str) -> Command:
    said = made.folder / f"{name}.log"
    return made.worker("ingest", url, said, "--rebuild", INGEST__INSTANCE="one")


def test_flushed_in_the_middle_and_killed_in_the_rebuilding_the_rows_are_those_of_the_pure_code(
    kafka, data_dir, redis_client, redis_url, tmp_path
):
    with topics(kafka, tmp_path, data_dir, ROWS) as made:
        with made.ingest(redis_url, "") as worker:
            worker.until(lambda: made.settled(redis_url))
            redis_client.flushall()
            tell(made, data_dir, "more")
            assert worker.wait() == 2  # nothing is written upon what is not there
        (line,) = worker.said.read_text().splitlines()
        assert "lost rows" in line and "--rebuild" in line, line
        assert redis_client.dbsize() == 0
        with rebuild(made, redis_url, "killed") as worker:
            worker.until(lambda: redis_client.dbsize() > 100)
            worker.kill()
        with made.ingest(redis_url) as worker:
            worker.until(lambda: made.settled(redis_url))
            worker.stop()


def test_rows_of_before_are_found_lost_at_a_start_and_the_rebuilding_says_how_far_it_is(
    kafka, data_dir, redis_client, redis_url, tmp_path
):
    with topics(kafka, tmp_path, data_dir, ROWS) as made:
        with made.ingest(redis_url, "") as worker:
            worker.until(lambda: made.settled(redis_url))
            worker.stop()
        assert made.acknowledged() == made.records
        redis_client.flushall()
        tell(made, data_dir, "more")
        with made.ingest(redis_url, "") as worker:
            assert worker.wait() == 2 and "--rebuild" in worker.said.read_text()
        with rebuild(made, redis_url, "rebuild") as worker:
            worker.until(lambda: "rebuilt" in worker.said.read_text())
            assert made.settled(redis_url)
            worker.stop()
        lines = [json.loads(line) for line in worker.said.read_text().splitlines()]
        assert any(line.get("of") == made.records for line in lines), lines
