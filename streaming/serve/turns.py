"""Requests that wait for their turn: so many, and so long, and then they are refused at once.

A server that is asked for more than it can do answers what it can, and refuses the rest while that
is cheap: before the body is read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prometheus_client import Histogram

from streaming.serve.problems import Problem


class Turns:
    """Runs work in `threads` threads; `most` requests are in hand or wait, each `most_s` at most.
    `waited` is told how long each did."""

    def __init__(self, name: str, threads: int, most: int, most_s: float, waited: Histogram):
        self._threads = ThreadPoolExecutor(threads, f"freshet-{name}")
        self.most, self._most_s, self._waited = most, most_s, waited
        self.waiting = 0

    @property
    def full(self) -> bool:
        return self.waiting >= self.most

    async def take(self, work: Callable[..., Any], *args: Any) -> Any:
        """What `work` returns, in its turn. Raises Problem where too many wait, or it too long."""
        if self.full:
            raise overloaded(self.waiting)
        self.waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(
                self._threads, self._in_turn, time.perf_counter(), work, args
            )
        finally:
            self.waiting -= 1

    def _in_turn(self, came: float, work: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        waited = time.perf_counter() - came
        self._waited.observe(waited)
        if waited > self._most_s:
            raise Problem(503, "overloaded", f"the request waited for {waited:.1f} s")
        return work(*args)

    def close(self) -> None:
        self._threads.shutdown()


def overloaded(waiting: int) -> Problem:
    return Problem(503, "overloaded", f"{waiting} requests are waiting")
