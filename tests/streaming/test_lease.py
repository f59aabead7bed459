"""One learner an application: who has the lease, who is refused, and who finds it lost."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable

import pytest
import redis

from streaming.bundled import bundled_redis
from streaming.lease import Lease, LeaseLost, LeaseTaken
from streaming.leased import LeasedCheckpoints, LeasedRegistry
from streaming.registry import RegistryUnavailable, StalePublication

KEYS = ("freshet:{shop}:live:lease", "freshet:{shop}:live:epoch")
TTL_S = 1.0


def until(true: Callable[[], object], what: str) -> None:
    """Waits for a state, at most 20 s."""
    never = threading.Event()
    for _ in range(2_000):
        if true():
            return
        never.wait(0.01)
    pytest.fail(f"it never came to this: {what}")


def lease(url: str, app: str = "shop", ttl_s: float = TTL_S) -> Lease:
    return Lease(url, app, ttl_s=ttl_s)


def take(one: Lease, least: int = 0) -> int | None:
    return one.take(least, threading.Event())


def lost(one: Lease) -> bool:
    try:
        one.check()
    except LeaseLost:
        return True
    return False


def test_each_holder_has_a_higher_epoch_than_all_before(redis_client, redis_url):
    with lease(redis_url) as first:
        assert take(first) == 1
    with lease(redis_url) as second:
        assert take(second) == 2
    with lease(redis_url) as third:
        assert take(third, least=40) == 41
    with lease(redis_url, "other") as other:
        assert take(other) == 1


def test_a_second_holder_is_refused_and_told_by_whom(redis_client, redis_url):
    with lease(redis_url) as first, lease(redis_url) as second:
        take(first)
        with pytest.raises(LeaseTaken, match=r"pid \d+ on .+, since 20"):
            take(second)
        assert second.epoch == 0
        first.check()


def test_a_lease_given_back_is_free_at_once(redis_client, redis_url):
    with lease(redis_url, ttl_s=3600) as first:
        take(first)
        assert redis_client.exists(KEYS[0])
    assert not redis_client.exists(KEYS[0])


def test_a_lease_that_is_kept_does_not_run_out(redis_client, redis_url):
    with lease(redis_url, ttl_s=0.6) as first:
        take(first)
        renewed = []
        until(lambda: renewed.append(redis_client.pttl(KEYS[0])) or len(renewed) > 150, "readings")
        assert min(renewed) > 0
        assert any(b > a for a, b in itertools.pairwise(renewed))


def test_the_lease_of_one_that_died_is_waited_for(redis_client, redis_url):
    redis_client.set(KEYS[0], '{"host": "h", "pid": 7, "since": "then", "nonce": "n"}', px=700)
    redis_client.set(KEYS[1], 5)
    with lease(redis_url) as next_one:
        assert take(next_one) == 6


def test_waiting_ends_when_it_is_told_to(redis_client, redis_url):
    redis_client.set(KEYS[0], "somebody", px=3_600_000)
    stop = threading.Event()
    stop.set()
    with lease(redis_url) as one:
        assert one.take(0, stop) is None
    assert redis_client.get(KEYS[0]) == b"somebody"


def test_whoever_finds_another_in_its_place_has_lost_it(redis_client, redis_url):
    with lease(redis_url) as one:
        take(one)
        redis_client.set(KEYS[0], '{"host": "h", "pid": 7, "since": "then", "nonce": "n"}')
        until(lambda: lost(one), "lost")
        with pytest.raises(LeaseLost, match="pid 7 on h"):
            one.check()
    assert redis_client.exists(KEYS[0]), "it gave back what was not its own"


def test_a_lease_that_ran_out_is_kept_if_nobody_had_it(redis_client, redis_url):
    with lease(redis_url) as one:
        take(one)
        redis_client.delete(KEYS[0])
        until(lambda: redis_client.exists(KEYS[0]), "taken again")
        assert not lost(one)
        redis_client.flushall()
        until(lambda: redis_client.get(KEYS[1]) == b"1", "taken again from an empty Redis")
        assert not lost(one)


def test_a_lease_that_ran_out_is_lost_if_another_had_it_meanwhile(redis_client, redis_url):
    with lease(redis_url) as one:
        take(one)
        with redis_client.pipeline() as both:
            both.delete(KEYS[0]).set(KEYS[1], 2).execute()
        until(lambda: lost(one), "lost")
    assert not redis_client.exists(KEYS[0])


def test_nothing_is_published_or_kept_once_it_is_lost(redis_client, redis_url, tmp_path):
    with lease(redis_url, ttl_s=0.3) as one:
        epoch = take(one)
        registry = LeasedRegistry(redis_url, "shop", one)
        checkpoints = LeasedCheckpoints(tmp_path, one, dict, lambda position: None)
        assert registry.publish(b"a model", 1, epoch, {}).new
        checkpoints.save({"position": []}, epoch, 1)
        redis_client.set(KEYS[0], "another")
        until(lambda: lost(one), "lost")
        with pytest.raises(LeaseLost):
            registry.publish(b"a later model", 2, epoch, {})
        with pytest.raises(LeaseLost):
            checkpoints.save({"position": []}, epoch, 2)
        latest, newest = registry.latest(), checkpoints.newest()
        assert latest is not None and latest.version == 1
        assert newest is not None and newest.step == 1
        registry.close()


def test_nothing_is_published_past_another_that_a_redis_that_forgot_let_in(redis_client, redis_url):
    """Before the thread that renews has seen it: as one stopped in the middle wakes up."""
    with lease(redis_url, ttl_s=60) as one:
        take(one, least=4)
        registry = LeasedRegistry(redis_url, "shop", one)
        redis_client.flushall()
        redis_client.set(KEYS[0], "another, of epoch 1")
        with pytest.raises(StalePublication, match="another, of epoch 1"):
            registry.publish(b"a model", 9, one.epoch, {})
        assert registry.latest() is None
        registry.close()


def test_it_goes_on_while_redis_is_away_and_publishes_when_it_is_back(tmp_path):
    with bundled_redis(tmp_path) as server, lease(server.url, ttl_s=0.3) as one:
        take(one)
        registry = LeasedRegistry(server.url, "shop", one)
        assert registry.publish(b"a model", 1, one.epoch, {}).new
        with redis.Redis.from_url(server.url) as client:
            pid = client.info("server")["process_id"]
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(RegistryUnavailable):
                registry.publish(b"a later model", 2, one.epoch, {})
            assert not one.answering
            with pytest.raises(RegistryUnavailable, match="next version"):
                registry.publish(b"a later model", 3, one.epoch, {})
            one.check()
        finally:
            os.kill(pid, signal.SIGCONT)
        until(lambda: one.answering, "redis answers")
        one.check()
        assert registry.publish(b"a later model", 4, one.epoch, {}).new
        registry.close()


def test_after_one_publication_that_failed_others_fail_at_once(tmp_path):
    server = bundled_redis(tmp_path)
    with lease(server.url, ttl_s=3600) as one:
        take(one)
        registry = LeasedRegistry(server.url, "shop", one)
        server.close()
        assert one.answering, "its thread asks once in twenty minutes"
        with pytest.raises(RegistryUnavailable, match="ConnectionError"):
            registry.publish(b"a model", 1, one.epoch, {})
        with pytest.raises(RegistryUnavailable, match="next version"):
            registry.publish(b"a model", 2, one.epoch, {})
        registry.close()
