"""Everything in one process: simulated users, a log, Redis, a learner, a server and its page."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from features.simulate import Config, Simulation
from streaming.application import Application
from streaming.apps.simulated import CALM, application, planted
from streaming.bundled import bundled_redis
from streaming.dead_letters import DeadLetters
from streaming.demo_users import Crowd, Visitors, request_for
from streaming.demo_watch import Freshness, outcomes
from streaming.eventlog import MemoryLog
from streaming.history import produce, side_tables, topics
from streaming.learn import Loop, learn
from streaming.learner import Learner, Step
from streaming.memory_registry import MemoryRegistry
from streaming.redis_registry import RedisRegistry
from streaming.report import report as report_of
from streaming.serve.ingest import Ingest
from streaming.serve.listen import Listener
from streaming.serve.metrics import Metrics
from streaming.serve.server import Hooks, Server
from streaming.serve.sides import Sides

CHANGES, CHANGE_EVERY = 40, 48_000
STATUS_S, SAY_S, RATE_S, LOAD_S = 0.25, 5.0, 3.0, 10.0
SHOWN_ENTRIES, SHOWN_INCIDENTS = 200, 12
WARM_UP_ROWS, WARM_UP_CANDIDATES = 1_000, 50


def run(
    minutes: float | None = None,
    report: Path | None = None,
    port: int = 0,
    host: str = "127.0.0.1",
    rate_per_s: float = CALM.rate_per_s,
) -> dict[str, Any]:
    """The demo, for so many minutes or until SIGINT or SIGTERM. Returns its report, which is also
    written to the file `report`.

    Raises ValueError where the port or the file can't be had.
    """
    if report is not None and not report.absolute().parent.is_dir():
        raise ValueError(f"report is {str(report)!r}: its folder is not there")
    config = replace(CALM, rate_per_s=rate_per_s, changes=planted(CHANGES, CHANGE_EVERY))
    app = application(config)
    with ExitStack() as stack:
        stop = stack.enter_context(_stopped_by_signals())
        print("Freshet is warming up ...", flush=True)
        _warm_up(app)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="freshet-demo-"))
        redis = stack.enter_context(bundled_redis(folder))
        demo = Demo(app, config, redis.url, host, port, stack)
        out = demo.run(minutes, stop)
    text = json.dumps(out, indent=2)
    if report is not None:
        report.write_text(text + "\n")
        print(f"the report is in {report}", flush=True)
    return out


class Demo:
    """The parts, put together; `stack` closes them."""

    def __init__(
        self, app: Application, config: Config, redis: str, host: str, port: int, stack: ExitStack
    ) -> None:
        self.app = app
        self.log = MemoryLog(topics(1))
        self.learner = Learner(app, self.log.topics, seed=0)
        self.simulation = Simulation(config)
        publishing, serving = RedisRegistry(redis, app.name), RedisRegistry(redis, app.name)
        stack.callback(publishing.close)
        stack.callback(serving.close)
        self.hooks = Hooks(lambda: self._status, self._example)
        metrics = Metrics()
        self.ingest = Ingest(app, self.log, metrics)
        self.server = Server(app, self.log, serving, self.ingest, metrics, hooks=self.hooks)
        self.freshness = Freshness(app.schema, self.server.metrics.label_to_served.observe)
        self.hooks.on_load = self.freshness.loaded
        self.letters = DeadLetters()
        self.loop = Loop(publishing, self.letters, on_step=self._on_step)
        self.url = stack.enter_context(Listener(self.server, host, port)).url
        self.crowd: Crowd
        self.visitors: Visitors
        self._status: dict[str, Any] | None = None
        self._recent: deque[tuple[float, int, int]] = deque()
        self._began = self._said = self._looked = 0.0
        self._told: set[tuple[int, str]] = set()

    def run(self, minutes: float | None, stop: threading.Event) -> dict[str, Any]:
        """Until all of the log is learned and served."""
        seconds = None if minutes is None else 60 * minutes
        self.crowd = Crowd(
            self.simulation, self.log, self.learner.codec, stop, seconds, self._ranked
        )
        self.visitors = Visitors(self.url, self.crowd, stop)
        ending = "Ctrl-C ends it" if minutes is None else f"for {minutes:g} min; Ctrl-C ends it"
        print(f"Freshet demo: {self.url}  ({ending})", flush=True)
        self._began = self._said = time.monotonic()
        self.crowd.start()
        self.visitors.start()
        try:
            learn(self.log, self.learner, self.loop, self.crowd.until)
        finally:
            stop.set()
            self.crowd.join()
            self.visitors.join()
        if self.crowd.error is not None:
            raise RuntimeError("the simulated users failed") from self.crowd.error
        self._wait_for_last_version()
        out = report_of(self.learner, time.monotonic() - self._began)
        out["freshness"] = self.freshness.percentiles()
        out["planted"] = self._outcomes()
        out["ranked"] = self._clicks()
        self._tell_news()
        self._summary(out)
        return out

    def _wait_for_last_version(self) -> None:
        deadline = time.monotonic() + LOAD_S
        while (self.server.version() or {}).get("version") != self.learner.trainer.steps:
            if time.monotonic() > deadline:
                raise RuntimeError("the server did not load the last version")
            time.sleep(0.01)

    # -- seen from outside -------------------------------------------------------------------

    def _ranked(self) -> int:
        registry = self.server.metrics.registry
        value = registry.get_sample_value("freshet_events_logged_total", {"topic": "impressions"})
        return int(value or 0)

    def _example(self, user: str) -> dict[str, Any] | None:
        """A request for the page's box: for each user always of the same candidates."""
        number = int(user[:9]) if user.isascii() and user.isdecimal() else 0
        if not 1 <= number <= self.simulation.config.users:
            return None
        return request_for(self.simulation, number, np.random.default_rng(number), k=8)

    def _outcomes(self) -> list[dict[str, Any]]:
        journal = self.learner.journal
        return outcomes(list(self.crowd.planted), list(journal.drift), list(journal.decisions))

    def _clicks(self) -> dict[str, Any]:
        """How often visitors clicked what was ranked for them."""
        shown, clicked = self.visitors.shown, self.visitors.clicked
        return {"shown": shown, "clicked": clicked}

    def _on_step(self, step: Step) -> None:
        self.freshness.learned(step)
        now = time.monotonic()
        if now - self._looked >= STATUS_S:
            self._looked = now
            self._status = self._look(now)
            read = self.ingest.position
            self.log.forget(
                {at: min(o, read.get(at, o)) for at, o in self.learner.position.items()}
            )
        if now - self._said >= SAY_S:
            self._said = now
            self._tell_news()
            print(self._line(now - self._began), flush=True)

    def _look(self, now: float) -> dict[str, Any]:
        """The part of the status that is the learner's."""
        learner, journal = self.learner, self.learner.journal
        events = learner.merge.released["in"]
        self._recent.append((now, events, learner.examples))
        while now - self._recent[0][0] > RATE_S:
            self._recent.popleft()
        first = self._recent[0]
        past = max(now - first[0], STATUS_S)
        weights = dict(zip(learner.tasks, learner.trainer.task_weights.tolist(), strict=True))
        return {
            "seconds": round(now - self._began, 1),
            "events": events,
            "examples": learner.examples,
            "events_per_second": round((events - first[1]) / past),
            "examples_per_second": round((learner.examples - first[2]) / past),
            "freshness": self.freshness.percentiles(lately=True),
            "curve": [_rounded(point) for point in learner.scores.curve],
            "task_weights": [
                {"example": w["example"], "weights": _rounded(w["weights"])}
                for w in journal.task_weights[-SHOWN_ENTRIES:]
            ],
            "weights_now": _rounded(weights),
            "drift": journal.drift[-SHOWN_ENTRIES:],
            "incidents": learner.incidents.listed(SHOWN_INCIDENTS),
            "planted": self._outcomes(),
            "ranked": self._clicks(),
        }

    def _line(self, seconds: float) -> str:
        figures = self.learner.scores.headline()
        kinds = {t.name: "mse" if t.kind == "regression" else "auc" for t in self.app.schema.tasks}
        said = "  ".join(f"{n} {kinds[n]} {v:.3f}" for n, v in figures.items() if v is not None)
        version = (self.server.version() or {}).get("version", "-")
        rate = (self._status or {}).get("events_per_second", 0)
        return f"{seconds:6.0f} s  {rate:>6,} events/s  version {version}  {said}"

    def _tell_news(self) -> None:
        """What was planted, noticed and decided since the last time, a line each."""
        journal = self.learner.journal
        news: list[tuple[int, str]] = []
        for change, example in self.crowd.planted:
            news.append((example, f"planted: {change.kind} of {change.task}"))
        for d in journal.drift:
            size = f"{d['before']:.3g} to {d['after']:.3g}"
            news.append(
                (d["example"], f"drift: {d['signal']} of {d['task']} {d['direction']}, {size}")
            )
        for d in journal.decisions:
            if d["what"] == "weight" and d["after"] > d["before"]:
                size = f"{d['before']:.3g} to {d['after']:.3g}"
                news.append((d["example"], f"rebalance: weight of {d['task']} {size}"))
        news.sort(key=lambda n: n[0])
        for example, text in news:
            if (example, text) not in self._told:
                print(f"          example {example:,}: {text}", flush=True)
        self._told.update(news)

    def _summary(self, out: dict[str, Any]) -> None:
        fresh = out["freshness"]
        print(
            f"learned {out['examples']:,} examples in {out['seconds']:.0f} s, "
            f"published {len(out['snapshots']):,} versions; "
            f"label to served p50 {fresh['p50_s']} s, p99 {fresh['p99_s']} s",
            flush=True,
        )
        for p in out["planted"]:
            said = "not noticed"
            if p["drift"]:
                said = f"{p['drift']['signal']} went {p['drift']['direction']}"
                said += f" {p['delay_examples']:,} examples later; {len(p['rebalance'])} moves"
            print(f"{p['kind']} of {p['task']} at example {p['example']:,}: {said}", flush=True)


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {k: round(float(v), 5) if isinstance(v, float) else v for k, v in values.items()}


def _warm_up(app: Application) -> None:
    """Compiles what is compiled at its first use, before the clock runs: learns a little, with the
    watch for drift on from the start, and ranks with each version of that."""
    source = app.source
    assert source is not None
    app = replace(app, drift=replace(app.drift, warm_up=0, block=1))
    log, registry = MemoryLog(topics(1)), MemoryRegistry(keep=8)
    learner = Learner(app, log.topics, seed=0)
    produce(app, log, learner.codec, islice(source(), WARM_UP_ROWS), side_tables(app, None))
    learn(log, learner, Loop(registry, DeadLetters()), log.end_position())
    sides = Sides(registry)
    for manifest in registry.versions():
        side, _ = sides.to(manifest.version)
        scorer = side.scorer
        scorer.rank(scorer.examples(WARM_UP_CANDIDATES))
        sides.use(side, manifest)


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; the second one has its usual effect."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    old = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, _: object) -> None:
        signal.signal(number, old[signal.Signals(number)])
        stop.set()
        os.write(1, b"\nending: what is in the log is learned first\n")  # print() is not reentrant

    for number in old:
        signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
