"""The gate: which of the versions that a learner publishes go live.

The learner's predictions just before it learns, which are its candidates' own, are compared with
those of an anchor: a version that was served and has stood the test before. The rounds of the test:

- as long as nothing shows that the learner is worse than the anchor, its versions go live
- once it is shown, the next ones are held, and where a version later than the anchor is served by
  then, the pointer goes back to the anchor
- once it is shown of the tasks that were worse that they no longer are, versions go live again
- a round that has seen `window` pairs without a finding ends: what is served is the next anchor

With a canary, a version that nothing speaks against is first given to a share of users; it goes
live for all once so many examples were looked at since, and is taken from them with the batch that
shows that the learner is worse.

What is not finite, or of another schema than what is served, is held whatever the figures say.
While batches are not finite nothing is published, and the last version, of finite weights, may be
what predicts no numbers: it is judged without a candidate.
The gate moves the pointer, and nothing that it does is seen by the learner: learning goes on, and a
replay, which has no gate, is the same. `last_good` is the anchor: where a roll-back of the learner
itself can go.
"""

from __future__ import annotations

import logging
import os
import secrets
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from model.score import Scorer
from model.train import Told
from streaming.learner import Step
from streaming.manifest import Manifest
from streaming.paired import Paired
from streaming.registry import (
    NoSuchVersion,
    Published,
    Registry,
    RegistryError,
    RegistryUnavailable,
)
from streaming.sections import Gate as Config
from streaming.serve.sides import Side, Sides

log = logging.getLogger("freshet.gate")
KEEP_S = 3_600.0
NOT_FINITE = "it holds numbers that are not finite"


@dataclass
class Anchor:
    """A version that stood the test, and what scores by it."""

    version: int
    scorer: Scorer


@dataclass
class Canary:
    """A version that a share of users has, since so many examples had been looked at."""

    version: int
    since: int


class Gate:
    """Judges the versions of one learner. `held` says why its versions are held, "" where they are
    not; `holds` and `rollbacks` count."""

    def __init__(self, registry: Registry, config: Config) -> None:
        self._registry, self._config = registry, config
        self._name = f"gate-{os.getpid()}-{secrets.token_hex(4)}"
        self._sides = Sides(registry)
        self._loading: Future[tuple[Side, Manifest]] | None = None
        self._thread = ThreadPoolExecutor(1, "freshet-gate")
        self._paired: Paired | None = None
        self._anchor: Anchor | None = None
        self._pairs, self._batches, self._worse = 0, 0, list[str]()
        self._canary: Canary | None = None
        self._looked_at, self._epoch = 0, 0
        self._leaving, self._new = False, False
        self.held = ""
        self.holds = self.rollbacks = 0

    @property
    def last_good(self) -> int | None:
        """The version of the anchor; None before there is one."""
        return None if self._anchor is None else self._anchor.version

    def evidence(self) -> dict[str, float]:
        """By task, the logarithm of the stake that it is worse (see streaming/paired.py)."""
        if self._paired is None:
            return {}
        return {name: one.worse for name, one in self._paired.tasks.items()}

    def close(self) -> None:
        self._thread.shutdown()

    def see(self, step: Step) -> None:
        """Takes in a step: of every `every`-th the anchor's predictions, too. While a learner that
        went on from a checkpoint repeats steps, the anchor knows their labels: they say nothing."""
        if step.report is None or step.progressive is None or self._anchor is None:
            return
        if not self._new and step.report.step <= self._anchor.version:
            return
        self._batches += 1
        if self._batches % self._config.every:
            return
        batch, scorer = step.cut.batch, self._anchor.scorer
        if self._paired is None:
            config = self._config
            self._paired = Paired(scorer.schema, config.error, config.margin)
        self._paired.update(batch, step.progressive, scorer.predict(batch.inputs))
        self._pairs += len(batch)
        self._looked_at += len(batch)
        if not step.report.finite or self._canary is not None:
            self._without_a_candidate()

    def judge(self, published: Published, told: Told, epoch: int) -> None:
        """Lets a candidate go live, or holds it. Raises StalePublication for an epoch of before."""
        self._new |= published.new
        self._epoch = epoch
        try:
            if self._anchor is not None:
                self._registry.reading(self._name, self._anchor.version, KEEP_S)
            pointer = self._registry.pointer()
            served = None if pointer is None else pointer.manifest.version
            if served is not None and not published.new and published.version <= served:
                self._take_up(served)  # it was judged before
                return
            if reason := self._against(told):
                self._hold(published.version, reason)
                return
            if served is not None:
                self._take_up(served)
            if self._config.canary and served is not None:
                self._give(published.version)
            else:
                self._registry.advance(published.version, epoch, "passed the gate")
        except RegistryUnavailable as error:
            log.warning("version %d waits for the next one: %s", published.version, error)

    def _give(self, version: int) -> None:
        """The candidate to a share of users, once the one that has been given goes to all."""
        canary, epoch = self._canary, self._epoch
        if canary is not None:
            self._registry.reading(f"{self._name}-canary", canary.version, KEEP_S)
            if self._looked_at - canary.since < self._config.canary_examples:
                return
            self._canary = None
            said = f"passed the gate, and {self._looked_at - canary.since:,} examples as a canary"
            try:
                self._registry.advance(canary.version, epoch, said)
            except NoSuchVersion as error:
                log.warning("a canary does not go live: %s", error)
        elif (trial := self._registry.trial()) and version < trial.manifest.version:
            return  # it was given before
        if self._registry.give(version, self._config.canary, epoch):
            self._canary = Canary(version, self._looked_at)
            self._registry.reading(f"{self._name}-canary", version, KEEP_S)

    def _take(self) -> None:
        """The canary from its users, which is held."""
        canary = self._canary
        if canary is None:
            return
        self._hold(canary.version, self.held or "the model was taken back")
        self._registry.give(None, 0.0, self._epoch)
        self._canary = None
        self.rollbacks += 1
        log.warning("version %d was taken from its share of users", canary.version)

    def forget(self) -> None:
        """The learner's model is another one: what was seen of the last one counts only against
        versions of it that are served."""
        if self._paired is None:
            return
        if not self._without_a_candidate():
            self._try_back()
        self._worse, self.held, self._leaving = [], "", False
        self._next_round()

    def _without_a_candidate(self) -> bool:
        """Whether the learner is found worse just now; what is served then goes back. While its
        batches are not finite it publishes nothing, and the last version may be why."""
        assert self._paired is not None
        if self._worse or not (worse := self._paired.worse()):
            return False
        self._convict(worse)
        self._try_back()
        return True

    def _try_back(self) -> None:
        try:
            self._take()
            self._back()
        except RegistryUnavailable as error:
            log.warning("what is served stays: %s", error)

    def _against(self, told: Told) -> str:
        """What speaks against a candidate, "" for nothing."""
        if not told.finite:
            return NOT_FINITE
        if self._anchor is not None and not self._anchor.scorer.same_kind(told.meta):
            return "it is of another schema, or other features, than what is served"
        if self._paired is None:
            return ""
        if self._worse:
            if not self._paired.no_worse(self._worse):
                self._take()
                self._back()
                return self.held
            log.warning("versions go live again: %s", ", ".join(self._worse))
            self._worse, self.held, self._leaving = [], "", False
            self._next_round()
        elif worse := self._paired.worse():
            self._convict(worse)
            self._take()
            self._back()
        return self.held

    def _convict(self, worse: list[str]) -> None:
        assert self._paired is not None
        self._worse, self.held, self._leaving = worse, self._reason(worse), True
        for name in worse:
            self._paired.tasks[name].doubt()
        log.warning("versions are held: %s", self.held)

    def _reason(self, worse: list[str]) -> str:
        assert self._paired is not None and self._anchor is not None
        said = [
            f"{name} by {self._paired.tasks[name].excess:.3g} in squared error, of "
            f"{self._paired.tasks[name].labels:,} labels"
            for name in worse
        ]
        return f"worse than version {self._anchor.version}: " + "; ".join(said)

    def _hold(self, version: int, reason: str) -> None:
        self._registry.hold(version, reason)
        self.holds += 1
        log.warning("version %d is held: %s", version, reason)

    def _back(self) -> None:
        """The pointer back to the anchor, where it is above it: at each call, until it is done."""
        if not self._leaving or self._anchor is None:
            return
        pointer = self._registry.pointer()
        if pointer is not None and pointer.pinned:
            return
        self._leaving = False
        if pointer is None or pointer.manifest.version <= self._anchor.version:
            return
        if self._anchor.version in self._registry.held():
            log.warning("what is served stays: version %d was held since", self._anchor.version)
            return
        try:
            self._registry.turn_to(self._anchor.version, self.held)
        except NoSuchVersion as error:
            log.warning("what is served stays: %s", error)
            return
        except RegistryUnavailable:
            self._leaving = True
            raise
        self.rollbacks += 1
        log.warning("version %d is served again: %s", self._anchor.version, self.held)

    def _take_up(self, served: int) -> None:
        """Sees to the anchor: the first, or the next, is loaded in a thread."""
        if self._loading is not None and self._loading.done():
            loading, self._loading = self._loading, None
            try:
                side, manifest = loading.result()
            except RegistryUnavailable as error:
                log.warning("no other version to compare with yet: %s", error)
            except (RegistryError, ValueError) as error:
                log.warning("version %d can't be compared with: %s", served, error)
            else:
                if manifest.version in self._registry.held():
                    return  # taken back while it was loaded
                self._anchor = anchor = Anchor(manifest.version, side.scorer)
                self._sides.use(side, anchor)
                self._next_round()
        over = self._anchor is None or self._pairs >= self._config.window
        if over and self._loading is None and not self._worse:
            self._loading = self._thread.submit(self._sides.to, served)

    def _next_round(self) -> None:
        self._pairs = 0
        if self._paired is not None:
            self._paired.restart()
