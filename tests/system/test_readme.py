"""Every block of the README runs."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from workers import Command

from features.events import TOPICS
from streaming.sections import Kafka
from streaming.topics import DEAD, ITEMS, open_log

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.S)
COMMANDS = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the README's application, and a log that it fits."""
    folder = tmp_path_factory.mktemp("readme")
    applications = [text for kind, text in BLOCKS if kind == "python"]
    assert len(applications) == 1 and applications[0].count("\n") < 60
    (folder / "my_app.py").write_text(applications[0])
    rng, n = np.random.default_rng(0), 3_000
    user, film = rng.integers(0, 50, n), rng.integers(0, 200, n)
    columns = {
        "event": np.arange(n),
        "time_ms": 1_700_000_000_000 + np.sort(rng.integers(0, 10**8, n)),
        "user": [f"user {u}" for u in user],
        "film": film,
        "genre": [("drama", "comedy", "crime")[f % 3] for f in film],
        "age": rng.integers(1, 60, n),
        "seconds": rng.integers(1, 300, n),
        "liked": (user + film) % 3 == 0,
    }
    pq.write_table(pa.table(columns), folder / "events.parquet")
    return folder


def test_only_blocks_that_are_tested_here_are_there():
    assert {kind for kind, _ in BLOCKS} == {"sh", "python"}
    assert all(command.split()[0] in ("make", "freshet") for command in COMMANDS)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make")])
def test_the_two_commands_are_targets_of_the_makefile(command):
    """CI runs them for real; here we see what they would run."""
    words = shlex.split(command, comments=True)
    done = subprocess.run([*words, "-n"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert ("freshet demo" if words[1] == "run" else "pytest") in done.stdout


@pytest.fixture(scope="module")
def hashes() -> dict[str, str]:
    return {}


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("freshet replay")])
def test_the_replays_run_and_agree(command, folder, kafka, hashes):
    words = shlex.split(command.replace("localhost:9092", kafka))
    done = subprocess.run(
        [sys.executable, "-m", "streaming", *words[1:], "--json"],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["examples"] == 3_000 and report["events"]["bad"] == 0
    if "--set" in words:
        assert report["state_hash"] not in hashes.values()
        assert (folder / "served.parquet").exists()
    else:
        hashes[command] = report["state_hash"]
        assert len(set(hashes.values())) == 1
    if "--report" in words:
        assert (
            json.loads((folder / "report.json").read_text())["state_hash"] == report["state_hash"]
        )


def test_the_workers_run_side_by_side_and_end(folder, kafka, redis_client, redis_url):
    environ = {"FRESHET_KAFKA__BOOTSTRAP": kafka, "FRESHET_REDIS__URL": redis_url}
    environ |= {"XDG_STATE_HOME": str(folder / "state"), "FRESHET_SERVE__PORT": "0"}
    lines = [c for c in COMMANDS if c.startswith("freshet") and not c.startswith("freshet replay")]
    words = [shlex.split(line, comments=True)[1:] for line in lines]
    create, *workers = words
    assert create[:2] == ["topics", "create"]
    assert [name for name, _ in workers] == ["ingest", "learn", "serve"]
    with ExitStack() as stack:
        with Command(create, environ, folder / "create.log", folder) as command:
            assert command.wait() == 0, command.said.read_text()
        running = [
            stack.enter_context(Command(w, environ, folder / f"{w[0]}.log", folder))
            for w in workers
        ]
        *_, serve = running
        serve.until(lambda: "serving films: http://" in serve.said.read_text())
        feed = ["produce", "my_app.py:app", "--log", "events.parquet", "--end"]
        with Command(feed, environ, folder / "produce.log", folder) as command:
            assert command.wait() == 0, command.said.read_text()
        url = re.search(r"http://\S+", serve.said.read_text())[0]
        serve.until(lambda: httpx.get(f"{url}/readyz").status_code == 200)
        for worker in running:
            worker.stop()
    log = open_log(Kafka(kafka), "films", *TOPICS, ITEMS, DEAD)
    log.delete_topics()
    log.close()


def test_the_picture_is_there():
    for image in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / image).is_file(), image
