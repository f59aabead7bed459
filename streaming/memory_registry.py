"""The registry of one process."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from streaming.manifest import Base, Manifest, assemble, describe, split
from streaming.registry import (
    MOST_HELD,
    MOST_MOVES,
    READING_S,
    BaseMissing,
    Ledger,
    NoSuchVersion,
    Order,
    Pointer,
    PublicationConflict,
    Published,
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


class MemoryRegistry:
    """A registry for one process; any of its threads may publish and wait."""

    def __init__(self, keep: int = 8) -> None:
        self._keep = check_keep(keep)
        self._changed = threading.Condition()
        self._forget()

    def _forget(self) -> None:
        self._manifests: dict[int, Manifest] = {}
        self._fulls: dict[int, Manifest] = {}
        self._data: dict[str, bytes] = {}
        self._held: dict[int, str] = {}
        self._pins: dict[int, str] = {}
        self._readers: dict[str, tuple[int, float]] = {}
        self._moves: list[dict[str, Any]] = []
        self._pointer: Pointer | None = None
        self._trial: Trial | None = None
        self._top: tuple[int, int] | None = None
        self._epoch = 0

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
        manifest = describe(data, version, epoch, meta, base, content)
        with self._changed:
            there = self._decide(manifest, base)
            if there is None:
                self._data[manifest.sha256] = bytes(data)
            kept = self._manifests[version]
            before = self._pointer
            ahead = before is None or kept.order > before.manifest.order
            again = there is not None and before is not None
            if again and before is not None and version < before.manifest.version:
                ahead = False
            if live and ahead:
                self._move(kept, "published")
            self.retire()
            self._changed.notify_all()
        seconds = time.perf_counter() - start
        return Published(
            version, epoch, manifest.sha256, manifest.size, seconds, there is None, manifest.kind
        )

    def _decide(self, manifest: Manifest, base: Base | None) -> Manifest | None:
        """The rules at the top of streaming/registry.py; the version that was there."""
        there, top = self._manifests.get(manifest.version), self._top
        if manifest.epoch < self._epoch:
            raise StalePublication(stale(manifest, self._epoch, top))
        if there and there.content != manifest.content:
            raise PublicationConflict(conflict(manifest, there.content))
        ahead = top is None or manifest.order > top
        if not there and not ahead:
            raise StalePublication(stale(manifest, self._epoch, top))
        if not there and base is not None:
            below = self._manifests.get(base.version)
            if below is None or below.content != base.content:
                raise BaseMissing(missing_base(manifest.version, base))
        self._epoch, kept = manifest.epoch, manifest
        if there:
            kept = replace(there, epoch=manifest.epoch)
            if there.epoch != manifest.epoch and there.sha256 == manifest.sha256:
                kept = manifest
        self._manifests[manifest.version] = kept
        if top is None or not there or (ahead and manifest.version >= top[1]):
            self._top = manifest.order
        return there

    def _move(self, manifest: Manifest, why: str) -> bool:
        """Up to a version, unless something speaks against it."""
        turn = 0 if self._pointer is None else self._pointer.turn
        if manifest.version in self._held or (self._pointer and self._pointer.pinned):
            return False
        self._point(Pointer(turn, manifest), why)
        return True

    def _point(self, pointer: Pointer, why: str) -> None:
        self._pointer = pointer
        turn, epoch, version = pointer.order
        move = {"at_ms": time.time_ns() // 1_000_000, "turn": turn, "epoch": epoch}
        self._moves = [{**move, "version": version, "why": why}, *self._moves[: MOST_MOVES - 1]]

    def pointer(self) -> Pointer | None:
        return self._pointer

    def latest(self) -> Manifest | None:
        return None if self._pointer is None else self._pointer.manifest

    def fetch(self, manifest: Manifest) -> bytes:
        with self._changed:
            data = self._data.get(manifest.sha256)
        if data is None or len(data) != manifest.size:
            return assemble(manifest, [None] * len(manifest.chunks))
        return assemble(manifest, map(bytes, split(data)))

    def versions(self) -> list[Manifest]:
        with self._changed:
            return sorted(self._manifests.values(), key=lambda manifest: manifest.order)

    def ledger(self) -> Ledger:
        with self._changed:
            now = time.monotonic()
            reading = {version for version, until in self._readers.values() if until > now}
            return Ledger(
                dict(self._manifests), dict(self._fulls), dict(self._held), dict(self._pins),
                reading,
            )  # fmt: skip

    def path(self, version: int, have: Base | None = None) -> list[Manifest]:
        return path_to(self.ledger(), version, have)

    def wait(self, after: Order | None, timeout_s: float) -> Pointer | None:
        with self._changed:
            self._changed.wait_for(lambda: newer(self._pointer, after), timeout_s)
            return self._pointer if newer(self._pointer, after) else None

    def last_epoch(self) -> int:
        return self._epoch

    def advance(self, version: int, epoch: int, why: str) -> bool:
        with self._changed:
            manifest = self._there(version)
            if epoch < self._epoch:
                raise StalePublication(stale(manifest, self._epoch, self._top))
            if self._pointer is not None and manifest.order <= self._pointer.manifest.order:
                return False
            moved = self._move(manifest, why)
            self._changed.notify_all()
            return moved

    def give(self, version: int | None, share: float, epoch: int) -> bool:
        with self._changed:
            if epoch < self._epoch:
                raise StalePublication(f"epoch {self._epoch} has published, {epoch} is over")
            if version is None:
                self._trial = None
                return True
            manifest = self._there(version)
            if version in self._held or (self._pointer and self._pointer.pinned):
                return False
            self._trial = Trial(manifest, share)
            return True

    def trial(self) -> Trial | None:
        with self._changed:
            trial = self._trial
            if trial is None or trial.manifest.version in self._held:
                return None
            return trial if trial.manifest.version in self._manifests else None

    def turn_to(self, version: int, why: str, pin: bool = False) -> Pointer:
        with self._changed:
            manifest = self._there(version)
            turn = 1 if self._pointer is None else self._pointer.turn + 1
            self._held.pop(version, None)
            self._trial = None
            if pin:
                self._pins[version] = why
            else:
                above = [other for other in self._manifests if other > version]
                self._held = {**dict.fromkeys(above, why), **self._held}
            self._point(pointer := Pointer(turn, manifest, pin), why)
            self._changed.notify_all()
            return pointer

    def _there(self, version: int) -> Manifest:
        if version not in self._manifests:
            raise NoSuchVersion(f"version {version} is not there")
        return self._manifests[version]

    def hold(self, version: int, reason: str) -> None:
        with self._changed:
            self._held[version] = reason

    def held(self) -> dict[int, str]:
        with self._changed:
            return dict(self._held)

    def pin(self, version: int, note: str) -> None:
        with self._changed:
            self._there(version)
            self._pins[version] = note

    def unpin(self, version: int) -> None:
        with self._changed:
            self._pins.pop(version, None)
            if self._pointer is not None and self._pointer.manifest.version == version:
                self._pointer = self._pointer._replace(pinned=False)

    def reading(self, reader: str, version: int, seconds: float = READING_S) -> None:
        with self._changed:
            self._readers[reader] = version, time.monotonic() + seconds

    def compacted(self, version: int, data: bytes) -> Manifest:
        with self._changed:
            of = self._there(version)
            full = describe(data, version, of.epoch, of.meta, content=of.content)
            self._fulls[version] = full
            self._data[full.sha256] = bytes(data)
            return full

    def retire(self) -> list[int]:
        with self._changed:
            gone = needless(self.ledger(), self._pointer, self._keep)
            for manifest in gone:
                del self._manifests[manifest.version]
                self._fulls.pop(manifest.version, None)
            used = {m.sha256 for m in (*self._manifests.values(), *self._fulls.values())}
            self._data = {sha256: data for sha256, data in self._data.items() if sha256 in used}
            for version in sorted(self._held)[:-MOST_HELD]:
                del self._held[version]
            return [manifest.version for manifest in gone]

    def moves(self) -> list[dict[str, Any]]:
        return list(self._moves)

    def clear(self) -> None:
        with self._changed:
            self._forget()

    def close(self) -> None:
        """Nothing to let go of."""
