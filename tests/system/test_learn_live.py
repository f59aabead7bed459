"""`freshet learn` on the live topics is a replay of them, however often it is ended; and it begins
with a historical log as if the topics held that too."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import redis
from confluent_kafka import Consumer, TopicPartition
from replays import LOGS, replayed

from features.codec import Codec
from features.windows import Windows
from streaming.__main__ import load_application
from streaming.application import Application
from streaming.bundled import bundled_redis
from streaming.checkpoint import Checkpoints
from streaming.dead_letters import DeadLetters
from streaming.history import produce, read_rows, side_tables
from streaming.produce import Production
from streaming.redis_registry import RedisRegistry
from streaming.replay import Replay
from streaming.sections import Kafka
from streaming.topics import create, open_log, prefix

ROWS = 8_000
PARTITIONS = 4
EVERY = 20
END_S = 10
NONE = SimpleNamespace(version=None)

MODULE = """
from dataclasses import replace
from streaming.apps.kuairand import app as kuairand
app = replace(kuairand, name={name!r}, publish_every=40)
"""


class Topics:
    """An application's live topics, and a file to name it by."""

    def __init__(self, broker: str, folder: Path) -> None:
        self.broker, self.name = broker, f"kuairand-{uuid.uuid4().hex[:8]}"
        self.file = folder / "my_app.py"
        self.file.write_text(MODULE.format(name=self.name))
        self.app: Application = replace(
            load_application("kuairand"), name=self.name, publish_every=40
        )
        kafka = Kafka(broker, PARTITIONS)
        create(kafka, self.name)
        self.log = open_log(kafka, self.name)

    def produce(self, log: Path) -> None:
        codec: Codec = Windows(self.app.schema, self.app.aggregates).codec
        rows, tables = read_rows(self.app, log), side_tables(self.app, log)
        produce(self.app, self.log, codec, rows, tables)

    def committed(self) -> dict[tuple[str, int], int]:
        group = {"bootstrap.servers": self.broker, "group.id": f"freshet-{self.name}-learn"}
        consumer = Consumer(group)
        asked = [
            TopicPartition(prefix(self.name) + topic, p)
            for topic, n in self.log.topics.items()
            for p in range(n)
        ]
        try:
            return {
                (at.topic.removeprefix(prefix(self.name)), at.partition): at.offset
                for at in consumer.committed(asked, 10)
            }
        finally:
            consumer.close()


@contextmanager
def live_topics(broker: str, folder: Path) -> Iterator[Topics]:
    made = Topics(broker, folder)
    try:
        yield made
    finally:
        made.log.delete_topics()
        made.log.close()


@pytest.fixture(scope="module")
def slice_of_log(data_dir, tmp_path_factory) -> Path:
    """The first rows of KuaiRand, with its users beside them."""
    folder = tmp_path_factory.mktemp("whole")
    table = pq.read_table(data_dir / LOGS["kuairand"]).sort_by("time_ms").slice(0, ROWS)
    pq.write_table(table, folder / "log.parquet")
    shutil.copy(data_dir / "kuairand_users.parquet", folder)
    return folder / "log.parquet"


@pytest.fixture(scope="module")
def undisturbed(slice_of_log, data_dir) -> dict:
    return replayed("kuairand", data_dir, ("publish_every=40",), log=slice_of_log)


@pytest.fixture(scope="module")
def whole(kafka, slice_of_log, tmp_path_factory) -> Iterator[Topics]:
    """Live topics that hold the whole slice, with its end."""
    with live_topics(kafka, tmp_path_factory.mktemp("app")) as made:
        made.produce(slice_of_log)
        yield made


def command(made: Topics, url: str, folder: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "streaming", "learn", f"{made.file}:app", "--json"),
        *("--broker", made.broker, "--redis", url, "--checkpoints", str(folder)),
        *("--checkpoint-every", str(EVERY), *more),
    ]


@contextmanager
def learner(*arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """A learner's process; killed if it is still there at the end."""
    line = command(*arguments)  # type: ignore[arg-type]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[bytes], seconds: float = 60) -> dict:
    """The report of one that comes to its end."""
    out, errors = process.communicate(timeout=seconds)
    assert process.returncode == 0, errors.decode()
    return json.loads(out)


def until(process: subprocess.Popen[bytes], true: Callable[[], object]) -> bool:
    """Waits for a state while the process runs; whether it still does."""
    while process.poll() is None:
        if true():
            return True
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
    return False


def steps(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("epoch-*")}


def test_the_live_run_is_a_replay(whole, undisturbed, redis_client, redis_url, tmp_path):
    with learner(whole, redis_url, tmp_path, "--until-end") as process:
        report = ended(process)
    assert report["state_hash"] == undisturbed["state_hash"]
    assert report["tasks"] == undisturbed["tasks"]
    assert report["unpublished"] == 0
    registry = RedisRegistry(redis_url, whole.name)
    latest = registry.latest()
    registry.close()
    assert latest is not None and latest.order == (1, report["steps"])
    assert whole.committed() == whole.log.end_position()
    again = Replay(whole.app, live=True, kafka=Kafka(whole.broker)).run()
    assert again is not None and again["state_hash"] == report["state_hash"]
    assert again["tasks"] == report["tasks"]


def test_the_end_of_the_log_is_published_and_more_is_waited_for(
    whole, undisturbed, redis_client, redis_url, tmp_path
):
    registry = RedisRegistry(redis_url, whole.name)
    with closing(registry), learner(whole, redis_url, tmp_path) as process:
        assert until(process, lambda: (registry.latest() or NONE).version == undisturbed["steps"])
        process.send_signal(signal.SIGTERM)
        report = ended(process, END_S)
    assert report["state_hash"] == undisturbed["state_hash"]


def test_a_replay_of_live_topics_goes_on_where_they_ended_before(kafka, halves, tmp_path):
    with live_topics(kafka, tmp_path) as made:
        app, log, where = made.app, made.log, Kafka(kafka)
        past = halves[0]
        Production(app, log, DeadLetters()).run(read_rows(app, past), side_tables(app, past))
        first = Replay(app, live=True, kafka=where, checkpoints=tmp_path / "state").run()
        made.produce(halves[1])
        second = Replay(app, live=True, kafka=where, checkpoints=tmp_path / "state").run()
        whole = Replay(app, live=True, kafka=where).run()
    assert first is not None and second is not None and whole is not None
    assert 0 < first["examples"] < second["examples"] == whole["examples"]
    assert second["state_hash"] == whole["state_hash"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill-9", "sigterm"])
def test_ended_again_and_again_it_ends_in_the_same_hash(
    number, whole, undisturbed, redis_client, redis_url, tmp_path
):
    report, ends = None, 0
    while report is None:
        before = steps(tmp_path)
        with learner(whole, redis_url, tmp_path, "--until-end") as process:
            if ends < 2 and until(process, lambda known=before: steps(tmp_path) - known):
                process.send_signal(number)
                stopped = process.communicate(timeout=END_S)[0]
                assert process.returncode == (0 if number == signal.SIGTERM else -number)
                assert bool(stopped) == (number == signal.SIGTERM)
                ends += 1
            else:
                report = ended(process)
    assert ends == 2, "it was never ended"
    assert report["epoch"] == 3
    assert report["state_hash"] == undisturbed["state_hash"]
    assert report["tasks"] == undisturbed["tasks"]


def test_one_that_has_learned_the_end_ends_again_at_once(
    whole, undisturbed, redis_client, redis_url, tmp_path
):
    for _ in range(2):
        with learner(whole, redis_url, tmp_path, "--until-end") as process:
            assert ended(process)["state_hash"] == undisturbed["state_hash"]


def test_a_second_learner_is_refused_and_the_first_goes_on(
    whole, redis_client, redis_url, tmp_path
):
    key = f"freshet:{{{whole.name}}}:live:lease"
    with learner(whole, redis_url, tmp_path) as first:
        assert until(first, lambda: redis_client.exists(key))
        with learner(whole, redis_url, tmp_path) as second:
            errors = second.communicate(timeout=60)[1].decode()
        assert second.returncode == 1
        assert f"pid {first.pid} on " in errors.splitlines()[-1]
        assert first.poll() is None
        first.send_signal(signal.SIGTERM)
        ended(first, END_S)
    assert not redis_client.exists(key)


def test_one_whose_lease_is_taken_stops_and_writes_nothing_more(
    whole, redis_client, redis_url, tmp_path
):
    key = f"freshet:{{{whole.name}}}:live:lease"
    with learner(whole, redis_url, tmp_path) as process:
        assert until(process, lambda: redis_client.exists(key))
        redis_client.set(key, json.dumps({"host": "h", "pid": 7, "since": "then"}))
        errors = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 1
    assert "the lease was lost to pid 7 on h" in errors
    assert redis_client.exists(key)


def test_learning_and_checkpoints_go_on_while_redis_is_away(
    kafka, slice_of_log, undisturbed, tmp_path
):
    folder = tmp_path / "checkpoints"
    with live_topics(kafka, tmp_path) as made, bundled_redis(tmp_path / "redis") as server:
        with redis.Redis.from_url(server.url) as client:
            pid = client.info("server")["process_id"]
            with learner(made, server.url, folder, "--until-end") as process:
                assert until(process, lambda: client.exists(f"freshet:{{{made.name}}}:live:lease"))
                os.kill(pid, signal.SIGSTOP)
                try:
                    made.produce(slice_of_log)
                    report = ended(process)
                finally:
                    os.kill(pid, signal.SIGCONT)
    newest = Checkpoints(folder).newest()
    assert report["unpublished"] > 1
    assert report["state_hash"] == undisturbed["state_hash"]
    assert newest is not None and newest.step == report["steps"]


@pytest.fixture
def halves(slice_of_log, tmp_path) -> tuple[Path, Path]:
    """The slice in two, parted between two impressions of one user at work."""
    table = pq.read_table(slice_of_log)
    for name, part in (("first", table.slice(0, ROWS // 2)), ("second", table.slice(ROWS // 2))):
        (tmp_path / name).mkdir()
        pq.write_table(part, tmp_path / name / "log.parquet")
        shutil.copy(slice_of_log.parent / "kuairand_users.parquet", tmp_path / name)
    return tmp_path / "first" / "log.parquet", tmp_path / "second" / "log.parquet"


def test_a_historical_log_first_and_live_after_end_in_the_hash_of_the_whole(
    kafka, halves, undisturbed, redis_client, redis_url, tmp_path
):
    """Also as it is killed in the history, and warmed up before the live topics hold anything."""
    past, folder, ends = halves[0], tmp_path / "checkpoints", 0
    with live_topics(kafka, tmp_path) as made:
        more = ("--from", str(past), "--until-end")
        with learner(made, redis_url, folder, *more) as process:
            assert until(process, lambda: steps(folder))
        with learner(made, redis_url, folder, *more) as process:
            known = steps(folder)
            assert until(process, lambda: steps(folder) - known)
            process.send_signal(signal.SIGTERM)
            ended(process, END_S)
        with learner(made, redis_url, folder, *more) as process:
            warm = f"freshet:{{{made.name}}}:live:pointer"
            version = undisturbed["steps"] // 3
            assert until(process, lambda: int(redis_client.hget(warm, "version") or 0) > version)
            made.produce(halves[1])
            report = ended(process)
            ends += 1
    assert report["state_hash"] == undisturbed["state_hash"]
    assert report["tasks"] == undisturbed["tasks"]
    assert report["events"]["in"] == undisturbed["events"]["in"]


def test_sigterm_ends_it_while_kafka_is_away_and_it_goes_on(
    own_kafka, slice_of_log, undisturbed, redis_client, redis_url, tmp_path
):
    broker, pid = own_kafka
    with live_topics(broker, tmp_path) as made:
        made.produce(slice_of_log)
        folder = tmp_path / "state"
        with learner(made, redis_url, folder) as process:
            assert until(process, lambda: steps(folder) if folder.is_dir() else None)
            os.kill(pid, signal.SIGSTOP)
            try:
                process.send_signal(signal.SIGTERM)
                ended(process, END_S)
            finally:
                os.kill(pid, signal.SIGCONT)
        with learner(made, redis_url, folder, "--until-end") as process:
            assert ended(process)["state_hash"] == undisturbed["state_hash"]
