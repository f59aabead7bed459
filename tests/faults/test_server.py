"""A server that is killed while it swaps versions, and one whose Redis fails: it never ranks by
half a version, and comes back by itself."""

from __future__ import annotations

import threading
from collections import defaultdict
from contextlib import contextmanager

import pytest
from redis_server import RedisServer
from served import Served

from features.events import IMPRESSIONS

VERSIONS = 24


@contextmanager
def served_by(broker, url, folder, data):
    made = Served(broker, url, folder, data)
    try:
        yield made
    finally:
        made.log.delete_topics()
        made.log.close()


def test_killed_while_it_swaps_versions_every_ranking_is_by_one_of_them(
    kafka, redis_client, redis_url, data_dir, tmp_path
):
    scores: dict[int, set[tuple[float, ...]]] = defaultdict(set)

    def rank() -> int:
        answer = served.rank().json()
        shown = sorted((i["item"], i["score"]) for i in answer["impressions"])
        scores[answer["version"]].add(tuple(score for _, score in shown))
        return int(answer["version"])

    with served_by(kafka, redis_url, tmp_path, data_dir) as served:

        def publish() -> None:
            for version in range(2, VERSIONS + 1):
                served.publish(version, {}, seed=version)

        publishing = threading.Thread(target=publish)
        with served.serve() as worker:
            publishing.start()
            while rank() < VERSIONS // 3:
                assert worker.running
            worker.kill()
        with served.serve() as worker:
            while rank() < VERSIONS:
                assert worker.running
            publishing.join()
            worker.stop()
        ids = [event["id"] for event in served.events(IMPRESSIONS)]
    assert all(len(by_version) == 1 for by_version in scores.values())
    assert len({s for by_version in scores.values() for s in by_version}) == len(scores) > 2
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("fault", ["restarted", "flushed", "out-of-memory", "read-only", "slow"])
def test_through_faults_of_redis_it_keeps_its_version_and_ranks_again(
    fault, kafka, data_dir, tmp_path
):
    with (
        RedisServer(tmp_path / "redis", forgetful=True) as server,
        served_by(kafka, server.url, tmp_path, data_dir) as served,
        served.serve() as worker,
    ):
        if fault == "restarted":
            server.kill()
            assert served.rank().json()["type"] == "urn:freshet:problem:features-unavailable"
            worker.until(lambda: served.http.get("/readyz").json()["registry_away_s"] > 0)
            assert served.http.get("/readyz").status_code == 200
            assert served.metric("freshet_registry_away_seconds") > 0
            server.start()
        elif fault == "flushed":
            server.client.flushall()
        elif fault == "slow":
            server.delay_s = 1.0
            assert served.rank().json()["type"] == "urn:freshet:problem:features-unavailable"
            assert served.http.get("/readyz").status_code == 200
            server.delay_s = 0.0
        elif fault == "out-of-memory":
            server.client.config_set("maxmemory", 1)
        else:
            server.client.replicaof("127.0.0.1", "1")
        worker.until(lambda: served.rank().status_code == 200)
        assert served.rank().json()["version"] == 1
        if fault == "out-of-memory":
            server.client.config_set("maxmemory", 0)
        if fault == "read-only":
            server.client.replicaof("NO", "ONE")
        served.publish(2, {})
        worker.until(lambda: served.rank().json()["version"] == 2)
        assert served.http.get("/readyz").json()["registry_away_s"] == 0
        worker.stop()
