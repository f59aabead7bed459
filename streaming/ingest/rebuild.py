"""`freshet ingest --rebuild`: the rows of the feature store, made again from the log.

The steps: 1 see that nobody ingests, 2 delete the rows, 3 move the group back to the first event of
each partition, and in the topic `items`, which is sent again, to its end. From there on it is
ingest as always. Killed after 2, the next worker finds the rows lost and says so; killed after 3,
or later, the next one goes on with it, `--rebuild` or not.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import closing, nullcontext

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from rich.console import Console
from rich.live import Live
from rich.text import Text

from features.feast_store import FeastStore
from streaming.eventlog import Position
from streaming.ingest.metrics import Places
from streaming.kafkalog import ANSWER_S, admin_client
from streaming.sections import Kafka
from streaming.topics import ITEMS, open_log, prefix

log = logging.getLogger("freshet.ingest.rebuild")

LEAVE_S = 15.0
"""How long a worker that was killed stays a member of its group, and a little more."""
TERMINAL_S, PLAIN_S = 0.5, 5.0


def begin(app: str, kafka: Kafka, store: FeastStore) -> tuple[Position, Position]:
    """Does the steps; returns where it begins, and where the events end for now. ValueError where
    another worker ingests, ConnectionError where Kafka does not answer, StoreUnavailable."""
    group = f"freshet-{app}-ingest"
    admin = admin_client({"bootstrap.servers": kafka.bootstrap, **kafka.properties()})
    try:
        _see_that_nobody_ingests(admin, group)
        store.clear()
        with closing(open_log(kafka, app, "impressions", "feedback", ITEMS)) as events:
            first, end = events.first_position(), events.end_position()
        start = {tp: (end if tp[0] == ITEMS else first)[tp] for tp in first}
        at = [TopicPartition(prefix(app) + t, p, offset) for (t, p), offset in start.items()]
        asked = [ConsumerGroupTopicPartitions(group, at)]
        (answer,) = admin.alter_consumer_group_offsets(asked, request_timeout=ANSWER_S).values()
        answer.result(ANSWER_S)
    except KafkaException as error:
        raise ConnectionError(f"kafka: group {group}: {error.args[0].str()}") from None
    if gone := [f"{topic}[{p}]" for (topic, p), n in first.items() if n and topic != ITEMS]:
        log.warning("the broker has deleted the first events of %s: rows lack them", gone)
    return start, {tp: n for tp, n in end.items() if tp[0] != ITEMS}


def _see_that_nobody_ingests(admin: AdminClient, group: str) -> None:
    deadline = time.monotonic() + LEAVE_S
    while members := _members(admin, group):
        if time.monotonic() > deadline:
            raise ValueError(
                f"{len(members)} ingest workers are running ({', '.join(members)}): stop them, and "
                "start them again once this one has begun"
            )
        time.sleep(0.2)


def _members(admin: AdminClient, group: str) -> list[str]:
    """Where each one runs."""
    answer = admin.describe_consumer_groups([group], request_timeout=ANSWER_S)[group]
    try:
        return [member.host.strip("/") for member in answer.result(ANSWER_S).members]
    except KafkaException as error:
        if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            return []
        raise


async def tell(start: Position, goal: Position, places: Places) -> None:
    """Says how far this worker's partitions are until they are done, and the items' after them: a
    line that moves on a terminal, a line of the log every few seconds elsewhere."""
    log.setLevel(logging.INFO)  # it was asked for, whatever `log.level` is
    console, sources_done, last = Console(stderr=True), False, 0.0
    live = Live(console=console, transient=True, auto_refresh=False)
    with live if console.is_terminal else nullcontext():
        while True:
            await asyncio.sleep(TERMINAL_S)
            ends, stored = places.ends, places.stored
            ours = [tp for tp in goal if tp in ends]
            whole = sum(goal[tp] - start[tp] for tp in ours)
            left = sum(max(0, goal[tp] - stored.get(tp, start[tp])) for tp in ours)
            sent = {tp: n for tp, n in ends.items() if tp[0] == ITEMS}
            items = sum(n - stored.get(tp, start[tp]) for tp, n in sent.items())
            if sources_done and not items:
                break
            sources_done = bool(ours) and not left
            says = f"rebuilding: {whole - left:,} of {whole:,} events"
            says += f" ({1 - left / max(1, whole):.0%}), {items:,} records of items to go"
            if not ours:
                continue
            if console.is_terminal:
                live.update(Text(says), refresh=True)
            elif time.monotonic() - last > PLAIN_S:
                last = time.monotonic()
                log.info(says, extra={"done": whole - left, "of": whole})
    log.info("rebuilt: the store is up with the log as it was, %d events", whole)
