"""What HTTP promises beside its answers: its description, names, tokens, limits, ends."""

from __future__ import annotations

import gzip
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import httpx
import psutil
import pytest
from shop import NOW, SCHEMA, Shop, request

from streaming.bench.load import load
from streaming.client import Client, Refused, Unreachable
from streaming.sections import Secret
from streaming.serve.access import Access
from streaming.serve.explain import OPEN
from streaming.serve.requests import MAX_BODY_BYTES


@pytest.fixture(scope="module")
def shared() -> Iterator[Shop]:
    shop = Shop()
    shop.serving(1)
    yield shop
    shop.close()


def test_the_description_is_of_the_applications_fields_and_tasks(shared: Shop) -> None:
    answer = shared.http.get("/openapi.json")
    document = answer.json()
    assert document["openapi"].startswith("3.1")
    schemas = document["components"]["schemas"]
    assert set(schemas["Context"]["properties"]) == {"tags", "hour", "price"}
    assert set(schemas["Weights"]["properties"]) == {t.name for t in SCHEMA.tasks}
    same = shared.http.get("/openapi.json", headers={"if-none-match": answer.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    for path in document["paths"]:
        asked = path.replace("{request}", "x").replace("{name}", "shop")
        methods = document["paths"][path]
        got = shared.http.get(asked) if "get" in methods else shared.http.post(asked, content=b"")
        assert got.status_code in (200, 403, 404, 415), path


def test_an_answer_names_its_request_and_a_ranking_its_version(shared: Shop) -> None:
    named = shared.http.post("/v1/rank", json=request(), headers={"x-request-id": "mine-1"})
    assert named.headers["x-request-id"] == named.json()["request"] == "mine-1"
    assert named.headers["x-freshet-version"] == "1"
    bad = shared.http.post("/v1/rank", json={}, headers={"x-request-id": "mine 2"})
    name = bad.headers["x-request-id"]
    assert name != "mine 2" and bad.json()["instance"] == f"urn:freshet:request:{name}"
    assert shared.http.get("/v1/nothing").status_code == 404


def test_bodies_are_compressed_both_ways_and_a_bomb_is_refused(shared: Shop) -> None:
    said = {"content-encoding": "gzip", "content-type": "application/json"}
    body = shared.http.post("/v1/rank", json=request(50, k=50)).request.content
    got = shared.http.post("/v1/rank", content=gzip.compress(body), headers=said)
    assert got.status_code == 200 and got.headers["content-encoding"] == "gzip"
    plain = {**said, "accept-encoding": "identity"}
    got = shared.http.post("/v1/rank", content=gzip.compress(body), headers=plain)
    assert "content-encoding" not in got.headers and len(got.json()["impressions"]) == 50
    bomb = gzip.compress(b" " * (200 * MAX_BODY_BYTES))
    assert len(bomb) < MAX_BODY_BYTES
    for content, status in (
        (bomb, 413), (gzip.compress(body)[:-9], 400), (gzip.compress(body) + b"x", 400),
    ):  # fmt: skip
        answer = shared.http.post("/v1/rank", content=content, headers=said)
        assert answer.status_code == status


def test_without_its_token_nobody_ranks_or_administers() -> None:
    shop = Shop(access=Access(Secret("ours"), Secret("boss")))
    try:
        shop.serving(1)
        rank = {"method": "POST", "url": "/v1/rank", "json": request()}
        drain = {"method": "POST", "url": "/v1/admin/drain"}
        explain = {"method": "GET", "url": "/v1/explain/x"}
        for call, given, status in (
            (rank, "", 401), (rank, "Bearer", 401), (rank, "Bearer our", 401),
            (rank, "Basic ours", 401), (rank, "Bearer é", 401), (rank, "bearer ours", 200),
            (explain, "", 401), (explain, "Bearer ours", 404),
            (drain, "", 401), (drain, "Bearer ours", 401), (drain, "Bearer boss", 202),
        ):  # fmt: skip
            headers = {"authorization": given.encode("latin-1")}
            answer = shop.http.request(**call, headers=headers)  # type: ignore[arg-type]
            assert answer.status_code == status, (call, given)
            assert (answer.headers.get("www-authenticate") == "Bearer") == (status == 401)
        assert shop.http.get("/readyz").json()["type"] == "urn:freshet:problem:draining"
        assert shop.http.get("/healthz").status_code == 200
        last = shop.http.post("/v1/rank", json=request(), headers={"authorization": "Bearer ours"})
        assert (last.status_code, last.headers["connection"]) == (200, "close")
    finally:
        shop.close()


def test_where_there_is_no_admin_token_there_is_no_administering(shared: Shop) -> None:
    for headers in ({}, {"authorization": "Bearer"}, {"authorization": "Bearer x"}):
        assert shared.http.post("/v1/admin/drain", headers=headers).status_code == 403


def test_paths_lead_nowhere_else(shared: Shop) -> None:
    for path in ("/../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/v1/explain/..%2f..%2fmetrics",
                 "//metrics", "/page.html", "/v1/explain/a/b", "/v2/models/%00"):  # fmt: skip
        connection = HTTPConnection(shared.listener.url.removeprefix("http://"))
        connection.request("GET", path)  # as it stands
        assert connection.getresponse().status == 404, path
        connection.close()


def test_model_servers_health_is_told_their_way(shared: Shop) -> None:
    assert shared.http.get("/v2/health/live").json() == {"live": True}
    assert shared.http.get("/v2/health/ready").json() == {"ready": True}
    model = shared.http.get("/v2/models/shop").json()
    assert (model["name"], model["versions"]) == ("shop", ["1"])
    assert [o["name"] for o in model["outputs"]] == ["click", "buy", "stars"]
    assert shared.http.get("/v2/models/shop/ready").json()["ready"]
    assert shared.http.get("/v2/models/other").status_code == 404


def test_a_request_may_have_goals_of_its_own(shared: Shop) -> None:
    client = Client(shared.listener.url)
    asked = request(30)
    asked.pop("k")
    by_stars = client.rank(**asked, k=30, weights={"stars": 1.0}).impressions
    assert [i.item for i in by_stars] == [
        i.item
        for i in sorted(by_stars, key=lambda i: -float(i.scores["stars"]))  # type: ignore[arg-type]
    ]
    both = client.rank(**asked, weights={"stars": 1.0, "buy": -3.0}).impressions[0]
    expected = (float(both.scores["stars"]) - 3 * float(both.scores["buy"])) / 4  # type: ignore[arg-type]
    assert both.score == pytest.approx(expected, rel=1e-5)
    for weights in ({"clicks": 1.0}, {}, {"buy": 0.0}, {"buy": 1e39}):
        with pytest.raises(Refused) as refused:
            client.rank(**asked, weights=weights)
        assert refused.value.status == 422 and "#/weights" in refused.value.problem.pointer


def test_a_ranking_is_explained_by_what_each_input_adds() -> None:
    shop = Shop()
    try:
        shop.publish(1, card={OPEN: [{"task": "buy", "signal": "loss"}]})
        shop.until(lambda: shop.server.version())
        client = Client(shop.listener.url)
        asked = request(5)
        ranking = client.rank(**asked, request="why-1")
        found = client.explain("why-1", "buy")
        assert (found.request, found.task, found.time_ms) == ("why-1", "buy", NOW)
        assert (found.version, found.explained_with) == (1, 1)
        assert found.incidents == [{"task": "buy", "signal": "loss"}]
        assert [i.id for i in found.impressions] == [i.id for i in ranking.impressions]
        for shown, explained in zip(ranking.impressions, found.impressions, strict=True):
            assert explained.prediction == pytest.approx(shown.scores["buy"], abs=1e-6)
            parts = {part.name: part for part in explained.parts}
            assert {"user", "item", "tags", "hour", "price", "user_buy_rate"} - set(parts) <= {
                "user_buy_rate"
            }
            assert parts["price"].value == asked["candidate_fields"]["price"][shown.item - 100]
            sizes = [abs(part.contribution) for part in explained.parts]
            assert sizes == sorted(sizes, reverse=True) and sizes[0] > 0
        shop.serving(2)
        shop.until(lambda: client.explain("why-1").explained_with == 2)
        for name, task, status in (("why-1", "nothing", 422), ("another", "", 404)):
            with pytest.raises(Refused) as refused:
                client.explain(name, task)
            assert refused.value.status == status
    finally:
        shop.close()


def test_the_client_tells_and_tries_again(shop_that_starts_late: Shop) -> None:
    shop = shop_that_starts_late
    client = Client(shop.listener.url, tries=20)
    assert not client.ready()
    threading.Timer(0.3, shop.publish, [1]).start()
    ranking = client.rank(**request())  # 503 until then
    assert client.ready() and len(ranking.impressions) == 3
    told = [client.feedback(ranking.impressions[0], 7, "click", id="once") for _ in range(2)]
    assert told == ["once", "once"]
    with pytest.raises(Refused) as refused:
        client.feedback(ranking.impressions[0], 7, "no such kind")
    assert refused.value.problem.pointer == "#/kind"
    with pytest.raises(Unreachable):
        Client("http://127.0.0.1:9", tries=1).rank(**request())
    for wrong in ("ftp://x", "localhost:80"):
        with pytest.raises(ValueError, match="expected http"):
            Client(wrong)
    client.close()


@pytest.fixture
def shop_that_starts_late() -> Iterator[Shop]:
    shop = Shop()
    yield shop
    shop.close()


def test_an_end_waits_until_nobody_asks_any_more() -> None:
    shop = Shop()
    shop.serving(1)
    statuses: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        client = Client(shop.listener.url, tries=1)
        while client.ready() and not stop.is_set():  # as a balancer looks where to send
            statuses.append(len(client.rank(**request()).impressions))
            time.sleep(0.01)

    asking = [threading.Thread(target=ask) for _ in range(3)]
    for thread in asking:
        thread.start()
    shop.until(lambda: len(statuses) > 20)
    shop.close()
    stop.set()
    for thread in asking:
        thread.join()
    assert set(statuses) == {3}


def test_a_refused_ranking_is_read_past_and_its_connection_goes_on(
    shared: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared.listener.api.scoring, "most", 0)
    head = b"POST /v1/rank HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    body = json.dumps(request()).encode()
    whole = head + b"content-length: %d\r\n\r\n" % len(body) + body
    health = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    with dialled(shared) as asking:
        asking.sendall(whole[:-10])
        assert read(asking, 1) == [503], "before its body is there"
        asking.sendall(whole[-10:] + health + whole + whole + health)
        assert read(asking, 4) == [200, 503, 503, 200]
        asking.sendall(head + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + health)
        assert read(asking, 2) == [503, 200]
        asking.sendall(head + b"connection: close\r\ncontent-length: 2\r\n\r\n{}")
        assert read(asking, 1) == [503] and asking.recv(1) == b""
    monkeypatch.setattr("streaming.serve.listen.HEAD_S", 0.2)
    with dialled(shared) as asking:
        asking.sendall(whole[:-10])
        assert read(asking, 1) == [503] and asking.recv(1) == b"", "its body never came"
    assert shared.http.post("/v1/rank", json=request()).headers["retry-after"] == "1"


def test_a_server_with_too_many_connections_says_when_to_try_again(
    shared: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streaming.serve.listen.MOST_CONNECTIONS", 0)
    with dialled(shared) as asking:
        asking.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        said = b"".join(iter(lambda: asking.recv(4096), b""))
    assert said.startswith(b"HTTP/1.1 503 ") and b"retry-after: 1\r\n" in said.lower()


def test_a_client_has_so_many_requests_at_hand_and_others_have_theirs() -> None:
    shop = Shop(per_client=2)
    try:
        shop.serving(1)

        def rank(client: str) -> httpx.Response:
            return shop.http.post("/v1/rank", json=request(), headers={"x-forwarded-for": client})

        with ThreadPoolExecutor(5) as pool:
            with shop.ingest.lock:  # the first one can't go on
                asked = [pool.submit(rank, "10.0.0.1") for _ in range(4)]
                shop.until(lambda: sum(a.done() for a in asked) == 2)
                other = pool.submit(rank, "10.0.0.2")
                shop.until(lambda: shop.listener.api.scoring.waiting == 3)
                assert not other.done()
            answers = [a.result() for a in asked]
            assert other.result().status_code == 200
        assert sorted(a.status_code for a in answers) == [200, 200, 429, 429]
        refused = next(a for a in answers if a.status_code == 429)
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["type"] == "urn:freshet:problem:too-many"
        assert shop.metric("freshet_requests_total", route="rank", status="429") == 2
        assert rank("10.0.0.1").status_code == 200
    finally:
        shop.close()


def test_what_is_refused_while_it_drains_closes_its_connection() -> None:
    shop = Shop()
    try:
        shop.serving(1)
        shop.listener.api.draining = True
        shop.listener.api.scoring.most = 0
        answer = shop.http.post("/v1/rank", json=request())
        assert (answer.status_code, answer.headers["connection"]) == (503, "close")
    finally:
        shop.close()


def dialled(shop: Shop) -> socket.socket:
    host, port = shop.listener.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def read(asking: socket.socket, answers: int) -> list[int]:
    """The statuses of so many answers."""
    said, found = b"", []
    while len(found) < answers:
        more = asking.recv(1 << 16)
        assert more, found
        said += more
        while (head := said.partition(b"\r\n\r\n"))[1]:
            length = re.search(rb"(?i)content-length: *(\d+)", head[0])
            if length is None or len(head[2]) < int(length[1]):
                break
            found.append(int(head[0][9:12]))
            said = head[2][int(length[1]) :]
    return found


def test_past_its_capacity_it_answers_some_and_refuses_the_rest(shared: Shop) -> None:
    """Thousands of requests a second: more than any machine here can answer."""
    shared.http.post("/v1/rank", json=request(200))
    memory = psutil.Process().memory_info().rss
    asked = [json.dumps(request(200, user=user)).encode() for user in range(20)]
    answers = load([f"{shared.listener.url}/v1/rank"], asked, 2_000, 2.0)
    assert set(answers.statuses) == {200, 503}
    assert psutil.Process().memory_info().rss - memory < 64 << 20
    assert shared.http.post("/v1/rank", json=request()).status_code == 200
