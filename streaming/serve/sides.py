"""Two copies of the model: one is scored with while the other takes deltas in, then they change
places (left-right: Ramalhete and Correia, 2013).

A delta touches rows all over a table, so copying the pages that it touches would copy nearly all of
it. Instead each delta is applied twice, once to each side, and no row is copied; the price is the
memory of a second table, from the first delta on.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

from model.score import Scorer
from model.snapshot import Snapshot, decode
from streaming.compaction import check_content
from streaming.manifest import DELTA, Base, CorruptSnapshot, Manifest
from streaming.registry import NoSuchVersion, Registry

log = logging.getLogger("freshet.serve")
IDLE_S = 1.0
MOST_KEPT = 8


@dataclass(eq=False)
class Side:
    """A scorer, which version it holds (None while it is between two), and who scores with it: a
    reference that is dead once nobody does."""

    scorer: Scorer
    at: Base | None
    used: Callable[[], object] = field(default=lambda: None)


class Sides:
    """Brings a scorer to a version of `registry`, beside the one that is scored with."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._front: Side | None = None
        self._back: Side | None = None
        self._deltas: dict[str, bytes] = {}

    def to(self, version: int) -> tuple[Side, Manifest]:
        """A side that holds the version, and is not scored with; `use` it, and it is.

        Raises NoSuchVersion, CorruptSnapshot, RegistryUnavailable, and ValueError where the bytes
        are not of a version; the front side stays as it is.
        """
        back = self._idle()
        had = back is not None and back.at is not None
        try:
            return self._brought(back, version)
        except (CorruptSnapshot, NoSuchVersion, ValueError):
            if back is None or not had:
                raise
            back.at = None  # by another way: from the full one
            return self._brought(back, version)

    def use(self, side: Side, user: object) -> None:
        """From here on the side is scored with, by who holds `user`."""
        side.used = weakref.ref(user)
        if side is not self._front:
            self._front, self._back = side, self._front

    def _idle(self) -> Side | None:
        """The back side, once nobody scores with it; a copy of the front one, where that takes too
        long, or there is none yet; None where there is neither."""
        back, front, deadline = self._back, self._front, time.monotonic() + IDLE_S
        while back is not None and back.used() is not None and time.monotonic() < deadline:
            time.sleep(0.001)
        if back is None or back.used() is not None:
            back = None if front is None else Side(front.scorer.copy(), front.at)
        self._back = back
        return back

    def _brought(self, back: Side | None, version: int) -> tuple[Side, Manifest]:
        have = None if back is None else back.at
        path = self._registry.path(version, have)
        if back is not None:
            back.at = None
        for manifest in path:
            snapshot = self._decoded(manifest)
            arrays, meta = dict(snapshot.arrays), dict(snapshot.meta)
            fits = back is not None and back.scorer.same_kind(meta)
            if back is None or not fits:
                if manifest.kind == DELTA:
                    raise ValueError(f"version {manifest.version} does not fit its base")
                back = Side(Scorer(arrays, meta), None)
            elif manifest.kind == DELTA:
                back.scorer.apply(arrays, meta)
            else:
                back.scorer.load(arrays, meta)
        assert back is not None
        if path:
            check_content(back.scorer, path[-1])
            back.at = Base(version, path[-1].content)
            return back, path[-1]
        assert have is not None
        back.at = have
        return back, self._registry.ledger().manifests[version]

    def _decoded(self, manifest: Manifest) -> Snapshot:
        data = self._deltas.get(manifest.sha256)
        if data is None:
            data = self._registry.fetch(manifest)
            if manifest.kind == DELTA:
                self._deltas[manifest.sha256] = data
                for old in list(self._deltas)[:-MOST_KEPT]:
                    del self._deltas[old]
        snapshot = decode(data)
        if snapshot.version != manifest.version:
            raise ValueError(f"holds version {snapshot.version}, not {manifest.version}")
        return snapshot
