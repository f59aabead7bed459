from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
import redis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from redis_server import RedisServer, free_port

from streaming.bundled import bundled_redis
from streaming.manifest import Base
from streaming.memory_registry import MemoryRegistry
from streaming.redis_registry import RedisRegistry, without_password
from streaming.registry import (
    CorruptSnapshot,
    PublicationConflict,
    RegistryError,
    RegistryUnavailable,
    StalePublication,
)

ROOT = Path(__file__).resolve().parents[2]
BIG = bytes(range(256)) * 4096 * 2 + b"end"
numbers = itertools.count()


@pytest.fixture
def client(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def registry(redis_url):
    registry = RedisRegistry(redis_url, "shop", f"test-{next(numbers)}")
    yield registry
    registry.clear()
    registry.close()


def keys_of(client, registry):
    return sorted(client.scan_iter(match=f"{registry._chunk.removesuffix(':chunk')}:*"))


def crc16_slot(key: bytes) -> int:
    """A cluster's slot of a key (CRC16/XMODEM of what stands in the braces)."""
    key = key[key.index(b"{") + 1 : key.index(b"}")]
    crc = 0
    for byte in key:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc % 16384


def test_all_keys_of_an_application_lie_in_one_slot(client, registry):
    registry.publish(BIG, 1, 1, {})
    keys = keys_of(client, registry)
    assert len(keys) == 6
    assert len({crc16_slot(key) for key in keys}) == 1
    assert all(key.startswith(b"freshet:{shop}:test-") for key in keys)


def test_chunks_are_kept_for_good_once_published(client, registry):
    registry.publish(BIG, 1, 1, {})
    assert {client.ttl(key) for key in keys_of(client, registry)} == {-1}


def cut_short_after_the_upload(registry, client, monkeypatch):
    def killed(keys, values):
        if all(map(client.exists, keys[6:])):
            raise KeyboardInterrupt
        return [b"missing", 0]

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(registry, "_publish", killed)
        registry.publish(BIG, 1, 1, {})


def test_chunks_of_a_publication_that_was_cut_short_expire(client, registry, monkeypatch):
    cut_short_after_the_upload(registry, client, monkeypatch)
    chunks = keys_of(client, registry)
    assert len(chunks) == 3
    assert all(0 < client.ttl(key) <= 3600 for key in chunks)
    assert registry.latest() is None and registry.versions() == []
    assert registry.publish(BIG, 1, 1, {}).new is True
    assert {client.ttl(key) for key in keys_of(client, registry)} == {-1}


def test_a_repeated_publication_that_was_cut_short_lets_no_published_chunk_expire(
    client, registry, monkeypatch
):
    registry.publish(BIG, 1, 1, {})
    first, *_, last = registry._chunks(registry.latest())
    client.delete(last)
    cut_short_after_the_upload(registry, client, monkeypatch)
    assert client.ttl(first) == -1


def test_a_smaller_keep_spares_the_version_that_the_pointer_names(redis_url, registry):
    for version in (10, 20, 30):
        registry.publish(b"v%d" % version, version, 1, {})
    registry.publish(b"v10", 10, 2, {})
    one = RedisRegistry(redis_url, "shop", registry._wake.split(":")[2], keep=1)
    one.publish(b"v20", 20, 2, {})
    assert [manifest.order for manifest in one.versions()] == [(1, 30), (2, 20)]
    assert one.fetch(one.latest()) == b"v30"


def test_removal_is_refused_for_the_pointers_version_and_for_one_that_came_back(registry):
    for version in (10, 20):
        registry.publish(b"v%d" % version, version, 1, {})
    old = registry.versions()[0]
    registry.publish(b"v10", 10, 2, {})
    latest = registry.latest()
    for manifest in (old, latest):
        names = ("pointer", "manifests", "fulls", "bases", "pins", "readers")
        keys = [*(getattr(registry, f"_{name}") for name in names), *registry._chunks(manifest)]
        assert registry._remove(keys, [manifest.version, manifest.to_json()]) == 0
        assert registry.fetch(manifest) == b"v%d" % manifest.version


def test_a_version_that_is_retired_leaves_no_key(client, redis_url):
    registry = RedisRegistry(redis_url, "shop", f"test-{next(numbers)}", keep=1)
    registry.publish(BIG, 1, 1, {})
    registry.publish(b"two", 2, 1, {})
    assert len(keys_of(client, registry)) == 4
    registry.clear()
    assert keys_of(client, registry) == []


def test_a_changed_chunk_is_found_and_named(client, registry):
    registry.publish(BIG, 1, 1, {})
    manifest = registry.latest()
    client.setrange(registry._chunks(manifest)[1], 77, b"\x00")
    with pytest.raises(CorruptSnapshot, match="version 1, chunk 1 of 3: its SHA-256"):
        registry.fetch(manifest)


def test_a_lost_chunk_is_named_and_comes_back_with_the_next_publication(client, registry):
    registry.publish(BIG, 1, 1, {})
    manifest = registry.latest()
    client.delete(registry._chunks(manifest)[2])
    with pytest.raises(CorruptSnapshot, match="version 1, chunk 2 of 3: missing"):
        registry.fetch(manifest)
    assert registry.publish(BIG, 1, 1, {}).new is False
    assert registry.fetch(manifest) == BIG


def test_a_manifest_that_was_changed_is_refused(client, registry):
    registry.publish(BIG, 1, 1, {})
    client.hset(registry._pointer, "manifest", b"{}")
    with pytest.raises(CorruptSnapshot, match="not a manifest"):
        registry.latest()


def test_runs_and_applications_do_not_see_each_other(redis_url, registry):
    registry.publish(b"one", 1, 9, {})
    for other in (RedisRegistry(redis_url, "shop", "test-x"), RedisRegistry(redis_url, "shop2")):
        assert other.latest() is None
        other.publish(b"two", 1, 1, {})
        other.clear()
    assert registry.fetch(registry.latest()) == b"one"


def race(*publications):
    """Run them at once, each in its thread; what each returned or raised."""
    results = [None] * len(publications)
    together = threading.Barrier(len(publications))

    def one(number, publish):
        together.wait()
        try:
            results[number] = publish()
        except RegistryError as error:
            results[number] = error

    threads = [
        threading.Thread(target=one, args=(n, publish)) for n, publish in enumerate(publications)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_of_two_learners_who_publish_one_version_one_wins_whole(redis_url):
    run = f"race-{next(numbers)}"
    one, two = (RedisRegistry(redis_url, "shop", run) for _ in "ab")
    first, second = b"1" * (3 << 20), b"2" * (3 << 20)
    for version in range(20):
        results = race(
            partial(one.publish, first, version, 1, {}),
            partial(two.publish, second, version, 1, {}),
        )
        lost = [result for result in results if isinstance(result, PublicationConflict)]
        assert len(lost) == 1
        winner = second if results[0] is lost[0] else first
        assert one.fetch(one.latest()) == winner
    one.clear()


def test_the_pointer_never_goes_back_while_learners_of_two_epochs_race(redis_url):
    run = f"race-epochs-{next(numbers)}"
    reader = RedisRegistry(redis_url, "shop", run)

    def learner(epoch):
        registry = RedisRegistry(redis_url, "shop", run, keep=3)
        refused = 0
        for version in range(60):
            try:
                registry.publish(b"%d" % version * 1000, version, epoch, {})
            except StalePublication:
                refused += 1
        return refused

    seen, done = [], threading.Event()

    def watch():
        while not done.is_set():
            latest = reader.latest()
            if latest and (not seen or latest.order != seen[-1]):
                seen.append(latest.order)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        results = race(lambda: learner(1), lambda: learner(2))
    finally:
        done.set()
        watching.join()
    assert results[1] == 0, "the newer learner is never refused"
    assert seen == sorted(seen)
    assert reader.latest().order == (2, 59)
    assert reader.fetch(reader.latest()) == b"59" * 1000
    reader.clear()


def test_readers_only_ever_see_whole_versions_while_versions_come_and_go(redis_url):
    run = f"readers-{next(numbers)}"
    writer, reader = (RedisRegistry(redis_url, "shop", run, keep=4) for _ in "ab")
    done = threading.Event()

    def write():
        for version in range(1, 60):
            writer.publish(bytes([version]) * (1_500_000), version, 1, {})
        done.set()

    def read():
        after = None
        while not done.is_set() or after != (0, 1, 59):
            pointer = reader.wait(after, 5)
            manifest = pointer.manifest
            try:
                assert set(reader.fetch(manifest)) == {manifest.version}
            except CorruptSnapshot:
                assert reader.latest().version >= manifest.version + 4, "not retired, yet missing"
            after = pointer.order
        return after

    results = race(write, read)
    assert results[1] == (0, 1, 59)
    writer.clear()


def test_pubsub_wakes_a_reader_before_it_would_poll(redis_url, registry, client, monkeypatch):
    monkeypatch.setattr("streaming.redis_registry._POLL_S", 60)
    registry.publish(b"one", 1, 1, {})
    seen = []
    waiting = threading.Thread(target=lambda: seen.append(registry.wait((0, 1, 1), 60)))
    waiting.start()
    while not client.pubsub_numsub(registry._wake)[0][1]:
        pass
    registry.publish(b"two", 2, 1, {})
    waiting.join(20)
    assert seen and seen[0].order == (0, 1, 2)


def test_a_pointer_that_moved_without_a_wake_is_still_seen(client, registry, monkeypatch):
    monkeypatch.setattr("streaming.redis_registry._POLL_S", 0.01)
    registry.publish(b"two", 2, 1, {})
    after = client.hgetall(registry._pointer)
    client.delete(registry._pointer)
    seen = []
    waiting = threading.Thread(target=lambda: seen.append(registry.wait(None, 30)))
    waiting.start()
    while not client.pubsub_numsub(registry._wake)[0][1]:
        pass
    client.hset(registry._pointer, mapping=after)
    waiting.join(20)
    assert seen[0].order == (0, 1, 2)


class Twins(RuleBasedStateMachine):
    """Whatever is published in whatever order, memory and Redis answer the same."""

    url = ""

    def __init__(self):
        super().__init__()
        self.memory = MemoryRegistry(keep=3)
        self.redis = RedisRegistry(self.url, "shop", "twins", keep=3)
        self.redis.clear()
        self.epoch = 0
        self.pointers = [None]

    @rule(version=st.integers(0, 6), epoch=st.integers(0, 3), other=st.integers(0, 9))
    def publish(self, version, epoch, other):
        data = b"%d-%d" % (version, other == 0)
        answers = []
        for registry in (self.memory, self.redis):
            try:
                published = registry.publish(data, version, epoch, {"epoch": epoch})
                answers.append((published.new, published.sha256))
            except RegistryError as error:
                answers.append((type(error), str(error)))
        assert answers[0] == answers[1]

    @invariant()
    def same(self):
        assert self.memory.versions() == self.redis.versions()
        assert self.memory.last_epoch() == self.redis.last_epoch()
        latest = self.redis.latest()
        assert self.memory.latest() == latest
        if latest:
            assert latest in self.redis.versions()
            assert self.redis.fetch(latest) == self.memory.fetch(latest)
            before = self.pointers[-1]
            assert before is None or latest.order >= before
            self.pointers.append(latest.order)
        assert len(self.redis.versions()) <= 4


def test_memory_and_redis_are_twins(redis_url):
    class Here(Twins):
        url = redis_url

    run_state_machine_as_test(Here, settings=settings(max_examples=40, stateful_step_count=30))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:s3cret@host:1/0", "redis://:***@host:1/0"),
        ("rediss://me:s3cret@host:1/0", "rediss://me:***@host:1/0"),
        ("unix://me:s3cret@/run/r.sock?db=1", "unix://me:***@/run/r.sock?db=1"),
        ("redis://host?password=s3cret&db=1", "redis://host?password=***&db=1"),
        ("redis://[::1", "(a URL that cannot be read)"),
    ],
)
def test_passwords_are_never_shown(url, shown):
    assert without_password(url) == shown


def test_an_unreachable_redis_is_named_without_its_password():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        registry = RedisRegistry(f"redis://:s3cret@127.0.0.1:{port}/0", "shop", timeout_s=1)
        for call in (
            registry.latest,
            registry.versions,
            registry.last_epoch,
            lambda: registry.wait(None, 1),
            lambda: registry.publish(b"a", 1, 1, {}),
        ):
            with pytest.raises(RegistryUnavailable) as caught:
                call()
            assert f"registry redis://:***@127.0.0.1:{port}/0: " in str(caught.value)
            assert "s3cret" not in str(caught.value)


def test_a_redis_that_never_answers_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"redis://127.0.0.1:{deaf.getsockname()[1]}/0"
        with pytest.raises(RegistryUnavailable, match="TimeoutError"):
            RedisRegistry(url, "shop", timeout_s=0.1).latest()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("redis://h", "a:b"), "registry app is 'a:b'"),
        (("redis://h", "a", "{x}"), "registry run is '{x}'"),
        (("redis://h", ""), "registry app is ''"),
        (("http://:s3cret@h", "a"), r"registry url is 'http://:\*\*\*@h'"),
        (("redis://h", "a", "live", 0), "keep is 0"),
    ],
)
def test_a_wrong_setting_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        RedisRegistry(*arguments)


def server_of(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return client.info("server")["process_id"]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_bundled_redis_keeps_its_data_and_ends_without_a_trace(tmp_path):
    with bundled_redis(tmp_path) as server:
        pid, path = server_of(server.url), Path(server.url.removeprefix("unix://"))
        registry = RedisRegistry(server.url, "shop")
        registry.publish(BIG, 1, 1, {})
        with pytest.raises(ValueError, match="in use"):
            bundled_redis(tmp_path)
    server.close()
    assert not alive(pid)
    assert not path.parent.exists()
    with pytest.raises(RegistryUnavailable):
        registry.latest()
    with bundled_redis(tmp_path) as server:
        registry = RedisRegistry(server.url, "shop")
        assert registry.fetch(registry.latest()) == BIG


def test_a_bundled_redis_ends_when_its_owner_is_killed(tmp_path):
    code = (
        "import sys; from streaming.bundled import bundled_redis\n"
        "server = bundled_redis(sys.argv[1]); print(server.url, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as owner:
        url = owner.stdout.readline().strip()
        pid = server_of(url)
        assert alive(pid)
        owner.send_signal(signal.SIGKILL)
    while alive(pid) or Path(url.removeprefix("unix://")).parent.exists():
        pass
    bundled_redis(tmp_path).close()


def test_a_bundled_redis_that_cannot_start_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr("streaming.bundled._START_S", 1e9)
    (tmp_path / "redis.rdb").write_bytes(b"not a database")
    with pytest.raises(RuntimeError, match=r"(?s)bundled Redis does not answer.*Wrong signature"):
        bundled_redis(tmp_path)


def test_a_redis_that_lost_its_data_goes_on_in_the_turn_that_its_publisher_knows(client, registry):
    registry.publish(b"v1", 1, 1, {})
    registry.publish(b"v2", 2, 1, {})
    before = registry.turn_to(1, "worse")
    registry.publish(b"v3", 3, 1, {}, live=False)
    client.delete(*keys_of(client, registry))
    registry.publish(b"v4", 4, 1, {})
    assert registry.wait(before.order, 0).order == (1, 1, 4)


@pytest.mark.parametrize("kind", ["cluster", "acl"])
def test_it_works_on_a_cluster_and_for_a_user_with_these_rights_only(kind, tmp_path):
    cluster = ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
    with RedisServer(tmp_path / "redis", cluster * (kind == "cluster")) as own:
        url = own.url
        if kind == "cluster":
            own.client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            while b"cluster_state:ok" not in own.client.execute_command("CLUSTER", "INFO"):
                pass
        else:
            own.client.acl_setuser(
                "shop", enabled=True, passwords=["+s3cret"], reset=True,
                keys=["freshet:{shop}:*"], channels=["freshet:{shop}:*"],
                categories=["+@read", "+@write", "+@scripting", "+@pubsub", "+@connection"],
                commands=["-@dangerous", "+time"],
            )  # fmt: skip
            url = url.replace("redis://", "redis://shop:s3cret@")
        registry = RedisRegistry(url, "shop", keep=1)
        registry.publish(BIG, 1, 1, {}, content="c1")
        registry.publish(b"delta", 2, 1, {}, base=Base(1, "c1"), content="c2")
        registry.compacted(2, BIG)
        registry.reading("one", 2)
        registry.pin(2, "kept")
        assert [registry.fetch(m) for m in registry.path(2, Base(1, "c1"))] == [b"delta"]
        registry.publish(b"full", 3, 1, {}, live=False)
        assert registry.advance(3, 1, "no worse") and registry.turn_to(2, "worse").turn == 1
        assert registry.wait((0, 1, 3), 1).order == (1, 1, 2)
        assert registry.retire() == [] and [m.version for m in registry.versions()] == [2, 3]
        registry.clear()
        registry.close()
