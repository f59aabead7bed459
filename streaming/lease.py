"""One learner an application: a lease in Redis, and the epoch that fences whoever held it before.

Keys, in the slot of the registry's (`{app}` is the hash tag): `freshet:{app}:RUN:lease`, who holds
it, expiring; `freshet:{app}:RUN:epoch`, the highest epoch that was ever given out.

The epoch makes it safe, not the clock (Kleppmann, "How to do distributed locking", 2016): whoever
takes the lease gets a higher one, so a holder who stalled past its time is refused by the registry
and by the order of the checkpoints. So a holder who can't reach Redis goes on; when Redis answers
again it keeps the lease, unless another has had it.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from streaming.failpoint import failpoint
from streaming.holder import by
from streaming.manifest import RegistryError
from streaming.redis_registry import without_password
from streaming.registry import RegistryUnavailable

log = logging.getLogger("freshet.lease")

TTL_S = 10.0
"""How long the lease outlives a holder that died: the longest wait of the one started after it."""
AWAY_RETRY_S = 1.0

# KEYS: lease, epoch  ARGV: holder, TTL in ms, the least epoch that was there before
_TAKE = """
local held = redis.call('GET', KEYS[1])
if held == ARGV[1] then return {'taken', redis.call('GET', KEYS[2])} end
if held then return {'held', held, redis.call('PTTL', KEYS[1])} end
local epoch = math.max(tonumber(redis.call('GET', KEYS[2]) or 0), tonumber(ARGV[3])) + 1
redis.call('SET', KEYS[2], string.format('%d', epoch))
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {'taken', string.format('%d', epoch)}
"""

# KEYS: lease, epoch  ARGV: holder, TTL in ms, its epoch
_RENEW = """
local held = redis.call('GET', KEYS[1])
local last = tonumber(redis.call('GET', KEYS[2]) or 0)
if held and held ~= ARGV[1] then return held end
if last > tonumber(ARGV[3]) then return '' end
redis.call('SET', KEYS[2], ARGV[3])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false
"""

# KEYS: lease  ARGV: holder
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end"


class LeaseTaken(RegistryError):
    """Another learner holds the lease, and renews it."""


class LeaseLost(RegistryError):
    """Another learner has had the lease since: this one must not write any more."""


class Lease:
    """The lease of application `app` in run `run`, on the Redis at `url`.

    `epoch` is 0 until it is taken. `answering` says whether Redis answered when last asked.
    """

    def __init__(self, url: str, app: str, run: str = "live", ttl_s: float = TTL_S) -> None:
        if not ttl_s > 0:
            raise ValueError(f"lease ttl_s is {ttl_s}: expected seconds above 0")
        self.epoch = 0
        self.answering = True
        self._ttl_s, self._where = ttl_s, without_password(url)
        self._lost = ""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="freshet-lease", daemon=True)
        self.holder = json.dumps(
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "since": datetime.now(UTC).isoformat(timespec="seconds"),
                "nonce": uuid.uuid4().hex,
            }
        )
        # Any: redis-py's types are those of the client and the asynchronous one in one.
        self._redis: Any = redis.Redis.from_url(
            url,
            socket_timeout=min(1.0, ttl_s),
            socket_connect_timeout=min(1.0, ttl_s),
            retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), 1),
        )
        self._keys = [f"freshet:{{{app}}}:{run}:lease", f"freshet:{{{app}}}:{run}:epoch"]

    def take(self, least_epoch: int, stop: threading.Event) -> int | None:
        """Takes the lease, keeps it in a thread, and returns its epoch, above `least_epoch` and
        above all that were given out before. None where `stop` is set before it is had; it is set
        when the lease is lost.

        A lease that nobody renews is waited for, at most its time; one that is renewed meanwhile
        raises LeaseTaken, saying by whom. RegistryUnavailable where Redis does not answer.
        """
        self._stop = stop
        seen: tuple[bytes, int] | None = None
        while not stop.is_set():
            with self._talking():
                answer = self._redis.eval(
                    _TAKE, 2, *self._keys, self.holder, self._ttl_ms, least_epoch
                )
            if answer[0] == b"taken":
                self.epoch = int(answer[1])
                failpoint("lease.taken")
                self._thread.start()
                return self.epoch
            holder, left_ms = answer[1], int(answer[2])
            if seen is None:
                log.warning("the lease is held by %s: waiting to see whether it lives", by(holder))
            elif holder != seen[0] or left_ms > seen[1]:
                raise LeaseTaken(f"another learner of this application runs: {by(holder)}")
            seen = holder, left_ms
            stop.wait(min(0.25, max(0.01, left_ms / 1000)))
        return None

    def check(self) -> None:
        """Raises LeaseLost where another learner is known to have taken the lease."""
        if self._lost:
            raise LeaseLost(f"the lease was lost to {self._lost}: nothing is written any more")

    def away(self) -> None:
        """Says that Redis did not answer somebody else; `answering` until the next renewal."""
        self.answering = False

    def close(self) -> None:
        """Gives the lease back, where it is still ours. A second call does nothing."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()
            try:
                self._redis.eval(_RELEASE, 1, self._keys[0], self.holder)
                failpoint("lease.released")
            except redis.RedisError as error:
                log.warning("lease not given back, it will run out: %s", error)
        self._redis.close()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def _ttl_ms(self) -> int:
        return max(1, round(self._ttl_s * 1000))

    def _keep(self) -> None:
        answered = time.monotonic()
        while True:
            every = self._ttl_s / 3
            if self._closing.wait(every if self.answering else min(every, AWAY_RETRY_S)):
                return
            try:
                other = self._redis.eval(
                    _RENEW, 2, *self._keys, self.holder, self._ttl_ms, self.epoch
                )
            except redis.RedisError as error:
                if self.answering:
                    log.warning("redis %s does not answer, going on: %s", self._where, error)
                self.answering = False
                continue
            if not self.answering:
                log.warning("redis answers again, %.1f s after", time.monotonic() - answered)
            self.answering, answered = True, time.monotonic()
            if other is not None:
                self._lost = by(other) if other else "a learner that has ended since"
                self._stop.set()
                log.error("the lease was lost to %s", self._lost)
                return

    @contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            text = f"lease at {self._where}: {type(error).__name__}: {error}"
            raise RegistryUnavailable(text) from error
