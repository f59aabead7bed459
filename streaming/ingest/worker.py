"""`freshet ingest`: a Faust worker that keeps the feature store up with the live topics.

Two agents, one for the events by user and one for the events by item. Faust brings the records and
looks after the consumer group; all else is in `batches`. The steps of a batch: 1 read it, 2 write
the users' rows, 3 send the events on by item, and later, for several batches at once, 4 put the
rows' history on the disk, 5 acknowledge. Killed after any of them, the batch is delivered again and
changes nothing that is there.

Faust's own acknowledging is not used: see `positions`, which says what counts and what is due.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Timer
from typing import Any, TypeVar, cast

import faust
from faust.transport.consumer import ThreadDelegateConsumer
from faust.types import TP, EventT
from faust.types.auth import CredentialsT

from features.events import FEEDBACK, IMPRESSIONS
from features.store import StoreUnavailable
from streaming.eventlog import Chunk
from streaming.ingest.batches import Batches, Part
from streaming.ingest.metrics import Places
from streaming.ingest.positions import Positions
from streaming.sections import Kafka
from streaming.topics import ITEMS, prefix

log = logging.getLogger("freshet.ingest")

MOST, WITHIN_S = 4_000, 0.1
"""Records in a batch, and how long it waits for them."""
FLUSH_S, FLUSH_RECORDS = 30.0, 20_000
"""Acknowledged together: what a worker that died leaves to be delivered again."""
RETRY_S, LONGEST_RETRY_S = 0.1, 5.0
LOOK_S, LEAVE_S = 2.0, 5.0
PASSING = (StoreUnavailable, ConnectionError)
T = TypeVar("T")


class Stopping(Exception):
    """Asked to stop, or to give partitions away, while a server is away: what is at hand is left
    for the next start, or for the next worker."""


class Worker:
    """Runs until `stop`. What it can't go on from, it raises, and acknowledges nothing more."""

    def __init__(
        self,
        app: str,
        kafka: Kafka,
        instance: str,
        batches: Batches,
        flush: Callable[[], None],
        stop: asyncio.Event,
        folder: Path,
        places: Places,
    ) -> None:
        self._batches, self._flush, self._stop, self._places = batches, flush, stop, places
        self._failed: Exception | None = None
        self._leaving = False
        self._busy = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "freshet-ingest")
        self._positions: Positions[TP] = Positions()
        self._unflushed = 0
        self._beginning: asyncio.Future[None] = asyncio.Future()
        self._prefix = prefix(app)
        self._faust = faust.App(f"freshet-{app}-ingest", **settings(kafka, instance, folder))
        raw: dict[str, Any] = {"key_serializer": "raw", "value_serializer": "raw"}
        source, self._items = (
            self._faust.topic(*(self._prefix + name for name in names), **raw)
            for names in ((IMPRESSIONS, FEEDBACK), (ITEMS,))
        )
        self._faust.agent(source, name="freshet.events")(self._events)
        self._faust.agent(self._items, name="freshet.items")(self._by_item)
        self._faust.on_partitions_revoked.connect(self._revoked, weak=False)
        self._faust.on_partitions_assigned.connect(self._assigned, weak=False)

    async def run(self) -> None:
        """Raises ConnectionError where no broker answers, and what stopped it."""
        try:
            await self._faust.start()
            ended = asyncio.create_task(self._faust.wait_until_stopped())
            flushing = asyncio.create_task(self._flushing())
            watching = asyncio.create_task(self._watching())
            stop = asyncio.create_task(self._stop.wait())
            await asyncio.wait({ended, stop, flushing}, return_when=asyncio.FIRST_COMPLETED)
            for task in (flushing, watching, self._beginning):
                task.cancel()
            async with self._busy:
                self._stop.set()
                if self._failed is None and self._faust.crash_reason is None:
                    await self._acknowledge()
        finally:
            with self._at_most(LEAVE_S):
                await self._faust.stop()
            self._thread.shutdown()
        if self._failed is not None:
            raise self._failed
        if self._faust.crash_reason is not None:
            raise ConnectionError(f"kafka: {self._faust.crash_reason}")

    @contextmanager
    def _at_most(self, seconds: float) -> Iterator[None]:
        """Ends the process, well, where Faust takes longer to leave: in a rebalance it may block
        for the session's time. All that is acknowledged is on the disk, and the group notices."""
        ended_well = self._failed is None and self._faust.crash_reason is None
        timer = Timer(seconds, os._exit, (0,))
        timer.daemon = True
        if ended_well and self._stop.is_set():
            timer.start()
        try:
            yield
        finally:
            timer.cancel()

    @property
    def _consumer(self) -> ThreadDelegateConsumer:
        return cast(ThreadDelegateConsumer, self._faust.consumer)

    async def _events(self, stream: Any) -> None:
        async for events in stream.noack_take(MOST, within=WITHIN_S):
            await self._batch(events, self._batches.read, self._write)

    async def _by_item(self, stream: Any) -> None:
        async for events in stream.noack_take(MOST // 100, within=WITHIN_S):
            await self._batch(events, self._batches.read_items, self._write_items)

    async def _batch(
        self,
        events: Sequence[EventT],
        read: Callable[[list[Chunk]], list[Part]],
        write: Callable[[Part], Awaitable[None]],
    ) -> None:
        """One batch, under the lock; whatever it raises ends the worker."""
        async with self._busy:
            if self._stop.is_set() or self._leaving:
                return
            take = self._positions.take
            events = [event for event in events if take(event.message.tp, event.message.offset)]
            try:
                chunks = self._chunks(events)
                for part in await self._until_done(read, chunks):
                    await write(part)
                self._positions.written()
                self._places.done(chunks)
                self._unflushed += len(events)
                if self._unflushed >= FLUSH_RECORDS:
                    await self._acknowledge()
                await self._read_again(self._positions.holes)
            except Stopping:
                self._positions.back()
            except Exception as error:
                self._positions.back()
                self._failed = error
                self._stop.set()

    async def _write(self, part: Part) -> None:
        records = await self._until_done(self._batches.write, part)
        while records:
            sent = [await self._items.send(value=v, partition=p) for p, v in records]
            answers = await asyncio.gather(*sent, return_exceptions=True)
            failed = [a for a in answers if isinstance(a, BaseException)]
            if not failed:
                return
            await self._away(failed[0], RETRY_S)

    async def _write_items(self, part: Part) -> None:
        await self._until_done(self._batches.write_items, part)

    def _chunks(self, events: Sequence[EventT]) -> list[Chunk]:
        """The records as the log's own chunks, one for each partition."""
        of: dict[tuple[str, int], Chunk] = {}
        for event in events:
            m = event.message
            topic = m.topic.removeprefix(self._prefix)
            chunk = of.setdefault((topic, m.partition), Chunk(topic, m.partition, [], [], []))
            chunk.offsets.append(m.offset)
            chunk.timestamps_ms.append(round(m.timestamp * 1000))
            chunk.values.append(m.value)
        return list(of.values())

    async def _until_done(self, work: Callable[..., T], *arguments: Any) -> T:
        """What `work` returns, from the worker's thread; tried again for as long as a server is
        away, ever more slowly."""
        wait_s = RETRY_S
        while True:
            try:
                return await self._in_thread(work, *arguments)
            except PASSING as error:
                await self._away(error, wait_s)
                wait_s = min(2 * wait_s, LONGEST_RETRY_S)

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, work, *arguments)

    async def _away(self, error: BaseException, wait_s: float) -> None:
        """Says that a server did not answer, and waits; raises Stopping when asked to stop, or when
        the partitions are to be another worker's, which must not wait for us to write."""
        log.warning("not written, tried again in %.1f s: %s", wait_s, error)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), wait_s)
        if self._stop.is_set() or self._leaving:
            raise Stopping

    async def _flushing(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            async with self._busy:
                try:
                    await self._acknowledge()
                except Exception as error:
                    self._failed = error
                    self._stop.set()

    async def _watching(self) -> None:
        """Looks where the partitions end: for the metrics, and for what never came."""
        while True:
            consumer = self._consumer
            with suppress(Exception):  # in a rebalance, or while Kafka is away: the next time
                ends = await consumer.highwaters(*consumer.assignment())
                at = {tp: await consumer.position(tp) for tp in ends}
                named = {tp: (tp.topic.removeprefix(self._prefix), tp.partition) for tp in ends}
                self._places.ours(
                    {named[tp]: end for tp, end in ends.items()},
                    {named[tp]: offset or 0 for tp, offset in at.items()},
                )
                if not self._busy.locked():
                    await self._read_again(self._positions.stuck(ends))
            await asyncio.sleep(LOOK_S)

    async def _read_again(self, offsets: Mapping[TP, int]) -> None:
        """By `seek_wait`, in the consumer's own thread: Faust's `seek` changes what that thread is
        reading from under it, which ends the worker by a KeyError now and then."""
        if not offsets:
            return
        for tp, offset in offsets.items():
            log.info("%s %d: reading again from %d", tp.topic, tp.partition, offset)
        try:
            await self._consumer.seek_wait(offsets)
        except Exception as error:  # another worker's by now, or Kafka is away: `_watching` will
            log.info("not read again: %s", error)

    async def _acknowledge(self) -> None:
        """All that is written, once its history is on the disk, and its dead letters in Kafka."""
        offsets = self._positions.unacknowledged()
        if not offsets:
            return
        try:
            await self._until_done(self._flush)
        except Stopping:
            return
        self._unflushed = 0
        if await self._consumer._commit(offsets):
            self._positions.acknowledged(offsets)

    async def _assigned(self, *_: Any, **__: Any) -> None:
        self._beginning = asyncio.create_task(self._begin())

    async def _begin(self) -> None:
        """Begins where the group has acknowledged; until then, no record counts."""
        consumer = self._consumer
        while ours := consumer.assignment():
            try:
                offsets = await consumer.seek_to_committed()
                begins = await consumer.earliest_offsets(*ours)
                async with self._busy:
                    self._positions.start(
                        {tp: offset or begins.get(tp, 0) for tp, offset in offsets.items()}
                    )
                return
            except Exception as error:  # Kafka is away, or in the next rebalance
                log.info("not begun, tried again in %.1f s: %s", RETRY_S, error)
            await asyncio.sleep(RETRY_S)

    async def _revoked(self, *_: Any, **__: Any) -> None:
        """The batch at hand is finished before another worker gets its partitions, unless a server
        is away."""
        self._leaving = True
        self._beginning.cancel()
        try:
            async with self._busy:
                await self._acknowledge()
                self._positions.start({})
        finally:
            self._leaving = False


def settings(kafka: Kafka, instance: str, folder: Path) -> dict[str, Any]:
    """Faust's settings: no tables, no web server, no topics of its own; the folder that it makes
    all the same is in `folder`."""
    return {
        "datadir": str(folder / "faust"),
        "broker": [f"aiokafka://{address.strip()}" for address in kafka.bootstrap.split(",")],
        "broker_credentials": _credentials(kafka),
        "broker_session_timeout": 10.0,
        "broker_heartbeat_interval": 2.0,
        "broker_commit_interval": 1.0,
        "consumer_group_instance_id": instance or None,
        "consumer_auto_offset_reset": "earliest",
        "producer_compression_type": "lz4",
        "producer_max_request_size": 1_048_000,
        "store": "memory://",
        "stream_wait_empty": False,
        "topic_allow_declare": False,
        "topic_disable_leader": True,
        "web_enabled": False,
    }


def _credentials(kafka: Kafka) -> CredentialsT | None:
    context = None
    if kafka.security_protocol.endswith("SSL"):
        context = ssl.create_default_context(cafile=kafka.ssl_ca or None)
        if kafka.ssl_certificate:
            context.load_cert_chain(kafka.ssl_certificate, kafka.ssl_key)
    if kafka.security_protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=kafka.sasl_username,
            password=kafka.sasl_password.reveal(),
            mechanism=kafka.sasl_mechanism,
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context is not None else None
