"""The ingest worker of one process, put together."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import ExitStack, closing
from pathlib import Path

from features.feast_store import FeastStore
from features.rows import stored_kinds
from features.windows import Windows
from streaming.application import Application
from streaming.collector import tune
from streaming.config import Config
from streaming.dlq import AT, DeadLetterTopic
from streaming.ingest.batches import Batches
from streaming.ingest.metrics import MeasuredStore, Metrics
from streaming.ingest.rebuild import begin, tell
from streaming.ingest.sightings import Recall
from streaming.ingest.worker import Worker
from streaming.observe import Endpoint
from streaming.state_folder import state_folder
from streaming.topics import DEAD, ITEMS, live_partitions, open_log, prefix

log = logging.getLogger("freshet.ingest")
KNOWN_LETTERS = 100_000
"""Dead letters of before that are not written again."""


def run(app: Application, config: Config, redis: str, anew: bool = False) -> None:
    """Until SIGTERM or SIGINT; `anew` with all rows made again. Raises ValueError for what the user
    can mend, ConnectionError where no broker answers, StoreUnavailable where Redis does not when it
    starts."""
    kafka = config.kafka
    if not stored_kinds(app.aggregates):
        raise ValueError(f"application {app.name!r} has no Aggregates: nothing to ingest")
    there = live_partitions(
        kafka.bootstrap, app.name, kafka.properties(), ("impressions", "feedback", ITEMS)
    )
    if there["impressions"] != there["feedback"]:
        raise ValueError(
            f"topics impressions and feedback of {app.name!r} have {there['impressions']} and "
            f"{there['feedback']} partitions: expected as many, for what a user does to be together"
        )
    metrics = Metrics()
    folder = Path(config.features.folder or state_folder(app.name, "features"))
    with ExitStack() as stack:
        endpoint = Endpoint(metrics.registry, app.name, config.ingest.metrics, "ingest.metrics")
        stack.enter_context(closing(endpoint))
        source = {name: n for name, n in there.items() if name != ITEMS}
        recall = Recall(kafka.bootstrap, source, prefix(app.name), kafka.properties())
        stack.enter_context(closing(recall))
        dead = stack.enter_context(closing(open_log(kafka, app.name, DEAD)))
        windows = Windows(app.schema, app.aggregates)
        keep_days = config.features.keep_days or None
        store = FeastStore(redis, app.name, folder, windows, keep_days=keep_days)
        stack.enter_context(closing(store))
        store.read({})
        store.apply()
        told = begin(app.name, kafka, store) if anew else None
        measured = MeasuredStore(store, metrics)
        letters = DeadLetterTopic(dead, "ingest", max(0, dead.end_position()[AT] - KNOWN_LETTERS))
        stack.callback(letters.close)
        batches = Batches(app, recall, measured, letters, there[ITEMS], metrics)

        def flush() -> None:
            letters.flush()
            measured.flush()

        async def until_signalled() -> None:
            stop = asyncio.Event()
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, stop.set)
            recall.stopping = stop.is_set
            instance = config.ingest.instance
            places = metrics.places
            worker = Worker(app.name, kafka, instance, batches, flush, stop, folder, places)
            telling = asyncio.create_task(tell(*told, places)) if told else None
            await worker.run()
            if telling is not None:
                telling.cancel()

        tune()
        asyncio.run(until_signalled())
