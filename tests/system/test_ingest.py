"""`freshet ingest`: after a log, Feast holds what the pure code holds, however often it was killed;
what can't be used is a dead letter; and it waits for a store that is away."""

from __future__ import annotations

import json
import os
import signal
import socket
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import redis
from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka.admin import AdminClient
from prometheus_client.parser import text_string_to_metric_families
from pure_windows import differing
from replays import LOGS
from workers import Command

from features.feast_store import FeastStore
from features.windows import Windows
from streaming.__main__ import load_application
from streaming.bundled import bundled_redis
from streaming.dlq import PLACE, letters
from streaming.eventlog import EventLog
from streaming.history import produce, read_rows, side_tables
from streaming.sections import Kafka
from streaming.topics import DEAD, ITEMS, create, open_log, prefix

PARTITIONS = 4
ROWS = 16_000
KILLS = 20
MODULE = """
from dataclasses import replace
from streaming.apps.kuairand import app as kuairand
app = replace(kuairand, name={name!r})
"""

TOLD = """{"v": 1, "type": "feedback", "id": "late", "time_ms": 1660000000000, "impression": 9,
"kind": "is_click", "value": 1, "user": %s, "item": 1}"""


class Topics:
    """An application's live topics, holding the first `rows` of KuaiRand, and their end."""

    def __init__(self, broker: str, folder: Path, data: Path, rows: int | None) -> None:
        self.broker, self.folder = broker, folder
        self.app = replace(load_application("kuairand"), name=f"kuairand-{uuid.uuid4().hex[:8]}")
        self.file = folder / "my_app.py"
        self.file.write_text(MODULE.format(name=self.app.name))
        create(Kafka(broker, PARTITIONS), self.app.name)
        self.log = open_log(Kafka(broker), self.app.name)
        path = data / LOGS["kuairand"]
        codec = Windows(self.app.schema, self.app.aggregates).codec
        produce(
            self.app, self.log, codec, read_rows(self.app, path, rows), side_tables(self.app, path)
        )
        self._admin = AdminClient({"bootstrap.servers": broker})

    def acknowledged(self) -> int:
        """Records of the events' topics that ingest need not see again."""
        (answer,) = self._admin.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(f"freshet-{self.app.name}-ingest")]
        ).values()
        items = prefix(self.app.name) + ITEMS
        partitions = answer.result().topic_partitions
        return sum(max(0, at.offset) for at in partitions if at.topic != items)

    @contextmanager
    def more(self, *names: str) -> Iterator[EventLog]:
        """A log of these topics and the impressions."""
        with closing(open_log(Kafka(self.broker), self.app.name, "impressions", *names)) as log:
            yield log

    @property
    def records(self) -> int:
        end = self.log.end_position()
        return sum(
            end[topic, p] for topic in ("impressions", "feedback") for p in range(PARTITIONS)
        )

    def settled(self, url: str) -> bool:
        """Whether all rows are those of the pure code."""
        return sum(self.differing(url).values()) == 0

    def ingest(self, url: str, instance: str = "one") -> Command:
        """The worker's process; killed if it is still there at the end."""
        return self.worker(
            "ingest", url, self.folder / f"{instance}.log", INGEST__INSTANCE=instance
        )

    def worker(self, name: str, url: str, said: Path, *words: str, **settings: str) -> Command:
        settings |= {
            "KAFKA__BOOTSTRAP": self.broker,
            "FEATURES__FOLDER": str(self.folder / "features"),
            "LEARN__CHECKPOINTS": str(self.folder / "checkpoints"),
        }
        environ = {f"FRESHET_{name}": value for name, value in settings.items()}
        return Command([name, f"{self.file}:app", "--redis", url, *words], environ, said)

    def differing(self, url: str) -> dict[str, int]:
        windows = Windows(self.app.schema, self.app.aggregates)
        with closing(FeastStore(url, self.app.name, self.folder / "f", windows)) as store:
            return differing(self.app, store, self.log, PARTITIONS)


@contextmanager
def topics(broker: str, folder: Path, data: Path, rows: int | None) -> Iterator[Topics]:
    made = Topics(broker, folder, data, rows)
    try:
        yield made
    finally:
        made.log.delete_topics()
        made.log.close()


def shown(address: str) -> dict[str, float]:
    """What a worker's metrics sum up to, by name; nothing before it shows any."""
    try:
        with urlopen(f"http://{address}/metrics") as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
    except URLError:
        return {}
    names = {sample.name for family in families for sample in family.samples}
    return {
        name: sum(s.value for family in families for s in family.samples if s.name == name)
        for name in names
    }


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def commands(client: redis.Redis) -> int:
    return int(client.info("stats")["total_commands_processed"])


@pytest.mark.timeout(600)
def test_online_equals_replay_after_twenty_kills(
    kafka, data_dir, redis_client, redis_url, tmp_path
):
    """Each time a little further on, some before anything is acknowledged and some after."""
    with topics(kafka, tmp_path, data_dir, ROWS) as made:
        acknowledged = set()
        for kill in range(1, KILLS + 1):
            before = commands(redis_client)
            with made.ingest(redis_url) as worker:
                worker.until(lambda n=before + kill * 4_000: commands(redis_client) >= n)
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
