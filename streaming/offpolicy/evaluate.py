"""Policies made of a model that learns from the log, evaluated on that log, by who logged it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from features.events import key
from streaming.application import Application, Logged
from streaming.assess.recording import Recording
from streaming.assess.rival import play
from streaming.compare.bootstrap import CONFIDENCE, Blocks
from streaming.history import read_rows, side_tables
from streaming.learner import Learner, Step
from streaming.offpolicy.estimators import estimates
from streaming.offpolicy.policies import POLICIES
from streaming.offpolicy.scored import Scored
from streaming.replay import Replay
from streaming.report import finite


class Stopped(Exception):
    """The user has ended it."""


@dataclass
class Evaluation:
    """An application that names its `logged` policy, and whose inputs but the item are the same for
    each of an impression's candidates. The reward is its first task, a binary one. `on_step` and
    `on_moment` are told how far which run is."""

    app: Application
    log: Path
    limit: int | None = None
    seed: int = 0
    stop: Event = field(default_factory=Event)
    on_step: Callable[[str, Learner, Step], None] = lambda run, learner, step: None
    on_moment: Callable[[str, int, int], None] = lambda run, done, of: None

    def run(self) -> dict[str, Any] | None:
        """The report (JSON): for each policy that logged, its rounds and `reward`, the mean with
        its interval, and of the policies of `POLICIES` the estimates on its rounds. None where it
        was stopped. Raises what `Replay.run` raises, and ValueError for an unfit application."""
        self._check()
        logged = self._logged()
        recording = self._record()
        if recording is None:
            return None
        rounds = _Rounds(self.app, recording, logged)
        scored = Scored(self.app, recording, rounds.candidates, rounds.keys, self.seed)

        def on_moment(done: int, of: int) -> None:
            if self.stop.is_set():
                raise Stopped
            self.on_moment("scoring every candidate", done, of)

        try:
            play(recording, scored, on_moment)
        except Stopped:
            return None
        return dict(finite(self._report(rounds, scored.q.astype(np.float64))))

    def _check(self) -> None:
        schema, where = self.app.schema, f"application {self.app.name!r}"
        if self.app.logged is None or schema.item is None:
            raise ValueError(
                f"{where} does not say who logged what, with which chance: expected "
                "Application.logged, and Schema.item"
            )
        if schema.tasks[0].kind != "binary":
            raise ValueError(f"{where}: task {schema.tasks[0].name!r}: expected a binary reward")
        if any(e.kind != "user" for e in self.app.aggregates.entities):
            raise ValueError(
                f"{where} has features by item: candidates that were not shown lack them"
            )

    def _logged(self) -> dict[int, tuple[Any, Logged]]:
        """By the impression's key, its item, and who chose it."""
        assert self.app.logged is not None
        tables, out = side_tables(self.app, self.log), {}
        for row in read_rows(self.app, self.log, self.limit):
            shown = self.app.rows(row, tables)
            if shown is not None:
                item = shown.fields[str(self.app.schema.item)]
                out[key(shown.id)] = (item, self.app.logged(row))
        return out

    def _record(self) -> Recording | None:
        kept: list[Recording] = []

        def on_step(learner: Learner, step: Step) -> None:
            if not kept:
                kept.append(Recording(self.app.schema, learner.windows.layout))
            kept[0].step(learner, step)
            self.on_step("reading", learner, step)

        job = Replay(
            self.app, self.log, seed=self.seed, limit=self.limit, stop=self.stop, on_step=on_step
        )
        return kept[0] if job.run() is not None else None

    def _report(self, rounds: _Rounds, q: np.ndarray) -> dict[str, Any]:
        by = {}
        for name in sorted(set(rounds.policy)):
            of = np.flatnonzero(rounds.policy == name)
            found = {}
            for policy, shares_of in POLICIES.items():
                shares = shares_of(q[of], rounds.there[of])
                taken = shares[np.arange(len(of)), rounds.action[of]]
                found[policy] = estimates(
                    rounds.reward[of],
                    taken / rounds.propensity[of],
                    q[of, rounds.action[of]],
                    (shares * q[of]).sum(1),
                ).as_dict()
            by[name] = {
                "rounds": len(of),
                "rewards": int(rounds.reward[of].sum()),
                "reward": Blocks(len(of)).mean(rounds.reward[of]).as_dict(),
                "least_propensity": float(rounds.propensity[of].min()),
                "policies": found,
            }
        task = self.app.schema.tasks[0].name
        return {
            "application": self.app.name, "log": self.log.name, "reward": task,
            "confidence": CONFIDENCE, "logged_by": by,
        }  # fmt: skip


class _Rounds:
    """The impressions in the order of time, in columns [n]; `there` [n, actions]."""

    def __init__(
        self, app: Application, recording: Recording, logged: dict[int, tuple[Any, Logged]]
    ) -> None:
        n = len(recording)
        ids, reward = recording.ids(), np.zeros(n)
        for moment in recording.moments:
            reward[moment.rows] = moment.labels[:, 0]
        of = [logged[i] for i in ids.tolist()]
        items = {item: a for a, item in enumerate(sorted({item for item, _ in of}))}
        self.action = np.array([items[item] for item, _ in of])
        self.candidates = [[items[c] for c in by.candidates if c in items] for _, by in of]
        self.there = np.zeros((n, len(items)), bool)
        for row, actions in enumerate(self.candidates):
            self.there[row, actions] = True
        bag = recording.layout.bag(str(app.schema.item))
        slot = int(np.flatnonzero(recording.layout.bag_of_slot == bag)[0])
        self.keys = np.zeros(len(items), np.int64)
        self.keys[self.action] = recording.inputs().keys[:, slot]
        self.policy = np.array([by.policy for _, by in of])
        self.propensity = np.array([by.propensity for _, by in of])
        self.reward = reward
