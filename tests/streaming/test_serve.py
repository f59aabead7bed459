from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from shop import APP, NOW, SCHEMA, Shop, request

from features.codec import Codec
from features.events import FEEDBACK, IMPRESSIONS
from features.windows import Windows
from model.score import Scorer
from model.snapshot import Snapshot, encode
from model.train import Trainer
from streaming.application import Field, Schema
from streaming.eventlog import MemoryLog, partition_of
from streaming.history import topics
from streaming.manifest import Manifest
from streaming.memory_registry import MemoryRegistry
from streaming.registry import RegistryUnavailable
from streaming.serve import versions
from streaming.serve.candidates import candidate_events, field_values
from streaming.serve.ingest import Ingest
from streaming.serve.metrics import Metrics
from streaming.serve.requests import MAX_BODY_BYTES, MAX_CANDIDATES, MAX_K, Requests
from streaming.serve.server import Server
from streaming.serve.shares import in_share


@pytest.fixture(scope="module")
def shared() -> Iterator[Shop]:
    shop = Shop()
    shop.serving(1)
    yield shop
    shop.close()


@pytest.fixture
def shop() -> Iterator[Shop]:
    shop = Shop()
    yield shop
    shop.close()


def records(log: MemoryLog, topic: str) -> list[tuple[int, bytes]]:
    """(timestamp, value) of all that is in a topic."""
    reader = log.reader()
    chunks = [reader.read(topic, p) for p in range(log.topics[topic])]
    return [pair for c in chunks for pair in zip(c.timestamps_ms, c.values, strict=True)]


def decoded(shop: Shop, topic: str, since: int = 0) -> Any:
    pairs = records(shop.log, topic)[since:]
    events, bad = shop.server.codec.decode(
        topic, 0, list(range(len(pairs))), [t for t, _ in pairs], [v for _, v in pairs]
    )
    assert bad == []
    return events


def test_a_ranking_is_the_best_k_by_the_weighted_probabilities(shared: Shop) -> None:
    answer = shared.http.post("/v1/rank", json=request(50, k=10)).json()
    assert (answer["version"], answer["epoch"]) == (1, 1)
    shown = answer["impressions"]
    scores = [i["score"] for i in shown]
    assert len(shown) == 10 and scores == sorted(scores, reverse=True)
    for i in shown:
        assert set(i["scores"]) == {"click", "buy", "stars"}
        wanted = (3 * i["scores"]["click"] + i["scores"]["buy"]) / 4
        assert i["score"] == pytest.approx(wanted, rel=1e-6)
    everything = shared.http.post("/v1/rank", json=request(50, k=50)).json()["impressions"]
    assert [i["item"] for i in everything][:10] == [i["item"] for i in shown]
    assert len({i["id"] for i in everything + shown}) == 60


def test_only_what_is_returned_is_logged_with_what_it_was_scored_with(shop: Shop) -> None:
    shop.serving(1)
    for kind, value in (("click", 1), ("stars", 4.5)):
        body = {"impression": "x", "kind": kind, "value": value, "user": 7, "item": 101}
        assert shop.http.post("/v1/feedback", json=body).status_code == 202
    shop.until(lambda: shop.metric("freshet_events_ingested_total") == 2)
    shop.now += 700
    answer = shop.http.post("/v1/rank", json=request(20, k=3)).json()
    events = decoded(shop, IMPRESSIONS)
    assert len(events) == 3 and (events.time == NOW + 700).all()
    fresh = Windows(SCHEMA, APP.aggregates)  # knows nothing: all comes from the event itself
    inputs = fresh.read(events)
    assert inputs.dense[:, 1:].any() and inputs.weights[:, -4:].any()
    manifest = shop.registry.latest()
    assert manifest is not None
    trainer = Trainer(SCHEMA, fresh.layout, APP.trainer, seed=1)
    scorer = Scorer(*trainer.snapshot())
    by_click = sorted(i["scores"]["click"] for i in answer["impressions"])
    assert by_click == pytest.approx(sorted(scorer.predict(inputs)[:, 0].tolist()), abs=1e-6)


def test_served_features_are_those_that_the_log_says(shop: Shop) -> None:
    shop.serving(1)
    shop.http.post("/v1/rank", json=request(20, k=20))
    shop.until(lambda: shop.metric("freshet_events_ingested_total") == 20)
    for item in (101, 103):
        body = {"impression": "x", "kind": "click", "user": 7, "item": item}
        shop.http.post("/v1/feedback", json=body)
    shop.until(lambda: shop.metric("freshet_events_ingested_total") == 22)
    shop.now += 5
    before = len(records(shop.log, IMPRESSIONS))
    shop.http.post("/v1/rank", json=request(2, candidates=[101, 102], k=2))
    own = Windows(SCHEMA, APP.aggregates)
    past = decoded(shop, IMPRESSIONS)
    new = past.take(past.time == shop.now)
    past, told = past.take(past.time < shop.now), decoded(shop, FEEDBACK)
    assert len(past) == before and len(new) == 2
    for events in (past, told, new):
        events.e = events.time
    own.update(past)
    own.update(told)
    unlogged = new.take(np.ones(2, bool))
    unlogged.floats = new.floats.copy()
    unlogged.floats[:, 1] = 0.0
    wanted, logged = own.read(unlogged), own.read(new)
    assert np.array_equal(wanted.dense, logged.dense)
    assert np.array_equal(wanted.keys, logged.keys)
    assert np.array_equal(wanted.weights, logged.weights)


def test_an_event_delivered_twice_counts_once_in_the_features(shop: Shop) -> None:
    shop.serving(1)
    for _ in range(2):
        body = {"impression": "x", "kind": "click", "user": 7, "item": 101, "id": "once"}
        shop.http.post("/v1/feedback", json=body)
    shop.until(lambda: shop.metric("freshet_events_ingested_total") == 2)
    assert int(shop.ingest.windows.counts.sum()) == 1


def test_feedback_is_taken_and_keyed_by_user(shared: Shop) -> None:
    before = len(records(shared.log, FEEDBACK))
    body = {"impression": "a-1", "kind": "stars", "value": 3.5, "user": "zoë", "item": "b"}
    answer = shared.http.post("/v1/feedback", json=body)
    assert answer.status_code == 202 and answer.json()["id"]
    timestamp, value = records(shared.log, FEEDBACK)[-1]
    assert len(records(shared.log, FEEDBACK)) == before + 1 and timestamp == NOW
    event = json.loads(value)
    assert event | body == event and event["type"] == "feedback" and event["time_ms"] == NOW
    decoded(shared, FEEDBACK)
    for user in (1, 2, 3, 4, "zoë"):
        before_of = shared.log.end_position()
        shared.http.post("/v1/feedback", json={**body, "user": user})
        grown = {tp for tp, end in shared.log.end_position().items() if end > before_of[tp]}
        assert grown == {(FEEDBACK, partition_of(str(user).encode(), 2))}


def test_candidates_in_columns_are_the_impressions_that_the_log_would_give() -> None:
    schema = Schema(
        (Field("brands", "ids", size=2), *SCHEMA.fields, Field("stock", "dense")),
        SCHEMA.tasks, "user", "item",
    )  # fmt: skip
    codec = Codec(schema)
    fields = {"price": [1, 2.5, 3], "brands": [["b", 9, 8], [], [7]], "hour": [1, "two", 3]}
    body = {"user": "u", "candidates": [5, "six", 7], "candidate_fields": fields}
    body["context"] = {"tags": ["x"], "stock": 4}
    asked = Requests(schema).rank(json.dumps(body).encode())
    values_of = field_values(codec, asked)
    values = [codec.encode(codec.impression(n, NOW, values_of(n))) for n in range(3)]
    wanted, bad = codec.decode(IMPRESSIONS, 0, [0, 1, 2], [NOW] * 3, values)
    events = candidate_events(codec, asked, NOW)
    assert bad == []
    for name in ("ints", "floats", "time", "rank"):
        assert np.array_equal(getattr(events, name), getattr(wanted, name)), name


def change(**kw: Any) -> bytes:
    return json.dumps(request(**kw)).encode()


def tell(**kw: Any) -> bytes:
    body = {"impression": 1, "kind": "click", "value": 1, "user": 7, "item": 3, **kw}
    return json.dumps({k: v for k, v in body.items() if v is not None}).encode()


LONG = "x" * 65
RANKS = [
    (b"", 400, "", ""),
    (b"{", 400, "", ""),
    (b"[" * 100_000, 422, "object", "#"),
    (b'{"user": 1, "candidates": [1], "context": {"price": NaN}}', 400, "", ""),
    (b'{"user": 1, "candidates": [1], "context": {"price": 1e999}}', 422, "", "#/context/price"),
    (b'{"user": "\\ud800", "candidates": [1]}', 400, "", ""),
    (b"[]", 422, "object", "#"),
    (change(user=None), 422, "'user' is missing", "#/user"),
    (change(user=1.5), 422, "float", "#/user"),
    (change(user=-1), 422, ">= 0", "#/user"),
    (change(user=2**63), 422, "<= 9223372036854775807", "#/user"),
    (change(user=""), 422, "length", "#/user"),
    (change(user=LONG), 422, "length", "#/user"),
    (change(candidates=[]), 422, "length", "#/candidates"),
    (change(candidates=5), 422, "array", "#/candidates"),
    (change(candidates=[1, 2, {}, 4]), 422, "object", "#/candidates/2"),
    (change(candidates=[1, 2, 1, 4]), 422, "twice", "#/candidates"),
    (change(candidates=list(range(MAX_CANDIDATES + 1))), 422, "length", "#/candidates"),
    (change(k=0), 422, ">= 1", "#/k"),
    (change(k=MAX_K + 1), 422, f"<= {MAX_K}", "#/k"),
    (change(k="3"), 422, "str", "#/k"),
    (change(usr=3), 422, "did you mean 'user'?", "#/usr"),
    (change(context={"hour": 1}), 422, "'tags' is missing", "#/context/tags"),
    (change(context={"hour": 1, "tags": [], "pricee": 1}), 422, "'price'", "#/context/pricee"),
    (change(context={"hour": 1, "tags": [], "price": 1}), 422, "twice", "#/context/price"),
    (change(context={"hour": 1, "tags": [1, None]}), 422, "null", "#/context/tags/1"),
    (change(context={"hour": 1, "tags": [1] * 1001}), 422, "length", "#/context/tags"),
    (change(context={"hour": 1, "user": 1}), 422, "no field 'user'", "#/context/user"),
    (change(candidate_fields={"price": [1]}), 422, "one a candidate", "#/candidate_fields/price"),
    (
        change(candidate_fields={"price": [1, 1e300, 1, 1]}),
        422,
        "32 bits",
        "#/candidate_fields/price/1",
    ),
    (
        change(context={"tags": ["x" * 64] * 1000, "hour": 1}),
        422,
        "65536",
        "#/context",
    ),
]
TELLS = [
    (b"{}", 422, "missing", "#/impression"),
    (tell(kind="clik"), 422, "did you mean 'click'?", "#/kind"),
    (tell(kind=None), 422, "missing", "#/kind"),
    (tell(value=2), 422, "0 or 1", "#/value"),
    (tell(value="1"), 422, "str", "#/value"),
    (tell(item=None), 422, "missing", "#/item"),
    (tell(user=None), 422, "missing", "#/user"),
    (tell(impression=LONG), 422, "length", "#/impression"),
    (tell(valu=1), 422, "did you mean 'value'?", "#/valu"),
]


@pytest.mark.parametrize(
    "path, body, status, says, pointer",
    [("/v1/rank", *r) for r in RANKS] + [("/v1/feedback", *t) for t in TELLS],
)
def test_a_bad_request_is_a_problem_that_names_the_field_and_logs_nothing(
    shared: Shop, path: str, body: bytes, status: int, says: str, pointer: str
) -> None:
    before = [len(records(shared.log, t)) for t in (IMPRESSIONS, FEEDBACK)]
    answer = shared.http.post(path, content=body, headers={"content-type": "application/json"})
    problem = answer.json()
    assert answer.status_code == status == problem["status"], problem
    assert answer.headers["content-type"] == "application/problem+json"
    assert says in problem["detail"] and problem.get("pointer", "") == pointer, problem
    assert problem["type"].startswith("urn:freshet:problem:") and problem["title"]
    assert [len(records(shared.log, t)) for t in (IMPRESSIONS, FEEDBACK)] == before


def test_other_refusals_are_problems_too(shared: Shop) -> None:
    http, json_type = shared.http, {"content-type": "application/json"}
    large = b" " * (MAX_BODY_BYTES + 1)
    answers = {
        404: [http.get("/v1/nothing"), http.get("/v1/example?user=")],
        405: [http.get("/v1/rank"), http.post("/metrics")],
        415: [http.post("/v1/rank", content=b"{}"), http.post("/v1/feedback", data={"a": "1"})],
        413: [
            http.post("/v1/rank", content=large, headers=json_type),
            http.post("/v1/rank", content=iter([large[:-1], b"  "]), headers=json_type),
        ],
    }
    for status, them in answers.items():
        for answer in them:
            assert answer.status_code == status == answer.json()["status"]
            assert answer.headers["content-type"] == "application/problem+json"
    assert answers[405][0].headers["allow"] == "POST"


def test_an_example_says_nothing_of_the_user_who_asked_last(shared: Shop) -> None:
    asked = request()
    assert shared.http.post("/v1/rank", json=asked).status_code == 200
    example = shared.http.get("/v1/example?user=31").json()
    assert example["user"] == 31 and example["candidates"] == asked["candidates"]
    assert set(example["context"]) == set(asked["context"])
    assert not any(example["context"].values()) and any(asked["context"].values())
    assert shared.http.post("/v1/rank", json=example).status_code == 200


def test_hostile_requests_are_refused_and_never_a_failure(
    shared: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    json_type = {"content-type": "application/json"}
    failures = shared.metric("freshet_requests_total", route="rank", status="500")
    crafted = shared.http.post("/v1/rank", json={**request(), "x` - at `$.y": 1})
    assert crafted.status_code == 422
    long = shared.http.post("/v1/rank", json={**request(), "x" * 100_000: 1})
    assert long.status_code == 422 and len(long.content) < 1_000
    odd = shared.http.post("/v1/rank", json={**request(), "a\nb": 1})
    assert odd.json()["pointer"] == "#/a%0Ab"
    for coding, status in (("gzip", 400), ("br", 415)):
        said = {"content-encoding": coding}
        assert shared.http.post("/v1/rank", json=request(), headers=said).status_code == status
    for answer in (crafted, shared.http.get("/v1/nothing")):
        assert answer.headers["x-content-type-options"] == "nosniff"
    monkeypatch.setattr("streaming.serve.requests.BODY_S", 0.2)
    host, port = shared.listener.url.removeprefix("http://").split(":")
    head = b"POST /v1/rank HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with socket.create_connection((host, int(port))) as slow:
        slow.sendall(head + b"content-length: 50\r\n\r\n{")
        assert b" 408 " in slow.recv(4096).split(b"\r\n")[0]
    with socket.create_connection((host, int(port))) as gone:
        gone.sendall(head + b"content-length: 50\r\n\r\n{")
    assert shared.http.post("/v1/rank", json=request(), headers=json_type).status_code == 200
    assert shared.metric("freshet_requests_total", route="rank", status="500") == failures


def test_bytes_that_are_of_no_request_keep_no_connection(
    shared: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streaming.serve.listen.HEAD_S", 0.2)
    host, port = shared.listener.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as stray:
        stray.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b" 200 " in stray.recv(4096).split(b"\r\n")[0]
        stray.sendall(b"\r\n")
        assert stray.recv(4096) == b"", "closed by the server"


def test_a_failure_within_is_a_500_that_tells_nothing(
    shared: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(shared.server, "version", broken)
    answer = shared.http.get("/v1/status")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text and "Traceback" not in answer.text


def test_not_ready_until_a_version_is_loaded(shop: Shop) -> None:
    assert shop.http.get("/healthz").status_code == 200
    for answer in (shop.http.get("/readyz"), shop.http.post("/v1/rank", json=request())):
        assert answer.status_code == 503 and answer.headers["retry-after"]
        assert answer.json()["type"] == "urn:freshet:problem:not-ready"
    shop.serving(3)
    shop.now += 1_500
    ready = shop.http.get("/readyz")
    assert ready.status_code == 200 and (ready.json()["version"], ready.json()["age_s"]) == (3, 1.5)
    assert shop.metric("freshet_version_age_seconds") == 1.5
    assert shop.http.post("/v1/rank", json=request()).json()["version"] == 3
    shop.serving(4)
    assert shop.http.post("/v1/rank", json=request()).json()["version"] == 4


def test_a_version_that_is_corrupt_or_unfit_leaves_the_one_before(shop: Shop) -> None:
    shop.serving(1)
    shop.registry.publish(b"no snapshot", 2, 1, {})
    shop.until(lambda: shop.metric("freshet_versions_refused_total", reason="unfit") == 1)
    other = Schema(SCHEMA.fields, SCHEMA.tasks[:2], "user", "item")
    trainer = Trainer(other, Windows(SCHEMA, APP.aggregates).layout, APP.trainer, seed=0)
    shop.registry.publish(encode(Snapshot(3, *trainer.snapshot())), 3, 1, {})
    shop.until(lambda: shop.metric("freshet_versions_refused_total", reason="unfit") == 2)
    assert shop.http.post("/v1/rank", json=request()).json()["version"] == 1
    shop.serving(4)


def test_a_version_whose_bytes_changed_in_redis_is_not_served(redis_client: Any) -> None:
    from streaming.redis_registry import RedisRegistry

    where = redis_client.connection_pool.connection_kwargs
    registry = RedisRegistry(f"redis://127.0.0.1:{where['port']}/0", "shop")
    trainer = Trainer(SCHEMA, Windows(SCHEMA, APP.aggregates).layout, APP.trainer, seed=1)
    data = encode(Snapshot(1, *trainer.snapshot()))
    registry.publish(data, 1, 1, {})
    chunk = next(redis_client.scan_iter("*:chunk:*"))
    redis_client.setrange(chunk, 1000, b"\x00\x01\x02")
    log = MemoryLog(topics(1))
    server = Server(APP, log, registry, Ingest(APP, log, Metrics()))
    server.start()
    try:
        deadline = time.monotonic() + 20
        metrics = server.metrics.registry
        while not metrics.get_sample_value("freshet_versions_refused_total", {"reason": "corrupt"}):
            assert time.monotonic() < deadline
        assert server.versions.current is None
        registry.publish(encode(Snapshot(2, *trainer.snapshot())), 2, 1, {})
        while server.versions.current is None:
            assert time.monotonic() < deadline
        assert server.versions.current.manifest.version == 2
    finally:
        server.close()
        registry.close()


def test_the_page_is_told_which_newer_version_is_held_and_why(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(versions, "LOOK_S", 0.0)
    registry, log = MemoryRegistry(), MemoryLog(topics(1))
    trainer = Trainer(SCHEMA, Windows(SCHEMA, APP.aggregates).layout, APP.trainer, seed=1)
    registry.publish(encode(Snapshot(2, *trainer.snapshot())), 2, 1, {})
    registry.hold(1, "older than what is served")
    server = Server(APP, log, registry, Ingest(APP, log, Metrics()))
    server.start()
    try:
        while server.versions.current is None or not server.versions.held:
            time.sleep(0.01)
        assert server.status()["held"] is None
        registry.hold(3, "worse than version 2")
        registry.publish(encode(Snapshot(3, *trainer.snapshot())), 3, 1, {})
        while server.status()["held"] is None:
            time.sleep(0.01)
        assert server.status()["held"] == {"version": 3, "reason": "worse than version 2"}
        assert server.versions.current.manifest.version == 2
    finally:
        server.close()


def test_a_share_of_users_is_served_the_canary_until_it_is_all_or_taken_back(shop: Shop) -> None:
    shop.serving(1)
    users = list(range(30))
    share = {user for user in users if in_share(user, 0.5, "canary")}
    assert 5 < len(share) < 25

    def served() -> dict[int, str]:
        answers = {u: shop.http.post("/v1/rank", json=request(user=u)) for u in users}
        return {user: answer.headers["x-freshet-version"] for user, answer in answers.items()}

    def canary() -> object:
        return shop.http.get("/v1/status").json()["canary"]

    shop.publish(2, live=False)
    assert shop.registry.give(2, 0.5, 1)
    shop.until(lambda: canary() == {"version": 2, "share": 0.5})
    assert served() == {user: "2" if user in share else "1" for user in users}
    assert shop.registry.advance(2, 1, "passed")
    shop.until(lambda: canary() is None)
    assert set(served().values()) == {"2"}
    unfit = {"format": 0}
    shop.publish(3, meta=unfit, live=False)
    assert shop.registry.give(3, 0.5, 1)
    shop.until(lambda: shop.metric("freshet_versions_refused_total", reason="unfit"))
    assert canary() is None and set(served().values()) == {"2"}
    shop.publish(4, live=False)
    assert shop.registry.give(4, 0.5, 1)
    shop.until(canary)
    shop.registry.hold(4, "worse than version 2")
    shop.until(lambda: canary() is None)
    assert set(served().values()) == {"2"}


def test_a_canary_that_was_left_behind_does_not_come_back_to_its_users(shop: Shop) -> None:
    shop.serving(1)
    shop.publish(2, live=False)
    assert shop.registry.give(2, 1.0, 1)
    shop.until(lambda: shop.server.versions.canary)
    shop.serving(3)
    shop.until(lambda: shop.server.versions.canary is None)
    trial = shop.registry.trial()
    assert trial is not None and trial.manifest.version == 2


def test_a_canary_that_could_not_be_had_at_once_is_served_later(shop: Shop) -> None:
    shop.serving(1)
    fetch, fails = shop.registry.fetch, [RegistryUnavailable("away")]

    def failing(manifest: Manifest) -> bytes:
        if fails:
            raise fails.pop()
        return fetch(manifest)

    shop.registry.fetch = failing  # type: ignore[method-assign]
    shop.publish(2, live=False)
    assert shop.registry.give(2, 0.5, 1)
    shop.until(lambda: shop.http.get("/v1/status").json()["canary"])
    assert not fails


def test_too_many_rankings_are_refused_while_the_rest_answers(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shop.listener.api.scoring, "most", 2)
    shop.serving(1)
    with ThreadPoolExecutor(6) as pool:
        with shop.ingest.lock:  # the first one can't go on
            asked = [pool.submit(shop.http.post, "/v1/rank", json=request()) for _ in range(6)]
            shop.until(lambda: shop.metric("freshet_requests_total", route="rank", status="503"))
            assert shop.http.get("/healthz").status_code == 200
            shop.until(lambda: sum(a.done() for a in asked) == 4)
        answers = [a.result() for a in asked]
    assert sorted(a.status_code for a in answers) == [200] * 2 + [503] * 4
    refused = next(a for a in answers if a.status_code == 503)
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["type"] == "urn:freshet:problem:overloaded"


class FullLog(MemoryLog):
    """Takes nothing."""

    def append(self, *_: Any, **__: Any) -> None:
        raise ConnectionError("no broker")


def test_a_log_that_takes_nothing_stops_feedback_but_no_ranking() -> None:
    shop = Shop(FullLog(topics(1)))
    try:
        shop.serving(1)
        answer = shop.http.post("/v1/rank", json=request())
        assert answer.status_code == 200 and len(answer.json()["impressions"]) == 3
        assert shop.metric("freshet_events_not_logged_total", topic="impressions") == 3
        body = {"impression": 1, "kind": "click", "user": 7, "item": 3}
        refused = shop.http.post("/v1/feedback", json=body)
        assert refused.status_code == 503
        assert refused.json()["type"] == "urn:freshet:problem:log-unavailable"
    finally:
        shop.close()


def test_metrics_have_units_and_say_what_happened(shared: Shop) -> None:
    shared.http.post("/v1/rank", json=request(11))
    shared.http.get("/v1/rank")
    text = shared.http.get("/metrics").text
    names = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if line[0] != "#"}
    assert all(name.startswith("freshet_") for name in names)
    app = f'application="{shared.server.app.name}"'
    for line in (
        f'freshet_requests_total{{{app},route="rank",status="200"}}',
        f"freshet_version{{{app}}} 1.0",
        f"freshet_version_age_seconds{{{app}}} 0.0",
        f'freshet_request_seconds_count{{{app},route="rank"}}',
        f'freshet_events_logged_total{{{app},topic="impressions"}}',
    ):
        assert line in text
    assert shared.metric("freshet_candidates_scored_total") >= 11


def test_the_page_asks_nobody_else(shared: Shop) -> None:
    answer = shared.http.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    assert "connect-src 'self'" in answer.headers["content-security-policy"]
    assert "//" not in answer.text.replace("http://www.w3.org/2000/svg", "").replace("// ", "")
