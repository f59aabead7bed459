"""`freshet doctor`: looks at everything that an application runs on; changes nothing."""

from __future__ import annotations

from pathlib import Path

from streaming.application import Application
from streaming.doctor.finding import ERROR, Finding
from streaming.doctor.kafka import LiveTopics
from streaming.doctor.learner import learner
from streaming.doctor.redis import Store
from streaming.sections import Kafka


def examine(app: Application, kafka: Kafka, redis: str, checkpoints: Path) -> list[Finding]:
    """All that is found, in the order in which to mend it."""
    topics, store = LiveTopics(kafka, app.name), Store(redis, app.name)
    found: list[Finding] = []
    try:
        found += topics.examine()
        found += store.examine()
        found += learner(app, checkpoints, topics, store)
        if topics.usable:
            found += topics.ingest()
    except ConnectionError as error:
        found.append(Finding("kafka", ERROR, str(error), "it went away just now: try again"))
    return found
