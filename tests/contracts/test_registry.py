"""What every registry holds. A new one joins by adding itself to `registry`."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from streaming.manifest import CHUNK_BYTES, assemble, split
from streaming.redis_registry import RedisRegistry
from streaming.registry import (
    CorruptSnapshot,
    Manifest,
    MemoryRegistry,
    PublicationConflict,
    Registry,
    StalePublication,
    expired,
)

Make = Callable[..., Registry]
BIG = bytes(range(256)) * 4096 * 2 + b"end"  # two chunks and three bytes
runs = itertools.count()


@pytest.fixture(params=["memory", "redis"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    made: list[Registry] = []
    url = request.getfixturevalue("redis_url") if request.param == "redis" else None

    def build(keep: int = 8) -> Registry:
        new = RedisRegistry(url, "shop", f"contract-{next(runs)}", keep) if url else None
        made.append(new or MemoryRegistry(keep))
        return made[-1]

    yield build
    for one in made:
        one.clear()
        one.close()


@pytest.fixture
def registry(make: Make) -> Registry:
    return make()


def orders(registry: Registry) -> list[tuple[int, int]]:
    return [manifest.order for manifest in registry.versions()]


def test_an_empty_registry_has_nothing(registry):
    assert registry.latest() is None
    assert registry.versions() == []
    assert registry.last_epoch() == 0
    assert registry.wait(None, 0) is None


@pytest.mark.parametrize("size", [1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, len(BIG)])
def test_what_was_published_is_fetched(registry, size):
    published = registry.publish(BIG[:size], 7, 2, {"auc": 0.1, "tasks": ["click"]})
    manifest = registry.latest()
    assert registry.fetch(manifest) == BIG[:size]
    assert (published.version, published.epoch, published.new) == (7, 2, True)
    assert (published.sha256, published.size) == (manifest.sha256, size)
    assert (manifest.version, manifest.epoch, manifest.size) == (7, 2, size)
    assert (manifest.kind, manifest.base) == ("full", None)
    assert manifest.meta == {"auc": 0.1, "tasks": ["click"]}
    assert len(manifest.chunks) == -(-size // CHUNK_BYTES)
    assert registry.versions() == [manifest]
    assert registry.last_epoch() == 2


def test_a_manifest_survives_json(registry):
    registry.publish(BIG, 7, 2, {"z": 1, "a": {"pi": 0.1}, "é": None})
    manifest = registry.latest()
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_the_pointer_follows_the_versions(registry):
    for version in (10, 20, 30):
        registry.publish(b"v%d" % version, version, 1, {})
        assert registry.latest().order == (1, version)
    assert orders(registry) == [(1, 10), (1, 20), (1, 30)]
    assert [registry.fetch(m) for m in registry.versions()] == [b"v10", b"v20", b"v30"]


def test_the_same_version_again_changes_nothing(registry):
    registry.publish(b"v10", 10, 1, {"n": 1})
    registry.publish(b"v20", 20, 1, {})
    before = registry.versions()
    assert registry.publish(b"v10", 10, 1, {"n": 2}).new is False
    assert registry.publish(b"v20", 20, 1, {}).new is False
    assert registry.versions() == before
    assert registry.latest().order == (1, 20)


def test_the_same_version_with_other_bytes_is_a_conflict_that_changes_nothing(registry):
    registry.publish(b"one", 10, 1, {})
    for epoch in (1, 2):
        with pytest.raises(PublicationConflict, match="version 10 is there with SHA-256 7692c3"):
            registry.publish(b"two", 10, epoch, {})
    assert registry.fetch(registry.latest()) == b"one"
    assert registry.latest().order == (1, 10)
    assert registry.last_epoch() == 1


def test_a_lower_version_of_the_same_epoch_is_stale(registry):
    registry.publish(b"v20", 20, 3, {})
    with pytest.raises(StalePublication, match=r"\(3, 19\) is refused.*\(3, 20\)"):
        registry.publish(b"v19", 19, 3, {})
    assert orders(registry) == [(3, 20)]


def test_a_lower_epoch_is_stale_even_with_what_is_there(registry):
    registry.publish(b"v20", 20, 3, {})
    for version in (19, 20, 21):
        with pytest.raises(StalePublication, match="epoch 3 has published"):
            registry.publish(b"v%d" % version, version, 2, {})
    assert orders(registry) == [(3, 20)]


def test_a_restarted_learner_repeats_its_past_without_moving_the_pointer_back(registry):
    for version in (10, 20, 30):
        registry.publish(b"v%d" % version, version, 1, {})
    for version in (10, 20):
        assert registry.publish(b"v%d" % version, version, 2, {}).new is False
        assert registry.latest().order == (1, 30)
        assert registry.last_epoch() == 2
    with pytest.raises(StalePublication):
        registry.publish(b"v40", 40, 1, {})
    assert registry.publish(b"v30", 30, 2, {}).new is False
    assert registry.latest().order == (2, 30)
    assert registry.publish(b"v40", 40, 2, {}).new is True
    assert registry.latest().order == (2, 40)


def test_a_later_epoch_may_begin_below_and_catch_up_with_what_is_there(registry):
    for version in (20, 30):
        registry.publish(b"v%d" % version, version, 1, {})
    registry.publish(b"v25", 25, 2, {})
    assert registry.latest().order == (2, 25)
    registry.publish(b"v30", 30, 2, {})
    assert registry.latest().order == (2, 30)


def test_the_last_few_are_kept(make):
    registry = make(keep=3)
    for version in range(6):
        registry.publish(b"v%d" % version, version, 1, {})
    assert orders(registry) == [(1, 3), (1, 4), (1, 5)]


def test_the_version_that_the_pointer_names_is_always_kept(make):
    registry = make(keep=2)
    for version in (10, 20, 30):
        registry.publish(b"v%d" % version, version, 1, {})
    registry.publish(b"v20", 20, 2, {})
    registry.publish(b"v20", 20, 3, {})
    assert registry.latest().order == (1, 30)
    assert registry.fetch(registry.latest()) == b"v30"
    registry.publish(b"v5", 5, 4, {})
    assert orders(registry) == [(3, 20), (4, 5)]
    assert registry.latest().order == (4, 5)


def test_expired_are_all_but_the_last_few_and_the_pointers():
    manifests = [Manifest(version, 1, 1, "a" * 64, ("a" * 64,), {}) for version in range(5)]
    assert [m.version for m in expired(manifests, manifests[4], 2)] == [0, 1, 2]
    assert [m.version for m in expired(manifests, manifests[1], 2)] == [0, 2]
    assert expired(manifests, manifests[1], 9) == []


def test_a_version_that_is_gone_is_missing(make):
    registry = make(keep=1)
    registry.publish(BIG, 1, 1, {})
    gone = registry.latest()
    registry.publish(b"two", 2, 1, {})
    with pytest.raises(CorruptSnapshot, match="version 1, chunk 0 of 3: missing"):
        registry.fetch(gone)


@pytest.mark.parametrize("chunk", [0, 1, 2])
def test_a_chunk_that_is_not_the_manifests_is_named(registry, chunk):
    registry.publish(BIG, 1, 1, {})
    manifest = registry.latest()
    chunks = list(manifest.chunks)
    chunks[chunk] = "0" * 64
    with pytest.raises(CorruptSnapshot, match=f"version 1, chunk {chunk} of 3: its SHA-256"):
        registry.fetch(replace(manifest, chunks=tuple(chunks)))


def test_chunks_in_another_order_are_not_the_whole(registry):
    registry.publish(BIG, 1, 1, {})
    manifest = registry.latest()
    chunks = [bytes(chunk) for chunk in split(BIG)]
    assert assemble(manifest, chunks) == BIG
    turned = replace(manifest, chunks=manifest.chunks[::-1])
    with pytest.raises(CorruptSnapshot, match="version 1: the whole is not"):
        assemble(turned, chunks[::-1])
    with pytest.raises(CorruptSnapshot, match="version 1: the whole is not"):
        assemble(replace(manifest, size=len(BIG) - 1), chunks)


def test_wait_returns_at_once_what_is_there(registry):
    registry.publish(b"v10", 10, 2, {})
    assert registry.wait(None, 0).order == (2, 10)
    assert registry.wait((2, 9), 0).order == (2, 10)
    assert registry.wait((1, 99), 0).order == (2, 10)
    assert registry.wait((2, 10), 0) is None
    assert registry.wait((3, 1), 0) is None


def test_wait_ends_when_a_version_comes(registry):
    registry.publish(b"v10", 10, 1, {})
    seen: list[Manifest | None] = []
    waiting = threading.Thread(target=lambda: seen.append(registry.wait((1, 10), 30)))
    waiting.start()
    registry.publish(b"v11", 11, 1, {})
    waiting.join(10)
    assert seen[0].order == (1, 11)


def test_a_cleared_registry_begins_again(registry):
    registry.publish(b"v10", 10, 5, {})
    gone = registry.latest()
    registry.clear()
    assert registry.latest() is None and registry.versions() == [] and registry.last_epoch() == 0
    with pytest.raises(CorruptSnapshot):
        registry.fetch(gone)
    assert registry.publish(b"other", 1, 1, {}).new is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((b"", 1, 1, {}), "data is empty"),
        ((b"a", -1, 1, {}), "version is -1"),
        ((b"a", 1, -1, {}), "epoch is -1"),
        ((b"a", 1 << 53, 1, {}), "version is 9007199254740992"),
        ((b"a", True, 1, {}), "version is True"),
        ((b"a", 1, 1, {"x": float("nan")}), "meta is not a JSON object"),
        ((b"a", 1, 1, {"x": object()}), "meta is not a JSON object"),
    ],
)
def test_arguments_that_are_none_are_named(registry, arguments, message):
    with pytest.raises(ValueError, match=message):
        registry.publish(*arguments)
    assert registry.latest() is None


def test_at_least_one_version_is_kept(make):
    with pytest.raises(ValueError, match="keep is 0"):
        make(keep=0)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "[" * 100_000, '{"chunks":[]}', '{"chunks":1}', b"\xff"]
)
def test_text_that_is_no_manifest_is_refused(text):
    with pytest.raises(CorruptSnapshot, match="not a manifest"):
        Manifest.from_json(text)


@pytest.mark.parametrize(
    "change",
    [
        {"version": -1},
        {"epoch": 1.5},
        {"size": 5 << 20},
        {"kind": "delta"},
        {"base": 3},
        {"chunks": ()},
        {"sha256": None},
    ],
)
def test_a_manifest_that_does_not_hold_together_is_refused(change):
    whole = Manifest(1, 1, 3, "a" * 64, ("b" * 64,), {})
    assert Manifest.from_json(whole.to_json()) == whole
    with pytest.raises(CorruptSnapshot, match="not a manifest"):
        Manifest.from_json(replace(whole, **change).to_json())
