"""What a live server scores with is what it logs, what is trained on, and what the pure code makes
of the log, to the last bit; and the offline store holds it too."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path
from threading import Event, Thread

import httpx
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from replays import LOGS
from workers import Command

from features.as_of import as_tree, offsets_of, pack_as_of
from features.events import End
from features.feast_store import FeastStore
from features.windows import Windows
from streaming.__main__ import cli, load_application
from streaming.application import Shown
from streaming.audit import audit, read
from streaming.bench.soak_visitors import Visitors
from streaming.dead_letters import DeadLetters
from streaming.history import read_rows, side_tables
from streaming.learner import Learner
from streaming.produce import Production
from streaming.sections import Kafka
from streaming.topics import create, open_log

IMPRESSIONS = 1_000
PARTITIONS = 4
MODULE = """
from dataclasses import replace
from streaming.apps.kuairand import app as kuairand
tasks = tuple(replace(task, window_ms=1_500) for task in kuairand.schema.tasks)
app = replace(kuairand, name={name!r}, publish_every=10, tick_ms=500,
              schema=replace(kuairand.schema, tasks=tasks))
"""


class System:
    """An application's topics in the time of the wall, with ingest, learner and server on them."""

    def __init__(self, broker: str, redis_url: str, folder: Path, data: Path) -> None:
        self.broker, self.redis_url, self.folder, self.data = broker, redis_url, folder, data
        self.file = folder / "wall_app.py"
        self.file.write_text(MODULE.format(name=f"wall-{uuid.uuid4().hex[:8]}"))
        self.app = load_application(f"{self.file}:app")
        create(Kafka(broker, PARTITIONS), self.app.name)
        self.log = open_log(Kafka(broker), self.app.name)
        self.stop = Event()
        self.lately: deque[Shown] = deque(maxlen=1)

    def worker(self, name: str, *words: str) -> Command:
        environ = {
            "FRESHET_KAFKA__BOOTSTRAP": self.broker,
            "FRESHET_FEATURES__FOLDER": str(self.folder / "features"),
            "FRESHET_LEARN__CHECKPOINTS": str(self.folder / "checkpoints"),
        }
        words = (name, f"{self.file}:app", "--redis", self.redis_url, *words)
        return Command(list(words), environ, self.folder / f"{name}.log")

    @contextmanager
    def flowing(self, visitors: Visitors) -> Iterator[None]:
        """KuaiRand as of now, 500 events a second, while visitors come."""
        path = self.data / LOGS["kuairand"]
        rows, tables = cycle(list(read_rows(self.app, path))[:2_000]), side_tables(self.app, path)

        def shown() -> Iterator[Shown]:
            for number, row in enumerate(rows):
                one = self.app.rows(row, tables)
                if one is not None:
                    visitors.lately.append(one)
                    self.lately.append(one)
                    yield one._replace(id=f"{number}-{one.id}")

        job = Production(
            self.app, self.log, DeadLetters(), 500.0, shift_to_now=True, stop=self.stop
        )
        thread = Thread(target=job.run, args=(shown(), {}))
        thread.start()
        try:
            yield
        finally:
            self.stop.set()
            thread.join()

    def end(self) -> None:
        now_ms = time.time_ns() // 1_000_000
        codec = Windows(self.app.schema, self.app.aggregates).codec
        for topic, partitions in self.log.topics.items():
            for partition in range(partitions):
                self.log.append(topic, None, codec.encode(End(now_ms)), now_ms, partition)
        self.log.flush()


@pytest.fixture(scope="module")
def ranked(kafka, redis_url, data_dir, tmp_path_factory) -> Iterator[System]:
    """After 1,000 impressions were ranked while events flowed; the learner's report is in
    `learn.log`."""
    system = System(kafka, redis_url, tmp_path_factory.mktemp("wall"), data_dir)
    with (
        closing(system.log),
        system.worker("ingest") as ingest,
        system.worker("learn", "--until-end", "--json") as learn,
        system.worker("serve", "--port", "0") as serve,
    ):
        serve.until(lambda: "http://" in serve.said.read_text())
        url = re.search(r"http://\S+", serve.said.read_text())[0]
        with closing(Visitors(system.app, int(url.rpartition(":")[2]), 50.0)) as visitors:
            with system.flowing(visitors):
                serve.until(lambda: 10 * visitors.ranked >= IMPRESSIONS)
                assert visitors.failed == 0
        assert httpx.get(f"{url}/readyz").status_code == 200
        serve.stop()
        system.end()
        assert learn.wait() == 0, learn.said.read_text()
        ingest.stop()
        yield system
        system.log.delete_topics()


def test_what_was_logged_is_what_the_pure_code_says(ranked):
    found = audit(ranked.app, ranked.log)
    assert found["different"] == [] and found["equal"] == found["audited"] >= IMPRESSIONS
    past, scored = read(ranked.app, ranked.log)
    assert sum({"all", "user", "item"} <= set(s.as_of) for s in scored) > IMPRESSIONS / 2
    one = next(s for s in scored if past.logged(s.event).dense.any())
    one.event.floats[0, len(past._plain.codec.dense_fields) + 1] += 1e-3
    assert past.differing(one.event, one.as_of)


def test_what_was_logged_is_what_was_trained_on(ranked):
    _, scored = read(ranked.app, ranked.log)
    learner = Learner(ranked.app, ranked.log.topics, seed=0)
    plain = Windows(ranked.app.schema, ranked.app.aggregates)
    logged = {int(s.event.id[0]): plain.read(replace(s.event, e=s.event.time)) for s in scored}
    trained: set[int] = set()
    end = ranked.log.end_position()
    with closing(ranked.log.reader(dict.fromkeys(end, 0))) as reader:
        while learner.position != end:
            for tp in learner.merge.furthest_behind():
                chunk = reader.read(*tp, timeout_s=0.1 if learner.position[tp] < end[tp] else 0.0)
                if chunk.offsets:
                    break
            else:
                continue
            assert learner.take(chunk) == []
            for step in learner.steps():
                for row, id in enumerate(step.cut.ids.tolist()):
                    if id in logged:
                        inputs = step.cut.batch.inputs
                        mine = (inputs.keys[row], inputs.weights[row], inputs.dense[row])
                        own = logged[id]
                        for a, b in zip(mine, (own.keys, own.weights, own.dense), strict=True):
                            assert a.tobytes() == b[0].tobytes()
                        trained.add(id)
    assert trained == set(logged) and len(trained) >= IMPRESSIONS
    report = json.loads((ranked.folder / "learn.log").read_text())
    assert report["state_hash"] == learner.state_hash()


def test_the_offline_store_holds_what_was_served(ranked):
    """The offline store has every row that was served; and what Feast's point-in-time join finds
    at an impression's time is the pure code's row. Some of the two are one: a row on its way while
    the request was answered, the longer the slower the machine, is on the other side of it."""
    past, scored = read(ranked.app, ranked.log)
    scored = [s for s in scored if {"user", "item"} <= set(s.as_of)][:: len(scored) // 200]
    windows = Windows(ranked.app.schema, ranked.app.aggregates)
    store = FeastStore(ranked.redis_url, ranked.app.name, ranked.folder / "features", windows)
    feast = store.apply()
    ids = windows.codec.id_fields
    same = 0
    for kind, field in (("user", ranked.app.schema.user), ("item", ranked.app.schema.item)):
        keys = [int(s.event.ints[0, ids.index(field)]) for s in scored]
        times = [
            datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=int(s.event.time[0]))
            for s in scored
        ]
        asked = pd.DataFrame(
            {f"{kind}_key": keys, "event_timestamp": times, "n": np.arange(len(keys))}
        )
        features = [f"{kind}:row", f"{kind}:as_of"]
        rows = feast.get_historical_features(asked, features).to_df().sort_values("n")
        parts = pq.read_table(store.folder / "offline" / kind).to_pydict()
        written = zip(parts[f"{kind}_key"], parts["as_of"], strict=True)
        rows_of = dict(zip(written, parts["row"], strict=True))
        for s, key, row, packed in zip(scored, keys, rows["row"], rows["as_of"], strict=True):
            as_of, served = as_tree(bytes(packed)), s.as_of[kind]
            assert bytes(row) == past.row(kind, key, as_of)
            assert rows_of[key, pack_as_of(offsets_of(served))] == past.row(kind, key, served)
            same += as_of == served
    store.close()
    assert same


def test_what_the_model_would_see_is_shown(ranked):
    """`freshet features show`, for people and for machines."""
    user = ranked.app.schema.user
    one = ranked.lately[-1].fields
    words = ["features", "show", f"{ranked.file}:app", str(one[user])]
    words += ["--broker", ranked.broker, "--redis", ranked.redis_url]
    told = _freshet(*words, "--json", "--item", str(one[ranked.app.schema.item]))
    out = json.loads(told.stdout)
    assert out["features"]["user_log_impressions"] > 0 and out["as_of"]["user"]
    assert any(name.startswith("item_") for name in out["features"])
    for_people = _freshet(*words).stdout
    assert "user_log_impressions" in for_people and "user: covers " in for_people
    assert "not in the store" in _freshet(*words[:3], "987654321", *words[4:]).stdout


def test_the_audit_is_a_command(ranked):
    words = ["features", "audit", f"{ranked.file}:app", "--broker", ranked.broker, "--last", "50"]
    assert _freshet(*words).stdout == "50 impressions audited, 50 equal\n"
    assert json.loads(_freshet(*words, "--json").stdout)["equal"] == 50


def _freshet(*words: str) -> Result:
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    return result
