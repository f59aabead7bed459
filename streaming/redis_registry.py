"""The registry in Redis, or Valkey. Keys, all in one slot of a cluster (`{app}` is the hash tag):

- `freshet:{app}:RUN:pointer`: a hash, see streaming/registry_scripts.py
- `freshet:{app}:RUN:manifests`: a hash of version -> manifest; `:fulls` the same, of the full
  versions that compaction put beside deltas; `:bases` of version -> what it can't be had without
- `freshet:{app}:RUN:held`, `:pins`: hashes of version -> why; `:readers`: of reader -> version and
  until when; `:moves`: the list of the pointer's last moves, as JSON
- `freshet:{app}:RUN:chunk:VERSION:SHA256:N`: bytes; named by the whole's hash, so that two learners
  who publish one version at once cannot write over each other
- `freshet:{app}:RUN:wake`: the pub/sub channel that says "look at the pointer"

`publish` takes these steps; a crash after each leaves:

1. writes the chunks that are missing, to expire in an hour: chunks that nobody reads, then nothing
2. one Lua call decides, makes the chunks permanent, moves the pointer, wakes: the new version
3. one Lua call for each version that nobody needs removes it: some too many, until the next
   publication
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from streaming import registry_scripts as scripts
from streaming.failpoint import failpoint
from streaming.holder import by
from streaming.manifest import Base, Manifest, assemble, describe, split
from streaming.registry import (
    MOST_HELD,
    READING_S,
    BaseMissing,
    Ledger,
    NoSuchVersion,
    Order,
    Pointer,
    PublicationConflict,
    Published,
    RegistryUnavailable,
    StalePublication,
    Trial,
    check_keep,
    conflict,
    missing_base,
    needless,
    newer,
    path_to,
    stale,
)

_UNPUBLISHED_TTL_S = 3600
_POLL_S = 0.5
_PIPELINED = 16
_UPLOADS = 3
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class RedisRegistry:
    """Versions of application `app` in run `run`, on the Redis at `url`.

    `holder`, where set, is who publishes under the lease: nothing is, while another holds it.
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
        self._pointer, self._manifests, self._lease_key = (
            f"{prefix}:{name}" for name in ("pointer", "manifests", "lease")
        )
        self._fulls, self._bases, self._held, self._pins, self._readers, self._moves = (
            f"{prefix}:{name}" for name in ("fulls", "bases", "held", "pins", "readers", "moves")
        )
        self._chunk, self._wake, self.holder = f"{prefix}:chunk", f"{prefix}:wake", ""
        self._turn = 0
        self._publish = self._redis.register_script(scripts.PUBLISH)
        self._remove = self._redis.register_script(scripts.REMOVE)

    # -- publishing --------------------------------------------------------------------------

    def publish(
        self,
        data: bytes,
        version: int,
        epoch: int,
        meta: Mapping[str, Any],
        *,
        base: Base | None = None,
        content: str = "",
        live: bool = True,
    ) -> Published:
        start = time.perf_counter()
        manifest = offered = describe(data, version, epoch, meta, base, content)
        answer = self._offer(manifest, base, live)
        for _ in range(_UPLOADS):
            if answer[0] == b"other":
                manifest = replace(Manifest.from_json(answer[1]), epoch=epoch)
            elif answer[0] == b"missing" and manifest is offered:
                with self._talking():
                    self._upload(manifest, data)
                failpoint("publish.uploaded")
            else:
                break
            answer = self._offer(manifest, base, live)
        self._check(answer, manifest, base)
        failpoint("publish.moved")
        self.retire()
        seconds = time.perf_counter() - start
        new = answer[0] == b"new"
        return Published(version, epoch, offered.sha256, offered.size, seconds, new, offered.kind)

    def _offer(self, manifest: Manifest, base: Base | None, live: bool) -> Any:
        keys = [self._pointer, self._manifests, self._lease_key, self._held, self._moves]
        below = ("", "") if base is None else (str(base.version), base.content)
        with self._talking():
            return self._publish(
                [*keys, self._bases, *self._chunks(manifest)],
                [
                    *(manifest.epoch, manifest.version, manifest.sha256, manifest.to_json()),
                    *(self._wake, self.holder, manifest.content, *below, int(live), self._turn),
                ],
            )

    def _check(self, answer: Any, manifest: Manifest, base: Base | None) -> None:
        """Raises what an answer that is no success says."""
        version = manifest.version
        if answer[0] == b"missing":
            raise RegistryUnavailable(
                f"registry {self._where}: chunk {answer[1]} of version {version} does not stay: "
                "is Redis out of memory and evicting?"
            )
        if answer[0] == b"lost":
            raise StalePublication(f"the lease was lost to {by(answer[1])}: nothing is published")
        if answer[0] == b"stale":
            top = (answer[2], answer[3]) if answer[2:] and answer[2] >= 0 else None
            raise StalePublication(stale(manifest, answer[1], top))
        if answer[0] == b"conflict":
            raise PublicationConflict(conflict(manifest, answer[1].decode()))
        if answer[0] == b"no base":
            assert base is not None
            raise BaseMissing(missing_base(version, base))

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
            failpoint("publish.chunk")

    def compacted(self, version: int, data: bytes) -> Manifest:
        of = self.ledger().manifests.get(version)
        if of is None:
            raise NoSuchVersion(f"version {version} is not there")
        full = describe(data, version, of.epoch, of.meta, content=of.content)
        keys = [self._manifests, self._fulls, self._bases, *self._chunks(full)]
        with self._talking():
            self._upload(full, data)
            answer = self._redis.eval(
                scripts.COMPACT, len(keys), *keys, version, of.content, full.to_json()
            )
        if answer[0] == b"none":
            raise NoSuchVersion(f"version {version} is not there")
        self._check(answer, full, None)
        return full

    def retire(self) -> list[int]:
        ledger, gone = self.ledger(), []
        keys = [self._pointer, self._manifests, self._fulls, self._bases, self._pins]
        for manifest in needless(ledger, self.pointer(), self._keep):
            full = ledger.fulls.get(manifest.version)
            chunks = [*self._chunks(manifest), *(self._chunks(full) if full else ())]
            text = ledger.texts[manifest.version]
            with self._talking():
                if self._remove([*keys, self._readers, *chunks], [manifest.version, text]):
                    gone.append(manifest.version)
        if forget := sorted(ledger.held)[:-MOST_HELD]:
            with self._talking():
                self._redis.hdel(self._held, *forget)
        return gone

    # -- the pointer -------------------------------------------------------------------------

    def pointer(self) -> Pointer | None:
        with self._talking():
            said = self._redis.hmget(self._pointer, "turn", "manifest", "pinned")
        if not said[1]:
            return None
        self._turn = max(self._turn, int(said[0] or 0))
        return Pointer(int(said[0] or 0), Manifest.from_json(said[1]), said[2] == b"1")

    def latest(self) -> Manifest | None:
        pointer = self.pointer()
        return None if pointer is None else pointer.manifest

    def wait(self, after: Order | None, timeout_s: float) -> Pointer | None:
        deadline = time.monotonic() + timeout_s
        with self._talking(), self._redis.pubsub(ignore_subscribe_messages=True) as wake:
            wake.subscribe(self._wake)
            while True:
                if self._moved(after):
                    pointer = self.pointer()
                    if newer(pointer, after):
                        return pointer
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                wake.get_message(timeout=min(left, _POLL_S))

    def _moved(self, after: Order | None) -> bool:
        turn, epoch, version = self._redis.hmget(self._pointer, "turn", "epoch", "version")
        if version is None:
            return False
        return after is None or (int(turn or 0), int(epoch), int(version)) > after

    def advance(self, version: int, epoch: int, why: str) -> bool:
        keys = [self._pointer, self._manifests, self._lease_key, self._held, self._moves]
        values = [epoch, version, self._wake, self.holder, why, self._turn]
        with self._talking():
            answer = self._redis.eval(scripts.ADVANCE, len(keys), *keys, *values)
        return self._moved_or_raise(answer, version, epoch)

    def _moved_or_raise(self, answer: Any, version: int | None, epoch: int) -> bool:
        if answer[0] == b"none":
            raise NoSuchVersion(f"version {version} is not there")
        if answer[0] == b"lost":
            raise StalePublication(f"the lease was lost to {by(answer[1])}: the pointer stays")
        if answer[0] == b"stale":
            raise StalePublication(f"epoch {answer[1]} has published, {epoch} is over")
        return bool(answer[0] == b"moved")

    def give(self, version: int | None, share: float, epoch: int) -> bool:
        keys = [self._pointer, self._manifests, self._lease_key, self._held]
        values = [epoch, "" if version is None else version, self._wake, self.holder, share]
        with self._talking():
            answer = self._redis.eval(scripts.TRIAL, len(keys), *keys, *values)
        return self._moved_or_raise(answer, version, epoch)

    def trial(self) -> Trial | None:
        with self._talking():
            trial, share = self._redis.hmget(self._pointer, "trial", "share")
            if trial is None or self._redis.hexists(self._held, trial):
                return None
            text = self._redis.hget(self._manifests, trial)
        return None if text is None else Trial(Manifest.from_json(text), float(share))

    def turn_to(self, version: int, why: str, pin: bool = False) -> Pointer:
        keys = [self._pointer, self._manifests, self._held, self._moves, self._pins]
        with self._talking():
            answer = self._redis.eval(
                scripts.TURN, len(keys), *keys, version, self._wake, why, int(pin)
            )
        if answer[0] == b"none":
            raise NoSuchVersion(f"version {version} is not there")
        pointer = self.pointer()
        assert pointer is not None
        return pointer

    def moves(self) -> list[dict[str, Any]]:
        with self._talking():
            return [json.loads(text) for text in self._redis.lrange(self._moves, 0, -1)]

    # -- versions ----------------------------------------------------------------------------

    def fetch(self, manifest: Manifest) -> bytes:
        with self._talking():
            return assemble(manifest, self._download(self._chunks(manifest)))

    def _download(self, keys: Iterable[str]) -> Iterator[bytes | None]:
        rest = iter(keys)
        while some := list(islice(rest, _PIPELINED)):
            yield from self._redis.mget(some)

    def versions(self) -> list[Manifest]:
        with self._talking():
            texts = self._redis.hvals(self._manifests)
        return sorted(map(Manifest.from_json, texts), key=lambda manifest: manifest.order)

    def ledger(self) -> Ledger:
        keys = [self._manifests, self._fulls, self._held, self._pins, self._readers]
        with self._talking():
            now, *hashes = self._redis.eval(scripts.LEDGER, len(keys), *keys)
        manifests, fulls, held, pins, readers = map(_pairs, hashes)
        until = (said.split() for said in readers.values())
        return Ledger(
            {int(version): Manifest.from_json(text) for version, text in manifests.items()},
            {int(version): Manifest.from_json(text) for version, text in fulls.items()},
            {int(version): why.decode() for version, why in held.items()},
            {int(version): note.decode() for version, note in pins.items()},
            {int(said[0]) for said in until if int(said[1]) >= int(now)},
            {int(version): text for version, text in manifests.items()},
        )

    def path(self, version: int, have: Base | None = None) -> list[Manifest]:
        with self._talking():
            text = self._redis.hget(self._manifests, version)
        if text is not None and have is not None:
            manifest = Manifest.from_json(text)
            if (manifest.base, manifest.base_content) == have:
                return [manifest]
        return path_to(self.ledger(), version, have)

    def hold(self, version: int, reason: str) -> None:
        with self._talking():
            self._redis.hset(self._held, version, reason)

    def held(self) -> dict[int, str]:
        with self._talking():
            found = self._redis.hgetall(self._held)
        return {int(version): why.decode() for version, why in found.items()}

    def pin(self, version: int, note: str) -> None:
        with self._talking():
            keys = [self._manifests, self._pins]
            if not self._redis.eval(scripts.PIN, 2, *keys, version, note):
                raise NoSuchVersion(f"version {version} is not there")

    def unpin(self, version: int) -> None:
        with self._talking():
            self._redis.eval(scripts.UNPIN, 2, self._pointer, self._pins, version)

    def reading(self, reader: str, version: int, seconds: float = READING_S) -> None:
        with self._talking():
            values = [reader, version, round(seconds * 1000)]
            self._redis.eval(scripts.READING, 1, self._readers, *values)

    def last_epoch(self) -> int:
        with self._talking():
            return int(self._redis.hget(self._pointer, "last_epoch") or 0)

    def clear(self) -> None:
        ledger = self.ledger()
        manifests = (*ledger.manifests.values(), *ledger.fulls.values())
        chunks = [key for manifest in manifests for key in self._chunks(manifest)]
        keys = [self._pointer, self._manifests, self._fulls, self._bases, self._held]
        with self._talking():
            self._redis.delete(*keys, self._pins, self._readers, self._moves, *chunks)

    def close(self) -> None:
        self._redis.close()

    @contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            text = f"registry {self._where}: {type(error).__name__}: {error}"
            raise RegistryUnavailable(text) from error


def _pairs(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


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
