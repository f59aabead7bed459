"""The loop where its neighbours fail: what waits, what is tried again."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from threading import Event

from streaming import learn as module
from streaming.apps.simulated import app as simulated
from streaming.dead_letters import DeadLetters
from streaming.eventlog import MemoryLog
from streaming.history import produce, topics
from streaming.learn import Loop, learn
from streaming.learner import Learner
from streaming.registry import MemoryRegistry, RegistryUnavailable


class Away(MemoryRegistry):
    """A registry that is away for the first `times` publications."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def publish(self, *arguments):
        if self.times:
            self.times -= 1
            raise RegistryUnavailable("away")
        return super().publish(*arguments)


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
