"""All of it, as docker-compose.yml has it: real Kafka, real Redis with a user of ours, and every
worker a process; KuaiRand goes in, and the version that has learned its end is served."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from compose import Local
from pure_windows import differing
from replays import LOGS
from workers import Command

from features.feast_store import FeastStore
from features.windows import Windows
from streaming.__main__ import load_application
from streaming.application import Application
from streaming.bench.soak_samples import Lags
from streaming.config import load
from streaming.eventlog import EventLog
from streaming.history import read_rows, side_tables
from streaming.sections import Kafka
from streaming.topics import ITEMS, open_log

PARTITIONS = 4
LOG = LOGS["kuairand"]
MODULE = """
from dataclasses import replace
from streaming.apps.kuairand import app as kuairand
app = replace(kuairand, name={name!r})
"""


@pytest.fixture
def app() -> Application:
    """KuaiRand's, under a name of its own."""
    return replace(load_application("kuairand"), name=f"kuairand-{uuid.uuid4().hex[:8]}")


@pytest.fixture
def files(app, data_dir, tmp_path) -> Path:
    """What a user mounts: an application, and a log."""
    folder = tmp_path / "files"
    folder.mkdir()
    for name in (LOG, "kuairand_users.parquet"):
        (folder / name).symlink_to(data_dir / name)
    (folder / "my_app.py").write_text(MODULE.format(name=app.name))
    return folder


@pytest.fixture
def local(kafka, files, tmp_path) -> Iterator[Local]:
    environ = {
        "FRESHET_FILES": str(files),
        "FRESHET_APP": "my_app.py:app",
        "FRESHET_LEARN": "--json",
        "FRESHET_PRODUCE": f"--log {LOG} --end",
    }
    with Local(kafka, tmp_path, environ) as local:
        yield local


@pytest.fixture
def log(local, kafka, app) -> Iterator[EventLog]:
    """The live topics, made by the service that makes them."""
    local.up("topics")
    local.ended("topics")
    with closing(open_log(Kafka(kafka), app.name)) as log:
        yield log
        log.delete_topics()


@pytest.mark.timeout(600)
def test_a_log_goes_in_and_what_has_learned_its_end_is_served(
    local, log, kafka, app, files, data_dir, tmp_path
):
    assert log.topics == {"impressions": PARTITIONS, "feedback": PARTITIONS, "control": 1}
    given = set(files.iterdir())  # of which compose lets nobody write
    local.up("ingest", "learn", "serve")
    assert ask(local, "/readyz")["status"] == 503
    local.up("produce")

    until(local, lambda: ask(local, "/readyz").get("version"))
    local.stop("learn")  # in the middle
    local.ended("produce")
    local.up("learn")
    past = replayed("kuairand", "--log", LOG, folder=files)
    until(local, lambda: ask(local, "/readyz")["version"] == past["steps"])
    report = report_in(local.stop("learn"))
    assert report["snapshots"][-1]["example"] == report["examples"] > 40_000
    assert report["unpublished"] == report["events"]["bad"] == 0

    live = replayed("my_app.py:app", "--live", "--broker", kafka, folder=files)
    for again in (past, live):
        assert again["state_hash"] == report["state_hash"] and again["tasks"] == report["tasks"]

    with closing(open_log(Kafka(kafka), app.name, "impressions", "feedback", ITEMS)) as events:
        with closing(Lags(kafka, app.name, events)) as lags:
            until(local, lambda: not ingests(lags.sample()))
    address = load(None, local.environ("ingest")).redis.address()
    windows = Windows(app.schema, app.aggregates)
    with closing(FeastStore(address, app.name, tmp_path / "features", windows)) as store:
        assert sum(differing(app, store, log, PARTITIONS).values()) == 0

    before = log.end_position()
    ranked = ask(local, "/v1/rank", request(app, data_dir / LOG))
    assert ranked.get("version") == report["steps"] and len(ranked["impressions"]) == 2, ranked
    local.stop("serve")
    local.stop("ingest")
    assert set(files.iterdir()) == given
    assert sum(log.end_position().values()) >= sum(before.values()) + 2


def replayed(*words: str, folder: Path) -> dict[str, Any]:
    """The report of `freshet replay` with these words, in this folder."""
    with Command(
        ["replay", *words, "--json"], {}, folder.parent / f"{uuid.uuid4().hex}.log", folder
    ) as command:
        assert command.wait() == 0, command.said.read_text()
        return report_in(command.said.read_text())


def ingests(sample: dict[str, float]) -> float:
    """How far ingest is behind."""
    return sample["ingest.lag"] + sample["ingest.items_lag"]


def request(app: Application, log: Path) -> dict[str, Any]:
    """To rank the video of the log's first impression, and another one, for its user."""
    shown = app.rows(next(read_rows(app, log)), side_tables(app, log))
    assert shown is not None and app.schema.item is not None
    user, item = shown.fields.pop(app.schema.user), shown.fields.pop(app.schema.item)
    return {"user": user, "candidates": [item, 1], "context": shown.fields, "k": 2}


def report_in(said: str) -> dict[str, Any]:
    return json.JSONDecoder().raw_decode(said, said.index("{\n"))[0]


def ask(local: Local, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The server's answer, a problem too."""
    request = urllib.request.Request(
        f"http://{local.address('serve', '8080')}{path}",
        json.dumps(body).encode() if body else None,
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)
    except urllib.error.HTTPError as problem:
        return json.load(problem)


def until(local: Local, true: Callable[[], object]) -> None:
    """Waits for a state, which has to come while all that was started runs."""
    while not true():
        for command in local.running.values():
            assert command.running or command.wait() == 0, command.said.read_text()
        time.sleep(0.1)
