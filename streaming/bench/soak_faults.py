"""A soak's faults: one drawn at random every few seconds, of those that need no hand to mend."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Timer
from typing import Any

import redis

EVERY_S = 10.0
FREEZE_S, PAUSE_MS = 3.0, 1_000


class Faults:
    """`pids` gives the workers' at the time; `restart` starts one again that was killed. `done`
    counts what was done, by name; the `seed` draws it."""

    def __init__(
        self,
        redis_url: str,
        pids: Callable[[], Mapping[str, int]],
        restart: Callable[[str], None],
        seed: int,
    ) -> None:
        self._redis: Any = redis.Redis.from_url(redis_url)
        self._pids, self._restart = pids, restart
        self._draw, self._due_s = random.Random(seed), EVERY_S
        self.done: Counter[str] = Counter()

    def act(self, now_s: float) -> None:
        """Does one, where it is time to."""
        if now_s < self._due_s:
            return
        self._due_s = now_s + EVERY_S
        pids = self._pids()
        worker = self._draw.choice(sorted(pids))
        kill, freeze = (f"{what} {worker}" for what in ("kill", "freeze"))
        fault = self._draw.choice([kill, freeze, "pause redis", "cut redis"])
        if fault == kill:
            os.kill(pids[worker], signal.SIGKILL)
            self._restart(worker)
        elif fault == freeze:
            os.kill(pids[worker], signal.SIGSTOP)
            Timer(FREEZE_S, _thaw, (pids[worker],)).start()
        elif fault == "pause redis":
            self._redis.client_pause(PAUSE_MS)
        else:
            self._redis.client_kill_filter(_type="normal", skipme=True)
        self.done[fault] += 1

    def close(self) -> None:
        self._redis.close()


def _thaw(pid: int) -> None:
    with suppress(ProcessLookupError):  # killed meanwhile
        os.kill(pid, signal.SIGCONT)
