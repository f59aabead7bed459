"""Topics that change under a learner: events are gone, the topics are others, or have grown."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from click.testing import CliRunner
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from streaming.__main__ import cli, load_application
from streaming.application import Application
from streaming.dead_letters import DeadLetters
from streaming.doctor.examine import examine
from streaming.growth import grow
from streaming.history import side_tables
from streaming.live import Live
from streaming.produce import Production
from streaming.replay import Replay
from streaming.rollback import AFTER
from streaming.sections import Kafka
from streaming.topics import create, live_partitions, open_log, prefix

ROWS = 2_000


@dataclass
class Topics:
    """Live topics of an application, and what learns from them."""

    app: Application
    kafka: Kafka
    redis: str
    folder: Path

    def produce(self, rows: int, skip: int = 0, end: bool = False) -> None:
        assert self.app.source is not None
        with closing(open_log(self.kafka, self.app.name)) as log:
            Production(self.app, log, DeadLetters(), skip=skip, end=end).run(
                islice(self.app.source(), rows), side_tables(self.app, None)
            )

    def learn(
        self, steps: int | None = None, unfinite: int | None = None, **more: Any
    ) -> dict[str, Any] | None:
        """To the end of the topics, or for so many steps, or so many that are not finite."""
        stop = Event()

        def on_step(learner: Any, step: Any) -> None:
            if steps is not None and learner.trainer.steps >= steps:
                stop.set()
            if unfinite is not None and learner.unfinite >= unfinite:
                stop.set()

        given = {"checkpoints": self.folder, "checkpoint_every": 5, "until_end": True, **more}
        return Live(self.app, self.kafka, self.redis, stop=stop, on_step=on_step, **given).run()

    def remove(self) -> None:
        with closing(open_log(self.kafka, self.app.name)) as log:
            log.delete_topics()


@pytest.fixture
def topics(kafka, redis_url, redis_client, tmp_path) -> Iterator[Topics]:
    app = replace(load_application("simulated"), name=f"changed-{uuid.uuid4().hex[:8]}")
    made = Topics(app, Kafka(kafka, 2), redis_url, tmp_path)
    create(made.kafka, app.name)
    yield made
    made.remove()


def test_events_deleted_before_they_were_learned_stop_it_or_are_skipped_and_written_down(topics):
    topics.produce(ROWS)
    assert topics.learn(steps=8) is not None
    topics.produce(2 * ROWS, skip=ROWS, end=True)
    admin = AdminClient({"bootstrap.servers": topics.kafka.bootstrap})
    name, before = prefix(topics.app.name) + "impressions", 1_400
    for p in (0, 1):
        at = TopicPartition(name, p, before)
        admin.delete_records([at])[at].result(10)
    with pytest.raises(ValueError, match=r"has deleted events .* impressions\[0\] \d+ to 1399"):
        topics.learn()
    report = topics.learn(on_gap="skip")
    assert report is not None and report["examples"] > 500
    gaps = {(topic, p): (at, begins) for topic, p, at, begins in report["gaps"]}
    assert gaps.keys() == {("impressions", 0), ("impressions", 1)}
    assert all(0 < at < begins == before for at, begins in gaps.values())


def test_topics_made_again_are_not_gone_on_with(topics):
    topics.produce(ROWS)
    assert topics.learn(steps=8) is not None
    topics.remove()
    create(topics.kafka, topics.app.name)
    topics.produce(ROWS, end=True)
    with pytest.raises(ValueError, match="was made on other topics, which are gone"):
        topics.learn()


def test_topics_made_again_under_a_learner_end_it(topics):
    topics.produce(ROWS)
    seen = []

    def on_step(learner: Any, step: Any) -> None:
        if not seen and learner.trainer.steps >= 8:
            seen.append(1)
            topics.remove()
            create(topics.kafka, topics.app.name)
            topics.produce(3 * ROWS, end=True)

    live = Live(
        topics.app, topics.kafka, topics.redis, checkpoints=topics.folder, checkpoint_every=5,
        until_end=True, on_step=on_step,
    )  # fmt: skip
    with pytest.raises((ValueError, ConnectionError)):
        print(live.run())
    assert seen


def test_partitions_added_under_a_learner_are_taken_up_at_a_place_that_a_replay_takes_too(topics):
    """Also as it is stopped after, and without the learner's ever having seen them added."""
    topics.produce(ROWS)
    assert topics.learn(steps=8) is not None
    reports = []

    def on_step(learner: Any, step: Any) -> None:
        if not reports and learner.trainer.steps >= 12:
            reports.append(learner.merge.partitions.copy())
            grow(topics.kafka, topics.app, 5)
            topics.produce(2 * ROWS, skip=ROWS, end=True)

    live = Live(
        topics.app, topics.kafka, topics.redis, checkpoints=topics.folder, checkpoint_every=5,
        until_end=True, on_step=on_step,
    )  # fmt: skip
    report = live.run()
    assert report is not None and len(reports[0]) == 5
    replay = Replay(topics.app, live=True, kafka=topics.kafka).run()
    assert replay is not None and replay["examples"] == report["examples"]
    assert replay["state_hash"] == report["state_hash"]
    again = topics.learn()  # from the checkpoint, which knows of them
    assert again is not None and again["state_hash"] == report["state_hash"]
    stopped = replace(topics, folder=topics.folder / "another")
    assert stopped.learn(steps=report["steps"] // 2) is not None
    whole = stopped.learn()
    assert whole is not None and whole["state_hash"] == report["state_hash"]
    with closing(open_log(topics.kafka, topics.app.name)) as log:
        read = [at for (topic, p), at in log.end_position().items() if p >= 2]
        assert log.topics["feedback"] == 5 and all(at > 10 for at in read)


def test_partitions_that_no_command_speaks_of_stop_a_learner_that_knew_fewer(topics):
    topics.produce(ROWS)
    assert topics.learn(steps=8) is not None
    admin = AdminClient({"bootstrap.servers": topics.kafka.bootstrap})
    for topic in ("impressions", "feedback", "items"):
        name = prefix(topics.app.name) + topic
        admin.create_partitions([NewPartitions(name, 3)])[name].result(10)
    kafka, app = topics.kafka, topics.app.name
    while live_partitions(kafka.bootstrap, app, {})["feedback"] < 3:  # the broker tells it late
        time.sleep(0.02)
    with pytest.raises(ValueError, match="freshet topics grow --had N"):
        topics.learn(steps=12)
    found = examine(topics.app, topics.kafka, topics.redis, topics.folder)
    assert any("partitions were added" in f.says for f in found)
    grow(topics.kafka, topics.app, 3, had=2)
    assert topics.learn(steps=12) is not None


def test_topics_do_not_shrink(topics):
    with pytest.raises(ValueError, match="the topics have 2 partitions: expected more"):
        grow(topics.kafka, topics.app, 2)


def test_after_a_hundred_batches_that_are_not_finite_the_log_takes_the_model_back(topics):
    """The first step alone is finite: its weights are too large for the second."""
    spoiling = ("trainer.dense.kind=sgd", "trainer.dense.lr=1e38", "trainer.batch_size=2")
    topics.app = topics.app.with_settings(spoiling)
    topics.produce(ROWS)
    topics.learn(unfinite=AFTER + 10, checkpoint_every=1)
    topics.produce(ROWS + 400, skip=ROWS, end=True)
    learned = topics.learn(checkpoint_every=1)
    replayed = Replay(topics.app, live=True, kafka=topics.kafka).run()
    assert learned is not None and replayed is not None
    (back,) = learned["rollbacks"]
    assert back["to"] == back["from"] == 1 and learned["quarantined"] > AFTER
    assert replayed["rollbacks"] == learned["rollbacks"]
    assert replayed["state_hash"] == learned["state_hash"]
    assert replayed["events"] == learned["events"]


def test_an_operator_takes_the_model_back_to_a_checkpoint(topics):
    (topics.folder / "my_app.py").write_text(
        "from dataclasses import replace\nfrom streaming.apps.simulated import app\n"
        f"app = replace(app, name={topics.app.name!r})\n"
    )
    (topics.folder / "freshet.toml").write_text("")
    checkpoints = topics.folder / "checkpoints"
    topics.produce(ROWS)
    topics.learn(steps=12, checkpoints=checkpoints)
    common = [f"{topics.folder / 'my_app.py'}:app", "--checkpoints", str(checkpoints)]
    common += ["--config", str(topics.folder / "freshet.toml")]
    listed = CliRunner().invoke(cli, ["checkpoints", "list", *common, "--json"])
    assert [one["step"] for one in json.loads(listed.output)] == [5, 10, 12]
    common += ["--broker", topics.kafka.bootstrap]
    refused = CliRunner().invoke(cli, ["checkpoints", "rollback", *common, "7"])
    assert refused.exit_code != 0 and "5, 10, 12" in str(refused.exception)
    asked = CliRunner().invoke(cli, ["checkpoints", "rollback", *common, "--redis", topics.redis])
    assert asked.exit_code == 0, asked.output
    topics.produce(ROWS + 400, skip=ROWS, end=True)
    learned = topics.learn(checkpoints=checkpoints)
    replayed = Replay(topics.app, live=True, kafka=topics.kafka).run()
    assert learned is not None and replayed is not None
    assert [(back["to"]) for back in learned["rollbacks"]] == [10]
    assert replayed["rollbacks"] == learned["rollbacks"]
    assert replayed["state_hash"] == learned["state_hash"]
