"""An application with a series: from its log to weights, versions and answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shop import Shop

from features.events import IMPRESSIONS, keys
from features.windows import Windows
from model.structure import NetworkConfig
from model.train import Trainer
from streaming.application import Application, Field, Schema, Shown, Task, Told
from streaming.replay import Replay

ROWS, LENGTH = 1_500, 16
SCHEMA = Schema(
    (Field("user", "id"), Field("item", "id"), Field("pulse", "series", shape=(1, LENGTH))),
    (Task("click", "binary", 2_000), Task("stay", "regression", 3_000)),
    "user",
    "item",
)


def rows(row: Any, tables: Any) -> Shown:
    told = [Told("stay", row["stay"], 1_000), *([Told("click", 1, 500)] if row["click"] else [])]
    fields = {name: row[name] for name in ("user", "item", "pulse")}
    return Shown(row["n"], row["time"], fields, told)


APP = Application(
    "pulses", SCHEMA, rows, "time",
    trainer=Trainer.Config(NetworkConfig(width=16, tower=8, experts=2)),
)  # fmt: skip


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A click where the pulse has a peak; one row in 100 tells a pulse that is none."""
    draw = np.random.default_rng(0)
    pulse, click = draw.normal(0, 0.2, (ROWS, LENGTH)), draw.random(ROWS) < 0.5
    pulse[click, draw.integers(0, LENGTH, click.sum())] += 2
    table = {
        "time": 1_600_000_000_000 + 100 * np.arange(ROWS),
        "n": np.arange(ROWS),
        "user": draw.integers(0, 50, ROWS),
        "item": draw.integers(0, 50, ROWS),
        "pulse": [p[: LENGTH - 1] if n % 100 == 7 else p for n, p in enumerate(pulse)],
        "click": click,
        "stay": pulse.sum(1),
    }
    path = tmp_path_factory.mktemp("series") / "log.parquet"
    pq.write_table(pa.table(table), path)
    return path


def run(log: Path, stop_after: int = 10**9, **options: Any) -> dict[str, Any] | None:
    stop, counted = Event(), iter(range(1, 10**9))

    def on_step(*_: object) -> None:
        if next(counted) == stop_after:
            stop.set()

    return Replay(APP, log=log, stop=stop, on_step=on_step, **options).run()


def test_one_log_has_one_hash_and_what_is_no_series_is_told(log: Path, tmp_path: Path) -> None:
    whole = run(log)
    assert whole is not None
    assert whole["examples"] == 2 * (ROWS - ROWS // 100)  # a label of each task closes alone
    assert whole["events"]["bad"] == ROWS // 100 and whole["quarantined"] == 0
    assert whole["tasks"]["click"]["served"]["auc"] > 0.8
    for via, partitions in (("parquet", 1), ("memory", 3)):
        again = run(log, via=via, partitions=partitions)
        assert again is not None and again["state_hash"] == whole["state_hash"], via
    assert run(log, stop_after=11, checkpoints=tmp_path) is None
    again = run(log, checkpoints=tmp_path)
    assert again is not None and again["state_hash"] == whole["state_hash"]


def test_a_pulse_that_is_wrong_is_a_dead_letter_with_its_reason() -> None:
    codec = Windows(SCHEMA, APP.aggregates).codec
    good = {"user": 1, "item": 2, "pulse": np.arange(LENGTH, dtype=np.float32)}
    wrong = [[1.0] * 15, [1.0] * 17, [1e39] * LENGTH, [None] * LENGTH, 3, ["x"] * LENGTH]
    events = [
        codec.encode(codec.impression(n, 5, good | {"pulse": p})) for n, p in enumerate(wrong)
    ]
    events.append(codec.encode(codec.impression(9, 5, good)))
    read, bad = codec.decode(IMPRESSIONS, 0, range(7), [5] * 7, events)
    assert [b.offset for b in bad] == list(range(6))
    assert all("fields.pulse" in b.reason for b in bad), bad
    assert read.id.tolist() == keys([9]).tolist()
    assert read.floats[0, :LENGTH].tolist() == list(range(LENGTH))


def test_a_server_answers_for_a_series_and_logs_it() -> None:
    shop = Shop(app=replace(APP, name="pulses"))
    body = {"user": 7, "candidates": [1, 2, 3], "k": 3, "context": {"pulse": [0.5] * LENGTH}}
    try:
        shop.serving(1)
        first = shop.http.post("/v1/rank", json=body).json()
        lists = {"pulse": [[float(n)] * LENGTH for n in range(3)]}
        each = shop.http.post(
            "/v1/rank", json={**body, "context": {}, "candidate_fields": lists}
        ).json()
        assert len(first["impressions"]) == len(each["impressions"]) == 3
        for wrong in ([0.5] * 15, [1e39] * LENGTH, 3):
            answer = shop.http.post("/v1/rank", json={**body, "context": {"pulse": wrong}})
            assert answer.status_code == 422 and "pulse" in answer.text, answer.text
        said = shop.http.get(f"/v1/explain/{first['request']}").json()
        names = {i["name"] for i in said["impressions"][0]["parts"]}
        assert "pulse" in names and "pulse.0" not in names
        reader = shop.log.reader()
        values = [v for p in range(2) for v in reader.read(IMPRESSIONS, p).values]
    finally:
        shop.close()
    codec = Windows(SCHEMA, APP.aggregates).codec
    events, bad = codec.decode(IMPRESSIONS, 0, range(6), [10**13] * 6, values)
    assert not bad and sorted(events.floats[:, 0].tolist()) == [0, 0.5, 0.5, 0.5, 1, 2]
