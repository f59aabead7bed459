"""Is it worth it here? Online learning, sharing and rebalancing, and what people would pick
instead, on a log of one's own: each alternative over the same impressions, with the same features,
and labels when they really came. Scored on the last half, which nothing was chosen on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from features.events import Control
from streaming.application import Application
from streaming.assess import retrained
from streaming.assess.answers import answers
from streaming.assess.cost import step_time
from streaming.assess.recording import Recording
from streaming.assess.rival import Absent, play
from streaming.assess.rivals import USUAL, best, days, entry
from streaming.compare.bootstrap import BLOCKS, CONFIDENCE
from streaming.compare.compare import of_task
from streaming.compare.served import Collector, Served
from streaming.learner import Learner, Step
from streaming.replay import Replay
from streaming.report import finite

OURS = "as it is"
LEAST = 400
"""Impressions in the half that is scored, at least."""


class Stopped(Exception):
    """The user has ended it."""


@dataclass
class Alternative:
    """What was served instead: a run for each seed, or one that stands for all; or why none."""

    name: str
    about: str
    runs: list[dict[str, Served]] = field(default_factory=list)
    seconds: float = 0.0
    chosen: dict[str, str] = field(default_factory=dict)
    absent: str = ""


@dataclass
class Assessment:
    """An application on a log, from so many `seeds`, `against` these rivals. `on_step` and
    `on_moment` are told how far which run is."""

    app: Application
    log: Path | None = None
    seeds: int = 1
    limit: int | None = None
    against: Sequence[str] = USUAL
    stop: Event = field(default_factory=Event)
    on_step: Callable[[str, Learner, Step], None] = lambda run, learner, step: None
    on_moment: Callable[[str, int, int], None] = lambda run, done, of: None

    def run(self) -> dict[str, Any] | None:
        """The report (JSON); None where it was stopped. Raises what `Replay.run` raises."""
        try:
            return self._run()
        except Stopped:
            return None

    def _run(self) -> dict[str, Any]:
        ours = Alternative(OURS, "the application")
        recording: Recording | None = None

        def record(learner: Learner, step: Step) -> None:
            nonlocal recording
            if recording is None:
                recording = Recording(self.app.schema, learner.windows.layout)
            recording.step(learner, step)

        reports = self._replay(ours, self.app, also=record)
        times = np.sort(np.concatenate([s.times_ms for s in ours.runs[0].values()]))
        if recording is None or len(times) < 2 * LEAST:
            raise ValueError(
                f"the log gives {len(times)} labels: expected {2 * LEAST} or more to tell anything"
            )
        half_ms, last_ms = int(times[len(times) // 2]), int(times[-1])
        others = self._own_alternatives(half_ms)
        every_ms = retrained.period_ms(int(times[0]), last_ms)
        others.insert(1, self._retrained(recording, every_ms))
        others += [self._rival(which, recording, every_ms, half_ms) for which in self.against]
        hard_parts = reports[0]["hard_parts"]
        hard_parts["cost"] = step_time(self.app, recording) | hard_parts["cost"]
        return self._report(ours, others, half_ms, every_ms, hard_parts)

    def _own_alternatives(self, half_ms: int) -> list[Alternative]:
        """The same application, frozen half way, with single-task models, with no rebalancing."""
        frozen = Alternative("frozen half way", "the same, which learns nothing from the half on")
        stop = Control("freeze", half_ms, "learning.stop")
        self._replay(frozen, self.app, controls=(stop,))
        single = Alternative("single-task", "a network and embedding rows of its own for each task")
        network = self.app.trainer.network
        if len(self.app.schema.tasks) == 1:
            single.absent = "there is one task, so that there is nothing to share"
        elif network.sharing == "single_task":
            single.absent = "the application shares nothing as it is"
        else:
            changes = ["trainer.network.sharing=single_task"]
            changes += ["weighting.kind=fixed"] if self.app.weighting.reads else []
            self._replay(single, self.app.with_settings(changes))
        steady = Alternative("rebalancing off", "drift is seen, and nothing done about it")
        if self.app.rebalance.policy == "none":
            steady.absent = "the application's policy is 'none' as it is"
        else:
            self._replay(steady, self.app.with_settings(["rebalance.policy=none"]))
        return [frozen, single, steady]

    def _replay(
        self, into: Alternative, app: Application, controls: Any = (), also: Any = None
    ) -> list[dict[str, Any]]:
        """Runs it from each seed; returns the reports."""
        started, reports = time.perf_counter(), []
        for seed in range(self.seeds):
            collector = Collector(app.schema)
            said = into.name + (f", seed {seed}" if self.seeds > 1 else "")

            def on_step(
                learner: Learner, step: Step, keep: Any = collector, said: str = said
            ) -> None:
                keep.step(learner, step)
                if also is not None and learner.seed == 0:
                    also(learner, step)
                self.on_step(said, learner, step)

            job = Replay(
                app, self.log, seed=seed, limit=self.limit, controls=controls, stop=self.stop,
                on_step=on_step,
            )  # fmt: skip
            report = job.run()
            if report is None:
                raise Stopped
            reports.append(report)
            into.runs.append(collector.served())
        into.seconds = (time.perf_counter() - started) / self.seeds
        return reports

    def _retrained(self, recording: Recording, every_ms: int) -> Alternative:
        out = Alternative(
            "retrained in batch",
            f"the same network, trained anew every {days(every_ms)} on all that was known by then",
        )
        started = time.perf_counter()
        for seed in range(self.seeds):
            fit = retrained.ours(self.app.schema, recording.layout, self.app.trainer, seed)
            rival = retrained.Retrained(self.app.schema, every_ms, fit)
            out.runs.append(play(recording, rival, lambda n, of: self._moment(out.name, n, of)))
            out.about += f" ({rival.trainings} times)" if seed == 0 else ""
        out.seconds = (time.perf_counter() - started) / self.seeds
        return out

    def _rival(self, which: str, recording: Recording, every_ms: int, half_ms: int) -> Alternative:
        started = time.perf_counter()
        try:
            rival = entry(which, self.app.schema, recording.layout, every_ms)
        except Absent as error:
            return Alternative(which, "", absent=str(error))
        served, chosen = best(rival, recording, half_ms, self._moment)
        seconds = (time.perf_counter() - started) / len(rival.settings)
        chosen = chosen if len(rival.settings) > 1 else {}
        return Alternative(rival.name, rival.about, [served], seconds, chosen)

    def _moment(self, run: str, done: int, of: int) -> None:
        if self.stop.is_set():
            raise Stopped
        self.on_moment(run, done, of)

    def _report(
        self,
        ours: Alternative,
        others: list[Alternative],
        half_ms: int,
        every_ms: int,
        hard_parts: dict[str, Any],
    ) -> dict[str, Any]:
        """`tasks`: by task what ours served in the last half, and `against` each alternative what
        that did, with the `gain` of ours on it (as in `compare.report`). `alternatives` says what
        they are, or why one is not there (`absent`); `questions` what follows."""
        tasks: dict[str, Any] = {}
        there = [a for a in others if not a.absent]
        for task in self.app.schema.tasks:
            if task.name not in ours.runs[0]:
                continue
            mine = [_late(run[task.name], half_ms) for run in ours.runs]
            against = {}
            for other in there:
                runs = [_late(run[task.name], half_ms) for run in other.runs if task.name in run]
                if not runs:
                    continue
                runs = runs if len(runs) == len(mine) else runs[:1] * len(mine)
                figures = of_task(task, {other.name: runs, OURS: mine})
                against[other.name] = {
                    **{k: v for k, v in figures["variants"][other.name].items() if k != "periods"},
                    **{k: figures["variants"][OURS][k] for k in ("gain", "periods")},
                }
                own = {k: figures["variants"][OURS].get(k) for k in ("loss", "auc")}
                tasks[task.name] = {"kind": task.kind, "count": figures["count"], **own}
            tasks[task.name]["against"] = against
        alternatives = {
            a.name: {
                "about": a.about,
                "absent": a.absent,
                "seconds": round(a.seconds, 3),
                "chosen": a.chosen,
            }
            for a in [ours, *others]
        }
        return dict(
            finite(
                {
                    "application": self.app.name,
                    "log": None if self.log is None else self.log.name,
                    "scored_from_ms": half_ms,
                    "retrained_every_ms": every_ms,
                    "confidence": CONFIDENCE,
                    "blocks": BLOCKS,
                    "seeds": self.seeds,
                    "questions": answers(tasks, alternatives),
                    "hard_parts": hard_parts,
                    "tasks": tasks,
                    "alternatives": alternatives,
                }
            )
        )


def _late(served: Served, from_ms: int) -> Served:
    """Of the impressions shown from then on."""
    late = served.times_ms >= from_ms
    return Served(
        served.ids[late], served.times_ms[late], served.labels[late], served.predictions[late]
    )
