"""`freshet serve` as a process, of an application of which nothing else runs."""

from __future__ import annotations

import json
import re
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
from replays import LOGS
from workers import Command

from features.windows import Windows
from model.snapshot import Snapshot, encode
from model.train import Trainer
from streaming.__main__ import load_application
from streaming.eventlog import Position
from streaming.history import read_rows, side_tables
from streaming.redis_registry import RedisRegistry
from streaming.sections import Kafka
from streaming.topics import create, open_log

BUFFER = 40
LEAST = BUFFER - 5  # a heartbeat in each partition may wait too
MODULE = """
from dataclasses import replace
from streaming.apps.kuairand import app as kuairand
app = replace(kuairand, name={name!r})
"""


class Served:
    """An application with topics and a version, of which nothing else runs; and a request."""

    def __init__(self, broker: str, redis_url: str, folder: Path, data: Path) -> None:
        self.broker, self.redis_url, self.folder = broker, redis_url, folder
        self.file = folder / "served_app.py"
        self.file.write_text(MODULE.format(name=f"served-{uuid.uuid4().hex[:8]}"))
        self.app = app = load_application(f"{self.file}:app")
        create(Kafka(broker, 2), app.name)
        self.log = open_log(Kafka(broker), app.name)
        self.publish(1, {})
        path = data / LOGS["kuairand"]
        shown = app.rows(next(read_rows(app, path)), side_tables(app, path))
        fields = {k: v for k, v in shown.fields.items() if k not in (app.schema.user, "item")}
        fields = {k: v for k, v in fields.items() if k != app.schema.item}
        self.asked = {"user": 7, "candidates": [1, 2, 3, 4, 5], "context": fields, "k": 5}

    def publish(self, version: int, card: dict[str, Any], seed: int = 0) -> None:
        app = self.app
        layout = Windows(app.schema, app.aggregates).layout
        trainer = Trainer(app.schema, layout, app.trainer, seed)
        with closing(RedisRegistry(self.redis_url, app.name)) as registry:
            registry.publish(encode(Snapshot(version, *trainer.snapshot())), version, 1, card)

    def serve(self, name: str = "serve", **more: str) -> Command:
        environ = {
            "FRESHET_KAFKA__BOOTSTRAP": self.broker,
            "FRESHET_SERVE__PORT": "0",
            "FRESHET_SERVE__BUFFER": str(BUFFER),
        }
        words = ["serve", f"{self.file}:app", "--redis", self.redis_url]
        said = self.folder / f"{name}.log"
        said.unlink(missing_ok=True)
        worker = Command(words, environ | more, said)
        worker.until(lambda: "http://" in worker.said.read_text())
        self.http = httpx.Client(base_url=self.url_of(worker), timeout=20)
        worker.until(lambda: self.http.get("/readyz").status_code == 200)
        return worker

    def url_of(self, worker: Command) -> str:
        url: str = re.findall(r"http://\S+", worker.said.read_text())[-1]
        return url

    def rank(self) -> httpx.Response:
        return self.http.post("/v1/rank", json=self.asked)

    def tell(self, impression: str) -> httpx.Response:
        told = {"impression": impression, "user": 7, "item": 1, "kind": "is_click"}
        return self.http.post("/v1/feedback", json=told)

    def metric(self, name: str) -> float:
        lines = self.http.get("/metrics").text.splitlines()
        return sum(float(x.rpartition(" ")[2]) for x in lines if re.match(rf"{name}[ {{]", x))

    def events(self, *topics: str) -> list[dict]:
        """What the topics hold, heartbeats left out."""
        return [json.loads(value) for _, value in self.records(*topics) if value is not None]

    def records(self, *topics: str) -> list[tuple[int, bytes | None]]:
        """(timestamp, value) of all records."""
        end: Position = self.log.end_position()
        out: list[tuple[int, bytes | None]] = []
        with closing(self.log.reader(dict.fromkeys(end, 0))) as reader:
            for tp in end:
                read = 0 if tp[0] in topics else end[tp]
                while read < end[tp]:
                    chunk = reader.read(*tp, timeout_s=1.0)
                    out += zip(chunk.timestamps_ms, chunk.values, strict=True)
                    read = chunk.next_offset if chunk.offsets else read
        return out
