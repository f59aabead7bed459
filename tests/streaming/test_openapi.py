"""Schemathesis over a server's own description: whatever is sent, the answer is a described one.

CASES (20) of each call and of either kind, right and wrong by the description; thousands by hand.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from shop import Shop

schemathesis = pytest.importorskip("schemathesis")
CASES = int(os.environ.get("CASES", "20"))
RIGHT = ("rank", "feedback", "explain", "example", "drain", "status", "model", "readyz")
WRONG = ("rank", "feedback", "explain", "example")


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    shop = Shop()
    shop.serving(1)
    yield shop
    shop.close()


@pytest.mark.parametrize(
    ("call", "wrong"), [*((call, False) for call in RIGHT), *((call, True) for call in WRONG)]
)
def test_whatever_is_sent_is_answered_as_described(shop: Shop, call: str, wrong: bool) -> None:
    schema = schemathesis.openapi.from_dict(shop.http.get("/openapi.json").json())
    schema.config.base_url = shop.listener.url
    operation = schema.find_operation_by_id(call)
    mode = schemathesis.GenerationMode.NEGATIVE if wrong else schemathesis.GenerationMode.POSITIVE

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=CASES, deadline=None, derandomize=CASES == 20, database=None,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def sent(case: Any) -> None:
        answer = case.call(timeout=10)
        assert answer.status_code < 500, answer.text
        checks = schemathesis.checks
        case.validate_response(
            answer,
            checks=[
                checks.not_a_server_error, checks.status_code_conformance,
                checks.content_type_conformance, checks.response_schema_conformance,
            ],
        )  # fmt: skip

    sent()
    assert shop.http.get("/healthz").status_code == 200


def test_a_body_without_an_end_is_cut_off(shop: Shop) -> None:
    """100 MB in chunks, of which the server takes no more than it allows."""
    host, port = shop.listener.url.removeprefix("http://").split(":")
    before = psutil.Process().memory_info().rss
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(
            b"POST /v1/rank HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        with suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(100 * 16):
                client.sendall(chunk)
        with suppress(ConnectionResetError):
            assert b" 413 " in client.recv(4096).split(b"\r\n")[0]
    assert psutil.Process().memory_info().rss - before < 32 << 20
    assert shop.http.get("/healthz").status_code == 200
