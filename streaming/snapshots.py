"""What can be said of versions, for `freshet snapshots`: JSON objects."""

from __future__ import annotations

from typing import Any

import numpy as np

from streaming.compaction import scorer_at
from streaming.manifest import Manifest
from streaming.registry import Ledger, NoSuchVersion, Pointer, Registry, Trial

CARD_KEYS = ("config_hash", "code", "seed", "task_weights", "position", "figures")


def listed(registry: Registry) -> list[dict[str, Any]]:
    """All versions, the newest last."""
    ledger, pointer = registry.ledger(), registry.pointer()
    trial = registry.trial()
    order = sorted(ledger.manifests.values(), key=lambda manifest: manifest.order)
    return [_line(manifest, ledger, pointer, trial) for manifest in order]


def _line(
    manifest: Manifest, ledger: Ledger, pointer: Pointer | None, trial: Trial | None
) -> dict[str, Any]:
    version = manifest.version
    served = pointer is not None and pointer.manifest.version == version
    full = ledger.fulls.get(version)
    return {
        "version": version,
        "epoch": manifest.epoch,
        "kind": manifest.kind,
        "base": manifest.base,
        "bytes": manifest.size,
        "compacted_bytes": None if full is None else full.size,
        "at_ms": manifest.meta.get("at_ms"),
        "examples": manifest.meta.get("examples"),
        "served": served,
        "canary": trial.share
        if trial and not served and trial.manifest.version == version
        else None,
        "pinned": ledger.pins.get(version),
        "held": ledger.held.get(version),
        "read": version in ledger.reading,
    }


def shown(registry: Registry, version: int) -> dict[str, Any]:
    """One version: its line, its content and chunks, its card, and what it needs."""
    ledger = registry.ledger()
    manifest = ledger.manifests.get(version)
    if manifest is None:
        raise NoSuchVersion(f"version {version} is not there")
    path = [step.version for step in registry.path(version)]
    return {
        **_line(manifest, ledger, registry.pointer(), registry.trial()),
        "content": manifest.content,
        "sha256": manifest.sha256,
        "chunks": len(manifest.chunks),
        "path": path,
        "card": dict(manifest.meta),
    }


def compared(registry: Registry, before: int, after: int) -> dict[str, Any]:
    """From one version to another: what of the cards differs, and how far rows and weights moved.

    `rows`: how many are new, gone, changed and the same, and the root of the mean squared move of a
    number of those that changed; `weights`: the same root, and the largest move, by dense array.
    """
    one, two = (registry.ledger().manifests.get(version) for version in (before, after))
    scorers = [scorer_at(registry, version) for version in (before, after)]
    assert one is not None and two is not None
    old, new = (scorer.arrays() for scorer in scorers)
    card = {
        key: {"before": one.meta.get(key), "after": two.meta.get(key)}
        for key in CARD_KEYS
        if one.meta.get(key) != two.meta.get(key)
    }
    return {
        "before": before,
        "after": after,
        "examples": (two.meta.get("examples") or 0) - (one.meta.get("examples") or 0),
        "same_content": scorers[0].content == scorers[1].content,
        "rows": _rows(old, new),
        "weights": {
            name: _moved(old[name], new[name])
            for name in sorted(old.keys() & new.keys())
            if not name.startswith("embedding/") and old[name].shape == new[name].shape
        },
        "card": card,
    }


def _rows(old: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> dict[str, Any]:
    keys, others = old["embedding/keys"], new["embedding/keys"]
    _, a, b = np.intersect1d(keys, others, assume_unique=True, return_indices=True)
    moves = new["embedding/rows"][b].astype(np.float64) - old["embedding/rows"][a]
    changed = (moves != 0).any(1)
    root = float(np.sqrt((moves[changed] ** 2).mean())) if changed.any() else 0.0
    return {
        "new": len(others) - len(b),
        "gone": len(keys) - len(a),
        "changed": int(changed.sum()),
        "same": int((~changed).sum()),
        "root_mean_square": root,
    }


def _moved(old: np.ndarray, new: np.ndarray) -> dict[str, float]:
    moves = np.asarray(new, np.float64) - np.asarray(old, np.float64)
    if not moves.size:
        return {"root_mean_square": 0.0, "most": 0.0}
    return {
        "root_mean_square": float(np.sqrt((moves**2).mean())),
        "most": float(np.abs(moves).max()),
    }


def last_good(registry: Registry) -> int | None:
    """The version that was served before the one that is, and was not held since: where a roll-back
    goes by itself. None where there is none, or it is not there any more."""
    pointer, ledger = registry.pointer(), registry.ledger()
    if pointer is None:
        return None
    for move in registry.moves():
        version = move["version"]
        below = version < pointer.manifest.version
        if below and version in ledger.manifests and version not in ledger.held:
            return int(version)
    return None
