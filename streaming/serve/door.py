"""What is refused before anything else is done for it: a ranking that there is no turn for, and a
request that is one too many of its client.

A refusal has to cost next to nothing, or a server that is asked for too much answers less. So that
of a ranking is written as soon as its head is there (streaming/serve/listen.py), from bytes made
beforehand, with no task, no routing, and no look at its body.
"""

from __future__ import annotations

import time
from collections import Counter
from http import HTTPStatus
from typing import Protocol

from prometheus_client import Counter as Metric
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streaming.serve.problems import Problem
from streaming.serve.problems import answer as refusal
from streaming.serve.turns import Turns, overloaded

ASKING = {"/v1/rank": "rank", "/v1/feedback": "feedback"}
"""What a client's limit counts: paths, and their routes."""


class Gates(Protocol):
    """What of an `Api` a door looks at."""

    scoring: Turns
    draining: bool
    last_asked: float


class Door:
    """Refuses rankings that there is no turn for, before anything else is done for them, and what
    is one too many of its client: of an address, `most` requests may be at hand, 0 for any number.
    """

    def __init__(self, app: ASGIApp, api: Gates, requests: Metric, most: int = 0) -> None:
        self._app, self.api = app, api
        self._most, self._of_client = most, Counter[str]()
        self._requests, self._refused = requests, requests.labels("rank", "503")
        self._said = _written(refusal(overloaded(api.scoring.most)))
        crowded = Problem(503, "overloaded", "there are too many connections")
        self.crowded = _written(refusal(crowded, {"connection": "close"}))

    def refusal(self, path: bytes) -> bytes:
        """What to write to a request of which only the head is there yet; empty where it may go on.
        Of a server that drains, connections end after their answers: these go on."""
        if path != b"/v1/rank" or not self.api.scoring.full or self.api.draining:
            return b""
        self.api.last_asked = time.perf_counter()
        self._refused.inc()
        return self._said

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.api.draining:
            send = _closing(send)
        if scope["type"] == "http" and scope["path"] == "/v1/rank" and self.api.scoring.full:
            self.api.last_asked = time.perf_counter()
            self._refused.inc()
            await refusal(overloaded(self.api.scoring.waiting))(scope, receive, send)
            return
        if not self._most or scope["type"] != "http" or scope["path"] not in ASKING:
            await self._app(scope, receive, send)
            return
        client = (scope["client"] or ("",))[0]
        if self._of_client[client] >= self._most:
            route = ASKING[scope["path"]]
            self._requests.labels(route, "429").inc()
            said = f"{client} has {self._most} requests at hand already"
            await refusal(Problem(429, "too-many", said))(scope, receive, send)
            return
        self._of_client[client] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._of_client[client] -= 1
            if not self._of_client[client]:
                del self._of_client[client]


def _written(response: Response) -> bytes:
    """The answer as it goes over the wire."""
    phrase = HTTPStatus(response.status_code).phrase.encode()
    lines = [b"%s: %s\r\n" % header for header in response.raw_headers]
    head = b"HTTP/1.1 %d %s\r\n" % (response.status_code, phrase)
    return head + b"".join(lines) + b"\r\n" + bytes(response.body)


def _closing(send: Send) -> Send:
    """Has the connection closed after the answer."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
        await send(message)

    return sent
