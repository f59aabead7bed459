"""Redis, what it holds of the application, and who is at work, as the doctor sees them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import redis

from streaming.doctor.finding import ERROR, FINE, WARNING, Finding
from streaming.holder import by
from streaming.manifest import Manifest, RegistryError
from streaming.redis_registry import RedisRegistry, without_password

ANSWER_S = 2.0
NEARLY_FULL = 0.9
CLOCK_MS = 2_000


class Store:
    """The Redis at `url`. `newest` is the version that servers load, `holder` who learns."""

    def __init__(self, url: str, app: str) -> None:
        self._url, self._app = url, app
        self.newest: Manifest | None = None
        self.holder = ""

    def examine(self) -> Iterator[Finding]:
        where = without_password(self._url)
        # Any: redis-py's types are those of the client and the asynchronous one in one.
        client: Any = redis.Redis.from_url(
            self._url, socket_timeout=ANSWER_S, socket_connect_timeout=ANSWER_S
        )
        with closing(client):
            try:
                said = client.info()
                seconds, micros = client.time()
                held = client.get(f"freshet:{{{self._app}}}:live:lease")
            except redis.RedisError as error:
                do = "start it, or set redis.url (and redis.username, redis.password_file)"
                yield Finding("redis", ERROR, f"{where}: {type(error).__name__}: {error}", do)
                return
            self.holder = by(held) if held else ""
            yield Finding("redis", FINE, f"{said['redis_version']} answers at {where}")
            yield from _state(said)
            yield from _clock(seconds * 1000 + micros // 1000)
        yield from self._versions()

    def _versions(self) -> Iterator[Finding]:
        with closing(RedisRegistry(self._url, self._app)) as registry:
            try:
                self.newest = registry.latest()
            except RegistryError as error:
                yield Finding("versions", ERROR, str(error), "`freshet learn` publishes a new one")
                return
        if self.newest is None:
            do = f"run `freshet learn {self._app}`; until it publishes, servers rank by nothing"
            yield Finding("versions", ERROR, "no version is served", do)
        else:
            says = f"version {self.newest.version} of epoch {self.newest.epoch} is served"
            yield Finding("versions", FINE, says)


def _state(said: dict[str, Any]) -> Iterator[Finding]:
    if said.get("role") == "slave":
        do = "set redis.url to the primary: a replica takes no writes"
        yield Finding("redis", ERROR, "it is a replica, and read-only", do)
    if said.get("loading"):
        yield Finding("redis", WARNING, "it is loading its data", "wait until it has")
    if said.get("rdb_last_bgsave_status", "ok") != "ok":
        do = "make room on its disk; it may refuse writes until it can save (MISCONF)"
        yield Finding("redis", ERROR, "its last save to disk failed", do)
    most, used = int(said.get("maxmemory", 0)), int(said.get("used_memory", 0))
    policy = said.get("maxmemory_policy", "noeviction")
    if most and policy != "noeviction":
        says = f"it evicts ({policy}) above {most >> 20} MiB: versions and features would vanish"
        yield Finding("redis", ERROR, says, "CONFIG SET maxmemory-policy noeviction")
    if most and used > NEARLY_FULL * most:
        says = f"it uses {used / most:.0%} of its {most >> 20} MiB"
        yield Finding("redis", WARNING, says, "raise maxmemory, or keep fewer features")


def _clock(redis_ms: int) -> Iterator[Finding]:
    apart = abs(redis_ms - time.time_ns() // 1_000_000)
    if apart > CLOCK_MS:
        says = f"Redis's and this machine's are {apart / 1000:,.1f} s apart"
        do = "set them by NTP: an event from the future is refused"
        yield Finding("clock", WARNING, says, do)
