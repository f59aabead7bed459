"""The commands that make the live topics and send a historical log into them, on Kafka."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from features.events import CONTROL, FEEDBACK, IMPRESSIONS
from streaming.__main__ import load_application
from streaming.dead_letters import DeadLetters
from streaming.learn import Loop, learn
from streaming.learner import Learner
from streaming.memory_registry import MemoryRegistry
from streaming.replay import Replay
from streaming.sections import Kafka
from streaming.topics import DEAD, ITEMS, create, describe, open_log


@pytest.fixture
def shop(tmp_path, kafka, topic_prefix) -> Shop:
    return Shop(tmp_path, kafka, topic_prefix.strip("-"))


class Shop:
    """The KuaiRand application under a name of its own, and commands on it."""

    def __init__(self, folder: Path, kafka: str, name: str) -> None:
        self.folder, self.name = folder, name
        (folder / "shop.py").write_text(
            "from dataclasses import replace\n"
            "from streaming.apps.kuairand import app as kuairand\n"
            f"app = replace(kuairand, name={name!r})\n"
        )
        (folder / "freshet.toml").write_text(f'[kafka]\nbootstrap = "{kafka}"\npartitions = 3\n')
        self.kafka = Kafka(bootstrap=kafka, partitions=3)

    def command(self, *words: str) -> list[str]:
        return [
            *(sys.executable, "-m", "streaming", *words, "shop.py:app"),
            *("--config", "freshet.toml"),
        ]

    def run(self, *words: str, more: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command(*words), *more],
            cwd=self.folder, capture_output=True, text=True, timeout=120,
        )  # fmt: skip


def test_topics_are_made_described_and_missed(shop):
    missing = shop.run("topics", "describe")
    assert missing.stdout.count("not there") == 5 and missing.returncode == 0
    sent = shop.run("produce", more=("--log", "nothing.parquet"))
    assert sent.returncode == 2 and "'nothing.parquet' is not there" in sent.stderr
    made = shop.run("topics", "create")
    assert made.returncode == 0, made.stderr
    assert f"freshet.{shop.name}.feedback: 3 partitions" in made.stdout
    with closing(open_log(shop.kafka, shop.name)) as log:
        log.append(IMPRESSIONS, b"u", b"{}", 1)
    described = json.loads(shop.run("topics", "describe", more=("--json",)).stdout)
    assert [(t["name"].rpartition(".")[2], t["partitions"], t["records"]) for t in described] == [
        (IMPRESSIONS, 3, 1),
        (FEEDBACK, 3, 0),
        (CONTROL, 1, 0),
        (ITEMS, 3, 0),
        (DEAD, 1, 0),
    ]
    assert {t["retention_ms"] for t in described} == {-1}
    with pytest.raises(ValueError, match="has 3 partitions; expected 2"):
        create(replace(shop.kafka, partitions=2), shop.name)


def test_topics_that_are_missing_are_named_with_the_command_that_makes_them(shop, data_dir):
    log = str(data_dir / "kuairand_events.parquet")
    done = shop.run("produce", more=("--log", log))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"freshet: topic 'freshet.{shop.name}.impressions' is not there: "
        f"make it with `freshet topics create {shop.name}`"
    )


def test_a_broker_that_is_away_is_said(monkeypatch):
    monkeypatch.setattr("streaming.topics.ANSWER_S", 1.0)
    with socket.socket() as taken:  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        away = Kafka(bootstrap=f"127.0.0.1:{taken.getsockname()[1]}")
        for call in (open_log, describe):
            with pytest.raises(ConnectionError, match=f"no broker at {away.bootstrap} answered"):
                call(away, "shop")


def test_stopped_by_sigterm_and_gone_on_with_the_topics_give_the_hash_of_a_replay(shop, data_dir):
    log, few = data_dir / "kuairand_events.parquet", ("--limit", "3000")
    create(shop.kafka, shop.name)
    words = shop.command("produce")
    with subprocess.Popen(
        [*words, "--log", str(log), *few, "--end", "--rate", "3000"],
        cwd=shop.folder, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        with closing(open_log(shop.kafka, shop.name)) as topics_log:
            while sum(topics_log.end_position().values()) < 500:
                assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, errors
    said = errors.strip().splitlines()[-1].split()
    skip = said[said.index("--skip") + 1]
    assert 0 < int(skip) < 3000
    done = shop.run("produce", more=("--log", str(log), *few, "--end", "--skip", skip))
    assert done.returncode == 0, done.stderr
    assert "sent 3,000 rows" in done.stdout and "and the end" in done.stdout

    app = load_application(str(shop.folder / "shop.py") + ":app")
    report = Replay(app, log, limit=3000).run()
    with closing(open_log(shop.kafka, shop.name)) as topics_log:
        learner = Learner(app, topics_log.topics, seed=0)
        loop = Loop(MemoryRegistry(), DeadLetters())
        assert learn(topics_log, learner, loop, topics_log.end_position())
    assert report is not None and learner.state_hash() == report["state_hash"]
    assert learner.merge.released["duplicate"] == report["events"]["duplicate"]
    assert learner.merge.released["delayed"] == learner.bad == 0


def test_a_certificate_that_is_none_is_one_line(shop):
    (shop.folder / "ca.pem").write_text("no certificate")
    toml = '[kafka]\nbootstrap = "localhost:1"\nsecurity_protocol = "SSL"\nssl_ca = "ca.pem"\n'
    (shop.folder / "freshet.toml").write_text(toml)
    told = shop.run("topics", "describe")
    assert told.returncode == 2 and "freshet: kafka: " in told.stderr and "Trace" not in told.stderr
