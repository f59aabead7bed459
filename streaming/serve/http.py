"""A server's HTTP, as an ASGI app: rank and feedback, health, metrics, the page and its figures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
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
from streaming.serve.problems import SAFETY, Problem, on_failure, on_http, on_problem
from streaming.serve.requests import read_json
from streaming.serve.server import Server

MAX_WAITING = 64
"""Rankings, and feedbacks, at once: those at hand, and those that wait."""
PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

Endpoint = Callable[[Request], Awaitable[Response]]


class Api:
    """The endpoints of one server. Rankings are scored in one thread, so that the rest answers."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.scoring = ThreadPoolExecutor(1, "freshet-scoring")
        self.telling = ThreadPoolExecutor(2, "freshet-telling")
        self.waiting = {self.scoring: 0, self.telling: 0}
        self.page = (Path(__file__).parent / "page.html").read_bytes()

    async def rank(self, request: Request) -> Response:
        self.server.loaded()
        asked = self.server.requests.rank(await read_json(request))
        return _json(await self._waited(self.scoring, self.server.rank, asked))

    async def _waited(self, executor: ThreadPoolExecutor, work: Any, asked: Any) -> dict[str, Any]:
        """What `work` says, in its turn; a Problem where too many are waiting for theirs."""
        if self.waiting[executor] >= MAX_WAITING:
            raise Problem(503, "overloaded", f"{self.waiting[executor]} requests are waiting")
        self.waiting[executor] += 1
        try:
            loop = asyncio.get_running_loop()
            done: dict[str, Any] = await loop.run_in_executor(executor, work, asked)
            return done
        finally:
            self.waiting[executor] -= 1

    async def feedback(self, request: Request) -> Response:
        told = self.server.requests.feedback(await read_json(request))
        return _json(await self._waited(self.telling, self.server.tell, told), 202)

    async def example(self, request: Request) -> Response:
        user = request.query_params.get("user", "")
        asked = self.server.example(user)
        if asked is None:
            raise Problem(404, "not-found", f"there is no example of a request for user {user!r}")
        return _json(asked)

    async def status(self, request: Request) -> Response:
        return _json(self.server.status())

    async def healthz(self, request: Request) -> Response:
        return _json({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        self.server.loaded()
        return _json({"status": "ready", **(self.server.version() or {})})

    async def metrics(self, request: Request) -> Response:
        content = exposed(self.server.metrics.registry, self.server.app.name)
        return Response(content, media_type=CONTENT_TYPE_LATEST)

    async def home(self, request: Request) -> Response:
        headers = {"Content-Security-Policy": PAGE_POLICY}
        return Response(self.page, headers=headers, media_type="text/html")

    def measured(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint, with its time and status counted."""
        metrics, route = self.server.metrics, endpoint.__name__
        seconds = metrics.request_seconds.labels(route)

        async def answer(request: Request) -> Response:
            started, status = time.perf_counter(), 500
            try:
                response = await endpoint(request)
                status = response.status_code
                response.headers.update(SAFETY)
                return response
            except Problem as problem:
                status = problem.status
                raise
            finally:
                seconds.observe(time.perf_counter() - started)
                metrics.requests.labels(route, str(status)).inc()

        return answer

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self.server.start()
        try:
            yield
        finally:
            self.scoring.shutdown()
            self.telling.shutdown()
            self.server.close()


def asgi(server: Server) -> Starlette:
    """The ASGI app of a server; it starts and closes it."""
    api = Api(server)
    gets = [
        ("/", api.home),
        ("/healthz", api.healthz),
        ("/readyz", api.readyz),
        ("/metrics", api.metrics),
        ("/v1/status", api.status),
        ("/v1/example", api.example),
    ]
    posts = [("/v1/rank", api.rank), ("/v1/feedback", api.feedback)]
    return Starlette(
        routes=[
            *(Route(path, api.measured(endpoint), methods=["GET"]) for path, endpoint in gets),
            *(Route(path, api.measured(endpoint), methods=["POST"]) for path, endpoint in posts),
        ],
        exception_handlers={
            Problem: on_problem,
            HTTPException: on_http,
            Exception: on_failure,
        },
        lifespan=api.lifespan,
    )


def _json(content: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")
