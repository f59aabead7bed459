"""A server's HTTP, as an ASGI app: rank, feedback and explain; health, metrics, the page and its
figures; its own description.

Each answer says which request it is of (`X-Request-Id`: the client's, or a new one), and a
ranking's which version it is by. There is no CORS: a page of another origin asks through its own
server.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from streaming.observe import exposed
from streaming.serve.access import Access
from streaming.serve.door import ASKING, Door
from streaming.serve.inference import Inference
from streaming.serve.openapi import document
from streaming.serve.problems import SAFETY, Problem, on_failure, on_http, on_problem
from streaming.serve.requests import read_json
from streaming.serve.server import Server
from streaming.serve.turns import Turns, overloaded

log = logging.getLogger("freshet.access")

MAX_WAITING = 64
"""Rankings, feedbacks, and explanations, at once: those at hand, and those that wait."""
MAX_EXPLAINED = 2
"""Explanations at once: each takes the time of many rankings."""
MAX_WAIT_S = 1.0
COMPRESSED_FROM = 1_024
"""Bytes: what is shorter is sent as it is."""
PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")

Endpoint = Callable[[Request], Awaitable[Response]]


class Api:
    """The endpoints of one server. Rankings are scored in one thread, so that the rest answers."""

    def __init__(self, server: Server, access: Access) -> None:
        self.server, self.access = server, access
        waits = server.metrics.wait_seconds
        self.scoring = Turns("scoring", 1, MAX_WAITING, MAX_WAIT_S, waits.labels("rank"))
        self.telling = Turns("telling", 2, MAX_WAITING, MAX_WAIT_S, waits.labels("feedback"))
        self.page = (Path(__file__).parent / "page.html").read_bytes()
        self.document = msgspec.json.encode(document(server.app, server.requests))
        self.inference = Inference(server, self.ready)
        self.draining = False
        self.last_asked = 0.0
        self._explaining = 0
        self._prefix, self._numbers = secrets.token_hex(6), itertools.count()

    # -- what clients ask ----------------------------------------------------------------------

    async def rank(self, request: Request) -> Response:
        self.access.client(request)
        self.server.loaded()
        if self.scoring.full:
            raise overloaded(self.scoring.waiting)
        asked = self.server.requests.rank(await read_json(request))
        name = request.state.id
        ranking = await self.scoring.take(self.server.rank, asked, name)
        version = {"X-Freshet-Version": str(ranking["version"])}
        return _json(request, {"request": name, **ranking}, headers=version)

    async def feedback(self, request: Request) -> Response:
        self.access.client(request)
        told = self.server.requests.feedback(await read_json(request))
        return _json(request, await self.telling.take(self.server.tell, told), 202)

    async def explain(self, request: Request) -> Response:
        self.access.client(request)
        name, task = request.path_params["request"], request.query_params.get("task", "")
        loaded = self.server.loaded()
        if self._explaining >= MAX_EXPLAINED:
            raise overloaded(self._explaining)
        self._explaining += 1
        try:
            explain = self.server.explainer.explain
            return _json(request, await self.scoring.take(explain, name, task, loaded))
        finally:
            self._explaining -= 1

    async def example(self, request: Request) -> Response:
        self.access.client(request)
        user = request.query_params.get("user", "")
        asked = self.server.example(user)
        if asked is None:
            raise Problem(404, "not-found", f"there is no example of a request for user {user!r}")
        return _json(request, asked)

    # -- what operators ask --------------------------------------------------------------------

    async def drain(self, request: Request) -> Response:
        """From now on `/readyz` says no, so that nobody sends more; what comes is answered."""
        self.access.administrator(request)
        self.draining = True
        return _json(request, {"status": "draining"}, 202)

    async def status(self, request: Request) -> Response:
        return _json(request, self.server.status())

    async def healthz(self, request: Request) -> Response:
        return _json(request, {"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        self.ready()
        return _json(request, {"status": "ready", **(self.server.version() or {})})

    def ready(self) -> None:
        """Raises Problem where requests had better go elsewhere."""
        self.server.loaded()
        if self.draining:
            raise Problem(503, "draining", "the server is about to stop")

    async def metrics(self, request: Request) -> Response:
        content = exposed(self.server.metrics.registry, self.server.app.name)
        return _answer(request, content, CONTENT_TYPE_LATEST)

    async def openapi(self, request: Request) -> Response:
        return _tagged(request, self.document, "application/json")

    async def home(self, request: Request) -> Response:
        return _tagged(request, self.page, "text/html", {"Content-Security-Policy": PAGE_POLICY})

    # ------------------------------------------------------------------------------------------

    def measured(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint, with its time and status counted, and its request named."""
        metrics, route = self.server.metrics, endpoint.__name__
        seconds = metrics.request_seconds.labels(route)
        counted: dict[int, Any] = {}
        asks = route in ASKING.values()

        async def answer(request: Request) -> Response:
            started, status = time.perf_counter(), 500
            given = request.headers.get("x-request-id", "")
            request.state.id = name = (
                given if _REQUEST_ID.fullmatch(given) else f"{self._prefix}-{next(self._numbers)}"
            )
            if asks:
                self.last_asked = started
            try:
                response = await endpoint(request)
                status = response.status_code
                response.headers.update(SAFETY)
                response.headers["X-Request-Id"] = name
                return response
            except Problem as problem:
                status = problem.status
                raise
            finally:
                took = time.perf_counter() - started
                seconds.observe(took)
                if status not in counted:
                    counted[status] = metrics.requests.labels(route, str(status))
                counted[status].inc()
                if log.isEnabledFor(logging.INFO):
                    said = {"request": name, "route": route, "status": status}
                    said["ms"] = round(1000 * took, 3)
                    log.info("%s: %d", route, status, extra=said)

        return answer

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self.server.start()
        try:
            yield
        finally:
            self.scoring.close()
            self.telling.close()
            self.server.close()


def asgi(server: Server, access: Access | None = None, per_client: int = 0) -> Door:
    """The ASGI app of a server; it starts and closes it. See `Door` for `per_client`."""
    api = Api(server, access or Access())
    gets: list[tuple[str, Endpoint]] = [
        ("/", api.home),
        ("/openapi.json", api.openapi),
        ("/healthz", api.healthz),
        ("/readyz", api.readyz),
        ("/metrics", api.metrics),
        ("/v1/status", api.status),
        ("/v1/example", api.example),
        ("/v1/explain/{request}", api.explain),
        *api.inference.routes(),
    ]
    posts: list[tuple[str, Endpoint]] = [
        ("/v1/rank", api.rank),
        ("/v1/feedback", api.feedback),
        ("/v1/admin/drain", api.drain),
    ]
    app = Starlette(
        routes=[
            *(Route(path, api.measured(endpoint), methods=["POST"]) for path, endpoint in posts),
            *(Route(path, api.measured(endpoint), methods=["GET"]) for path, endpoint in gets),
        ],
        exception_handlers={
            Problem: on_problem,
            HTTPException: on_http,
            Exception: on_failure,
        },
        lifespan=api.lifespan,
    )
    app.router.redirect_slashes = False
    return Door(app, api, server.metrics.requests, per_client)


def _json(
    request: Request, content: Any, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    encoded = msgspec.json.encode(content)
    return _answer(request, encoded, "application/json", status, headers)


def _answer(
    request: Request, content: bytes, media_type: str, status: int = 200,
    headers: dict[str, str] | None = None,
) -> Response:  # fmt: skip
    """The answer, compressed where it is worth it and the client can read that."""
    headers = {"Vary": "Accept-Encoding", **(headers or {})}
    if len(content) >= COMPRESSED_FROM and _takes_gzip(request.headers.get("accept-encoding", "")):
        content = gzip.compress(content, 1, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return Response(content, status, headers, media_type=media_type)


def _takes_gzip(accepted: str) -> bool:
    for coding in accepted.lower().split(","):
        name, _, quality = coding.partition(";")
        if name.strip() == "gzip":
            return quality.strip().replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def _tagged(
    request: Request, content: bytes, media_type: str, headers: dict[str, str] | None = None
) -> Response:
    """The answer with its `ETag`; 304 where the client has it."""
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {"ETag": tag, **(headers or {})}
    known = [
        t.strip().removeprefix("W/") for t in request.headers.get("if-none-match", "").split(",")
    ]
    if tag in known or "*" in known:
        return Response(b"", 304, headers)
    return _answer(request, content, media_type, 200, headers)
