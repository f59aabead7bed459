"""Load on a server, open-loop: requests come when they are due, whether the ones before were
answered or not, and a latency counts from when its request was due. From a process of its own."""

from __future__ import annotations

import asyncio
import gc
import itertools
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import uvloop

MOST_CONNECTIONS = 400
GIVEN_UP_S = 10.0
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"connection: *close", re.IGNORECASE)


@dataclass
class Answers:
    """What came back: how many of each status, 0 for none at all; seconds of those with 200."""

    seconds: float
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)

    @property
    def goodput(self) -> float:
        """Answers with 200, a second."""
        return self.statuses[200] / self.seconds

    def within(self, share: float, ms: float) -> bool:
        """Whether this share of all that was asked was answered with 200 in that time."""
        quick = sum(1000 * seconds <= ms for seconds in self.latencies)
        return quick >= share * sum(self.statuses.values())

    def quantile_ms(self, share: float) -> float:
        return round(1000 * float(np.quantile(self.latencies or [np.inf], share)), 2)


def load(urls: Sequence[str], bodies: Sequence[bytes], rate: float, seconds: float) -> Answers:
    """Posts `bodies`, again and again, to `urls` in turn, `rate` a second (Poisson) for so long."""
    with get_context("spawn").Pool(1) as alone:
        return alone.apply(run, (list(urls), list(bodies), rate, seconds))


def run(urls: list[str], bodies: list[bytes], rate: float, seconds: float) -> Answers:
    """`load`, in this process."""
    gc.collect()
    gc.freeze()
    return uvloop.run(_run([_Target(url, bodies) for url in urls], rate, seconds))


async def _run(targets: list[_Target], rate: float, seconds: float) -> Answers:
    answers = Answers(seconds)
    draw, due, started = np.random.default_rng(0), 0.0, time.perf_counter()
    waiting: set[asyncio.Task[None]] = set()
    for number in itertools.count():
        due += draw.exponential(1 / rate)
        if due > seconds:
            break
        if (ahead := started + due - time.perf_counter()) > 0:
            await asyncio.sleep(ahead)
        target = targets[number % len(targets)]
        task = asyncio.ensure_future(target.ask(number, started + due, answers))
        waiting.add(task)
        task.add_done_callback(waiting.discard)
    if waiting:
        await asyncio.wait(waiting)
    for target in targets:
        target.close()
    return answers


class _Target:
    def __init__(self, url: str, bodies: list[bytes]) -> None:
        parts = urlsplit(url)
        assert parts.hostname and parts.port
        self._where = parts.hostname, parts.port
        head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        head += "Content-Type: application/json\r\nContent-Length: "
        self._requests = [head.encode() + b"%d\r\n\r\n" % len(b) + b for b in bodies]
        self._free: list[_Connection] = []
        self._count = 0
        self._room = asyncio.Semaphore(MOST_CONNECTIONS)

    async def ask(self, number: int, due: float, answers: Answers) -> None:
        request = self._requests[number % len(self._requests)]
        try:
            async with asyncio.timeout(GIVEN_UP_S), self._room:
                status = await self._asked(request)
        except (OSError, TimeoutError):
            status = 0
        answers.statuses[status] += 1
        if status == 200:
            answers.latencies.append(time.perf_counter() - due)

    async def _asked(self, request: bytes) -> int:
        """A connection that the server closed before it answered anything is tried once anew, as
        clients with connections at hand do."""
        for fresh in (False, True):
            if self._free and not fresh:
                connection = self._free.pop()
            else:
                loop = asyncio.get_running_loop()
                _, connection = await loop.create_connection(_Connection, *self._where)
                fresh = True
            try:
                status = await connection.ask(request)
            except ConnectionResetError:
                if fresh:
                    raise
                continue
            if connection.usable:
                self._free.append(connection)
            return status
        raise ConnectionResetError

    def close(self) -> None:
        for connection in self._free:
            connection.close()


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.usable = True
        self._answer: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    async def ask(self, request: bytes) -> int:
        """The status of the answer. Raises ConnectionResetError."""
        if not self.usable:
            raise ConnectionResetError
        self._read = bytearray()
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await self._answer
        except asyncio.CancelledError:
            self.close()
            raise

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, found, body = self._read.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if found and length and len(body) >= int(length[1]):
            if _CLOSE.search(head):
                self.close()
            if self._answer is not None and not self._answer.done():
                self._answer.set_result(int(head[9:12]))

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError())

    def close(self) -> None:
        self.usable = False
        self._transport.close()
