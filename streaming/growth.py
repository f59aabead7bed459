"""Partitions added to live topics: taken up at one place of the order, by the live run and by every
replay of it.

A command in the control topic says it (`freshet topics grow`). The learner reads the new partitions
from there on, as though each had just said the command's time; what they hold from before counts as
of then. Partitions that no command speaks of are not read.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import closing

import msgspec
from confluent_kafka import KafkaException
from confluent_kafka.admin import NewPartitions

from features.codec import Codec
from features.events import FEEDBACK, IMPRESSIONS, Control, may_say
from streaming.application import Application
from streaming.commands import send
from streaming.kafkalog import ANSWER_S, KafkaLog, admin_client
from streaming.sections import Kafka
from streaming.topics import ITEMS, live_partitions, open_log, prefix

_CONTROL = msgspec.json.Decoder(Control)
COMMAND = "partitions.grow"
GROWING = (IMPRESSIONS, FEEDBACK)
MOST = 1024


def added(control: Control | None) -> list[tuple[str, int]]:
    """The partitions that a command adds; none where it is another one, or makes no sense."""
    if control is None or control.command != COMMAND:
        return []
    spans = {topic: control.arguments.get(topic) for topic in GROWING}
    return [
        (topic, p)
        for topic, span in spans.items()
        if isinstance(span, list) and len(span) == 2 and all(type(n) is int for n in span)
        for p in range(max(1, span[0]), min(span[1], MOST))
    ]


def growth(value: bytes | None) -> Control | None:
    """A record of the control topic, if it is such a command."""
    if value is None or not may_say(value, COMMAND):
        return None
    try:
        control = _CONTROL.decode(value)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return control if added(control) else None


def before(topics: dict[str, int], commands: Iterable[Control]) -> dict[str, int]:
    """The partitions that the topics had before the first of the commands."""
    least = dict(topics)
    for topic, p in (tp for command in commands for tp in added(command)):
        least[topic] = min(least[topic], p)
    return least


def after(topics: dict[str, int], commands: Iterable[Control]) -> dict[str, int]:
    """Those that they have after the last of them."""
    most = dict(topics)
    for topic, p in (tp for command in commands for tp in added(command)):
        most[topic] = max(most[topic], p + 1)
    return most


def grow(kafka: Kafka, app: Application, partitions: int, had: int | None = None) -> None:
    """Gives the topics of `app` so many partitions, and says so in the log. `had` is how many they
    had, where another tool has added them already. Raises ValueError where they would not grow, and
    ConnectionError where no broker answers.

    Ended before it has said so, it is to be run again with `had`; the same command twice counts
    once.
    """
    names = (*GROWING, ITEMS)
    found = live_partitions(kafka.bootstrap, app.name, kafka.properties(), names)
    start = found[IMPRESSIONS] if had is None else had
    if not start < partitions <= MOST or found[IMPRESSIONS] > partitions:
        raise ValueError(
            f"the topics have {found[IMPRESSIONS]} partitions: expected more than that, at most "
            f"{MOST}; where another tool has added some, say how many there were: --had N"
        )
    admin = admin_client({"bootstrap.servers": kafka.bootstrap, **kafka.properties()})
    wanted = [
        NewPartitions(prefix(app.name) + topic, partitions)
        for topic in names
        if found[topic] < partitions
    ]
    for name, answer in (admin.create_partitions(wanted) if wanted else {}).items():
        try:
            answer.result(ANSWER_S)
        except KafkaException as error:
            raise ConnectionError(f"kafka: topic {name!r}: {error.args[0].str()}") from None
    with closing(_grown(kafka, app.name, partitions)) as log:
        span = [start, partitions]
        spans = {topic: span for topic in GROWING}
        command = send(log, Codec(app.schema), COMMAND, spans, f"{COMMAND} {span}")
        for topic in GROWING:
            for p in range(start, partitions):
                log.append(topic, None, None, command.time_ms, p)
        log.flush()


def _grown(kafka: Kafka, app: str, partitions: int) -> KafkaLog:
    """The log once all partitions are known to the broker that is asked."""
    deadline = time.monotonic() + ANSWER_S
    while True:
        log = open_log(kafka, app)
        if all(log.topics[topic] >= partitions for topic in GROWING):
            return log
        log.close()
        if time.monotonic() > deadline:
            raise ConnectionError(f"kafka: the new partitions are not there after {ANSWER_S:g} s")
        time.sleep(0.05)
