"""A publication: the model as a delta on the version before, or whole, with its card.

Which of the two is nothing that the model depends on: a version is known by its content. It is a
delta where the registry has what it builds on, and whole where it has not, where all has changed,
or where the chain of deltas has grown long and nobody shortens it behind the learner's back.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Any

from model.snapshot import Snapshot, encode
from model.train import Told
from streaming.compaction import Compactor
from streaming.failpoint import failpoint
from streaming.gate import NOT_FINITE, Gate
from streaming.learner import Learner
from streaming.manifest import FULL
from streaming.registry import (
    BaseMissing,
    Published,
    Registry,
    RegistryError,
    RegistryUnavailable,
)
from streaming.report import fingerprint, finite

log = logging.getLogger("freshet.learn")
MOST_LINKS = 64
MOST_INCIDENTS = 5


@dataclass
class Chain:
    """The deltas since the last full version, each its version and bytes. A `compactor` puts a full
    one beside the last delta of a long chain; without one, or where it can't, the next version is
    whole. `known`: what an earlier process published is among them."""

    compactor: Compactor | None = None
    deltas: list[tuple[int, int]] = field(default_factory=list)
    full_bytes: int = 0
    broken: bool = False
    known: bool = False

    def add(self, published: Published, registry: Registry) -> None:
        """Takes a version in, and sees to the compactor."""
        if published.kind == FULL:
            self.deltas, self.full_bytes, self.broken = [], published.size, False
        else:
            self.deltas.append((published.version, published.size))
        if not self.known:
            self._recall(published.version, registry)
        if self.compactor is None:
            return
        try:
            full = self.compactor.settle()
        except RegistryUnavailable as error:
            log.warning("the chain of deltas is not shortened yet: %s", error)
        except (RegistryError, ValueError) as error:
            log.warning("the chain of deltas can't be shortened, a full one follows: %s", error)
            self.broken = True
        else:
            if full is not None:
                self.deltas = [delta for delta in self.deltas if delta[0] > full.version]
                self.full_bytes = full.size
        if self.long:
            self.compactor.start(published.version)

    def _recall(self, version: int, registry: Registry) -> None:
        """The chain as the registry has it, which outlives this process."""
        try:
            first, *deltas = registry.path(version)
        except RegistryUnavailable as error:
            log.warning("how long the chain of deltas is is not known yet: %s", error)
            return
        except RegistryError as error:
            log.warning("the chain of deltas has a gap, a full one follows: %s", error)
            self.broken = True
        else:
            self.deltas = [(delta.version, delta.size) for delta in deltas]
            self.full_bytes = first.size
        self.known = True

    @property
    def long(self) -> bool:
        """Whether who begins would read more deltas than is worth it, or too many."""
        size = sum(size for _, size in self.deltas)
        return len(self.deltas) >= MOST_LINKS or 0 < self.full_bytes < size

    @property
    def whole_is_due(self) -> bool:
        return self.broken or (self.long and self.compactor is None)


def publish(
    learner: Learner, registry: Registry, epoch: int, chain: Chain, gate: Gate | None
) -> Published:
    """Publishes the model as it is now; where there is a gate as a candidate, which it is shown.
    What is not finite is held in any case. See `Registry.publish` for what it raises."""
    version, base = learner.trainer.steps, learner.journal.base
    whole = base is None or base.version >= version or chain.whole_is_due
    told = learner.trainer.version(whole)
    try:
        published = _offer(learner, registry, epoch, told, gate)
    except BaseMissing as error:
        log.warning("%s: a full version is published", error)
        told = learner.trainer.version(True)
        published = _offer(learner, registry, epoch, told, gate)
    learner.trainer.told()
    learner.journal.published(version, learner.examples, told.content, published.size)
    chain.add(published, registry)
    if gate is not None:
        gate.judge(published, told, epoch)
    elif not told.finite:
        registry.hold(version, NOT_FINITE)
    return published


def _offer(
    learner: Learner, registry: Registry, epoch: int, told: Told, gate: Gate | None
) -> Published:
    version = learner.trainer.steps
    data = encode(Snapshot(version, told.arrays, told.meta))
    failpoint("publish.encoded")
    base = None if told.whole else learner.journal.base
    live = gate is None and told.finite
    return registry.publish(
        data, version, epoch, card(learner), base=base, content=told.content, live=live
    )


def card(learner: Learner) -> dict[str, Any]:
    """What a version says of itself: from what it was learned, by which code and settings, how well
    it did, and what was unusual."""
    journal, listed = learner.journal, learner.incidents.listed()
    said: dict[str, Any] = {
        "application": learner.app.name,
        "examples": learner.examples,
        "task_weights": dict(
            zip(learner.tasks, learner.trainer.task_weights.tolist(), strict=True)
        ),
        "position": [[topic, p, offset] for (topic, p), offset in learner.position.items()],
        "config_hash": learner.app.config_hash(),
        "seed": learner.seed,
        "code": fingerprint(learner.app.trainer.device),
        "figures": learner.scores.curve[-1] if learner.scores.curve else None,
        "incidents": [i for i in listed if i["closed_example"] is None][-MOST_INCIDENTS:],
        "at_ms": time.time_ns() // 1_000_000,
        "quarantined": learner.quarantined,
    }
    if journal.closed:
        said |= dict(zip(("closed_from_ms", "closed_to_ms"), journal.closed, strict=True))
    finite_card: dict[str, Any] = finite(said)
    return finite_card
