"""A shadow learns beside the learner that is served, is compared, and promoted by the log."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest
from workers import Command

from model.snapshot import Snapshot, encode
from streaming.__main__ import load_application
from streaming.dead_letters import DeadLetters
from streaming.history import side_tables
from streaming.produce import Production
from streaming.redis_registry import RedisRegistry
from streaming.replay import Replay
from streaming.sections import Kafka
from streaming.served_run import ServedRun
from streaming.shadow import Promotion, run_of
from streaming.topics import create, open_log

ROWS = 2_400
SET = "trainer.dense.lr=0.2"
MODULE = """
from dataclasses import replace
from streaming.apps.simulated import app
app = replace(app, name={name!r}, publish_every=4)
"""


class Learning:
    """Live topics of simulated visits, and the processes that work on them."""

    def __init__(self, broker: str, url: str, folder: Path) -> None:
        self.broker, self.url, self.folder = broker, url, folder
        name = f"shadow-{uuid.uuid4().hex[:8]}"
        self.app = replace(load_application("simulated"), name=name, publish_every=4)
        self.file = folder / "my_app.py"
        self.file.write_text(MODULE.format(name=name))
        create(Kafka(broker, 2), name)

    def produce(self, skip: int = 0, end: bool = False) -> None:
        assert self.app.source is not None
        with closing(open_log(Kafka(self.broker), self.app.name)) as log:
            Production(self.app, log, DeadLetters(), skip=skip, end=end).run(
                islice(self.app.source(), ROWS), side_tables(self.app, None)
            )

    def run(self, said: str, *words: str, **more: str) -> Command:
        name, *rest = words
        environ = {
            "FRESHET_KAFKA__BOOTSTRAP": self.broker,
            "FRESHET_SERVE__PORT": "0",
            "FRESHET_LEARN__CHECKPOINTS": str(self.folder / "checkpoints"),
        } | more
        given = [name, f"{self.file}:app", *rest, "--redis", self.url]
        return Command(given, environ, self.folder / f"{said}.log")

    def replayed(self, *settings: str) -> str:
        app = self.app.with_settings(settings)
        report = Replay(app, live=True, kafka=Kafka(self.broker)).run()
        assert report is not None
        return str(report["state_hash"])


@pytest.fixture
def learning(kafka, redis_url, redis_client, tmp_path) -> Iterator[Learning]:
    made = Learning(kafka, redis_url, tmp_path)
    yield made
    with closing(open_log(Kafka(kafka), made.app.name)) as log:
        log.delete_topics()


def test_a_shadow_is_compared_and_promoted_and_replays_are_the_same(learning: Learning) -> None:
    learning.produce()
    ends = ("--until-end", "--json", "--seed", "0")
    with (
        learning.run("learn", "learn", *ends) as first,
        learning.run("shadow", "learn", *ends, "--shadow", "fast", "--set", SET) as shadow,
        learning.run(
            "serve", "serve", FRESHET_SERVE__SHADOW="fast", FRESHET_SERVE__SHADOW_SHARE="1"
        ) as serve,
    ):
        served = ServedRun(learning.url, learning.app.name)
        live, fast = (
            RedisRegistry(learning.url, learning.app.name, run) for run in ("live", "shadow-fast")
        )
        schema = learning.app.schema
        others = {f.name for f in schema.fields} - {schema.user, schema.item}
        asked = {"user": 1, "candidates": [1, 2, 3], "context": dict.fromkeys(others, 1), "k": 2}
        serve.until(lambda: "http://" in serve.said.read_text())
        url = re.findall(r"http://\S+", serve.said.read_text())[-1]
        with httpx.Client(base_url=url, timeout=20) as http:
            first.until(lambda: http.get("/readyz").status_code == 200)

            def status() -> dict[str, Any]:
                shown = http.post("/v1/rank", json=asked)
                assert shown.status_code == 200, shown.text
                answer: dict[str, Any] = http.get("/v1/status").json()
                return answer

            shadow.until(lambda: status()["shadow"]["compared"])
            said = status()["shadow"]
            assert 0 <= said["overlap"] <= 1 and said["difference"].keys() == {
                t.name for t in learning.app.schema.tasks
            }
            assert status()["version"]["sha256"] in {m.sha256 for m in live.versions()}
            with learning.run("promote", "promote", "fast", "--broker", learning.broker) as told:
                assert told.wait() == 0, told.said.read_text()
            shadow.until(lambda: status() and served.name() == "shadow-fast")
            shas = lambda: {m.sha256 for m in fast.versions()}  # noqa: E731
            serve.until(lambda: status()["version"]["sha256"] in shas())
            assert live.latest() is not None, "the first one's versions stay"
        serve.stop()
        learning.produce(skip=ROWS, end=True)
        reports = []
        for learner in (first, shadow):
            assert learner.wait() == 0
            said = learner.said.read_text()
            reports.append(json.loads(said[said.index("{\n") :]))
        for one in (served, live, fast):
            one.close()
    hashes = [report["state_hash"] for report in reports]
    assert hashes[0] != hashes[1]
    assert hashes == [learning.replayed(), learning.replayed(SET)]


def test_the_last_promotion_of_the_log_counts_whenever_it_is_told(redis_url, redis_client):
    with (
        closing(ServedRun(redis_url, "shop")) as served,
        closing(RedisRegistry(redis_url, "shop", run_of("x"))) as registry,
    ):
        assert served.name() == "live"
        assert not served.move(Promotion("2", "shadow-x")) and served.name() == "live"
        registry.publish(encode(Snapshot(1, {}, {})), 1, 1, {})
        assert served.move(Promotion("2", "shadow-x")) and served.name() == "shadow-x"
        followed = served.registry()
        assert followed is served.registry() and followed.latest().version == 1
        with closing(RedisRegistry(redis_url, "shop")) as live:
            live.publish(encode(Snapshot(1, {}, {})), 1, 1, {})
        assert served.move(Promotion("1", "live")) and served.name() == "shadow-x", "told late"
        assert served.move(Promotion("3", "live")) and served.registry() is not followed


@pytest.mark.parametrize("name", ["a b", "../x", "-x", "x" * 51])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="shadow is"):
        run_of(name)
