"""The registry: numbered versions of a model, and a pointer to the one to serve.

A version is an immutable blob in chunks of at most 1 MiB, described by a manifest with the SHA-256
of each chunk and of the whole. Publishing is one atomic decision over (epoch, version):

- an epoch below the highest that ever published is refused (`StalePublication`): a newer learner
  has taken over (Kleppmann, Designing Data-Intensive Applications, chapter 8, fencing tokens)
- a version that is there with the same hash changes nothing, except that the pointer moves up to it
- a version that is there with another hash stops the learner (`PublicationConflict`)
- a new version that is not above the pointer's (epoch, version) is refused (`StalePublication`)
- any other becomes a version, and the pointer moves to it

The last `keep` versions stay, in the order of (epoch, version), and the pointer's always does.
`MemoryRegistry` is the in-process twin of `RedisRegistry`; both pass one contract suite.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from streaming.manifest import (
    CorruptSnapshot,
    Manifest,
    RegistryError,
    assemble,
    describe,
    split,
)

__all__ = [
    "CorruptSnapshot",
    "Manifest",
    "MemoryRegistry",
    "PublicationConflict",
    "Published",
    "Registry",
    "RegistryError",
    "RegistryUnavailable",
    "StalePublication",
]


class StalePublication(RegistryError):
    """A newer learner, or a newer version, was there first."""


class PublicationConflict(RegistryError):
    """The version is there with other bytes: the lineage has split, and the learner must stop."""


class RegistryUnavailable(RegistryError):
    """The registry did not answer, or not as one."""


@dataclass(frozen=True)
class Published:
    """`new` is False where the very version was there already; `size` is in bytes."""

    version: int
    epoch: int
    sha256: str
    size: int
    seconds: float
    new: bool


class Registry(Protocol):
    """Versions of one application's model, in one run."""

    def publish(self, data: bytes, version: int, epoch: int, meta: Mapping[str, Any]) -> Published:
        """Add the version and move the pointer, or nothing: see the rules above.

        `meta` is a JSON object, kept in the manifest. Raises StalePublication,
        PublicationConflict, RegistryUnavailable, and ValueError for an argument that is none.
        """

    def latest(self) -> Manifest | None:
        """The version that the pointer names."""

    def fetch(self, manifest: Manifest) -> bytes:
        """The bytes of a version, each chunk and the whole verified (else CorruptSnapshot)."""

    def versions(self) -> list[Manifest]:
        """All that are kept, in the order of (epoch, version)."""

    def wait(self, after: tuple[int, int] | None, timeout_s: float) -> Manifest | None:
        """The latest once its (epoch, version) is above `after`; None if that takes too long."""

    def last_epoch(self) -> int:
        """The highest epoch that ever published; 0 where none did."""

    def clear(self) -> None:
        """Forget every version and the pointer, for a replay that begins again."""

    def close(self) -> None:
        """Let go of connections; nothing is lost."""


def newer(manifest: Manifest | None, after: tuple[int, int] | None) -> bool:
    """Whether there is a manifest, and it is above `after`, an (epoch, version)."""
    return manifest is not None and (after is None or manifest.order > after)


def expired(manifests: Iterable[Manifest], pointer: Manifest | None, keep: int) -> list[Manifest]:
    """The versions beyond the last `keep`; never the one that the pointer names."""
    kept = sorted(manifests, key=lambda manifest: manifest.order)
    beyond = kept[: max(0, len(kept) - keep)]
    return [manifest for manifest in beyond if not pointer or manifest.version != pointer.version]


def stale(manifest: Manifest, epoch: object, pointer: object) -> str:
    """The message of a StalePublication."""
    at = pointer.order if isinstance(pointer, Manifest) else pointer
    return (
        f"publication of (epoch, version) {manifest.order} is refused: "
        f"epoch {epoch} has published, and the pointer is at {at}"
    )


def conflict(manifest: Manifest, sha256: str) -> str:
    """The message of a PublicationConflict."""
    return (
        f"version {manifest.version} is there with SHA-256 {sha256}, "
        f"and was to be published with {manifest.sha256}"
    )


def check_keep(keep: int) -> int:
    """`keep`, or ValueError."""
    if keep < 1:
        raise ValueError(f"registry keep is {keep}: expected at least 1")
    return keep


class MemoryRegistry:
    """A registry for one process; any of its threads may publish and wait."""

    def __init__(self, keep: int = 8) -> None:
        self._keep = check_keep(keep)
        self._changed = threading.Condition()
        self._manifests: dict[int, Manifest] = {}
        self._data: dict[int, bytes] = {}
        self._pointer: Manifest | None = None
        self._epoch = 0

    def publish(self, data: bytes, version: int, epoch: int, meta: Mapping[str, Any]) -> Published:
        start = time.perf_counter()
        manifest = describe(data, version, epoch, meta)
        with self._changed:
            new = self._decide(manifest)
            if new:
                self._data[version] = bytes(data)
            for old in expired(self._manifests.values(), self._pointer, self._keep):
                del self._manifests[old.version], self._data[old.version]
            self._changed.notify_all()
        seconds = time.perf_counter() - start
        return Published(version, epoch, manifest.sha256, manifest.size, seconds, new)

    def _decide(self, manifest: Manifest) -> bool:
        """The rules at the top of this file; whether the version is new."""
        there, pointer = self._manifests.get(manifest.version), self._pointer
        if manifest.epoch < self._epoch:
            raise StalePublication(stale(manifest, self._epoch, pointer))
        if there and there.sha256 != manifest.sha256:
            raise PublicationConflict(conflict(manifest, there.sha256))
        ahead = newer(manifest, pointer.order if pointer else None)
        if not there and not ahead:
            raise StalePublication(stale(manifest, self._epoch, pointer))
        self._epoch = manifest.epoch
        kept = there if there and there.epoch == manifest.epoch else manifest
        self._manifests[manifest.version] = kept
        if not there or (ahead and pointer and manifest.version >= pointer.version):
            self._pointer = kept
        return there is None

    def latest(self) -> Manifest | None:
        return self._pointer

    def fetch(self, manifest: Manifest) -> bytes:
        with self._changed:
            data = self._data.get(manifest.version)
        if data is None or len(data) != manifest.size:
            return assemble(manifest, [None] * len(manifest.chunks))
        return assemble(manifest, map(bytes, split(data)))

    def versions(self) -> list[Manifest]:
        with self._changed:
            return sorted(self._manifests.values(), key=lambda manifest: manifest.order)

    def wait(self, after: tuple[int, int] | None, timeout_s: float) -> Manifest | None:
        with self._changed:
            self._changed.wait_for(lambda: newer(self._pointer, after), timeout_s)
            return self._pointer if newer(self._pointer, after) else None

    def last_epoch(self) -> int:
        return self._epoch

    def clear(self) -> None:
        with self._changed:
            self._manifests.clear()
            self._data.clear()
            self._pointer, self._epoch = None, 0

    def close(self) -> None:
        """Nothing to let go of."""
