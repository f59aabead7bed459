"""What every registry holds. A new one joins by adding itself to `registry`."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from streaming.manifest import CHUNK_BYTES, assemble, split
from streaming.memory_registry import MemoryRegistry
from streaming.redis_registry import RedisRegistry
from streaming.registry import (
    Base,
    BaseMissing,
    CorruptSnapshot,
    Manifest,
    NoSuchVersion,
    Pointer,
    PublicationConflict,
    Published,
    Registry,
    StalePublication,
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
        with pytest.raises(PublicationConflict, match="version 10 is there with content 7692c3"):
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


def delta(registry: Registry, version: int, base: int, epoch: int = 1, **more) -> Published:
    """Publishes a version on another; the content of version 20 is `c20`."""
    on, data = Base(base, f"c{base}"), b"from %d to %d" % (base, version)
    return registry.publish(data, version, epoch, {}, base=on, content=f"c{version}", **more)


def full(registry: Registry, version: int, epoch: int = 1, **more) -> Published:
    data = b"all of %d" % version
    return registry.publish(data, version, epoch, {}, content=f"c{version}", **more)


def steps(registry: Registry, version: int, have: int | None = None) -> list[bytes]:
    """What a reader fetches to come to a version."""
    base = None if have is None else Base(have, f"c{have}")
    return [registry.fetch(manifest) for manifest in registry.path(version, base)]


def test_a_delta_leads_from_its_base_or_with_the_full_one_from_nothing(registry):
    full(registry, 10)
    assert delta(registry, 20, 10).kind == "delta"
    delta(registry, 30, 20)
    assert registry.latest().base == 20 and registry.latest().content == "c30"
    assert steps(registry, 30) == [b"all of 10", b"from 10 to 20", b"from 20 to 30"]
    assert steps(registry, 30, have=20) == [b"from 20 to 30"]
    assert steps(registry, 30, have=10) == [b"from 10 to 20", b"from 20 to 30"]
    assert steps(registry, 10, have=30) == [b"all of 10"]
    assert registry.path(30, Base(30, "c30")) == []
    other = registry.path(30, Base(20, "another"))
    assert [manifest.version for manifest in other] == [10, 20, 30]
    with pytest.raises(NoSuchVersion, match="version 40 is not there"):
        registry.path(40)


def test_a_delta_on_what_is_not_there_is_refused(registry):
    full(registry, 10)
    for base in (Base(9, "c9"), Base(10, "another")):
        with pytest.raises(BaseMissing, match="version 20 builds on version"):
            registry.publish(b"delta", 20, 1, {}, base=base, content="c20")
    assert orders(registry) == [(1, 10)]


def test_the_same_content_told_by_other_bytes_is_there_already(registry):
    full(registry, 10)
    delta(registry, 20, 10)
    assert full(registry, 20, epoch=2).new is False
    assert (registry.latest().kind, registry.latest().order) == ("delta", (2, 20))
    assert steps(registry, 20) == [b"all of 10", b"from 10 to 20"]
    with pytest.raises(PublicationConflict, match="version 20 is there with content c20"):
        registry.publish(b"all of 20", 20, 2, {}, content="another")


def test_what_a_kept_delta_builds_on_is_kept(make):
    registry = make(keep=2)
    full(registry, 10)
    for version in (20, 30, 40, 50):
        delta(registry, version, version - 10)
    assert [v for _, v in orders(registry)] == [10, 20, 30, 40, 50]
    full(registry, 60)
    assert [v for _, v in orders(registry)] == [10, 20, 30, 40, 50, 60]
    delta(registry, 70, 60)
    assert [v for _, v in orders(registry)] == [60, 70]


def test_a_compacted_chain_needs_nothing_below(make):
    registry = make(keep=2)
    full(registry, 10)
    for version in (20, 30, 40):
        delta(registry, version, version - 10)
    registry.compacted(30, BIG)
    assert steps(registry, 40) == [BIG, b"from 30 to 40"]
    assert steps(registry, 40, have=10) == [b"from %d to %d" % (v, v + 10) for v in (10, 20, 30)]
    assert registry.retire() == [20, 10]
    assert steps(registry, 40) == [BIG, b"from 30 to 40"]
    assert steps(registry, 40, have=10) == [BIG, b"from 30 to 40"]
    delta(registry, 50, 40)
    full(registry, 60)
    full(registry, 70)
    assert [v for _, v in orders(registry)] == [60, 70]
    with pytest.raises(NoSuchVersion):
        registry.compacted(30, b"all of 30")


def test_pins_and_what_readers_read_are_kept(make):
    registry = make(keep=1)
    full(registry, 10)
    delta(registry, 20, 10)
    registry.pin(20, "for the paper")
    full(registry, 30)
    registry.reading("one", 30, 60)
    registry.reading("two", 30, 0)
    full(registry, 40)
    assert [v for _, v in orders(registry)] == [10, 20, 30, 40]
    assert registry.ledger().pins == {20: "for the paper"}
    registry.unpin(20)
    registry.reading("one", 40)
    assert registry.retire() == [30, 20, 10]
    with pytest.raises(NoSuchVersion):
        registry.pin(10, "too late")


def test_a_candidate_is_served_once_it_is_let(registry):
    full(registry, 10)
    delta(registry, 20, 10, live=False)
    delta(registry, 30, 20, live=False)
    assert registry.latest().version == 10
    assert registry.advance(20, 1, "no worse") is True
    assert registry.latest().version == 20
    registry.hold(30, "worse")
    assert registry.advance(30, 1, "no worse") is False
    assert registry.advance(10, 1, "no worse") is False
    assert registry.ledger().held == registry.held() == {30: "worse"}
    delta(registry, 40, 30, epoch=2, live=False)
    with pytest.raises(StalePublication):
        registry.advance(40, 1, "no worse")
    with pytest.raises(NoSuchVersion):
        registry.advance(50, 2, "no worse")
    assert registry.advance(40, 2, "no worse") is True
    assert [move["version"] for move in registry.moves()] == [40, 20, 10]
    assert registry.moves()[0]["why"] == "no worse"


def test_a_roll_back_is_a_new_turn_and_what_it_left_does_not_come_back(registry):
    full(registry, 10)
    for version in (20, 30):
        delta(registry, version, version - 10)
    before = registry.pointer()
    pointer = registry.turn_to(10, "it lost clicks")
    assert pointer == registry.pointer() and pointer.order == (1, 1, 10)
    assert registry.wait(before.order, 0).order == (1, 1, 10)
    assert delta(registry, 20, 10, epoch=2).new is False
    assert delta(registry, 30, 20, epoch=2).new is False
    assert registry.latest().version == 10
    delta(registry, 40, 30, epoch=2)
    assert registry.pointer().order == (1, 2, 40)
    assert registry.ledger().held == {20: "it lost clicks", 30: "it lost clicks"}
    assert registry.turn_to(30, "it was not that").order == (2, 2, 30)
    assert 30 not in registry.ledger().held
    with pytest.raises(NoSuchVersion):
        registry.turn_to(50, "where to?")


def test_a_candidate_is_given_to_a_share_until_it_is_held_or_the_pointer_turns(make):
    registry = make()
    assert registry.trial() is None
    registry.publish(b"one", 10, 1, {})
    for version in (20, 30):
        registry.publish(b"two%d" % version, version, 1, {}, live=False)
    assert registry.give(20, 0.25, 1) and registry.latest().version == 10
    trial = registry.trial()
    assert (trial.manifest.version, trial.share) == (20, 0.25)
    assert registry.give(30, 0.5, 1) and registry.trial().manifest.version == 30
    registry.hold(30, "worse")
    assert registry.trial() is None and not registry.give(30, 0.5, 1)
    assert registry.give(20, 0.25, 1)
    registry.turn_to(10, "back")
    assert registry.trial() is None
    registry.turn_to(10, "for the holidays", pin=True)
    assert not registry.give(20, 0.25, 1)
    registry.unpin(10)
    with pytest.raises(NoSuchVersion):
        registry.give(40, 0.25, 1)
    registry.publish(b"five", 50, 2, {}, live=False)
    assert registry.give(50, 0.25, 2)
    with pytest.raises(StalePublication):
        registry.give(None, 0.0, 1)
    assert registry.give(None, 0.0, 2) and registry.trial() is None


def test_a_pinned_pointer_stays_until_it_is_unpinned(make):
    registry = make(keep=1)
    full(registry, 10)
    full(registry, 20)
    full(registry, 30)
    registry.turn_to(30, "for the holidays", pin=True)
    full(registry, 40)
    full(registry, 50)
    assert registry.pointer().pinned and registry.latest().version == 30
    assert registry.advance(50, 1, "no worse") is False
    assert registry.ledger().held == {}
    registry.unpin(30)
    assert registry.advance(50, 1, "no worse") is True
    assert registry.pointer().order == (1, 1, 50)


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
    assert registry.wait(None, 0).order == (0, 2, 10)
    assert registry.wait((0, 2, 9), 0).order == (0, 2, 10)
    assert registry.wait((0, 1, 99), 0).order == (0, 2, 10)
    assert registry.wait((0, 2, 10), 0) is None
    assert registry.wait((0, 3, 1), 0) is None


def test_wait_ends_when_a_version_comes(registry):
    registry.publish(b"v10", 10, 1, {})
    seen: list[Pointer | None] = []
    waiting = threading.Thread(target=lambda: seen.append(registry.wait((0, 1, 10), 30)))
    waiting.start()
    registry.publish(b"v11", 11, 1, {})
    waiting.join(10)
    assert seen[0].order == (0, 1, 11)


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
        {"kind": "delta", "base": 1, "base_content": "c1"},
        {"kind": "delta", "base": 0},
        {"base": 0, "base_content": "c0"},
        {"content": 1},
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
