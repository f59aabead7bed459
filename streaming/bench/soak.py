"""`freshet bench soak`: the workers on KuaiRand, looped in wall time, and whether they stay flat.

Real processes of an application of a fresh name: `freshet ingest`, `freshet learn` and `freshet
serve`, whose visitors rank the log's own items. The log is sent again and again, each time with
fresh ids, so that users do in a minute what they did in a week: the rates are not KuaiRand's, the
volume and the work are.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from threading import Event, Thread
from typing import Any

from features.events import TOPICS
from streaming.application import Application, Shown
from streaming.apps.kuairand import app as kuairand
from streaming.bench.soak_faults import Faults
from streaming.bench.soak_samples import Lags, Processes, Sample, Stores
from streaming.bench.soak_summary import summary
from streaming.bench.soak_visitors import Visitors
from streaming.dlq import DeadLetterTopic
from streaming.history import read_rows, side_tables
from streaming.produce import Production, Sent
from streaming.sections import Kafka
from streaming.topics import DEAD, ITEMS, create, open_log

PARTITIONS = 4
RANKINGS_S = 3.0
END_S = 15.0
MODULE = """\
from dataclasses import replace
from streaming.apps.kuairand import app as kuairand

tasks = tuple(replace(task, window_ms={window_ms}) for task in kuairand.schema.tasks)
app = replace(kuairand, name={name!r}, schema=replace(kuairand.schema, tasks=tasks))
"""


@dataclass
class Soak:
    """What a soak works with. `folder` takes the workers' files, what they say among them;
    `window_s` is the label window. With `faults` one is drawn from `seed` each 10 s. Set `stop` to
    have it end before its `minutes`."""

    broker: str
    redis: str
    log_path: Path
    folder: Path
    minutes: float
    rate: float = 2_000.0
    every_s: float = 10.0
    window_s: float = 600.0
    faults: bool = False
    seed: int = 0
    stop: Event = field(default_factory=Event)
    on_sample: Callable[[Sample], None] = lambda sample: None

    def run(self) -> dict[str, Any]:
        """The summary: `figures` as `soak_summary.summary` says, the `faults` that there were, and
        how each worker `ended`.

        Raises RuntimeError where a worker ends before the soak does, with the end of what it said.
        """
        app = self._application()
        create(Kafka(self.broker, PARTITIONS), app.name)
        samples: list[Sample] = []
        ended: dict[str, dict[str, Any]] = {}
        with ExitStack() as stack:
            topics = stack.enter_context(
                closing(open_log(Kafka(self.broker), app.name, *TOPICS, ITEMS, DEAD))
            )
            stack.callback(topics.delete_topics)
            workers = stack.enter_context(_Workers(self._environ(), self.folder, ended))
            port = _free_port()
            start = partial(workers.start, app=f"{self.folder / 'soak_app.py'}:app", port=port)
            for name in ("ingest", "learn", "serve"):
                start(name)
            visitors = stack.enter_context(closing(Visitors(app, port, RANKINGS_S)))
            source = stack.enter_context(_Source(self, app, visitors.lately))
            folders = {name: self.folder / name for name in ("features", "checkpoints")}
            processes = Processes({**workers.pids(), "soak": os.getpid()})

            def restart(name: str) -> None:
                workers.processes[name].wait()
                start(name)
                processes.follow(name, workers.processes[name].pid)

            faults = Faults(self.redis, workers.pids, restart, self.seed)
            stack.enter_context(closing(faults))
            stores = Stores(self.redis, folders)
            lags = stack.enter_context(closing(Lags(self.broker, app.name, topics)))
            started = time.monotonic()
            while not self.stop.wait(self.every_s):
                now_s = time.monotonic() - started
                sent_before = samples[-1] if samples else {"t_s": 0.0, "source.events": 0}
                sample = {"t_s": round(now_s, 1), "source.events": source.sent.events}
                passed_s = now_s - sent_before["t_s"]
                sample["source.events_s"] = round(
                    (source.sent.events - sent_before["source.events"]) / passed_s
                )
                sample |= processes.sample() | lags.sample() | stores.sample()
                sample |= {"serve.ranked": visitors.ranked, "serve.failed": visitors.failed}
                samples.append(sample)
                self.on_sample(sample)
                workers.check()
                source.check()
                if self.faults:
                    faults.act(now_s)
                if now_s >= 60 * self.minutes:
                    break
        return {
            "minutes": round(samples[-1]["t_s"] / 60, 2) if samples else 0.0,
            "rate": self.rate,
            "window_s": self.window_s,
            "figures": summary(samples, self.rate),
            "faults": dict(sorted(faults.done.items())),
            "ended": ended,
        }

    def _application(self) -> Application:
        name, window_ms = f"soak-{uuid.uuid4().hex[:8]}", round(1000 * self.window_s)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "soak_app.py").write_text(MODULE.format(name=name, window_ms=window_ms))
        tasks = tuple(replace(task, window_ms=window_ms) for task in kuairand.schema.tasks)
        return replace(kuairand, name=name, schema=replace(kuairand.schema, tasks=tasks))

    def _environ(self) -> dict[str, str]:
        return {
            **os.environ,
            "FRESHET_KAFKA__BOOTSTRAP": self.broker,
            "FRESHET_REDIS__URL": self.redis,
            "FRESHET_FEATURES__FOLDER": str(self.folder / "features"),
            "FRESHET_LEARN__CHECKPOINTS": str(self.folder / "checkpoints"),
        }


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


class _Workers:
    """The workers' processes; leaving ends them in order, and notes how in `ended`."""

    def __init__(
        self, environ: dict[str, str], folder: Path, ended: dict[str, dict[str, Any]]
    ) -> None:
        self._environ, self._folder, self._ended = environ, folder, ended
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> _Workers:
        return self

    def start(self, name: str, app: str, port: int) -> None:
        """Of a session of its own, so that Ctrl-C ends us first."""
        with self._said(name).open("ab") as said:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "streaming", name, app],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                env={**self._environ, "FRESHET_SERVE__PORT": str(port)},
                start_new_session=True,
            )

    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self.processes.items()}

    def _said(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def check(self) -> None:
        for name, process in self.processes.items():
            if process.poll() is not None:
                said = self._said(name).read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{name} ended by itself, with {process.returncode}: {said}")

    def __exit__(self, *_: object) -> None:
        for name in reversed(self.processes):
            process, started = self.processes[name], time.monotonic()
            process.terminate()
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            seconds = round(time.monotonic() - started, 2)
            self._ended[name] = {"code": process.returncode, "seconds": seconds}


class _Source:
    """A thread that sends the log, looped; `lately` are its last impressions."""

    def __init__(self, soak: Soak, app: Application, lately: deque[Shown]) -> None:
        self._soak, self._app, self._lately = soak, app, lately
        self._stop = Event()
        self._failed: BaseException | None = None
        self.sent = Sent(0, 0, 0, False)
        self._thread = Thread(target=self._run, name="source", daemon=True)

    def __enter__(self) -> _Source:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(END_S)

    def check(self) -> None:
        if self._failed is not None:
            raise RuntimeError(f"the log is not sent: {self._failed}")

    def _run(self) -> None:
        kafka = Kafka(self._soak.broker)
        try:
            with (
                closing(open_log(kafka, self._app.name)) as events,
                closing(open_log(kafka, self._app.name, DEAD)) as dead,
            ):
                letters = DeadLetterTopic(dead, "produce")
                Production(
                    self._app, events, letters, self._soak.rate, shift_to_now=True,
                    stop=self._stop, on_sent=self._note,
                ).run(self._rows(), {})  # fmt: skip
        except Exception as error:
            self._failed = error

    def _note(self, sent: Sent) -> None:
        self.sent = sent

    def _rows(self) -> Iterator[Shown]:
        """The log again and again; the ids of each lap are its own."""
        path = self._soak.log_path
        tables = side_tables(kuairand, path)
        for lap in count():
            for row in read_rows(kuairand, path):
                shown = kuairand.rows(row, tables)
                if shown is not None:
                    shown = shown._replace(id=f"{lap}-{shown.id}")
                    self._lately.append(shown)
                    yield shown
