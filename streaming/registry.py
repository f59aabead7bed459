"""The registry: numbered versions of a model, and a pointer to the one to serve.

A version is an immutable blob in chunks of at most 1 MiB, described by a manifest with the SHA-256
of each chunk and of the whole. It is full, or a delta that builds on a version published before.
Publishing is one atomic decision over (epoch, version):

- an epoch below the highest that ever published is refused (`StalePublication`): a newer learner
  has taken over (Kleppmann, Designing Data-Intensive Applications, chapter 8, fencing tokens)
- a version that is there with the same content changes nothing, except that the pointer moves up
  to it; the bytes that are there stay
- a version that is there with another content stops the learner (`PublicationConflict`)
- a new version that is not above the last one's (epoch, version) is refused (`StalePublication`)
- a delta whose base is not there, or of another content, is refused (`BaseMissing`)
- any other becomes a version, and the pointer moves to it, unless it is only a candidate, or held,
  or the pointer is pinned

The pointer's order is (turn, epoch, version). It only rises: `advance` goes up to a candidate,
`turn_to` goes anywhere, also back, in a new turn. What is above the target of a roll-back is held:
publishing it again does not bring it back.

The last `keep` versions stay, in the order of (epoch, version), and the pointer's, what is pinned,
what a reader says that it reads, and what any of these builds on. `MemoryRegistry` is the
in-process twin of `RedisRegistry`; both pass one contract suite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from streaming.manifest import FULL, Base, CorruptSnapshot, Manifest, RegistryError

__all__ = [
    "Base",
    "BaseMissing",
    "CorruptSnapshot",
    "Manifest",
    "NoSuchVersion",
    "Pointer",
    "PublicationConflict",
    "Published",
    "Registry",
    "RegistryError",
    "RegistryUnavailable",
    "StalePublication",
]

READING_S = 60.0
"""How long a version stays for a reader that last said so."""
MOST_HELD = 1_000
MOST_MOVES = 200
"""Held versions, and moves of the pointer, that are remembered."""
Order = tuple[int, int, int]


class StalePublication(RegistryError):
    """A newer learner, or a newer version, was there first."""


class PublicationConflict(RegistryError):
    """The version is there with another content: the lineage has split; the learner must stop."""


class BaseMissing(RegistryError):
    """What a delta builds on is not there: a full version is wanted."""


class NoSuchVersion(RegistryError):
    """The registry holds no such version."""


class RegistryUnavailable(RegistryError):
    """The registry did not answer, or not as one."""


@dataclass(frozen=True)
class Published:
    """`new` is False where the very version was there already; `size` is in bytes; `kind` is of
    what was offered."""

    version: int
    epoch: int
    sha256: str
    size: int
    seconds: float
    new: bool
    kind: str = FULL


class Pointer(NamedTuple):
    """The version to serve, since the last of so many turns; `pinned`: until it is unpinned."""

    turn: int
    manifest: Manifest
    pinned: bool = False

    @property
    def order(self) -> Order:
        """(turn, epoch, version)."""
        return (self.turn, *self.manifest.order)


class Trial(NamedTuple):
    """A candidate that a share of users has before all do."""

    manifest: Manifest
    share: float


class Ledger(NamedTuple):
    """What is known of the versions, by version: `manifests`; `fulls`, the manifests of those that
    were compacted, beside their deltas; `held`, why they are not to be served; `pins`, with notes;
    `reading`, the versions that readers read now; `texts`, the manifests as they are kept."""

    manifests: dict[int, Manifest]
    fulls: dict[int, Manifest]
    held: dict[int, str]
    pins: dict[int, str]
    reading: set[int]
    texts: Mapping[int, bytes] = MappingProxyType({})

    def whole(self, version: int) -> bool:
        """Whether the version can be had without another."""
        return version in self.fulls or self.manifests[version].kind == FULL


class Registry(Protocol):
    """Versions of one application's model, in one run."""

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
        """Add the version and move the pointer, or nothing: see the rules above.

        `meta` is a JSON object, kept in the manifest. `content` says which model it is, by default
        the bytes' SHA-256. With a `base` the bytes are a delta; where not `live`, it is a
        candidate. Raises StalePublication, PublicationConflict, BaseMissing, RegistryUnavailable,
        and ValueError for an argument that is none.
        """

    def pointer(self) -> Pointer | None:
        """Which version is to be served."""

    def latest(self) -> Manifest | None:
        """The version that the pointer names."""

    def fetch(self, manifest: Manifest) -> bytes:
        """The bytes of a version, each chunk and the whole verified (else CorruptSnapshot)."""

    def versions(self) -> list[Manifest]:
        """All that are kept, in the order of (epoch, version)."""

    def ledger(self) -> Ledger:
        """All that is known of them."""

    def path(self, version: int, have: Base | None = None) -> list[Manifest]:
        """What to fetch to come to a version: deltas on what a reader has, or a full one and deltas
        on that. Raises NoSuchVersion where it, or one that it builds on, is not there."""

    def wait(self, after: Order | None, timeout_s: float) -> Pointer | None:
        """The pointer once its order is above `after`; None if that takes too long."""

    def last_epoch(self) -> int:
        """The highest epoch that ever published; 0 where none did."""

    def advance(self, version: int, epoch: int, why: str) -> bool:
        """Move the pointer up to a candidate; False where it is held, or not above the pointer, or
        that is pinned. Raises NoSuchVersion, and StalePublication for an epoch that is over."""

    def give(self, version: int | None, share: float, epoch: int) -> bool:
        """Give a candidate to a share of users, in place of the one that had been given, or none;
        False where it is held, or the pointer pinned. Raises NoSuchVersion, StalePublication."""

    def trial(self) -> Trial | None:
        """The candidate that was given to a share of users, which may be live by now. None after
        any `turn_to`, or where it is held."""

    def turn_to(self, version: int, why: str, pin: bool = False) -> Pointer:
        """Move the pointer to a version, whatever its order, in a new turn, and hold all above it;
        with `pin` hold none, but let nothing move the pointer until it is unpinned."""

    def hold(self, version: int, reason: str) -> None:
        """Have a version not be served from now on; the pointer stays."""

    def held(self) -> dict[int, str]:
        """The versions that are not to be served, and why."""

    def pin(self, version: int, note: str) -> None:
        """Keep a version until it is unpinned. Raises NoSuchVersion."""

    def unpin(self, version: int) -> None:
        """Let go of it; where the pointer was pinned to it, that may move again."""

    def reading(self, reader: str, version: int, seconds: float = READING_S) -> None:
        """Keep a version, and what it builds on, for a reader, for so long."""

    def compacted(self, version: int, data: bytes) -> Manifest:
        """Adds the bytes of the full version beside a delta's, of the same content: what builds on
        it needs nothing below. Raises NoSuchVersion."""

    def retire(self) -> list[int]:
        """Removes versions that nobody needs; returns which."""

    def moves(self) -> list[dict[str, Any]]:
        """The pointer's last moves, the newest first: JSON objects."""

    def clear(self) -> None:
        """Forget every version and the pointer, for a replay that begins again."""

    def close(self) -> None:
        """Let go of connections; nothing is lost."""


def newer(pointer: Pointer | None, after: Order | None) -> bool:
    """Whether there is a pointer, and it is above `after`."""
    return pointer is not None and (after is None or pointer.order > after)


def path_to(ledger: Ledger, version: int, have: Base | None) -> list[Manifest]:
    """See `Registry.path`."""
    manifests, path = ledger.manifests, list[Manifest]()
    at = version
    while True:
        manifest = manifests.get(at)
        if manifest is None:
            builds = f"version {version} builds on {at}, which" if path else f"version {at}"
            raise NoSuchVersion(f"{builds} is not there")
        if path and path[-1].base_content != manifest.content:
            raise CorruptSnapshot(f"version {path[-1].version} builds on another version {at}")
        if have is not None and (at, manifest.content) == have:
            return path[::-1]
        if ledger.whole(at):
            full = ledger.fulls.get(at, manifest)
            shorter = _deltas(ledger, at, have)
            return (shorter if shorter is not None else [full]) + path[::-1]
        path.append(manifest)
        assert manifest.base is not None
        at = manifest.base


def _deltas(ledger: Ledger, version: int, have: Base | None) -> list[Manifest] | None:
    """The deltas from what a reader has to a version that could be had whole; None where they are
    not there, or are more than the whole."""
    path, size, at = list[Manifest](), 0, version
    while have is not None and at > have.version:
        manifest = ledger.manifests.get(at)
        if manifest is None or manifest.kind == FULL or manifest.base is None:
            return None
        size += manifest.size
        path.append(manifest)
        at = manifest.base
    there = ledger.manifests.get(at)
    if have is None or there is None or (at, there.content) != have:
        return None
    whole = ledger.fulls.get(version)
    return path[::-1] if whole is None or size <= whole.size else None


def needless(ledger: Ledger, pointer: Pointer | None, keep: int) -> list[Manifest]:
    """The versions that nobody needs, the highest first: so that none is removed before what builds
    on it."""
    manifests = sorted(ledger.manifests.values(), key=lambda manifest: manifest.order)
    needed = {manifest.version for manifest in manifests[-keep:]}
    needed |= {*ledger.pins, *ledger.reading}
    if pointer is not None:
        needed.add(pointer.manifest.version)
    downwards = sorted(manifests, key=lambda manifest: -manifest.version)
    for manifest in downwards:
        version, base = manifest.version, manifest.base
        if version in needed and base is not None and not ledger.whole(version):
            needed.add(base)
    return [manifest for manifest in downwards if manifest.version not in needed]


def stale(manifest: Manifest, epoch: object, top: object) -> str:
    """The message of a StalePublication."""
    return (
        f"publication of (epoch, version) {manifest.order} is refused: "
        f"epoch {epoch} has published, and the last version is {top}"
    )


def conflict(manifest: Manifest, content: str) -> str:
    """The message of a PublicationConflict."""
    return (
        f"version {manifest.version} is there with content {content}, "
        f"and was to be published with {manifest.content}"
    )


def missing_base(version: int, base: Base) -> str:
    """The message of a BaseMissing."""
    return f"version {version} builds on version {base.version} of {base.content}: not there"


def check_keep(keep: int) -> int:
    """`keep`, or ValueError."""
    if keep < 1:
        raise ValueError(f"registry keep is {keep}: expected at least 1")
    return keep
