"""A reader's two sides: which version each holds, whatever of it was lost on the way."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from streaming.apps.simulated import app as simulated
from streaming.compaction import compact
from streaming.dead_letters import DeadLetters
from streaming.eventlog import MemoryLog
from streaming.history import produce, topics
from streaming.learn import Loop, learn
from streaming.learner import Learner
from streaming.manifest import Base, CorruptSnapshot
from streaming.memory_registry import MemoryRegistry
from streaming.registry import NoSuchVersion
from streaming.serve.sides import Sides

APP = replace(simulated, publish_every=1)


class Holder:
    """Who scores."""


@pytest.fixture(scope="module")
def learned():
    """A registry that holds some forty versions, and what each gave for the same inputs."""
    log, registry = MemoryLog(topics(1)), MemoryRegistry(keep=1_000)
    learner = Learner(APP, log.topics, seed=0)
    produce(APP, log, learner.codec, islice(APP.source(), 1_500), {})
    inputs, said = [], {}

    def on_step(step):
        if not inputs and len(step.cut.batch.inputs):
            inputs.append(step.cut.batch.inputs)

    def on_publish(published):
        said[published.version] = learner.trainer.predict(inputs[0])

    loop = Loop(registry, DeadLetters(), on_step=on_step, on_publish=on_publish)
    assert learn(log, learner, loop, log.end_position())
    assert len(said) > 20
    return registry, inputs[0], said


def only_a_delta(registry):
    """The first version that can't be had without another."""
    ledger = registry.ledger()
    return next(version for version in sorted(ledger.manifests) if not ledger.whole(version))


def test_most_versions_are_deltas_and_a_long_chain_ends_in_a_full_one(learned):
    registry, _, _ = learned
    kinds = [manifest.kind for manifest in registry.versions()]
    assert kinds[0] == "full" and kinds.count("delta") >= kinds.count("full") > 1


def test_each_version_is_reached_bit_for_bit_whatever_was_there(learned):
    registry, inputs, said = learned
    sides, draw, versions = Sides(registry), np.random.default_rng(0), sorted(said)
    users = []
    for version in [*versions[:4], *draw.permutation(versions), *versions[-4:]]:
        side, manifest = sides.to(version)
        assert manifest.version == version
        assert (side.scorer.predict(inputs) == said[version]).all()
        users[:] = [Holder()]
        sides.use(side, users[0])


def test_who_scores_goes_on_with_the_version_it_began_with(learned):
    registry, inputs, said = learned
    sides, versions, users = Sides(registry), sorted(said), []
    for version in versions[:6]:
        side, _ = sides.to(version)
        users.append((Holder(), side.scorer, version))
        sides.use(side, users[-1][0])
    for _, scorer, version in users:
        assert (scorer.predict(inputs) == said[version]).all()


def test_a_delta_that_is_lost_leaves_the_old_version_and_a_full_one_heals(learned):
    registry, inputs, said = learned
    manifests = {m.version: m for m in registry.versions()}
    first, lost, last = sorted(said)[:3]
    assert manifests[lost].kind == manifests[last].kind == "delta"
    sides, user = Sides(registry), Holder()
    side, _ = sides.to(first)
    sides.use(side, user)
    compact(registry, last)
    data = registry._data.pop(manifests[lost].sha256)
    with pytest.raises(CorruptSnapshot, match=f"version {lost}, chunk 0"):
        sides.to(lost)
    assert (side.scorer.predict(inputs) == said[first]).all()
    other, _ = sides.to(last)
    assert (other.scorer.predict(inputs) == said[last]).all()
    registry._data[manifests[lost].sha256] = data
    with pytest.raises(NoSuchVersion):
        sides.to(10**9)


def test_a_delta_that_leads_elsewhere_is_found_by_its_content(learned):
    registry, inputs, said = learned
    manifests = registry._manifests
    two = only_a_delta(registry)
    honest = manifests[two]
    one = honest.base
    sides, user = Sides(registry), Holder()
    side, _ = sides.to(one)
    sides.use(side, user)
    manifests[two] = replace(honest, content="f" * 64)
    try:
        with pytest.raises(CorruptSnapshot, match="is not its content"):
            sides.to(two)
    finally:
        manifests[two] = honest
    assert (side.scorer.predict(inputs) == said[one]).all()


def test_a_delta_that_is_broken_gives_way_to_the_full_version_beside_it(learned):
    registry, inputs, said = learned
    manifests, broken = registry.ledger().manifests, only_a_delta(registry)
    before = manifests[broken].base
    sides, user = Sides(registry), Holder()
    side, _ = sides.to(before)
    sides.use(side, user)
    compact(registry, broken)
    have = Base(before, manifests[before].content)
    assert registry.path(broken, have) == [manifests[broken]], "the delta is the shorter way"
    data = registry._data[manifests[broken].sha256]
    registry._data[manifests[broken].sha256] = b"x" * len(data)
    try:
        other, _ = sides.to(broken)
    finally:
        registry._data[manifests[broken].sha256] = data
    assert (other.scorer.predict(inputs) == said[broken]).all()
    assert (side.scorer.predict(inputs) == said[before]).all()
