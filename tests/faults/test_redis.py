"""Whatever becomes of Redis, the learner learns as it would have, and publishes when it can;
ingest's rows are those of the pure code. Rows that Redis had and lost: `test_rebuild.py`.

`FAULTS_AWAY_S=120` has it away for so long; by default for some seconds.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import closing

import pytest
from live_topics import topics
from redis_server import RedisServer
from replays import replayed

from streaming.redis_registry import RedisRegistry

ROWS = 1_000
AWAY_S = float(os.environ.get("FAULTS_AWAY_S", 3))
EVERY = ("--checkpoint-every", "5", "--set", "publish_every=3")
REFUSING = ("restarted", "restarted-empty", "out-of-memory", "read-only", "gone-for-long")
"""The faults in which Redis takes nothing."""
Act = Callable[[RedisServer], object]


def away(server: RedisServer) -> None:
    server.kill()
    time.sleep(AWAY_S)


def start(server: RedisServer) -> None:
    server.start()


def nothing(server: RedisServer) -> None:
    pass


def full(server: RedisServer) -> None:
    server.client.config_set("maxmemory-policy", "noeviction")
    server.client.config_set("maxmemory", 1)


def slow(server: RedisServer) -> None:
    server.delay_s = 1.0


def quick(server: RedisServer) -> None:
    server.delay_s = 0.0


FAULTS: dict[str, tuple[Act, Act]] = {
    "restarted": (RedisServer.kill, start),
    "restarted-empty": (RedisServer.kill, start),
    "flushed": (lambda s: s.client.flushall(), nothing),
    "out-of-memory": (full, lambda s: s.client.config_set("maxmemory", 0)),
    "read-only": (
        lambda s: s.client.replicaof("127.0.0.1", "1"),
        lambda s: s.client.replicaof("NO", "ONE"),
    ),
    "slow": (slow, quick),
    "gone-for-long": (away, start),
}


@pytest.fixture(scope="module")
def undisturbed(data_dir) -> dict:
    return replayed("kuairand", data_dir, ("publish_every=3",), limit=ROWS)


@pytest.mark.parametrize("fault", FAULTS)
def test_learning_goes_on_and_what_was_not_published_or_written_is_once_it_can_be(
    fault, kafka, data_dir, undisturbed, tmp_path
):
    begin, mend = FAULTS[fault]
    with (
        RedisServer(tmp_path / "redis", forgetful=fault == "restarted-empty") as server,
        topics(kafka, tmp_path, data_dir, 0) as made,
        made.worker("learn", server.url, tmp_path / "learn.log", "--json", *EVERY) as learn,
        made.ingest(server.url, "") as ingest,
    ):
        lease = f"freshet:{{{made.app.name}}}:live:lease"
        learn.until(lambda: server.client.exists(lease))
        ingest.until((made.folder / "features" / "registry.db").exists)
        begin(server)
        made.produce(data_dir, ROWS)
        kept = tmp_path / "checkpoints" / f"epoch-000001.step-{undisturbed['steps']:012d}"
        learn.until(kept.is_dir)
        if fault in REFUSING:
            ingest.until(lambda: "not written" in ingest.said.read_text())
        mend(server)
        with closing(RedisRegistry(server.url, made.app.name)) as registry:
            learn.until(
                lambda: (found := registry.latest()) and found.version == undisturbed["steps"]
            )
        ingest.until(lambda: made.settled(server.url))
        ingest.stop()
        said = learn.stop()
    report = json.loads(said[f"\n{said}".index("\n{\n") :])
    assert report["state_hash"] == undisturbed["state_hash"]
    assert report["tasks"] == undisturbed["tasks"]
    assert report["epoch"] == 1
