"""A learner that begins with a model saved by another application, of another schema."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from click.testing import CliRunner
from replays import predictions
from sklearn.metrics import roc_auc_score

from features.windows import Windows
from model.snapshot import Snapshot, encode
from streaming.__main__ import cli
from streaming.application import Application, Field, Schema, Shown, Task, Told
from streaming.checkpoint import Checkpoints
from streaming.history import produce
from streaming.live import Live
from streaming.progress import summary
from streaming.replay import Replay
from streaming.sections import Kafka
from streaming.topics import create, open_log

ROWS = 4_000
USER, ITEM, MAKER = (Field(name, "id") for name in ("user", "item", "maker"))
CLICK, STAY, LIKE = (
    Task("click", "binary", 50),
    Task("stay", "regression", 50),
    Task("like", "binary", 50),
)


def rows(schema: Schema, seed: int, first: int) -> Iterator[Shown]:
    rng = np.random.default_rng(seed)
    users, items = rng.integers(0, 40, ROWS).tolist(), rng.integers(0, 60, ROWS).tolist()
    for i, (user, item) in enumerate(zip(users, items, strict=True), first):
        told = [Told("click", user % 4 + item % 3 > 2, 10), Told("stay", user % 7, 20)]
        told.append(Told("like", item % 2, 30))
        known = {"user": user, "item": item, "maker": item % 11}
        fields = {field.name: known[field.name] for field in schema.fields}
        of_tasks = [t for t in told if t.kind in schema.output_slices]
        yield Shown(i, 10**12 + 10 * i, fields, of_tasks)


def application(name: str, schema: Schema, seed: int, first: int = 0) -> Application:
    return Application(
        name, schema, rows=lambda row, tables: None, source=lambda: rows(schema, seed, first)
    )


OLD = application("old", Schema((USER, ITEM), (CLICK, STAY), "user", "item"), 0)
NEW = application(
    "new", Schema((MAKER, USER, ITEM), (LIKE, CLICK, STAY), "user", "item"), 1, first=ROWS
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """Checkpoints of the old application."""
    folder = tmp_path_factory.mktemp("old")
    assert Replay(OLD, checkpoints=folder).run()
    return folder


def early(path: Path, task: str) -> float:
    served = predictions(path)
    of_task = served[(served.task == task)].iloc[:600]
    return float(roc_auc_score(of_task.label, of_task.prediction))


def test_what_was_learnt_serves_from_the_first_impression_on(saved, tmp_path) -> None:
    cold = Replay(NEW, predictions=tmp_path / "cold").run()
    warm = Replay(NEW, predictions=tmp_path / "warm", warm_start=saved).run()
    assert cold and warm and cold["warm_start"] is None
    assert early(tmp_path / "warm", "click") > 0.98 > 0.9 > early(tmp_path / "cold", "click")
    told = warm["warm_start"]
    assert told["tasks"] == {"taken": ["click", "stay"], "new": ["like"], "left": []}
    assert told["tables"] == {"taken": ["user", "item"], "new": ["maker"], "left": []}
    assert told["ids"] == 40 + 60
    assert "tasks click, stay (new like); tables user, item (new maker); 100 ids" in summary(warm)


def test_a_warm_started_replay_that_is_stopped_goes_on_to_the_same_hash(saved, tmp_path) -> None:
    whole = Replay(NEW, warm_start=saved).run()
    stop, counted = Event(), iter(range(10**9))

    def on_step(*_: object) -> None:
        if next(counted) == 30:
            stop.set()

    job = Replay(NEW, warm_start=saved, checkpoints=tmp_path)
    assert replace(job, stop=stop, on_step=on_step).run() is None
    again = job.run()
    assert whole and again and again["state_hash"] == whole["state_hash"]
    assert again["warm_start"] == whole["warm_start"]


def test_a_live_learner_begins_with_it_once_and_is_the_replay_of_its_topics(
    saved, tmp_path, kafka, redis_url
) -> None:
    app = replace(NEW, name=f"new-{uuid.uuid4().hex[:8]}")
    broker = Kafka(kafka, 1)
    create(broker, app.name)
    with closing(open_log(broker, app.name)) as log:
        produce(app, log, Windows(app.schema, app.aggregates).codec, rows(app.schema, 1, ROWS), {})
    live = Live(
        app, broker, redis_url, warm_start=saved, checkpoints=tmp_path / "live", until_end=True
    )
    first, again = live.run(), live.run()
    replayed = Replay(app, live=True, kafka=broker, warm_start=saved).run()
    assert first and again and replayed
    assert first["state_hash"] == again["state_hash"] == replayed["state_hash"]
    assert first["warm_start"] == again["warm_start"] == replayed["warm_start"] is not None


def test_a_version_is_a_model_to_begin_with_of_which_only_named_parts_learn(tmp_path) -> None:
    versions: list[Snapshot] = []

    def on_step(learner, step) -> None:
        versions.append(Snapshot(learner.trainer.steps, *learner.trainer.snapshot()))

    job = Replay(NEW, limit=640, on_step=on_step)
    job.run()
    first, file = versions[-1], tmp_path / "version.safetensors"
    file.write_bytes(encode(first))
    part = NEW.with_settings(['trainer.train_only=["towers.like"]'])
    assert replace(job, app=part, warm_start=file).run()
    last = versions[-1]
    moved = {n for n in first.arrays if not np.array_equal(first.arrays[n], last.arrays[n])}
    assert moved == {f"network/towers.{n}" for n in ("hidden", "hidden_bias", "out", "out_bias")}
    assert (first.arrays["network/towers.out"][1:] == last.arrays["network/towers.out"][1:]).all()


def test_a_place_with_no_model_is_named(saved, tmp_path) -> None:
    (tmp_path / "file").write_bytes(b"no model")
    for path, said in (
        (tmp_path, "the folder holds no whole checkpoint"),
        (tmp_path / "file", "can't be read: "),
        (tmp_path / "nowhere", "can't be read: No such file"),
    ):
        ran = CliRunner().invoke(cli, ["replay", "simulated", "--warm-start", str(path)])
        assert ran.exit_code != 0 and said in ran.output + str(ran.exception)
    assert Checkpoints(saved).newest() is not None
