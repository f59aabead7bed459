"""What was served, again: from the log, by an exported graph."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from shop import APP, NOW, SCHEMA, Shop, request

from features.events import IMPRESSIONS
from features.windows import Windows
from model.export import CLOSE, export, predict
from model.snapshot import Snapshot, encode
from model.train import Trainer
from streaming.__main__ import cli
from streaming.redis_registry import RedisRegistry

pytest.importorskip("onnxruntime")


def test_a_thousand_logged_impressions_score_as_they_were_served(tmp_path: Path) -> None:
    shop = Shop()
    try:
        shop.serving(1)
        served = {}
        for user in range(50):
            answer = shop.http.post("/v1/rank", json=request(20, k=20, user=user)).json()
            served |= {i["id"]: i["scores"] for i in answer["impressions"]}
        reader = shop.log.reader()
        values = [v for p in range(2) for v in reader.read(IMPRESSIONS, p).values]
        assert shop.server.versions.current is not None
        scorer = shop.server.versions.current.scorer
    finally:
        shop.close()
    assert len(values) == len(served) == 1_000
    windows = Windows(SCHEMA, APP.aggregates)
    events, bad = windows.codec.decode(IMPRESSIONS, 0, range(1_000), [NOW] * 1_000, values)
    assert not bad
    events.e = events.time
    export(scorer, "onnx", tmp_path / "shop.onnx")
    found = predict("onnx", tmp_path / "shop.onnx", scorer.reads(windows.read(events)))
    wanted = [list(served[json.loads(value)["id"]].values()) for value in values]
    assert np.abs(found - wanted).max() < CLOSE


def test_the_live_version_is_written_and_checked(redis_url: str, tmp_path: Path) -> None:
    from streaming.apps.simulated import app

    file = tmp_path / "app.py"
    name = f"export-{tmp_path.name.replace('_', '-')}"
    file.write_text(
        "from dataclasses import replace\nfrom streaming.apps.simulated import app as simulated\n"
        f"app = replace(simulated, name={name!r})\n"
    )
    trainer = Trainer(app.schema, Windows(app.schema, app.aggregates).layout, app.trainer, seed=0)
    words = ["export", f"{file}:app", "--format", "torch", "--redis", redis_url]
    words += ["--out", str(tmp_path / "x.pt2"), "--json"]
    refused = CliRunner().invoke(cli, words)
    assert "has no version yet" in str(refused.exception)
    with closing(RedisRegistry(redis_url, name)) as registry:
        registry.publish(encode(Snapshot(7, *trainer.snapshot())), 7, 1, {})
    said = json.loads(CliRunner().invoke(cli, words, catch_exceptions=False).output)
    assert (said["version"], said["checked"]) == (7, 1_000) and said["furthest"] < CLOSE
    assert said["bytes"] == (tmp_path / "x.pt2").stat().st_size
