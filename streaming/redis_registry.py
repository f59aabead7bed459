"""The registry in Redis. Keys, all in one slot of a cluster (`{app}` is the hash tag):

- `freshet:{app}:RUN:pointer`: a hash of `epoch`, `version`, `manifest` and `last_epoch`
- `freshet:{app}:RUN:manifests`: a hash of version -> manifest
- `freshet:{app}:RUN:chunk:VERSION:SHA256:N`: bytes; named by the whole's hash, so that two learners
  who publish one version at once cannot write over each other
- `freshet:{app}:RUN:wake`: the pub/sub channel that says "look at the pointer"

`publish` takes these steps; a crash after each leaves:

1. writes the chunks that are missing, to expire in an hour: chunks that nobody reads, then nothing
2. one Lua call decides, makes the chunks permanent, moves the pointer, wakes: the new version
3. one Lua call for each version beyond the last `keep` removes it: some more than `keep`, until the
   next publication
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from streaming.manifest import Manifest, assemble, describe, split
from streaming.registry import (
    PublicationConflict,
    Published,
    RegistryUnavailable,
    StalePublication,
    check_keep,
    conflict,
    expired,
    newer,
    stale,
)

_UNPUBLISHED_TTL_S = 3600
_POLL_S = 0.5
_PIPELINED = 16
_UPLOADS = 3
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")

# KEYS: pointer, manifests, chunk...  ARGV: epoch, version, SHA-256, manifest, channel
_PUBLISH = """
local epoch, version = tonumber(ARGV[1]), tonumber(ARGV[2])
local pointer = redis.call('HMGET', KEYS[1], 'epoch', 'version', 'last_epoch')
local at = {tonumber(pointer[1] or -1), tonumber(pointer[2] or -1)}
local last = tonumber(pointer[3] or 0)
if epoch < last then return {'stale', last, at[1], at[2]} end
local there = redis.call('HGET', KEYS[2], ARGV[2])
local known = there and cjson.decode(there)
if known and known.sha256 ~= ARGV[3] then return {'conflict', known.sha256} end
local ahead = epoch > at[1] or (epoch == at[1] and version > at[2])
if not known and not ahead then return {'stale', last, at[1], at[2]} end
for i = 3, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 0 then return {'missing', i - 3} end
end
for i = 3, #KEYS do redis.call('PERSIST', KEYS[i]) end
redis.call('HSET', KEYS[1], 'last_epoch', ARGV[1])
local manifest = known and known.epoch == epoch and there or ARGV[4]
redis.call('HSET', KEYS[2], ARGV[2], manifest)
if not known or (ahead and version >= at[2]) then
  redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'version', ARGV[2], 'manifest', manifest)
  redis.call('PUBLISH', ARGV[5], ARGV[1] .. ' ' .. ARGV[2])
end
return {known and 'there' or 'new'}
"""

# KEYS: pointer, manifests, chunk...  ARGV: version, manifest
_REMOVE = """
if redis.call('HGET', KEYS[1], 'version') == ARGV[1] then return 0 end
if redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[2], ARGV[1])
for i = 3, #KEYS do redis.call('DEL', KEYS[i]) end
return 1
"""


class RedisRegistry:
    """Versions of application `app` in run `run`, on the Redis at `url`.

    `redis://`, `rediss://` and `unix://` URLs are taken. Every method raises RegistryUnavailable,
    naming the URL without its password, where Redis does not answer within `timeout_s` a try,
    three tries in all.
    """

    def __init__(
        self, url: str, app: str, run: str = "live", keep: int = 8, timeout_s: float = 5.0
    ) -> None:
        for field, name in (("app", app), ("run", run)):
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"registry {field} is {name!r}: expected 1 to 100 letters, digits, '_', '.', "
                    "'-', the first a letter or digit"
                )
        self._keep = check_keep(keep)
        self._where = without_password(url)
        try:
            # Any: redis-py's types are those of the client and the asynchronous one in one.
            self._redis: Any = redis.Redis.from_url(
                url,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 2),
            )
        except ValueError as error:
            raise ValueError(f"registry url is {self._where!r}: {error}") from None
        prefix = f"freshet:{{{app}}}:{run}"
        self._keys = [f"{prefix}:pointer", f"{prefix}:manifests"]
        self._chunk, self._wake = f"{prefix}:chunk", f"{prefix}:wake"
        self._publish = self._redis.register_script(_PUBLISH)
        self._remove = self._redis.register_script(_REMOVE)

    def publish(self, data: bytes, version: int, epoch: int, meta: Mapping[str, Any]) -> Published:
        start = time.perf_counter()
        manifest = describe(data, version, epoch, meta)
        keys = [*self._keys, *self._chunks(manifest)]
        values: list[Any] = [epoch, version, manifest.sha256, manifest.to_json(), self._wake]
        with self._talking():
            answer = self._publish(keys, values)
            for _ in range(_UPLOADS):
                if answer[0] != b"missing":
                    break
                self._upload(manifest, data)
                answer = self._publish(keys, values)
        if answer[0] == b"missing":
            raise RegistryUnavailable(
                f"registry {self._where}: chunk {answer[1]} of version {version} does not stay: "
                "is Redis out of memory and evicting?"
            )
        if answer[0] == b"stale":
            pointer = None if answer[2] < 0 else (answer[2], answer[3])
            raise StalePublication(stale(manifest, answer[1], pointer))
        if answer[0] == b"conflict":
            raise PublicationConflict(conflict(manifest, answer[1].decode()))
        self._retire()
        seconds = time.perf_counter() - start
        new = answer[0] == b"new"
        return Published(version, epoch, manifest.sha256, manifest.size, seconds, new)

    def _chunks(self, manifest: Manifest) -> list[str]:
        stem = f"{self._chunk}:{manifest.version}:{manifest.sha256}"
        return [f"{stem}:{number}" for number in range(len(manifest.chunks))]

    def _upload(self, manifest: Manifest, data: bytes) -> None:
        pairs = zip(self._chunks(manifest), split(data), strict=True)
        while some := list(islice(pairs, _PIPELINED)):
            with self._redis.pipeline(transaction=False) as pipeline:
                for key, chunk in some:
                    pipeline.set(key, chunk, nx=True, ex=_UNPUBLISHED_TTL_S)
                pipeline.execute()

    def _retire(self) -> None:
        for manifest in expired(self.versions(), self.latest(), self._keep):
            keys = [*self._keys, *self._chunks(manifest)]
            with self._talking():
                self._remove(keys, [manifest.version, manifest.to_json()])

    def latest(self) -> Manifest | None:
        with self._talking():
            text = self._redis.hget(self._keys[0], "manifest")
        return Manifest.from_json(text) if text else None

    def fetch(self, manifest: Manifest) -> bytes:
        with self._talking():
            return assemble(manifest, self._download(self._chunks(manifest)))

    def _download(self, keys: Iterable[str]) -> Iterator[bytes | None]:
        rest = iter(keys)
        while some := list(islice(rest, _PIPELINED)):
            yield from self._redis.mget(some)

    def versions(self) -> list[Manifest]:
        with self._talking():
            texts = self._redis.hvals(self._keys[1])
        return sorted(map(Manifest.from_json, texts), key=lambda manifest: manifest.order)

    def wait(self, after: tuple[int, int] | None, timeout_s: float) -> Manifest | None:
        deadline = time.monotonic() + timeout_s
        with self._talking(), self._redis.pubsub(ignore_subscribe_messages=True) as wake:
            wake.subscribe(self._wake)
            while True:
                if self._moved(after):
                    latest = self.latest()
                    if newer(latest, after):
                        return latest
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                wake.get_message(timeout=min(left, _POLL_S))

    def _moved(self, after: tuple[int, int] | None) -> bool:
        epoch, version = self._redis.hmget(self._keys[0], "epoch", "version")
        return epoch is not None and (after is None or (int(epoch), int(version)) > after)

    def last_epoch(self) -> int:
        with self._talking():
            return int(self._redis.hget(self._keys[0], "last_epoch") or 0)

    def clear(self) -> None:
        chunks = [key for manifest in self.versions() for key in self._chunks(manifest)]
        with self._talking():
            self._redis.delete(*self._keys, *chunks)

    def close(self) -> None:
        self._redis.close()

    @contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            text = f"registry {self._where}: {type(error).__name__}: {error}"
            raise RegistryUnavailable(text) from error


def without_password(url: str) -> str:
    """The URL as it may be shown: `***` in place of a password."""
    try:
        parts = urlsplit(url)
        if parts.password is not None:
            user_and_host = f"{parts.username or ''}:***@{parts.netloc.rpartition('@')[2]}"
            parts = parts._replace(netloc=user_and_host)
        return re.sub(r"(?i)(password=)[^&]*", r"\1***", parts.geturl())
    except ValueError:
        return "(a URL that cannot be read)"
