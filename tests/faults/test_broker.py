"""The broker is killed and comes back, soon or late: nothing is lost, nothing is twice.

`FAULTS_AWAY_S=120` has it away for so long; by default for 3 s.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from live_topics import topics
from redis_server import free_port
from replays import replayed
from served import Served

from features.events import FEEDBACK, IMPRESSIONS

ROOT = Path(__file__).resolve().parents[2]
ROWS = 3_000
AWAY_S = float(os.environ.get("FAULTS_AWAY_S", 3))


class Broker:
    """A Kafka of the test's own, whose address and data stay."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        folder.mkdir()
        self.start()

    def start(self) -> None:
        run, port = str(ROOT / "infra" / "kafka" / "run"), str(self._port)
        line = [sys.executable, run, "--folder", str(self._folder), "--port", port]
        self._runner = subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._runner.stdout is not None
        self.address = self._runner.stdout.readline().strip()
        assert self.address

    def kill(self) -> None:
        pid = self._runner.pid
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(int(child), signal.SIGKILL)
        self._runner.wait()


@contextmanager
def own_broker(folder: Path) -> Iterator[Broker]:
    broker = Broker(folder)
    try:
        yield broker
    finally:
        broker.kill()


@pytest.mark.timeout(600)
def test_killed_and_back_in_the_middle_of_everything_it_ends_as_undisturbed(
    data_dir, redis_client, redis_url, tmp_path
):
    """A learner that goes on through it, with a first part learned and a second to come, and
    dead letters on their way; and an ingest worker."""
    undisturbed = replayed("kuairand", data_dir, limit=ROWS)
    with (
        own_broker(tmp_path / "kafka") as broker,
        topics(broker.address, tmp_path, data_dir, 0) as made,
    ):
        learn = made.worker(
            "learn", redis_url, tmp_path / "learn.log", "--json", "--checkpoint-every", "5"
        )
        with learn, made.ingest(redis_url, "") as ingest:
            lease = f"freshet:{{{made.app.name}}}:live:lease"
            learn.until(lambda: redis_client.exists(lease))
            ingest.until((made.folder / "features" / "registry.db").exists)
            made.log.append("impressions", b"k", b"\xff", 1_600_000_000_000)
            made.produce(data_dir, ROWS)
            ingest.until(lambda: redis_client.dbsize() > 100)
            broker.kill()
            time.sleep(AWAY_S)
            assert learn.running and ingest.running
            broker.start()
            kept = tmp_path / "checkpoints" / f"epoch-000001.step-{undisturbed['steps']:012d}"
            learn.until(kept.is_dir)
            ingest.until(lambda: made.settled(redis_url))
            said = learn.stop()
            ingest.stop()
        assert made.acknowledged() == made.records
    report = json.loads(said[f"\n{said}".index("\n{\n") :])
    assert report["state_hash"] == undisturbed["state_hash"]
    assert report["tasks"] == undisturbed["tasks"] and report["epoch"] == 1


@pytest.mark.timeout(600)
def test_a_server_ranks_through_it_and_what_it_keeps_is_there_once(
    data_dir, redis_client, redis_url, tmp_path
):
    with own_broker(tmp_path / "kafka") as broker:
        served = Served(broker.address, redis_url, tmp_path, data_dir)
        with served.serve() as worker:
            shown = served.rank().json()["impressions"]
            worker.until(lambda: served.metric("freshet_log_buffer_events") == 0)
            broker.kill()
            shown += served.rank().json()["impressions"]
            told = served.tell(shown[0]["id"])
            assert told.status_code == 202
            time.sleep(AWAY_S)
            assert served.rank().status_code == 200
            broker.start()
            worker.until(lambda: served.metric("freshet_log_buffer_events") == 0)
            assert served.rank().status_code == 200
            worker.stop()
        ids = [event["id"] for event in served.events(IMPRESSIONS)]
        assert len(served.events(FEEDBACK)) == 1
        served.log.close()
    assert len(ids) == len(set(ids)) == 20
    assert {impression["id"] for impression in shown} < set(ids)
