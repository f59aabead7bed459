"""Which run of an application's learners servers follow: `freshet:{app}:served` in Redis, a hash of
`run` and `order`, of the last promotion that a learner obeyed; the run `live` where there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from streaming.redis_registry import RedisRegistry, without_password
from streaming.registry import RegistryUnavailable
from streaming.shadow import LIVE, Promotion

# KEYS: served, the run's pointer  ARGV: run, order
_MOVE = """
if redis.call('HEXISTS', KEYS[2], 'manifest') == 0 then return 0 end
local order = redis.call('HGET', KEYS[1], 'order')
if not order or order < ARGV[2] then
  redis.call('HSET', KEYS[1], 'run', ARGV[1], 'order', ARGV[2])
end
return 1
"""


class ServedRun:
    """Of application `app`, on the Redis at `url`. Methods raise RegistryUnavailable."""

    def __init__(self, url: str, app: str, timeout_s: float = 5.0) -> None:
        self._url, self._app, self._timeout_s = url, app, timeout_s
        self._prefix = f"freshet:{{{app}}}"
        self._redis: Any = redis.Redis.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s
        )
        self._followed: RedisRegistry | None = None
        self._run = ""

    def name(self) -> str:
        """The run that is served."""
        with self._talking():
            said = self._redis.hget(f"{self._prefix}:served", "run")
        return LIVE if said is None else str(said.decode())

    def registry(self) -> RedisRegistry:
        """The versions of that run: the same object until it is another run."""
        run = self.name()
        if self._followed is None or run != self._run:
            if self._followed is not None:
                self._followed.close()
            self._followed = RedisRegistry(self._url, self._app, run, timeout_s=self._timeout_s)
            self._run = run
        return self._followed

    def move(self, to: Promotion) -> bool:
        """Has servers follow that run, unless a later promotion was obeyed before; False where the
        run has no version to serve yet."""
        keys = [f"{self._prefix}:served", f"{self._prefix}:{to.run}:pointer"]
        with self._talking():
            return bool(self._redis.eval(_MOVE, 2, *keys, to.run, to.order))

    def close(self) -> None:
        if self._followed is not None:
            self._followed.close()
        self._redis.close()

    @contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            where = without_password(self._url)
            text = f"registry {where}: {type(error).__name__}: {error}"
            raise RegistryUnavailable(text) from error
