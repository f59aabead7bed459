"""The loop where its neighbours fail: what waits, what is tried again."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from threading import Event

from streaming import learn as module
from streaming import publication
from streaming.apps.simulated import app as simulated
from streaming.dead_letters import DeadLetters
from streaming.eventlog import MemoryLog
from streaming.history import produce, topics
from streaming.learn import Loop, learn
from streaming.learner import Learner
from streaming.memory_registry import MemoryRegistry
from streaming.registry import RegistryUnavailable


class Away(MemoryRegistry):
    """A registry that is away for the first `times` publications."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def publish(self, *arguments, **more):
        if self.times:
            self.times -= 1
            raise RegistryUnavailable("away")
        return super().publish(*arguments, **more)


def test_what_the_end_has_taught_is_published_once_the_registry_is_back(monkeypatch):
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    app = replace(simulated, publish_every=10**9)
    log = MemoryLog(topics(1))
    learner = Learner(app, log.topics, seed=0)
    assert app.source is not None
    produce(app, log, learner.codec, islice(app.source(), 300), {})
    stop, registry, published = Event(), Away(3), []

    def on_publish(done):
        published.append(done)
        stop.set()

    loop = Loop(registry, DeadLetters(), stop=stop, on_publish=on_publish)
    assert learn(log, learner, loop, log.end_position(), go_on=True) is False
    assert len(published) == 1 and loop.unpublished == 3
    latest = registry.latest()
    assert latest is not None and latest.version == learner.trainer.steps > 0


def test_a_registry_that_has_lost_its_versions_is_given_a_whole_one():
    app = replace(simulated.with_settings(["trainer.batch_size=8"]), publish_every=1)
    log, registry, kinds = MemoryLog(topics(1)), MemoryRegistry(), []
    learner = Learner(app, log.topics, seed=0)
    assert app.source is not None
    produce(app, log, learner.codec, islice(app.source(), 300), {})

    def on_publish(done):
        kinds.append(done.kind)
        if len(kinds) == 1:
            registry.clear()

    loop = Loop(registry, DeadLetters(), on_publish=on_publish)
    assert learn(log, learner, loop, log.end_position())
    assert kinds[:3] == ["full", "full", "delta"]
    assert registry.latest().version == learner.trainer.steps


def test_while_a_hundred_steps_are_not_finite_nothing_is_published():
    """The model of before stands as it was, and was published: there is nothing new to tell."""
    spoiling = ("trainer.dense.kind=sgd", "trainer.dense.lr=1e38", "trainer.batch_size=2")
    app = replace(simulated.with_settings(spoiling), publish_every=1)
    log = MemoryLog(topics(1))
    learner = Learner(app, log.topics, seed=0)
    assert app.source is not None
    produce(app, log, learner.codec, islice(app.source(), 300), {})
    published = []
    loop = Loop(MemoryRegistry(), DeadLetters(), on_publish=published.append)
    assert learn(log, learner, loop, log.end_position())
    assert learner.quarantined > 100
    assert [p.version for p in published if p.new] == list(range(1, learner.trainer.steps + 1))
    assert sum(not p.new for p in published) <= 1  # at the end, for who waits for it


def test_a_chain_of_deltas_stays_short_however_often_the_learner_starts_again(monkeypatch):
    """No process publishes as many as make a chain long."""
    monkeypatch.setattr(publication, "MOST_LINKS", 4)
    app = replace(simulated.with_settings(["trainer.batch_size=2"]), publish_every=1)
    log, registry, links, state = MemoryLog(topics(1)), MemoryRegistry(), [], None
    assert app.source is not None
    produce(app, log, Learner(app, log.topics, seed=0).codec, islice(app.source(), 300), {})
    for _ in range(6):
        learner, stop, published = Learner(app, log.topics, seed=0), Event(), []
        if state is not None:
            learner.load(state)

        def on_publish(done, stop=stop, published=published):
            published.append(done)
            links.append(len(registry.path(done.version)))
            if len(published) == 3:
                stop.set()

        loop = Loop(registry, DeadLetters(), stop=stop, on_publish=on_publish)
        assert learn(log, learner, loop) is False
        state = learner.state()
    assert len(links) == 18 and 2 < max(links) <= 1 + publication.MOST_LINKS
