"""Compaction: a full version beside a delta's, made of the chain that leads to it.

It is of the same content, so nothing but its bytes is new: who begins reads it instead of the
chain, and what is below can go.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from model.score import Scorer
from model.snapshot import Snapshot, decode, encode
from streaming.manifest import FULL, CorruptSnapshot, Manifest
from streaming.registry import Registry


def scorer_at(registry: Registry, version: int) -> Scorer:
    """A version, verified, by its chain. Raises NoSuchVersion, CorruptSnapshot,
    RegistryUnavailable, and ValueError where its bytes are no version."""
    first, *deltas = path = registry.path(version)
    snapshot = decode(registry.fetch(first))
    scorer = Scorer(dict(snapshot.arrays), dict(snapshot.meta))
    for manifest in deltas:
        snapshot = decode(registry.fetch(manifest))
        scorer.apply(dict(snapshot.arrays), dict(snapshot.meta))
    check_content(scorer, path[-1])
    return scorer


def check_content(scorer: Scorer, manifest: Manifest) -> None:
    """Raises CorruptSnapshot where a scorer does not hold what a manifest says. A full version by
    somebody who only knows bytes is known by these."""
    by_bytes = manifest.kind == FULL and manifest.content == manifest.sha256
    if not by_bytes and scorer.content != manifest.content:
        raise CorruptSnapshot(f"version {manifest.version}: what it leads to is not its content")


def compact(registry: Registry, version: int) -> Manifest:
    """Puts a full version there; see `scorer_at` for what it raises."""
    scorer = scorer_at(registry, version)
    return registry.compacted(version, encode(Snapshot(version, scorer.arrays(), scorer.meta)))


class Compactor:
    """Compacts in a thread, one version at a time."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._thread = ThreadPoolExecutor(1, "freshet-compaction")
        self._at_work: Future[Manifest] | None = None

    def start(self, version: int) -> None:
        """Begins, unless it is at work."""
        if self._at_work is None:
            self._at_work = self._thread.submit(compact, self._registry, version)

    def settle(self) -> Manifest | None:
        """The full version that came of it, once; raises what it met."""
        if self._at_work is None or not self._at_work.done():
            return None
        done, self._at_work = self._at_work, None
        return done.result()

    def close(self) -> None:
        """Lets what it is at come to its end."""
        self._thread.shutdown()
