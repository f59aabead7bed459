"""`freshet doctor` names what is wrong: on a real broker and a real Redis, each made wrong."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourceType,
)

from streaming.__main__ import cli, load_application
from streaming.application import Application
from streaming.bundled import BundledRedis
from streaming.doctor.examine import examine
from streaming.doctor.finding import exit_code, text
from streaming.live import Live
from streaming.sections import Kafka
from streaming.topics import create, open_log, prefix

USER, NOW = b"7", 1_700_000_000_000


class Patient:
    """An application on live topics and a Redis of its own; all that it runs on is fine, but that
    nothing has been ingested."""

    def __init__(self, broker: str, redis: str, folder: Path) -> None:
        self.app: Application = replace(
            load_application("simulated"), name=f"patient-{uuid.uuid4().hex[:8]}"
        )
        self.kafka, self.redis, self.folder = Kafka(broker, 2), redis, folder
        create(self.kafka, self.app.name)
        self.log = open_log(self.kafka, self.app.name)
        end = json.dumps({"type": "end", "time_ms": NOW}).encode()
        for topic, partitions in self.log.topics.items():
            for p in range(partitions):
                self.log.append(topic, None, end, NOW, p)
        self.log.flush()
        live = Live(self.app, self.kafka, redis, checkpoints=folder, until_end=True)
        assert live.run() is not None

    def found(self, **other: object) -> dict[tuple[str, str], str]:
        """(about, severity) -> what it says, and what to do."""
        given = {"app": self.app, "kafka": self.kafka, "redis": self.redis}
        findings = examine(**{**given, "checkpoints": self.folder, **other})  # type: ignore[arg-type]
        return {(f.about, f.severity): f"{f.says} -> {f.do}" for f in findings}

    def errors(self, **other: object) -> dict[str, str]:
        return {
            a: says for (a, severity), says in self.found(**other).items() if severity == "error"
        }


@pytest.fixture(scope="module")
def patient(kafka, tmp_path_factory) -> Iterator[Patient]:
    folder = tmp_path_factory.mktemp("patient")
    with closing(BundledRedis(folder / "redis")) as server:
        made = Patient(kafka, server.url, folder / "checkpoints")
        yield made
        made.log.delete_topics()
        made.log.close()


def test_what_is_fine_is_called_fine_and_a_store_without_features_is_said(patient):
    found = patient.found()
    assert {about for about, severity in found if severity == "fine"} >= {
        *("kafka", "topics", "retention", "redis", "versions", "checkpoint")
    }
    assert not patient.errors()
    assert "no ingest worker" in found["features", "warning"]
    assert "nobody learns" in found["lag", "warning"]


def test_the_command_prints_it_and_exits_by_severity(patient, tmp_path):
    where = ["--broker", patient.kafka.bootstrap, "--redis", patient.redis]
    out = CliRunner().invoke(cli, ["doctor", "simulated", *where, "--json"])
    assert out.exit_code == 2  # the shipped application has no topics on this broker
    assert "freshet topics create simulated" in out.stdout
    assert {"about", "severity", "says", "do"} == set(json.loads(out.stdout)[0])
    assert exit_code([]) == 0 and text([]) == ""


def test_a_broker_that_is_away_is_told_with_its_address(patient, monkeypatch):
    monkeypatch.setattr("streaming.topics.ANSWER_S", 1.0)
    errors = patient.errors(kafka=Kafka("127.0.0.1:1", 2))
    assert "no broker at 127.0.0.1:1" in errors["kafka"]


def test_topics_that_are_missing_are_named_with_the_command(patient):
    other = replace(patient.app, name="patient-without-topics")
    errors = patient.errors(app=other)
    assert "freshet.patient-without-topics.impressions" in errors["topics"]
    assert "freshet topics create patient-without-topics" in errors["topics"]
    assert "no version is served" in errors["versions"]


def test_topics_that_do_not_share_their_partitions_are_told(kafka, patient):
    name = f"patient-{uuid.uuid4().hex[:8]}"
    create(patient.kafka, name)
    admin, topic = AdminClient({"bootstrap.servers": kafka}), prefix(name) + "feedback"
    admin.create_partitions([NewPartitions(topic, 3)])[topic].result(10)
    errors = patient.errors(app=replace(patient.app, name=name))
    assert "impressions have 2 partitions and feedback 3" in errors["topics"]


def test_another_count_than_the_config_says_is_a_warning(patient):
    found = patient.found(kafka=replace(patient.kafka, partitions=3))
    assert "2 partitions each" in found["topics", "warning"]


def test_a_topic_that_forgets_is_a_warning(kafka, patient):
    admin = AdminClient({"bootstrap.servers": kafka})
    name = prefix(patient.app.name) + "impressions"

    def keep(ms: str) -> None:
        entry = ConfigEntry("retention.ms", ms, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry])
        admin.incremental_alter_configs([resource])[resource].result(10)

    keep(str(2**53))
    try:
        assert "then forgets" in patient.found()["retention", "warning"]
    finally:
        keep("-1")


def test_events_in_partitions_that_their_keys_do_not_give_are_told(kafka, patient):
    name = f"patient-{uuid.uuid4().hex[:8]}"
    create(patient.kafka, name)
    with closing(open_log(patient.kafka, name)) as log:
        for p in (0, 1):
            log.append("feedback", USER, b"{}", NOW, p)
        log.flush()
    assert "1 of the last 2 events" in patient.errors(app=replace(patient.app, name=name))["keys"]


def test_an_event_from_the_future_is_told(kafka, patient):
    name = f"patient-{uuid.uuid4().hex[:8]}"
    create(patient.kafka, name)
    with closing(open_log(patient.kafka, name)) as log:
        log.append("feedback", USER, b"{}", 4_000_000_000_000)
        log.flush()
    assert "in the future" in patient.errors(app=replace(patient.app, name=name))["clock"]


def test_a_checkpoint_of_another_schema_or_of_topics_that_are_gone_is_told(patient):
    schema = patient.app.schema
    fewer = replace(schema, tasks=schema.tasks[:1])
    tree = {"aggregates": type(patient.app.aggregates)(), "schema": fewer}
    assert (
        "another application or schema"
        in patient.errors(app=replace(patient.app, **tree))["checkpoint"]
    )
    assert (
        "other settings"
        in patient.found(app=replace(patient.app, publish_every=7))["checkpoint", "warning"]
    )


def test_a_checkpoint_that_cannot_be_read_is_told(patient, tmp_path):
    (tmp_path / "epoch-000001.step-000000000001").mkdir()
    assert "can be read" in patient.errors(checkpoints=tmp_path)["checkpoint"]
    assert "none in" in patient.found(checkpoints=tmp_path / "none")["checkpoint", "warning"]


def test_a_redis_that_evicts_or_is_a_replica_or_away_is_told(patient, tmp_path):
    with closing(BundledRedis(tmp_path / "redis")) as server:
        with redis.Redis.from_url(server.url) as client:
            client.config_set("maxmemory", "64mb")
            client.config_set("maxmemory-policy", "allkeys-lru")
            assert "evicts (allkeys-lru)" in patient.errors(redis=server.url)["redis"]
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", "1mb")
            assert "of its 1 MiB" in patient.found(redis=server.url)["redis", "warning"]
            client.replicaof("127.0.0.1", "1")
            assert "read-only" in patient.errors(redis=server.url)["redis"]
    assert "ConnectionError" in patient.errors(redis="redis://127.0.0.1:1/0")["redis"]
