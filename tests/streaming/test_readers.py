"""Publishers, readers, kills, pins, roll-backs, retention and losses, in any order: a reader always
scores by one whole version that was published, and goes back by a roll-back only.

WORLDS (20) of them; thousands by hand.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from model.batch import Bag, Batch, Inputs, Layout
from model.schema import Field, Schema, Task
from model.snapshot import Snapshot, encode
from model.structure import NetworkConfig
from model.train import Trainer
from streaming import manifest as manifests
from streaming.compaction import compact
from streaming.manifest import Base, split
from streaming.redis_registry import RedisRegistry
from streaming.registry import (
    READING_S,
    BaseMissing,
    PublicationConflict,
    RegistryError,
    StalePublication,
    path_to,
)
from streaming.serve import sides
from streaming.serve.versions import Versions

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = Schema(
    (Field("user", "id"), Field("item", "id")), (Task("click", "binary", 0),), "user", "item"
)
LAYOUT = Layout((Bag("user", "user"), Bag("item", "item")), ())
MOST = 24
TOP = ("top_epoch", "top_version")
WORLDS = int(os.environ.get("WORLDS", "20"))
OFTEN_NOT = st.sampled_from([False, False, False, True])
runs = itertools.count()


class Made(NamedTuple):
    """A version of one lineage: all of it, and the delta on the one before; its content; and what
    it says of some inputs."""

    whole: bytes
    delta: bytes
    content: str
    says: np.ndarray


@pytest.fixture(scope="module")
def lineage():
    """Versions 1 to `MOST` of one model, and the inputs."""
    config = Trainer.Config(network=NetworkConfig(crossed=()), batch_size=16)
    trainer, draw, made = Trainer(SCHEMA, LAYOUT, config, 0), np.random.default_rng(0), {}

    def inputs():
        keys = draw.integers(1, 60, (16, 2)) * 7919
        return Inputs(keys, np.ones((16, 2), np.float32), np.zeros((16, 0), np.float32))

    asked = inputs()
    for version in range(1, MOST + 1):
        labels = draw.integers(0, 2, (16, 1)).astype(np.float32)
        trainer.step(Batch(inputs(), labels, np.ones((16, 1), bool)))
        delta, whole = (trainer.version(whole=w) for w in (False, True))
        made[version] = Made(
            encode(Snapshot(version, whole.arrays, whole.meta)),
            encode(Snapshot(version, delta.arrays, delta.meta)),
            whole.content,
            trainer.predict(asked),
        )
        trainer.told()
    return made, asked


class World(RuleBasedStateMachine):
    """A learner that publishes, dies and comes back; an operator; three servers; what gets lost.

    `whole`: nothing that was published has been lost or changed, so all is as the rules say."""

    url, made, asked = "", {}, None

    def __init__(self):
        super().__init__()
        self.run_name = f"world-{next(runs)}"
        self.operator = RedisRegistry(self.url, "shop", self.run_name, keep=3)
        self.learner = RedisRegistry(self.url, "shop", self.run_name, keep=3)
        self.epoch, self.version, self.base = 1, 0, None
        self.published, self.whole, self.copies = {}, True, []
        self.pins, self.order = set(), None
        self.readers = [self._reader() for _ in range(3)]
        self.before, self.in_flight = [None] * 3, []

    def teardown(self):
        self.operator.clear()
        for registry in (self.operator, self.learner, *(r for r, _ in self.readers)):
            registry.close()

    def _reader(self):
        registry = RedisRegistry(self.url, "shop", self.run_name)
        ignored = lambda *_: None  # noqa: E731
        return registry, Versions(registry, SCHEMA, LAYOUT, lambda: 0, ignored, ignored)

    @initialize(draw=st.data(), times=st.integers(2, 6))
    def begin(self, draw, times):
        """A world without a version has nothing to lose."""
        self.publish(draw, times)
        self._look(range(3))

    @rule(draw=st.data(), times=st.integers(1, 5))
    def learn(self, draw, times):
        self.publish(draw, times)

    def publish(self, draw, times):
        """As a learner does: what a delta builds on is its own last version; it begins whole."""
        for _ in range(times):
            whole, live = draw.draw(OFTEN_NOT), not draw.draw(OFTEN_NOT)
            version = min(self.version + draw.draw(st.sampled_from([1, 1, 1, 2])), MOST)
            made, base = self.made[version], self.base
            delta = not whole and base is not None and base.version == version - 1
            data, on = (made.delta, base) if delta else (made.whole, None)
            before, ledger = self.operator.pointer(), self.operator.ledger()
            try:
                self.learner.publish(
                    data, version, self.epoch, {}, base=on, content=made.content, live=live
                )
            except RegistryError:
                assert not self.whole
                self.base = None
                return
            self.version, self.base = version, Base(version, made.content)
            self.published[version] = made.content
            if self.whole:
                self._moved_as_it_should(before, ledger, version, live)
            self.copies.append(self.operator._redis.hgetall(self.operator._pointer))
            self._looks(draw)

    def _moved_as_it_should(self, before, ledger, version, live):
        """The pointer goes up to what is published, and to nothing that was there below it, that is
        held, or that is a candidate only."""
        now = self.operator.pointer()
        served = 0 if before is None else before.manifest.version
        stays = not live or version in ledger.held or (before is not None and before.pinned)
        if stays or (version in ledger.manifests and version < served):
            assert (now and now.order) == (before and before.order)
        else:
            assert now.manifest.version == version

    @rule(back=st.integers(0, 6))
    def the_learner_dies_and_goes_on_from_a_checkpoint(self, back):
        self.epoch += 1
        self.version, self.base = max(0, self.version - back), None

    @rule(draw=st.data(), why=st.sampled_from(["epoch", "version", "content", "base"]))
    def what_must_be_refused_changes_nothing(self, draw, why):
        """Of a learner that is over; of a version of before; of another model by its number; of a
        delta on another model."""
        there = self.operator.ledger().manifests
        if not self.whole or not there:
            return
        top, newest = (int(n) for n in self.operator._redis.hmget(self.operator._pointer, *TOP))
        epoch, version, base = self.operator.last_epoch(), min(newest + 1, MOST), None
        made = self.made[version]
        data, content = made.whole, made.content
        if why == "epoch":  # the next one has only repeated a version yet
            self._repeat(draw.draw(st.sampled_from(sorted(there))), epoch + 1)
            there, refused = self.operator.ledger().manifests, StalePublication
        elif why == "version":
            gone = sorted({*range(1, newest)} - {*there})
            if epoch != top or not gone:
                return
            version, refused = draw.draw(st.sampled_from(gone)), StalePublication
            data, content = self.made[version].whole, self.made[version].content
        elif why == "content":
            version, refused = draw.draw(st.sampled_from(sorted(there))), PublicationConflict
            other = self.made[version % MOST + 1]
            data, content = other.whole, other.content
        elif version in there:
            return
        else:
            data, base, refused = made.delta, Base(version - 1, "another"), BaseMissing
        before = self.operator.pointer()
        with pytest.raises(refused):
            self.learner.publish(data, version, epoch, {}, base=base, content=content)
        assert self.operator.ledger().manifests == there and self.operator.pointer() == before

    def _repeat(self, version, epoch):
        """The next learner publishes a version that is there."""
        before, ledger, made = self.operator.pointer(), self.operator.ledger(), self.made[version]
        self.learner.publish(made.whole, version, epoch, {}, content=made.content)
        self.epoch, self.version, self.base = epoch, version, Base(version, made.content)
        self._moved_as_it_should(before, ledger, version, True)

    @rule(chunks=st.integers(0, 5), whole=st.booleans())
    def a_publication_is_torn(self, chunks, whole):
        version = min(self.version + 1, MOST)
        data = self.made[version].whole if whole else self.made[version].delta
        manifest = manifests.describe(data, version, self.epoch, {})
        names = self.learner._chunks(manifest)
        for name, chunk in list(zip(names, split(data), strict=True))[:chunks]:
            self.learner._redis.set(name, bytes(chunk), nx=True, ex=60)

    @rule(draw=st.data())
    def an_operator_rolls_back_pins_or_unpins(self, draw):
        there = [manifest.version for manifest in self.operator.versions()]
        if there:
            version = draw.draw(st.sampled_from(there))
            how = draw.draw(st.sampled_from(["back", "pin", "keep", "unpin", "hold", "advance"]))
            if how in ("back", "pin"):
                self.operator.turn_to(version, how, pin=how == "pin")
            elif how == "keep":
                self.operator.pin(version, how)
            elif how == "unpin":
                self.operator.unpin(version)
                self.pins.discard(version)
            elif how == "hold":
                self.operator.hold(version, how)
            elif self.epoch >= self.operator.last_epoch():
                self.operator.advance(version, self.epoch, how)
            if how in ("pin", "keep"):
                self.pins.add(version)

    @rule(draw=st.data())
    def a_chain_is_compacted(self, draw):
        if self.whole and (there := self.operator.versions()):
            compact(self.operator, draw.draw(st.sampled_from(there)).version)

    @rule()
    def old_versions_are_removed(self):
        self.operator.retire()

    @rule(draw=st.data())
    def readers_look(self, draw):
        self._looks(draw)

    def _looks(self, draw):
        """Some readers do, or none: no message tells them to."""
        self._look(draw.draw(st.sets(st.integers(0, 2))))

    def _look(self, numbers):
        for number in numbers:
            registry, versions = self.readers[number]
            versions.poll(0)
            pointer = registry.pointer()
            if self.whole and pointer is not None:
                assert versions.current.manifest.version == pointer.manifest.version
            self.each_reader_has_one_whole_version_and_never_goes_back()

    @rule(number=st.integers(0, 2))
    def a_request_begins(self, number):
        if (loaded := self.readers[number][1].current) is not None:
            self.in_flight.append(loaded)

    @invariant()
    def a_request_goes_on_with_the_version_that_it_began_with(self):
        for loaded in self.in_flight:
            says = self.made[loaded.manifest.version].says
            assert (loaded.scorer.predict(self.asked) == says).all()
        del self.in_flight[:-3]

    @rule(number=st.integers(0, 2))
    def a_reader_dies_and_another_begins(self, number):
        self.begin_again(number)

    def begin_again(self, number):
        self.readers[number][0].close()
        self.readers[number], self.before[number] = self._reader(), None

    @invariant()
    def each_reader_has_one_whole_version_and_never_goes_back(self):
        for number, (_, versions) in enumerate(self.readers):
            loaded, before = versions.current, self.before[number]
            if loaded is None:
                assert before is None
                continue
            version = loaded.manifest.version
            assert loaded.scorer.content == self.published[version]
            assert (loaded.scorer.predict(self.asked) == self.made[version].says).all()
            now = (versions.seen[0], *loaded.manifest.order)
            assert before is None or now[0] > before[0] or now[1:] >= before[1:]
            self.before[number] = now

    @invariant()
    def the_pointer_only_rises(self):
        if (pointer := self.operator.pointer()) is not None:
            assert self.order is None or pointer.order >= self.order
            self.order = pointer.order

    @invariant()
    def what_is_served_pinned_or_read_is_there_with_all_below(self):
        """A reader's version stays for a minute after it last said so."""
        pointer, ledger = self.operator.pointer(), self.operator.ledger()
        served = set() if pointer is None else {pointer.manifest.version}
        read = {
            versions.current.manifest.version
            for _, versions in self.readers
            if versions.current is not None and time.monotonic() - versions._said < READING_S / 2
        }
        if self.whole:
            for version in served | read | self.pins:
                path_to(ledger, version, None)


class Lossy(World):
    """The same, on a Redis that loses and changes what was published."""

    @rule(draw=st.data(), lost=st.booleans())
    def a_chunk_is_lost_or_changed(self, draw, lost):
        """Also in the middle, where it is still the bytes of some model."""
        if there := self.operator.versions():
            manifest = draw.draw(st.sampled_from([*there, *[there[-1]] * len(there)]))
            name = draw.draw(st.sampled_from(self.operator._chunks(manifest)))
            size = self.operator._redis.strlen(name)
            if lost:
                self.operator._redis.delete(name)
            elif size:
                at = draw.draw(st.sampled_from([5, size // 2, size - 6]))
                self.operator._redis.setrange(name, at, b"forged")
            self.whole = False
            self.begin_again(0)  # it has to fetch all of it
            self._look(range(3))

    @rule(draw=st.data())
    def redis_comes_back_with_the_pointer_of_before(self, draw):
        if self.copies:
            copied = draw.draw(st.sampled_from(self.copies[-4:]))
            self.operator._redis.delete(self.operator._pointer)
            self.operator._redis.hset(self.operator._pointer, mapping=copied)
            self.whole, self.order = False, None
            self._look(range(3))


@pytest.mark.parametrize("world", [World, Lossy])
def test_every_reader_always_has_one_whole_version_and_goes_back_by_a_roll_back_only(
    world, redis_url, lineage, monkeypatch
):
    monkeypatch.setattr(manifests, "CHUNK_BYTES", 20_000)
    monkeypatch.setattr(sides, "IDLE_S", 0.01)

    class Here(world):
        url = redis_url
        made, asked = lineage

    assert len(list(split(lineage[0][MOST].whole))) >= 3
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=WORLDS, stateful_step_count=30, derandomize=WORLDS == 20, database=None
        ),
    )


PUBLISH = """
import sys
from streaming import redis_registry
from streaming.manifest import Base
redis_registry._PIPELINED = 1
url, run, kind = sys.argv[1:]
registry = redis_registry.RedisRegistry(url, "shop", run)
data = bytes(range(256)) * 4096 * 3 + b"end"
base = Base(1, "c1") if kind == "delta" else None
registry.publish(data, 2, 1, {}, base=base, content="c2")
"""


@pytest.mark.parametrize("kind", ["full", "delta"])
def test_killed_at_every_chunk_of_a_publication_the_old_version_stands_and_the_next_try_succeeds(
    redis_url, kind
):
    run = f"torn-{next(runs)}"
    points = [f"publish.chunk:{n}" for n in (1, 2, 3, 4)] + ["publish.uploaded", "publish.moved"]
    with closing(RedisRegistry(redis_url, "shop", run)) as registry:
        registry.publish(b"all of 1", 1, 1, {}, content="c1")

        def killed_at(point):
            environ = {**os.environ, "FRESHET_FAILPOINT": point, "PYTHONPATH": str(ROOT)}
            line = [sys.executable, "-c", PUBLISH, redis_url, run, kind]
            return subprocess.run(line, env=environ, capture_output=True, check=False)

        for point in points[:-1]:
            assert killed_at(point).returncode == -9
            assert [manifest.version for manifest in registry.versions()] == [1]
            assert registry.fetch(registry.latest()) == b"all of 1"
            if point != "publish.uploaded":  # the next one begins from nothing
                for name in registry._redis.scan_iter(match=f"{registry._chunk}:2:*"):
                    registry._redis.delete(name)
        assert killed_at("publish.moved").returncode == -9
        assert registry.latest().content == "c2" and len(registry.latest().chunks) == 4
        assert registry.fetch(registry.latest()).endswith(b"end")
        assert killed_at("never").returncode == 0
        registry.clear()
